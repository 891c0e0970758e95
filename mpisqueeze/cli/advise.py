"""`mpisqueeze advise`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mpisqueeze.cli.completion import pairs as complete_pairs
from mpisqueeze.cli.options import (
    ConfigOption,
    TargetLossOption,
    TargetOption,
    arguments,
    command,
    in_comparison,
    in_network,
    in_run,
    quantity,
    target_of,
)
from mpisqueeze.cli.output import Output
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.quantities import parse_rate, parse_time
from mpisqueeze.settings import EITHER, SETTINGS, option_of

if TYPE_CHECKING:
    from mpisqueeze.advice.advisor import AdviceQuestion, Advisor
    from mpisqueeze.comm.world import Signal, World

#: Settings that the race chooses itself, or has no use for.
_UNUSED = (
    "algorithm", "compressor", "overlap", "eval_every", "consensus_every", "checkpoint_every", "log", "per_rank",
    "save_model", "stop_at",
)  # fmt: skip
_BUDGET = "5min"
#: The most seeds that a method gets where --seeds does not say: more than a budget is likely to have time for.
_SEEDS = "100"


@command(
    (name for name in SETTINGS if name not in _UNUSED),
    says={
        "out": "Folder, new or empty, with all runs, advice.json and report.html. Default: results/<time>-advise-n<N>.",
        "server": "root or sharded, for all. Default: whichever the cost model has as faster, for each method.",
        "lr": "Learning rate around which each method looks for its own. Default: the problem's.",
        "iterations": "Length of a whole run.",
        "epochs": "Length of a whole run. Default: 10, or as many as the budget has room for.",
        "json": "Write advice.json's object to FILE, or alone to stdout for -.",
    },
)
def advise(
    given: dict[str, Any],
    output: Output,
    pairs: Annotated[
        list[str] | None,
        arguments(
            "PAIR…",
            "ALGORITHM or ALGORITHM/COMPRESSOR to race against allreduce. Default: all that should converge.",
            complete_pairs,
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        in_comparison(
            help="Another one, beside the default; repeat it.", metavar="PAIR", autocompletion=complete_pairs
        ),
    ] = None,
    budget: Annotated[
        str | None, in_comparison(help=f"Time for all of it: 30s, 2min, 1h. Default: {_BUDGET}.", metavar="TIME")
    ] = None,
    seeds: Annotated[
        str | None,
        in_comparison(help="Most seeds of the final, or these. Default: as many as it takes.", metavar="K|S1,S2,…"),
    ] = None,
    target: TargetOption = None,
    target_loss: TargetLossOption = None,
    resume: Annotated[
        Path | None,
        in_run(help="Go on with the advice in this folder, with its own options, and --budget.", metavar="FOLDER"),
    ] = None,
    ranks: Annotated[
        str | None,
        in_network("-n", "--ranks", help="Race on so many virtual workers, as --workers does.", metavar="N"),
    ] = None,
    latency: Annotated[
        str | None, in_network(help="α of a message's α + mβ between virtual workers: 20us, 5ms.", metavar="TIME")
    ] = None,
    bandwidth: Annotated[str | None, in_network(help="8/β between them: 100mbit, 10gbit.", metavar="RATE")] = None,
    config: ConfigOption = None,
) -> int:
    """Find out what pays off here: calibrate, tune the best methods' learning rates, race them, and give a verdict.

    [bold]mpirun -n 8 mpisqueeze advise --problem mlp --data digits --budget 2min[/]

    [bold]mpisqueeze advise -n 64 --latency 50us --bandwidth 10gbit --budget 5min[/] (virtual workers)
    """
    given |= _elsewhere(given, ranks, latency, bandwidth)
    seconds = quantity("--budget", _BUDGET if budget is None and resume is None else budget, parse_time)
    if seconds is not None and seconds <= 0:
        raise UsageError(f"must be a time above 0, got {budget}", "--budget")
    if resume is not None:
        others = {"PAIR": pairs, "--also": also, "--seeds": seeds, "--target": target, "--target-loss": target_loss,
                  "--config": config, **{option_of(name): True for name in given}}  # fmt: skip
        for option, other in others.items():
            if other:
                raise UsageError("does not go with --resume: the advice has its own options", option)
    from mpisqueeze.advice import advisor as advising
    from mpisqueeze.advice.running import AdviceWatcher, Driver, check, check_network
    from mpisqueeze.cli.exit import stop_code
    from mpisqueeze.cli.ranks import join
    from mpisqueeze.data import keeping
    from mpisqueeze.record.folder import RunFolder, check_path, hold_of_all, timed_path
    from mpisqueeze.report.advice_view import AdviceView, advice_report, closing_lines, opening
    from mpisqueeze.runs.interrupts import Interrupts
    from mpisqueeze.runs.seeding import parse_seeds
    from mpisqueeze.runs.sources import Resolved, resolve
    from mpisqueeze.virtual.workers import on_workers

    def asked() -> tuple[Resolved, AdviceQuestion]:
        if past:
            question = advising.asked_before(past, seconds)
            return Resolved(question.settings), question
        found = resolve(given, os.environ, config, _UNUSED)
        said = {*given, *found.origins}
        settings = found.config
        with found.blamed():
            return found, advising.AdviceQuestion(
                settings=replace(settings, out=None),
                pairs=tuple(pairs or ()),
                also=tuple(also or ()),
                server=settings.server if "server" in said else None,
                budget_s=seconds,
                seeds=parse_seeds(_SEEDS if seeds is None else seeds, settings.seed),
                target=target_of(target, target_loss),
                exact=bool(said & {*EITHER}),
            )

    world = join()
    past = world.on_root(lambda: advising.past_of(resume, world.size) if resume else None)
    found, question = world.on_root(asked)
    workers = question.settings.workers
    with found.blamed():
        world.on_root(lambda: check_network(question))
    world.on_root(output.check)
    out = found.config.out
    with found.blamed():
        world.on_root(lambda: check_path(out) if out and not resume else None)
    view = AdviceWatcher()

    def begin() -> Advisor | None:
        if not world.is_root:
            return None
        folder = RunFolder(path, again=resume is not None)
        if past:
            advising.remove_unfinished(path, past)
        clock = advising.BudgetClock(question.budget_s, past["spent_s"] if past else 0.0)
        return advising.Advisor(question, folder, workers or world.size, clock, past)

    def drive(ranks: World) -> Signal:
        own = (advisor, view) if ranks.is_root else (None, AdviceWatcher())
        return Driver(question, ranks, path, interrupts, *own).advise()

    with Interrupts() as interrupts, keeping(), found.blamed():
        on_workers(world, workers, partial(check, question))
        path = resume or world.on_root(lambda: out or timed_path("advise", workers or world.size))
        advisor = world.collectively(begin)
        hold_of_all(world, advisor.folder if advisor else None, path)
        if advisor:
            output.print(opening(question, workers or world.size, f"{path}", resume is not None))
            view = AdviceView(output.console, output.live, advisor, interrupts.hand_on)
        with closing(view):
            stopped_by = on_workers(world, workers, drive)
    if advisor:
        facts = advisor.finish(bool(stopped_by))
        output.print(advice_report(facts))
        _write_page(advisor, facts, output)
        for line in closing_lines(facts, f"{path}"):
            output.remark(line)
        output.json(facts)
        advisor.folder.close()
    return stop_code(stopped_by) if stopped_by else ExitCode.OK


def _elsewhere(given: Mapping[str, Any], *network: str | None) -> dict[str, Any]:
    """The settings of virtual workers for -n, --latency and --bandwidth. Raises UsageError where one is missing."""
    options = dict(zip(("-n", "--latency", "--bandwidth"), network, strict=True))
    if not any(value is not None for value in options.values()):
        return {}
    for option, value in options.items():
        if value is None:
            raise UsageError("is missing: a network that is not here is -n N --latency TIME --bandwidth RATE", option)
    for option, name in (("-n", "workers"), ("--latency", "link")):
        if name in given:
            raise UsageError(f"does not go with {option_of(name)}, which says the same", option)
    ranks, latency, bandwidth = options.values()
    quantity("--latency", latency, parse_time)
    quantity("--bandwidth", bandwidth, parse_rate)
    workers = quantity("-n", ranks)
    if workers is None or workers < 2:
        raise UsageError(f"must be at least 2, got {ranks}", "-n")
    return {"workers": workers, "link": f"latency={latency},bandwidth={bandwidth}"}


def _write_page(advisor: Advisor, facts: dict[str, Any], output: Output) -> None:
    """Write report.html, where the libraries that pages need are there."""
    from mpisqueeze.advice.advisor import PAGE
    from mpisqueeze.analysis.seeds import pool
    from mpisqueeze.files import write_text
    from mpisqueeze.report.html.advice_page import advice_page
    from mpisqueeze.report.html.page import check_page, render

    try:
        check_page()
    except UsageError as error:
        output.remark(f"no {PAGE}: {error.message}")
        return
    target = advisor.race.target if advisor.race else None
    pooled = pool(advisor.counted, target) if advisor.counted and target else None
    write_text(render(advice_page(facts, pooled, advisor.calibration)), str(advisor.folder.path / PAGE))
