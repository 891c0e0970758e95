"""`mpisqueeze launch`."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from mpisqueeze.cli.completion import offering
from mpisqueeze.errors import UsageError


def launch(
    context: typer.Context,
    ranks: Annotated[
        int | None, typer.Option("-n", "--ranks", metavar="N", help="Number of ranks; needed.", show_default=False)
    ] = None,
    launcher: Annotated[
        str,
        typer.Option(
            help="auto, mpirun, mpiexec, srun or a path.",
            metavar="NAME",
            autocompletion=offering(("auto", "mpirun", "mpiexec", "srun")),
        ),
    ] = "auto",
    hostfile: Annotated[
        str | None, typer.Option(help="File with a host a line, as the launcher takes it.", metavar="FILE")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Hosts, as the launcher takes them.", metavar="NAME,…")] = None,
    mpi_args: Annotated[
        str | None, typer.Option(help='Further words for the launcher: "--map-by node".', metavar="WORDS")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command instead of running it.")] = False,
) -> int:
    """Start COMMAND on N ranks with the MPI launcher that is found, and what a laptop, a container or root needs.

    COMMAND is one of mpisqueeze, or a Python script of your own with its arguments.

    [bold]mpisqueeze launch -n 8 train --algorithm memsgd --compressor topk:0.01[/]
    """
    from mpisqueeze.launch import Where, script
    from mpisqueeze.launch import launch as start

    command = list(context.args)
    if command[:1] == [context.find_root().info_name]:
        del command[0]
    if ranks is None:
        raise UsageError("say how many ranks, before the command: mpisqueeze launch -n 4 train", "-n")
    target = script(command)
    if target is None:
        _parse(context, command)
    if hostfile is not None and host is not None:
        raise UsageError("leave out --host, or this", "--hostfile")
    try:
        more = shlex.split(mpi_args or "")
    except ValueError as error:
        what = str(error).lower()
        raise UsageError(f"{mpi_args!r} has {what}; accepted: words as a shell takes them", "--mpi-args") from None
    return start(ranks, command, launcher, dry_run, Where(hostfile, host, more), target=target, tells=True)


def _parse(context: typer.Context, words: list[str]) -> None:
    """Have the parser see COMMAND before ranks are started: it raises what they would, and shows --help once."""
    command: Any = context.find_root().command
    while words and not words[0].startswith("-") and hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context.find_root(), words)
        if not hasattr(command, "resolve_command"):
            command.make_context(name, list(words), parent=context.find_root())
