"""`mpisqueeze report`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from mpisqueeze.cli.options import SortOption, TargetLossOption, TargetOption, arguments, command, in_output, target_of
from mpisqueeze.cli.output import TERMINAL, Output
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.files import write_text
from mpisqueeze.language import check_choice

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mpisqueeze.analysis.ranking import Ranking, Target
    from mpisqueeze.analysis.seeds import Pooled
    from mpisqueeze.record.calibration import Calibration
    from mpisqueeze.record.reading import RunLog
    from mpisqueeze.report.charts import Chart
    from mpisqueeze.report.html.blocks import Page
    from mpisqueeze.report.tables import TableColumn


@command(to=("json", "csv", "markdown", "latex", "html", "plot"))
def report(
    output: Output,
    runs: Annotated[
        list[Path],
        arguments("RUN…", "Run folders; a comparison's folder stands for its runs, a reproduction's for its claims."),
    ],
    target: TargetOption = None,
    target_loss: TargetLossOption = None,
    sort: SortOption = "loss",
    plot_kind: Annotated[
        str,
        in_output(
            help="loss (by iteration, bytes and time), loss-by-…, test-by-iteration|bytes|time, phases, "
            "time-by-bandwidth; over seeds pareto (time to target and final metric).",
            metavar="KIND",
        ),
    ] = "loss",
    calibration: Annotated[
        Path | None,
        in_output(
            help="A file of `calibrate`, for the latency that times by bandwidth are modelled for.", metavar="FILE"
        ),
    ] = None,
) -> int:
    """Show, rank, export and draw finished runs; needs no MPI. Runs that differ by seed alone are pooled.

    [bold]mpisqueeze report results/* --html report.html --plot loss.pdf[/]
    """
    from mpisqueeze.analysis.columns import SORTS
    from mpisqueeze.analysis.ranking import Target, check_evaluated, rank_runs
    from mpisqueeze.analysis.seeds import TUNE, by_pair, pool, tuned
    from mpisqueeze.record.calibration import read_calibration
    from mpisqueeze.record.claims import CLAIMS
    from mpisqueeze.record.reading import read_runs, sift
    from mpisqueeze.report.html.page import render
    from mpisqueeze.report.plot import draw
    from mpisqueeze.report.run_charts import KINDS
    from mpisqueeze.report.terminal_plot import terminal_plot

    output.check()
    asked = target_of(target, target_loss)
    check_choice("--plot-kind", plot_kind, KINDS)
    check_choice("--sort", sort, SORTS)
    reproductions = [path for path in runs if os.path.isfile(path / CLAIMS)]
    folders, left_out = sift(runs)
    if reproductions and not left_out:
        if len(runs) > 1:
            raise UsageError(f"{reproductions[0]} is a reproduction, which is reported by itself", "RUN")
        return _report_claims(reproductions[0], asked, output)
    measured = read_calibration(calibration) if calibration else None
    found, targets = read_runs(folders)
    check_evaluated(found, asked)
    if asked is None and len(targets) == 1:
        asked = Target.given(targets[0])
    drawn = _Drawn("html" in output.targets, plot_kind if "plot" in output.targets else None, measured)
    # Before anything is shown, and by all ranks alike, as it may turn out that there is nothing to draw.
    if pairs := by_pair(found):
        told = _pooled(pool(pairs, asked, sort, tuned(found)), drawn)
    else:
        # Trials that chose settings are no part of the comparison.
        found = [run for run in found if run.phase != TUNE] or found
        told = _ranked(found, rank_runs(found, asked, sort), drawn, bool(targets))
    if not output.speaks:
        return ExitCode.OK
    for note in left_out:
        output.remark(note)
    for shown in told.shown:
        output.print(shown, crop=False)
    output.json(told.json)
    output.csv(told.figures)
    output.table(told.columns, told.rows, told.notes)
    page, charts = told.page, told.charts
    if page:
        output.write("html", lambda target: write_text(render(page), target))
    if output.targets.get("plot") == TERMINAL:
        output.print(terminal_plot(charts, output.console), soft_wrap=True)
    else:
        output.write("plot", lambda target: draw(charts, target))
    return ExitCode.OK


class _Drawn(NamedTuple):
    """The drawings that were asked for: a page, and charts of a kind, or None."""

    page: bool
    kind: str | None
    calibration: Calibration | None


class _Told(NamedTuple):
    """A comparison, for all that can be made of it."""

    shown: Sequence[RenderableType]
    json: Any
    figures: Sequence[Mapping[str, Any]]
    columns: Sequence[TableColumn]
    rows: Sequence[Any]
    notes: Sequence[str]
    page: Page | None
    charts: Sequence[Chart]


def _ranked(runs: Sequence[RunLog], ranking: Ranking, drawn: _Drawn, compared: bool) -> _Told:
    """Runs, each a row; `compared`: they, or it, are of a comparison."""
    from mpisqueeze.analysis.ranking import summaries_of
    from mpisqueeze.report.closing import closing
    from mpisqueeze.report.comparison_table import comparison_report, figures_of, notes, table_columns
    from mpisqueeze.report.html.run_page import runs_page
    from mpisqueeze.report.run_charts import charts_of

    single = len(runs) == 1
    return _Told(
        [*([closing(runs[0].summary)] if single else []), comparison_report(ranking)],
        runs[0].summary if single and not compared else summaries_of(runs, ranking),
        figures_of(runs, ranking),
        table_columns(ranking),
        ranking.rows,
        notes(ranking),
        runs_page(runs, ranking, drawn.calibration) if drawn.page else None,
        charts_of(drawn.kind, runs, ranking, drawn.calibration) if drawn.kind else [],
    )


def _pooled(pooled: Pooled, drawn: _Drawn) -> _Told:
    """Pairs over seeds, each a row."""
    from mpisqueeze.report.html.seeds_page import seeds_page
    from mpisqueeze.report.seeds_charts import charts_of
    from mpisqueeze.report.seeds_table import figures_of, notes, seeds_report, table_columns

    return _Told(
        [seeds_report(pooled)],
        pooled.as_json(),
        figures_of(pooled),
        table_columns(pooled),
        pooled.ranking.rows,
        notes(pooled),
        seeds_page(pooled, drawn.calibration) if drawn.page else None,
        charts_of(drawn.kind, pooled, drawn.calibration) if drawn.kind else [],
    )


def _report_claims(path: Path, target: Target | None, output: Output) -> int:
    """Report a folder of `reproduce`."""
    from mpisqueeze.record.claims import read_claims
    from mpisqueeze.report.claims_view import claims_report
    from mpisqueeze.report.html.page import render
    from mpisqueeze.report.html.reproduction_page import reproduction_page

    option = "target" if target and target.name else "target-loss"
    for name, given in (*output.targets.items(), (option, target)):
        if given is not None and name not in ("json", "html"):
            raise UsageError(f"is for runs: {path} is a reproduction; report one of its folders", f"--{name}")
    about = read_claims(path)
    page = reproduction_page(path, about) if "html" in output.targets else None
    output.print(claims_report(about["claims"], about["asked"]))
    output.json(about["claims"])
    if page:
        output.write("html", lambda target: write_text(render(page), target))
    return ExitCode.OK
