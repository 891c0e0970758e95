"""`mpisqueeze info`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mpisqueeze.cli.completion import offering
from mpisqueeze.cli.options import command, compressors, quantity
from mpisqueeze.cli.output import Output
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.settings import TOPOLOGIES


@command()
def info(
    output: Output,
    topology: Annotated[
        str | None,
        typer.Option(
            help="Show a gossip graph instead: W, its spectral gap, what it sends.",
            metavar="SPEC",
            autocompletion=offering((*TOPOLOGIES, "file:")),
        ),
    ] = None,
    ranks: Annotated[
        str | None, typer.Option("-n", "--ranks", help="Ranks of the graph.", metavar="N", show_default="8")
    ] = None,
    self_weight: Annotated[
        float | None, typer.Option(help="W_ii of every rank of the graph.", metavar="NUMBER")
    ] = None,
    dimension: Annotated[
        str | None, typer.Option(help="Length of the vectors, for the bytes of an iteration.", metavar="D")
    ] = None,
    compressor: Annotated[str | None, compressors(None, "How they are compressed.", show_default="identity")] = None,
) -> int:
    """Show MPI, CUDA-awareness, devices, versions, and every algorithm, compressor, problem and data set."""
    facts: dict[str, Any]
    if topology is not None:
        from mpisqueeze.modelling.graphs import topology_facts
        from mpisqueeze.report.topology import topology_report

        output.check()
        length = quantity("--dimension", dimension)
        if length is not None and length < 1:
            raise UsageError(f"must be at least 1, got {length}", "--dimension")
        count = 8 if ranks is None else quantity("-n", ranks)
        facts = topology_facts(topology, count, self_weight, length, "identity" if compressor is None else compressor)
        report = topology_report(facts)
    else:
        graphs = {"--ranks": ranks, "--self-weight": self_weight, "--dimension": dimension, "--compressor": compressor}
        for option, value in graphs.items():
            if value is not None:
                raise UsageError("goes with --topology", option)
        from mpisqueeze.comm.world import World
        from mpisqueeze.mpi import missing
        from mpisqueeze.report.info import collect_info, info_report

        world = None if missing() else World()
        if world:
            world.on_root(output.check)
        else:
            output.check()
        facts = collect_info(world)
        if not output.speaks:
            return ExitCode.OK
        report = info_report(facts)
    if not output.alone:
        output.print(report)
    output.json(facts)
    return ExitCode.OK
