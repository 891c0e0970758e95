"""`mpisqueeze calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mpisqueeze.cli.options import command, compressors, in_output, in_run, quantity
from mpisqueeze.cli.output import Output, check_file
from mpisqueeze.errors import ExitCode
from mpisqueeze.settings import RUN, Settings


@command(("link", "dtype", "device"))
def calibrate(
    settings: Settings,
    output: Output,
    out: Annotated[Path, in_output(help="Where to write what was measured; an older one is replaced.")] = Path(
        "calibration.json"
    ),
    compressor: Annotated[
        list[str] | None, compressors(RUN, "Measure these compressors instead of all; repeat it.")
    ] = None,
    max_size: Annotated[str, in_run(help="Bytes of the largest message.", metavar="SIZE")] = "16Mi",
    quick: Annotated[bool, in_run("--quick", help="A rougher answer in a few seconds.")] = False,
) -> int:
    """Measure latency, bandwidth and gap of this network, memory and kernel rates; `predict` starts from them.

    [bold]mpirun -n 4 mpisqueeze calibrate[/]
    """
    from rich.text import Text

    from mpisqueeze.cli.ranks import join
    from mpisqueeze.comm.placement import quota_doubts
    from mpisqueeze.comm.watchdog import watched
    from mpisqueeze.modelling.calibrate import CalibrationRequest, calibrate
    from mpisqueeze.record.folder import write_json as write_atomically
    from mpisqueeze.report.calibration_view import calibration_report

    largest = quantity("--max-size", max_size)
    world = join()
    request = world.collectively(lambda: CalibrationRequest.checked(compressor or [], largest, quick, settings))
    world.on_root(output.check)
    world.on_root(lambda: check_file("--out", str(out)))
    for doubt in quota_doubts(world, threads=1):
        output.print(Text(f"warning: {doubt}", style="yellow"), soft_wrap=True)
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
