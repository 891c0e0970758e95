"""The end of a command: its exit code, errors reported once by rank 0, and no rank left waiting for another."""

from __future__ import annotations

import errno
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from mpisqueeze.comm.launched import abort_others, launched_rank, leave_together
from mpisqueeze.comm.signals import Signal
from mpisqueeze.errors import ExitCode, RankFailureError, UsageError
from mpisqueeze.holder import release_all
from mpisqueeze.runs.interrupts import StoppedError
from mpisqueeze.settings import moved, name_of
from mpisqueeze.streams import discard, harmless

#: Seconds between ranks that each end all of them.
TURN_S = 0.2
#: Errors of a file system that can hold no more; nothing in the program is at fault.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
#: Options with the number of ranks, which no command that trains has.
_LAUNCHERS_OPTIONS = ("-n", "-np", "--np", "--ranks")
_STATUSES = {"ok": ExitCode.OK, "diverged": ExitCode.DIVERGED, "failed": ExitCode.FAILED}


def status_code(status: str) -> ExitCode:
    """The exit code of a run that came to this end."""
    return _STATUSES[status]


def stop_code(signal: int) -> ExitCode:
    """The exit code of a command that Signal.INTERRUPT or Signal.TERMINATE stopped."""
    return ExitCode.INTERRUPTED if signal == Signal.INTERRUPT else ExitCode.TERMINATED


def ended(command: Callable[[], int | None]) -> int:
    """Run a command; its exit code, whatever it raises."""
    rank, stdout = launched_rank(), sys.stdout
    try:
        return int(command() or ExitCode.OK)
    except UsageError as error:
        return _refuse(str(error), rank)
    except RankFailureError as error:
        return fail(error, rank)
    except KeyboardInterrupt:
        # The others may be waiting for this rank, and MPI's own end would wait for them.
        return abort_others(ExitCode.INTERRUPTED)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            # The help's reader is gone.
            return ExitCode.OK
        _say(f"rank {rank or 0}: a plug-in ended the program: {error!r}")
        return abort_others(ExitCode.FAILED)
    except StoppedError as stopped:
        # All ranks know.
        return stop_code(*stopped.args)
    except Exception as error:
        if hasattr(error, "format_message"):
            option = getattr(error, "option_name", "")
            hint = moved(name_of(option))
            if option in _LAUNCHERS_OPTIONS:
                hint = "; it is the launcher's, as in mpisqueeze launch -n 4 train"
            return _refuse(error.format_message() + hint, rank, getattr(error, "ctx", None))
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            _say(f"rank {rank or 0}: {f'{error.filename}: ' if error.filename else ''}{error.strerror}")
            try:
                stdout.flush()
            except OSError:
                # It would fail once more when Python ends.
                discard(stdout)
            return abort_others(ExitCode.FAILED)
        print(harmless(traceback.format_exc()), end="", file=sys.stderr)
        _say(f"rank {rank or 0} failed: {error!r}")
        return abort_others(ExitCode.FAILED)
    finally:
        release_all()


def _say(message: str, before: str = "") -> None:
    from mpisqueeze.report.terminal import broken

    print(harmless(before) + broken(f"mpisqueeze: {message}"), file=sys.stderr, flush=True)


def _refuse(message: str, rank: int | None, context: Any = None) -> int:
    """Report a wrong command line, of which all ranks know."""
    # Where no command is named, the parser has shown the help and has nothing to add.
    if not rank and message:
        hint = f"\nTry '{context.command_path} --help'." if context else ""
        _say(f"error: {message}{hint}")
    return leave_together(ExitCode.USAGE)


def fail(error: RankFailureError, rank: int | None) -> int:
    """Report a failure, of which all ranks know unless it is `alone`."""
    if error.alone:
        # Where several ranks find out at once, the lowest one speaks, and ends the others.
        time.sleep(min(TURN_S * (rank or 0), 5 * TURN_S))
    if error.alone or not rank:
        _say(str(error), error.details)
    return abort_others(ExitCode.FAILED) if error.alone else leave_together(ExitCode.FAILED)
