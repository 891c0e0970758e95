"""Entry point of `python -m mpisqueeze` and of the console script."""

import signal
import sys


def main() -> None:
    """Load the commands and run one; until they are loaded, Ctrl-C ends the process without a traceback."""
    from mpisqueeze.streams import open_all

    open_all()
    # An ignored signal, as under nohup, stays ignored.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mpisqueeze.comm.launched import launched_rank
    from mpisqueeze.runs.interrupts import note_early

    rank = launched_rank()
    if rank is not None:
        note_early()
    from mpisqueeze.cli.app import main as command

    # A rank keeps the default action until a run listens: otherwise each rank would show a traceback.
    if heeded and rank is None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


if __name__ == "__main__":
    # `python -m` puts the current folder first, whose files would stand for modules that are loaded from here on.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    main()
