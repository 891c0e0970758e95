"""`train`, `compare` and `advise` as functions: the commands themselves, without their screen and their exit codes.

The options are the commands' own. `library.options` has their names and types for type checkers; it is made from the
commands by `python tests/test_library_commands.py`, and a test holds both against each other.
"""

from __future__ import annotations

import inspect
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from mpisqueeze.cli.advise import advise as _advise
from mpisqueeze.cli.compare import compare as _compare
from mpisqueeze.cli.exit import fail
from mpisqueeze.cli.output import Output
from mpisqueeze.cli.train import train as _train
from mpisqueeze.errors import ExitCode, RankFailureError, UsageError, describe_value
from mpisqueeze.files import path_of
from mpisqueeze.holder import releasing
from mpisqueeze.library.results import ComparisonResult, RunResult, load
from mpisqueeze.library.values import text
from mpisqueeze.settings import option_of

if TYPE_CHECKING:
    from rich.console import Console
    from typing_extensions import Unpack

    from mpisqueeze.library.options import AdviseOptions, CompareOptions, TrainOptions

__all__ = ["advise", "compare", "train"]

T = TypeVar("T")
#: Options of commands that say what becomes of their output, which the functions return.
_OF_OUTPUT = ("color", "json_to", "dump_config")


def train(pair: str | None = None, *, verbose: bool = False, **options: Unpack[TrainOptions]) -> RunResult:
    """Train once, under mpirun or alone, as `mpisqueeze train` does.

    Collective: every rank calls it alike, and gets the same result. A run that diverged is a result, too: its
    `summary["status"]` says so. Ctrl-C ends the run after its iteration; its folder is complete.

    Args:
        pair: `ALGORITHM` or `ALGORITHM/COMPRESSOR`.
        verbose: print to stdout what the command does.
        options: those of the command, by their names with underscores: `batch_size=32`. A number may stand for its
            text, a list for one with commas; None is the default.

    Raises:
        UsageError: an option is wrong; says which, and what is accepted. Raised on every rank alike.
        RankFailureError: a rank failed. Where the others cannot know of it, all ranks are ended.
        KeyboardInterrupt: the run was interrupted.
        TypeError: there is no such option.
    """
    found = _called(_train, {"pair": pair, **options}, verbose)
    return _shared(lambda: _run(found.result["run_folder"]))


def compare(*pairs: str | Sequence[str], verbose: bool = False, **options: Unpack[CompareOptions]) -> ComparisonResult:
    """Train with several methods in one launch, and rank them, as `mpisqueeze compare` does; see `train`.

    Args:
        pairs: `ALGORITHM` or `ALGORITHM/COMPRESSOR`, each, or a list of them.
    """
    found = _called(_compare, {"pairs": _listed(pairs), **options}, verbose)
    return _shared(lambda: _comparison(found))


def advise(*pairs: str | Sequence[str], verbose: bool = False, **options: Unpack[AdviseOptions]) -> dict[str, Any]:
    """Find out what pays off here, as `mpisqueeze advise` does; see `train`. The result is advice.json's object.

    Args:
        pairs: methods to race against `allreduce`, or a list of them; none for all that should converge.
    """
    found = _called(_advise, {"pairs": _listed(pairs), **options}, verbose)
    return _shared(lambda: found.result)


def _listed(pairs: Sequence[str | Sequence[str]]) -> list[str]:
    return [name for each in pairs for name in ([each] if isinstance(each, str) else each)]


class Kept(Output):
    """Output of a command that is kept for the caller, and shown on stdout only if it is `verbose`.

    Attributes:
        result: what `--json` would write, on ranks that have it.
        path: the folder of a comparison.
    """

    def __init__(self, verbose: bool) -> None:
        super().__init__(None, {})
        self.verbose = verbose
        self.result: Any = None
        self.path: Path | None = None

    @cached_property
    def console(self) -> Console:
        from rich.console import Console

        return super().console if self.verbose else Console(quiet=True)

    @property
    def live(self) -> bool:
        return self.verbose and super().live

    @property
    def speaks(self) -> bool:
        return self.verbose and super().speaks

    def folder(self, kind: str, path: Path) -> None:
        super().folder(kind, path)
        self.path = path

    def json(self, value: Any) -> None:
        self.result = value


def parameters_of(command: Callable[..., int]) -> dict[str, inspect.Parameter]:
    """The arguments and options of a command that its function takes, by name."""
    found = inspect.signature(command).parameters
    return {name: parameter for name, parameter in found.items() if name not in _OF_OUTPUT}


def kind_of(parameter: inspect.Parameter) -> tuple[type[Any], bool]:
    """The type of a command's option, and whether it may be repeated."""
    plain, *_ = get_args(parameter.annotation)
    kinds = (plain, *get_args(plain))
    kind = next((kind for kind in (bool, float, Path) if kind in kinds), str)
    return kind, any(get_origin(each) is list for each in kinds)


def _called(command: Callable[..., int], options: Mapping[str, Any], verbose: bool) -> Kept:
    """Call a command with these options, and give its output."""
    known = parameters_of(command)
    for name in options.keys() - known.keys():
        raise TypeError(f"{command.__name__}() got an unexpected keyword argument {name!r}")
    values = {name: _read(known[name], name, value) for name, value in options.items() if value is not None}
    output = Kept(verbose)
    with releasing():
        try:
            code = command.call(values, output)  # type: ignore[attr-defined]
        except UsageError:
            raise
        except RankFailureError as error:
            if error.alone and _others_wait():
                fail(error, _rank())
            raise
        except BaseException as error:
            if _others_wait():
                traceback.print_exc()
                fail(RankFailureError(f"rank {_rank()} failed: {error!r}", alone=True), _rank())
            raise
    if code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code == ExitCode.TERMINATED:
        # Whoever asked this process to end meant more than the run.
        signal.raise_signal(signal.SIGTERM)
    return output


def _read(parameter: inspect.Parameter, name: str, value: Any) -> Any:
    """A value as the command's function takes it. Raises UsageError."""
    kind, repeated = kind_of(parameter)
    if repeated:
        return [*map(text, value)] if isinstance(value, list | tuple) else [text(value)]
    if kind is bool:
        return value
    if isinstance(value, bool):
        raise UsageError(f"is no flag, got {value}", option_of(name))
    try:
        return path_of(value) if kind is Path else float(value) if kind is float else text(value)
    except (TypeError, ValueError):
        raise UsageError(f"must be a {kind.__name__.lower()}, got {describe_value(value)}", option_of(name)) from None


def _run(path: str) -> RunResult:
    found = load(path)
    assert isinstance(found, RunResult)
    return found


def _comparison(output: Kept) -> ComparisonResult:
    assert output.path is not None
    found = load(output.path)
    assert isinstance(found, ComparisonResult)
    return found


def _shared(work: Callable[[], T]) -> T:
    """The result of `work` on rank 0, for every rank: others may not see its files."""
    from mpisqueeze.cli.ranks import join

    return join().on_root(work)


def _rank() -> int:
    from mpisqueeze.comm.launched import launched_rank

    return launched_rank() or 0


def _others_wait() -> bool:
    from mpisqueeze.mpi import MPI, missing

    return missing() is None and MPI.COMM_WORLD.size > 1


def _documented(function: Callable[..., Any], command: Callable[..., int], positional: str) -> None:
    """Give a function the signature of its command, for `help` and for notebooks."""
    own = inspect.signature(function).parameters
    options = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in parameters_of(command).items()
        if name != positional
    ]
    shown = [own[positional], own["verbose"], *options]
    function.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]


for _function, _command, _positional in (
    (train, _train, "pair"),
    (compare, _compare, "pairs"),
    (advise, _advise, "pairs"),
):
    _documented(_function, _command, _positional)
