"""The program: `python -m mpisqueeze`, and the console script."""

import signal


def main() -> None:
    """Load the commands and run one; until they are loaded, Ctrl-C ends the process without a traceback."""
    # Where the signal is ignored, as behind nohup, it stays so.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mpisqueeze.comm.launched import launched_rank
    from mpisqueeze.runs.interrupts import note_early

    rank = launched_rank()
    if rank is not None:
        note_early()
    from mpisqueeze.cli.app import main as command

    # For a rank it stays so until a run listens: each of them would show a traceback of its own.
    if heeded and rank is None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


if __name__ == "__main__":
    main()
