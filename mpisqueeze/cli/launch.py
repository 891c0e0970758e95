"""`mpisqueeze launch`."""

from __future__ import annotations

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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command instead of running it.")] = False,
) -> int:
    """Start COMMAND on N ranks with the MPI launcher that is found, and what a laptop, a container or root needs.

    COMMAND is one of mpisqueeze, or a Python script of your own with its arguments.

    [bold]mpisqueeze launch -n 8 train --algorithm memsgd --compressor topk:0.01[/]
    """
    from mpisqueeze.launch import launch as start
    from mpisqueeze.launch import script

    command = list(context.args)
    if command[:1] == [context.find_root().info_name]:
        del command[0]
    if ranks is None:
        raise UsageError("say how many ranks, before the command: mpisqueeze launch -n 4 train", "-n")
    target = script(command)
    if target is None:
        _parse(context, command)
    return start(ranks, command, launcher, dry_run, target=target)


def _parse(context: typer.Context, words: list[str]) -> None:
    """Have the parser see COMMAND before ranks are started: it raises what they would, and shows --help once."""
    command: Any = context.find_root().command
    while words and not words[0].startswith("-") and hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context.find_root(), words)
        if not hasattr(command, "resolve_command"):
            command.make_context(name, list(words), parent=context.find_root())
