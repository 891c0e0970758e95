"""`mpisqueeze compare`."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Annotated, Any

from mpisqueeze.cli.completion import pairs as complete_pairs
from mpisqueeze.cli.completion import presets as complete_presets
from mpisqueeze.cli.options import (
    ConfigOption,
    SortOption,
    TargetLossOption,
    TargetOption,
    arguments,
    command,
    in_comparison,
    target_of,
)
from mpisqueeze.cli.output import Output
from mpisqueeze.errors import ExitCode
from mpisqueeze.language import check_choice
from mpisqueeze.runs.presets import PRESETS
from mpisqueeze.settings import SETTINGS

#: Settings that a comparison has no use for: its pairs name the methods.
_UNUSED = ("algorithm", "compressor", "checkpoint_every")


@command(
    (name for name in SETTINGS if name not in _UNUSED),
    says={"out": "Folder, new or empty, with a run folder for each. Default: results/<time>-compare-n<N>."},
)
def compare(
    given: dict[str, Any],
    output: Output,
    pairs: Annotated[
        list[str] | None,
        arguments("PAIR…", "ALGORITHM or ALGORITHM/COMPRESSOR; either may be FILE.py:Class.", complete_pairs),
    ] = None,
    preset: Annotated[
        str | None,
        in_comparison(
            help=f"Pairs to start with: {', '.join(PRESETS)}.", metavar="NAME", autocompletion=complete_presets
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        in_comparison(
            help="Every pair with every value of an option; repeat for a grid. V1;V2 where values hold commas.",
            metavar="OPTION=V1,V2,…",
        ),
    ] = None,
    target: TargetOption = None,
    target_loss: TargetLossOption = None,
    sort: SortOption = "loss",
    config: ConfigOption = None,
) -> int:
    """Train with several methods in one launch, from the same start, data order and seed, and rank them.

    [bold]mpirun -n 8 mpisqueeze compare sgd doublesqueeze/onebit memsgd/topk:0.01 --sweep lr=0.1,0.3[/]
    """
    from mpisqueeze.analysis.columns import SORTS
    from mpisqueeze.cli.exit import status_code, stop_code
    from mpisqueeze.cli.ranks import join
    from mpisqueeze.record.folder import check_path, hold_of_all, timed_path
    from mpisqueeze.report.compare_view import CompareView
    from mpisqueeze.report.comparison_table import comparison_report
    from mpisqueeze.runs import pairs as methods
    from mpisqueeze.runs.comparing import Ledger, check_entries, compare
    from mpisqueeze.runs.interrupts import Interrupts
    from mpisqueeze.runs.sources import resolve
    from mpisqueeze.runs.view import View

    def plan_all() -> list[methods.Entry]:
        texts = [*([] if preset is None else methods.preset(preset)), *(pairs or [])]
        asked_for = [methods.parse_pair(text) for text in texts]
        return methods.expand(asked_for, [methods.parse_sweep(text) for text in sweep or []], settings)

    world = join()
    found = world.on_root(lambda: resolve(given, os.environ, config, _UNUSED))
    settings = found.config
    with found.blamed():
        asked = world.collectively(lambda: target_of(target, target_loss))
        check_choice("--sort", sort, SORTS)
        entries = world.collectively(plan_all)
        world.on_root(output.check)
        world.on_root(lambda: check_path(settings.out) if settings.out else None)
    view = View()
    with Interrupts() as interrupts:
        with found.blamed():
            check_entries(entries, world, asked)
            path = world.on_root(lambda: settings.out or timed_path("compare", world.size))
            ledger = world.collectively(
                lambda: Ledger(path, entries, world.size, asked, sort) if world.is_root else None
            )
        hold_of_all(world, ledger.folder if ledger else None, path)
        if ledger:
            view = CompareView(output.console, output.live, entries, f"{path}", interrupts.hand_on)
        with closing(view):
            statuses, stopped_by = compare(entries, world, path, interrupts, ledger, view)
    if ledger:
        output.print(comparison_report(ledger.ranking()))
        output.remark(f"comparison: {path}")
        output.json(ledger.summaries())
    if stopped_by:
        return stop_code(stopped_by)
    # One run that went well is a comparison that did.
    for status in ("ok", "diverged"):
        if status in statuses:
            return status_code(status)
    return ExitCode.FAILED
