"""`mpisqueeze reproduce`."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

from mpisqueeze.cli.options import arguments, command, in_run
from mpisqueeze.cli.output import Output
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.files import write_text
from mpisqueeze.settings import Settings

#: The page that it leaves beside its runs.
PAGE = "report.html"


@command(
    ("data_dir", "workers", "device", "out"),
    says={"out": "Folder, new or empty, with one for each claim. Default: results/<time>-reproduce-n<N>."},
)
def reproduce(
    settings: Settings,
    output: Output,
    claims: Annotated[
        list[str] | None, arguments("CLAIM…", "Names, FILE.toml, or all. Without any: a list of them.")
    ] = None,
    scale: Annotated[
        str,
        in_run(
            help="laptop: minutes on two cores. full: the papers' networks and data, days on a GPU.", metavar="NAME"
        ),
    ] = "laptop",
) -> int:
    """Put the talks' claims to the test here: for each its runs, what decides, and a verdict.

    [bold]mpirun -n 8 mpisqueeze reproduce all[/]
    """
    if not claims:
        return _list(output)
    from mpisqueeze.cli.exit import stop_code
    from mpisqueeze.cli.ranks import join
    from mpisqueeze.data import keeping
    from mpisqueeze.record.claims import read_claims
    from mpisqueeze.record.folder import RunFolder, check_path, hold_of_all, timed_path
    from mpisqueeze.report.claims_view import ClaimsView, claims_report
    from mpisqueeze.report.html.page import check_page, render
    from mpisqueeze.report.html.reproduction_page import reproduction_page
    from mpisqueeze.reproduce.claims import select
    from mpisqueeze.reproduce.engine import check_claims, check_first, plan_tasks
    from mpisqueeze.runs.interrupts import Interrupts
    from mpisqueeze.runs.view import View

    world = join()
    tasks = world.collectively(lambda: plan_tasks(select(claims, scale), world.size, settings))
    world.on_root(output.check)
    world.on_root(lambda: check_path(settings.out) if settings.out else None)

    view = View()
    with Interrupts() as interrupts, keeping():
        check_first(tasks, world)
        path = world.on_root(lambda: settings.out or timed_path("reproduce", settings.workers or world.size))
        folder = world.collectively(lambda: RunFolder(path) if world.is_root else None)
        hold_of_all(world, folder, path)
        if folder:
            view = ClaimsView(output.console, output.live, len(tasks), interrupts.hand_on)
        with closing(view):
            verdicts, stopped = check_claims(tasks, world, path, scale, interrupts, folder, view)
    if world.is_root and (verdicts or stopped):
        output.print(claims_report(verdicts, len(tasks)))
    if world.is_root and verdicts:
        try:
            check_page()
        except UsageError as missing:
            output.remark(f"no page: it {missing.message}")
        else:
            write_text(render(reproduction_page(path, read_claims(path))), f"{path}/{PAGE}")
            output.remark(f"page: {path}/{PAGE}")
    output.remark(f"folder: {path}")
    output.json(verdicts)
    return stop_code(stopped) if stopped else ExitCode.OK


def _list(output: Output) -> int:
    """Show the claims that there are."""
    from mpisqueeze.report.tables import make_table
    from mpisqueeze.reproduce.claims import SCALES, names, select

    output.check()
    found = select(names(), SCALES[0])
    if not output.alone:
        table = make_table()
        table.add_column("claim", style="bold", no_wrap=True)
        table.add_column("says")
        for claim in found:
            table.add_row(claim.name, claim.file.says)
        output.print(table)
    output.json([{"claim": claim.name, "title": claim.file.title, "says": claim.file.says} for claim in found])
    return ExitCode.OK
