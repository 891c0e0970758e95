"""`mpisqueeze predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mpisqueeze.cli.completion import offering
from mpisqueeze.cli.completion import pairs as complete_pairs
from mpisqueeze.cli.options import (
    TargetLossOption,
    TargetOption,
    arguments,
    command,
    compressors,
    in_comparison,
    in_method,
    in_network,
    quantity,
    target_of,
)
from mpisqueeze.cli.output import TERMINAL, Output
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.files import path_of
from mpisqueeze.quantities import parse_rate, parse_time
from mpisqueeze.settings import ALLREDUCE, METHOD, SERVERS, Settings

if TYPE_CHECKING:
    from mpisqueeze.costs.link import Link
    from mpisqueeze.modelling.asking import Question


@command(
    ("topology", "dtype", "local_steps", "group"),
    to=("json", "csv", "plot"),
    says={"plot": "Draw the map of the fastest methods: .png, .svg or .pdf."},
)
def predict(
    settings: Settings,
    output: Output,
    pairs: Annotated[
        list[str] | None,
        arguments(
            "PAIR…", "ALGORITHM or ALGORITHM/COMPRESSOR. Default: all. With --check: run folders.", complete_pairs
        ),
    ] = None,
    ranks: Annotated[str | None, in_network("-n", "--ranks", help="Ranks, up to a million.", metavar="N")] = None,
    latency: Annotated[str | None, in_network(help="α of a message's α + mβ: 20us, 5ms.", metavar="TIME")] = None,
    bandwidth: Annotated[str | None, in_network(help="8/β: 100mbit, 10gbit.", metavar="RATE")] = None,
    gap: Annotated[
        str | None,
        in_network(help="The part of the latency in which a port is busy. Default: all of it.", metavar="TIME"),
    ] = None,
    calibration: Annotated[
        Path | None,
        in_network(
            help="A file of `calibrate`, for network, kernel rates and ranks where they are not given here.",
            metavar="FILE",
        ),
    ] = None,
    inside: Annotated[
        str | None,
        in_network(
            help="The link between the ranks of a --group: latency=1us,bandwidth=100gbit. Default: left out; with "
            "--check memory, or the network where groups span hosts.",
            metavar="LINK",
        ),
    ] = None,
    dimension: Annotated[str | None, in_method(help="Parameters of the model.", metavar="D")] = None,
    compute: Annotated[str | None, in_method(help="Time of a gradient: 30ms. Default: 0.", metavar="TIME")] = None,
    compressor: Annotated[list[str] | None, compressors(METHOD, "For pairs that name none; repeat it.")] = None,
    server: Annotated[
        str,
        in_method(
            help="root, sharded or both of them, or allreduce, for what is linear.",
            metavar="NAME",
            autocompletion=offering((*SERVERS, ALLREDUCE, "both")),
        ),
    ] = "both",
    runs: Annotated[
        list[Path] | None,
        in_comparison(
            help="Compare the time to a target: the iterations that these run folders, or comparisons, needed, by the "
            "modelled time of one; repeat it.",
            metavar="RUN",
        ),
    ] = None,
    target: TargetOption = None,
    target_loss: TargetLossOption = None,
    check: Annotated[bool, in_comparison("--check", help="Hold the model against finished runs.")] = False,
) -> int:
    """Model an iteration on another network, with break-even points; needs no MPI.

    [bold]mpisqueeze predict -n 64 --dimension 25M --latency 50us --bandwidth 10gbit --compute 30ms[/]
    """
    from mpisqueeze.modelling.asking import Question, forecast
    from mpisqueeze.modelling.facts import forecast_facts
    from mpisqueeze.report import predict_view
    from mpisqueeze.report.predict_map import draw_map
    from mpisqueeze.runs.pairs import parse_pair

    question = Question(
        ranks=quantity("-n", ranks),
        dimension=quantity("--dimension", dimension),
        latency=quantity("--latency", latency, parse_time),
        bandwidth=quantity("--bandwidth", bandwidth, parse_rate),
        gap=quantity("--gap", gap, parse_time),
        compute=quantity("--compute", compute, parse_time),
        calibration=calibration,
        compressors=compressor or [],
        server=server,
        topology=settings.topology,
        dtype=settings.dtype,
        runs=runs or [],
        target=target_of(target, target_loss),
        local_steps=settings.local_steps,
        group=settings.group,
        inside=_link_of(inside),
    )
    output.check()
    if check:
        return _check([path_of(run) for run in pairs or []], question, output)
    if output.targets.get("plot") == TERMINAL:
        raise UsageError("the map is drawn into a file: .png, .svg or .pdf", "--plot")
    made = forecast([parse_pair(text) for text in pairs or []], question)
    if not output.speaks:
        return ExitCode.OK
    facts = forecast_facts(made, _path_of(question))
    output.print(predict_view.forecast_report(facts))
    output.json(facts)
    output.csv(predict_view.plain_rows(facts))
    output.write("plot", lambda target: draw_map(made, facts, target))
    return ExitCode.OK


def _check(runs: Sequence[Path], question: Question, output: Output) -> int:
    """Hold the model against finished runs."""
    from mpisqueeze.modelling.asking import check, refuse_for_check
    from mpisqueeze.modelling.facts import check_facts
    from mpisqueeze.report import predict_view

    refuse_for_check(question, output.targets.get("plot"))
    checked, skipped = check(runs, question)
    if not output.speaks:
        return ExitCode.OK
    facts = check_facts(checked, skipped, _path_of(question))
    output.print(predict_view.check_report(facts))
    output.json(facts)
    output.csv(predict_view.plain_rows(facts))
    return ExitCode.OK


def _link_of(text: str | None) -> Link | None:
    """The value of `--inside`. Raises UsageError."""
    from mpisqueeze.costs.link import parse_link

    try:
        return None if text is None else parse_link(text)
    except UsageError as error:
        raise UsageError(error.message, "--inside") from None


def _path_of(question: Question) -> str | None:
    return str(question.calibration) if question.calibration else None
