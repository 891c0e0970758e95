"""`mpisqueeze calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mpisqueeze.cli.completion import parts
from mpisqueeze.cli.options import command, quantity
from mpisqueeze.cli.output import Output, check_file
from mpisqueeze.errors import ExitCode
from mpisqueeze.settings import OUTPUT, RUN, Settings


@command(("link", "dtype", "device"))
def calibrate(
    given: dict[str, Any],
    output: Output,
    out: Annotated[
        Path, typer.Option(help="Where to write what was measured; an older one is replaced.", rich_help_panel=OUTPUT)
    ] = Path("calibration.json"),
    compressor: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure these compressors instead of all; repeat it.",
            metavar="SPEC",
            rich_help_panel=RUN,
            autocompletion=parts("compressors"),
        ),
    ] = None,
    max_size: Annotated[
        str, typer.Option(help="Bytes of the largest message.", metavar="SIZE", rich_help_panel=RUN)
    ] = "16Mi",
    quick: Annotated[
        bool, typer.Option("--quick", help="A rougher answer in a few seconds.", rich_help_panel=RUN)
    ] = False,
) -> int:
    """Measure latency, bandwidth and gap of this network, memory and kernel rates; `predict` starts from them.

    [bold]mpirun -n 4 mpisqueeze calibrate[/]
    """
    from rich.text import Text

    from mpisqueeze.cli.ranks import join
    from mpisqueeze.comm.watchdog import watched
    from mpisqueeze.modelling.calibrate import Request, calibrate
    from mpisqueeze.record.folder import write_json as write_atomically
    from mpisqueeze.report.calibration_view import calibration_report

    largest = quantity("--max-size", max_size)
    world = join()
    request = world.collectively(lambda: Request.checked(compressor or [], largest, quick, Settings(**given)))
    world.on_root(output.check)
    world.on_root(lambda: check_file("--out", str(out)))
    with watched(world, "a stage of the calibration") as begin:

        def say(stage: str) -> None:
            begin()
            output.print(Text(stage, style="dim"), soft_wrap=True)

        facts = calibrate(request, world, say)
    if world.is_root:
        write_atomically(out, facts)
        output.print(calibration_report(facts))
        output.remark(f"calibration: {out}")
        output.json(facts)
    return ExitCode.OK
