"""`mpisqueeze reproduce`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mpisqueeze.cli.options import arguments, command, in_run
from mpisqueeze.cli.output import Output
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.files import write_text
from mpisqueeze.settings import Settings

if TYPE_CHECKING:
    from mpisqueeze.comm.world import Signal, World

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
    from mpisqueeze.reproduce.engine import check_claims, plan_tasks
    from mpisqueeze.runs.comparing import check_entries
    from mpisqueeze.runs.interrupts import Interrupts
    from mpisqueeze.runs.view import View
    from mpisqueeze.virtual.workers import on_workers

    world = join()
    tasks = world.collectively(lambda: plan_tasks(select(claims, scale), world.size, settings))
    world.on_root(output.check)
    world.on_root(lambda: check_path(settings.out) if settings.out else None)

    def check_all(world: World) -> tuple[Path, list[dict[str, Any]], Signal]:
        """The folder, the verdicts, on rank 0, and a signal that stopped them; on workers or on ranks."""
        view = View()
        with Interrupts(world.leads) as interrupts:
            # The first run of each claim is built once, so that missing data are known before anything starts.
            check_entries([entry for task in tasks for entry in task.entries[:1]], world)
            path = world.on_root(lambda: settings.out or timed_path("reproduce", world.size))
            folder = world.collectively(lambda: RunFolder(path) if world.is_root else None)
            hold_of_all(world, folder, path)
            if folder:
                view = ClaimsView(output.console, output.live, len(tasks), interrupts.hand_on)
            with closing(view):
                return path, *check_claims(tasks, world, path, scale, interrupts, folder, view)

    with keeping():
        path, verdicts, stopped = on_workers(world, settings.workers, check_all)
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
