"""The commands, and the program that runs one. Nothing heavy is loaded before a command needs it."""

from __future__ import annotations

import os
import sys
from copy import copy
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from mpisqueeze.cli.advise import advise
from mpisqueeze.cli.bench_comm import bench_comm
from mpisqueeze.cli.bench_kernels import bench_kernels
from mpisqueeze.cli.calibrate import calibrate
from mpisqueeze.cli.check import check
from mpisqueeze.cli.compare import compare
from mpisqueeze.cli.data import data_get, data_list
from mpisqueeze.cli.exit import ended
from mpisqueeze.cli.info import info
from mpisqueeze.cli.lab import lab
from mpisqueeze.cli.launch import launch
from mpisqueeze.cli.predict import predict
from mpisqueeze.cli.report import report
from mpisqueeze.cli.reproduce import reproduce
from mpisqueeze.cli.train import train
from mpisqueeze.cli.warned import warned_once
from mpisqueeze.comm.launched import end_in_time, launched_rank, tell_launch
from mpisqueeze.comm.library import unsuited_launcher
from mpisqueeze.errors import ExitCode
from mpisqueeze.streams import reserve, show_everything

PROGRAM = "mpisqueeze"
#: A shell sets this variable to ask for completions.
COMPLETE_VARIABLE = "_MPISQUEEZE_COMPLETE"
#: Commands that need no MPI, though modules that they load would start it.
_WITHOUT_MPI = (["predict"], ["lab"], ["data"], ["bench", "kernels"])


class _Help:
    """Help without the types of arguments and flags, and with one of a flag's two names: the words need the room."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown: Any = copy(self)
        params = [_displayed(parameter) for parameter in shown.get_params(ctx)]
        shown.get_params = lambda ctx: params
        super(_Help, shown).format_help(ctx, formatter)  # type: ignore[misc]


def _displayed(parameter: Any) -> Any:
    """A parameter as help shows it; the default of a flag that has two names is one of them."""
    shown = copy(parameter)
    if shown.param_type_name == "argument" or shown.is_flag:
        shown.display_type_rich = lambda ctx: ""
        shown.secondary_opts = []
    return shown


class _Command(_Help, TyperCommand):
    pass


class _Group(_Help, TyperGroup):
    pass


app = typer.Typer(
    name=PROGRAM,
    cls=_Group,
    help="Does compressed or decentralized SGD pay off on this cluster, which variant, and by how much?",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
bench = typer.Typer(cls=_Group, no_args_is_help=True, rich_markup_mode="rich")
data = typer.Typer(cls=_Group, no_args_is_help=True, rich_markup_mode="rich")

for command in (advise, train, compare, reproduce, report, calibrate, predict, info, check):
    app.command(cls=_Command)(command)
#: Options behind COMMAND are COMMAND's.
_PASSES_ON = {"allow_extra_args": True, "allow_interspersed_args": False}
app.command(cls=_Command, context_settings={**_PASSES_ON, "ignore_unknown_options": True})(launch)
app.command(cls=_Command, context_settings=_PASSES_ON, options_metavar="[OPTIONS] [--] COMMAND…")(lab)
app.add_typer(bench, name="bench", help="Time the kernels, or the exchanges, and check that what they give is right.")
bench.command("kernels", cls=_Command)(bench_kernels)
bench.command("comm", cls=_Command)(bench_comm)
app.add_typer(data, name="data", help="Download public data sets, and list them.")
data.command("get", cls=_Command)(data_get)
data.command("list", cls=_Command)(data_list)


def _version(wanted: bool) -> None:
    if wanted:
        from mpisqueeze import __version__

        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """The console script: run a command and exit with its code; no rank is left waiting for another."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Open MPI does not start without, and services and containers may have none.
    home = os.path.expanduser("~")
    os.environ.setdefault("HOME", "/" if home == "~" else home)
    if COMPLETE_VARIABLE in os.environ or arguments[:1] in (["--show-completion"], ["--install-completion"]):
        os.environ["COLUMNS"] = "1000"  # an offer and its help are one line
        app(arguments, prog_name=PROGRAM)
    if any(arguments[: len(command)] == command for command in _WITHOUT_MPI) and launched_rank() is None:
        import mpi4py

        # Starting MPI takes longer than the command, and nothing in this process will miss it.
        mpi4py.rc.initialize = False
    with warned_once() as warned:
        code = run(arguments)
    # Plug-ins and libraries may print as they end, which is no result either.
    reserve()
    end_in_time()
    # All ranks come to these ends together.
    if warned and code in (ExitCode.OK, ExitCode.DIVERGED):
        warned.tell()
    if launched_rank() == 0:
        tell_launch(code=code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a command; its exit code. Errors are reported by rank 0, once."""
    show_everything()
    stdout = sys.stdout
    if launched_rank():
        # Help and version come from the parser, on every rank.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    elif wrong := unsuited_launcher(os.environ):
        from mpisqueeze.report.terminal import broken

        print(broken(f"{PROGRAM}: warning: {wrong}"), file=sys.stderr, flush=True)
    try:
        return ended(lambda: app(arguments, standalone_mode=False, prog_name=PROGRAM))
    finally:
        sys.stdout = stdout
