"""`mpisqueeze compare`."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from mpisqueeze.cli.completion import numbers as complete_numbers
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
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.language import check_choice
from mpisqueeze.runs.presets import PRESETS
from mpisqueeze.settings import SETTINGS

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World
    from mpisqueeze.runs.comparing import Track

#: Settings that a comparison has no use for: its pairs name the methods.
_UNUSED = ("algorithm", "compressor", "checkpoint_every", "stop_at")


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
    seeds: Annotated[
        str | None,
        in_comparison(
            help="Run each pair with so many seeds from --seed on, or with these, in turns (A B C, C B A, …), for "
            "medians and intervals; three for an interval.",
            metavar="K|S1,S2,…",
        ),
    ] = None,
    tune: Annotated[
        list[str] | None,
        in_comparison(
            help="Choose an option for each pair first, from so many values on a logarithmic scale, on a seed of its "
            "own; repeat for a grid.",
            metavar="OPTION=LOW:HIGH:COUNT",
            autocompletion=complete_numbers,
        ),
    ] = None,
    target: TargetOption = None,
    target_loss: TargetLossOption = None,
    stop_at_target: Annotated[
        bool, in_comparison("--stop-at-target", help="End each run at the first evaluation that meets --target.")
    ] = False,
    sort: SortOption = "loss",
    config: ConfigOption = None,
) -> int:
    """Train with several methods in one launch, from the same start, data order and seed, and rank them.

    [bold]mpirun -n 8 mpisqueeze compare sgd doublesqueeze/onebit memsgd/topk:0.01 --sweep lr=0.1,0.3[/]
    """
    from mpisqueeze.analysis.columns import SORTS
    from mpisqueeze.cli.exit import status_code, stop_code
    from mpisqueeze.cli.ranks import join
    from mpisqueeze.data import keeping
    from mpisqueeze.record.folder import check_path, hold_of_all, timed_path
    from mpisqueeze.report.compare_view import CompareView, tuning_notes
    from mpisqueeze.report.comparison_table import comparison_report
    from mpisqueeze.report.seeds_table import seeds_report
    from mpisqueeze.runs import pairs as methods
    from mpisqueeze.runs.comparing import Ledger, Track, check_entries
    from mpisqueeze.runs.interrupts import Interrupts
    from mpisqueeze.runs.seeding import parse_seeds, seeded, seeds_apart
    from mpisqueeze.runs.sources import resolve
    from mpisqueeze.runs.tuning import parse_grid, plan_grids
    from mpisqueeze.runs.tuning import tune as tune_all
    from mpisqueeze.runs.view import View
    from mpisqueeze.virtual.workers import on_workers

    def plan_all() -> list[methods.Entry]:
        base = replace(settings, stop_at=_stop(target, target_loss)) if stop_at_target else settings
        texts = [*([] if preset is None else methods.preset(preset)), *(pairs or [])]
        asked_for = [methods.parse_pair(text) for text in texts]
        return methods.expand(asked_for, [methods.parse_sweep(text) for text in sweep or []], base)

    def plan_seeds() -> tuple[int, ...] | None:
        if seeds is not None and "," in seeds and "seed" in given:
            raise UsageError("does not go with a list of seeds: leave out one of them", "--seed")
        return None if seeds is None else parse_seeds(seeds, settings.seed)

    world = join()
    found = world.on_root(lambda: resolve(given, os.environ, config, _UNUSED))
    settings = found.config
    with found.blamed():
        asked = world.collectively(lambda: target_of(target, target_loss))
        check_choice("--sort", sort, SORTS)
        each = world.collectively(plan_seeds)
        entries = world.collectively(plan_all)
        tuned = world.collectively(lambda: plan_grids(entries, [parse_grid(text) for text in tune or []]))
        world.on_root(output.check)
        world.on_root(lambda: check_path(settings.out) if settings.out else None)
    race = entries if each is None else seeded(entries, each)
    (apart,) = seeds_apart(each or [settings.seed])

    def run_all(world: World) -> tuple[Track, int]:
        """The track of all runs, and the number of trials among them; on workers or on ranks."""
        view, to_come = View(), race
        # Workers of one process have trials of their own to book.
        tuning = [replace(one, values={**one.values}, tried=[]) for one in tuned]
        with Interrupts(world.leads) as interrupts:
            with found.blamed():
                check_entries(entries, world, asked)
                path = world.on_root(lambda: settings.out or timed_path("compare", world.size))
                ledger = world.collectively(
                    lambda: Ledger(path, race, world, asked, sort, each) if world.is_root else None
                )
            hold_of_all(world, ledger.folder if ledger else None, path)
            if ledger:
                said = f"{', '.join(tune)}; trials have seed {apart}" if tune else ""
                view = CompareView(output.console, output.live, entries, f"{path}", interrupts.hand_on, each, said)
            track = Track(world, path, interrupts, ledger, view)
            with closing(view):
                track.expect(race)
                if tune:
                    tune_all(tuning, apart, asked, track, race)
                    chosen = [one.race(one.chosen) for one in tuning]
                    to_come = chosen if each is None else seeded(chosen, each)
                    if ledger:
                        ledger.tuned = [one.as_json() for one in tuning]
                    track.expect(to_come)
                trials = len(track.statuses)
                track.run(to_come)
                track.end()
        return track, trials

    with keeping(), found.blamed():
        # A sweep may have runs of fewer workers.
        most = max((entry.plan.config.workers or 0 for entry in entries), default=0)
        track, trials = on_workers(world, most or None, run_all)
    ledger = track.ledger
    if ledger:
        pooled, ranking = ledger.pooled(), ledger.ranking()
        if pooled:
            output.print(seeds_report(pooled))
        elif ranking:
            output.print(comparison_report(ranking))
        for note in tuning_notes(ledger.tuned):
            output.print(note, style="yellow", soft_wrap=True, markup=False, highlight=False)
        output.folder("comparison", track.path)
        output.json(ledger.results())
        ledger.folder.close()
    if track.stopped_by:
        return stop_code(track.stopped_by)
    # One run that went well is a comparison that did.
    for status in ("ok", "diverged"):
        if status in track.statuses[trials:]:
            return status_code(status)
    return ExitCode.FAILED


def _stop(target: str | None, target_loss: float | None) -> str:
    """The target at which runs end, for their settings. Raises UsageError."""
    if target_loss is not None:
        raise UsageError(
            "does not go with --target-loss: a smoothed loss is known only iterations later, as it is the mean over "
            "those on either side; give --target NAME=VALUE",
            "--stop-at-target",
        )
    if target is None:
        raise UsageError("needs --target NAME=VALUE, such as --target test_accuracy=0.95", "--stop-at-target")
    return target
