"""`mpisqueeze report`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mpisqueeze.cli.options import SortOption, TargetLossOption, TargetOption, arguments, command, in_output, target_of
from mpisqueeze.cli.output import TERMINAL, Output
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.files import write_text
from mpisqueeze.language import check_choice

if TYPE_CHECKING:
    from mpisqueeze.analysis.ranking import Target


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
            "time-by-bandwidth.",
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
    """Show, rank, export and draw finished runs; needs no MPI.

    [bold]mpisqueeze report results/* --html report.html --plot loss.pdf[/]
    """
    from mpisqueeze.analysis.columns import SORTS
    from mpisqueeze.analysis.ranking import Target, check_evaluated, rank_runs, summaries_of
    from mpisqueeze.record.calibration import read_calibration
    from mpisqueeze.record.claims import CLAIMS
    from mpisqueeze.record.reading import read_runs, sift
    from mpisqueeze.report.closing import closing
    from mpisqueeze.report.comparison_table import comparison_report, figures_of, notes, table_columns
    from mpisqueeze.report.html.page import render
    from mpisqueeze.report.html.run_page import runs_page
    from mpisqueeze.report.plot import draw
    from mpisqueeze.report.run_charts import KINDS, charts_of
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
    ranking = rank_runs(found, asked, sort)
    # Before anything is shown, and by all ranks alike, as it may turn out that there is nothing to draw.
    page = runs_page(found, ranking, measured) if "html" in output.targets else None
    charts = charts_of(plot_kind, found, ranking, measured) if "plot" in output.targets else []
    if not output.speaks:
        return ExitCode.OK
    for note in left_out:
        output.remark(note)
    single = len(found) == 1
    if single:
        output.print(closing(found[0].summary), crop=False)
    output.print(comparison_report(ranking))
    output.json(found[0].summary if single and not targets else summaries_of(found, ranking))
    output.csv(figures_of(found, ranking))
    output.table(table_columns(ranking), ranking.rows, notes(ranking))
    if page:
        output.write("html", lambda target: write_text(render(page), target))
    if output.targets.get("plot") == TERMINAL:
        output.print(terminal_plot(charts, output.console), soft_wrap=True)
    else:
        output.write("plot", lambda target: draw(charts, target))
    return ExitCode.OK


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
