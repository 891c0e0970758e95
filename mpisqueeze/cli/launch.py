"""`mpisqueeze launch`."""

from __future__ import annotations

from typing import Annotated

import typer

from mpisqueeze.cli.completion import offering


def launch(
    context: typer.Context,
    ranks: Annotated[int, typer.Option("-n", "--ranks", metavar="N", help="Number of ranks.")],
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

    [bold]mpisqueeze launch -n 8 train --algorithm memsgd --compressor topk:0.01[/]
    """
    from mpisqueeze.launch import launch as start

    return start(ranks, list(context.args), launcher, dry_run)
