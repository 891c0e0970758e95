"""Comparisons over seeds: the intervals, what they let a verdict say, and how runs of several launches are pooled."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np
import pytest
from rich.console import Console
from test_html import figures_of as figures_in
from test_html import page_of, values_of
from test_report import edit, write_run

from mpisqueeze.analysis.intervals import difference, median, paired, seeds_needed, student
from mpisqueeze.analysis.ranking import Target, rank_runs, verdict
from mpisqueeze.analysis.seeds import Pooled, by_pair, pool
from mpisqueeze.cli.app import run
from mpisqueeze.record import types
from mpisqueeze.record.figures import LOGGED, summarized
from mpisqueeze.record.reading import RunLog, read_run
from mpisqueeze.report.seeds_table import seeds_report

pytestmark = pytest.mark.usefixtures("empty_folder")

#: σ of the logarithm of a run's time to target, of the seed (which pairs share) and of the clock (which they do not).
#: Both are assumed, not measured: a paired ratio's logarithm has √2 CLOCK = 0.1.
SEED, CLOCK = 0.1, 0.07


@pytest.mark.parametrize(
    ("freedom", "level", "t"),
    [
        (1, 0.95, 12.7062),
        (2, 0.95, 4.30265),
        (4, 0.95, 2.77645),
        (9, 0.95, 2.26216),
        (30, 0.95, 2.04227),
        (4, 0.99, 4.60409),
    ],
)
def test_students_t_is_that_of_the_tables(freedom: int, level: float, t: float) -> None:
    assert student(level, freedom) == pytest.approx(t, rel=2e-6)


def test_intervals_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    noise = np.random.default_rng(1)
    for count in (3, 4, 5, 8, 50, 201):
        values, reference = np.exp(noise.normal(size=(2, count)))
        for level in (0.5, 0.95, 0.999):
            assert student(level, count - 1) == pytest.approx(stats.t.ppf((1 + level) / 2, count - 1), rel=1e-9)
            found, gap = paired([*values], [*reference], level), difference([*values], [*reference], level)
            test = stats.ttest_rel(np.log(values), np.log(reference))
            ends = np.exp(test.confidence_interval(level))
            assert (found.ratio, found.low, found.high) == pytest.approx(
                (stats.gmean(values / reference), *ends), rel=1e-9
            )
            assert found.distinguishable is bool(test.pvalue < 1 - level)
            assert (gap.low, gap.high) == pytest.approx(
                tuple(stats.ttest_rel(values, reference).confidence_interval(level)), rel=1e-9, abs=1e-12
            )


def test_a_known_interval() -> None:
    found = paired([2.0, 8.0, 4.0], [1.0, 1.0, 1.0])
    # The logarithms to base 2 are 1, 3 and 2: 2 ± 4.30265/√3.
    assert (found.ratio, found.low, found.high) == pytest.approx(
        (4.0, 2 ** (2 - 2.484138), 2 ** (2 + 2.484138)), rel=1e-5
    )
    assert found.distinguishable is False
    assert paired([2.0, 8.0], [1.0, 1.0]) == pytest.approx(paired([4.0, 4.0], [1.0, 1.0]))
    assert paired([2.0, 8.0], [1.0, 1.0]).distinguishable is None, "two pairs have no interval"
    same = paired([3.0] * 5, [3.0] * 5)
    assert (same.ratio, same.low, same.high, same.distinguishable) == (1.0, 1.0, 1.0, False)
    assert paired([1e300, 1e-300, 1.0], [1e-300, 1e300, 1.0]).high is not math.inf
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [])


def test_a_miss_is_infinite() -> None:
    assert median([3.0, None, 1.0]) == 3.0
    assert median([None, 1.0]) is median([None, None, 1.0]) is median([]) is None
    found = paired([1.0, None, 2.0, 1.0, None], [1.0] * 5)
    assert (found.ratio, found.distinguishable, found.missed, found.of, found.pairs) == (None, None, 2, 5, 3)
    assert paired([1.0] * 3, [1.0, None, 1.0]).ratio is None
    assert paired([0.0] * 3, [1.0] * 3).ratio is None, "a cost of nothing has no ratio"


def simulated(
    name: str,
    seed: int,
    noise: np.random.Generator,
    pace: float = 1.0,
    size: int = 1,
    status: str = "ok",
    end: float = 0.0,
    **summary: Any,
) -> RunLog:
    """A run whose loss halves every 8 iterations towards `end`, at 1 ms an iteration times `pace` and its luck."""
    count = 60
    columns = {figure.name: np.zeros(count) for figure in LOGGED}
    luck = np.random.default_rng(seed).normal(scale=SEED) + noise.normal(scale=CLOCK)
    columns["loss"] = end + 2.0 ** -(np.arange(1, count + 1) / 8)
    columns["bytes_sent"][:] = size
    columns["iteration_s"][:] = columns["compute_s"][:] = 1e-3 * pace * math.exp(luck)
    columns["elapsed_s"] = np.cumsum(columns["iteration_s"])
    accuracy = 0.9 + noise.normal(scale=0.01)
    algorithm, _, compressor = name.partition("/")
    config = {"algorithm": algorithm, "compressor": compressor or "identity", "seed": seed, "lr": 0.3, "ranks": 2}
    facts = {
        **summarized(columns, 3), "algorithm": algorithm, "compressor": compressor, "warmup": 3, "bytes": "counted",
        "status": status, "reason": None if status == "ok" else "on purpose", "iterations": count, "run_folder": None,
        "final_loss": float(columns["loss"][-1]), "evaluation": {"test_accuracy": accuracy}, "warnings": None,
    }  # fmt: skip
    lines = [{"iteration": at, "epoch": at / 10, "test_accuracy": accuracy * at / count} for at in (20, 40, 60)]
    return RunLog(name, None, {**facts, **summary}, count, 1, columns, lines, config)


def raced(noise: np.random.Generator, seeds: int, **paces: float) -> Pooled:
    """The comparison of methods with these paces, the first one first."""
    return pool(
        [(name, seed, simulated(name, seed, noise, pace)) for name, pace in paces.items() for seed in range(seeds)]
    )


def said(pooled: Pooled) -> str:
    screen = io.StringIO()
    Console(width=300, file=screen).print(seeds_report(pooled))
    return screen.getvalue()


def test_a_method_beside_itself_is_told_apart_once_in_twenty() -> None:
    noise = np.random.default_rng(11)
    found = [raced(noise, 5, sgd=1.0, again=1.0) for _ in range(40)]
    apart = [pooled.pairs["again"].relative["time_to_target_s"].distinguishable for pooled in found]
    assert sum(map(bool, apart)) <= 5
    assert None not in apart
    alike = found[apart.index(False)]
    assert "not distinguishable from sgd: again" in said(alike)
    assert not any("Least time" in sentence for sentence in alike.verdict())
    assert alike.pairs["again"].relative["bytes_to_target"].low == 1.0


def test_what_takes_a_third_longer_is_told_apart() -> None:
    noise = np.random.default_rng(12)
    told = [raced(noise, 5, sgd=1.0, slow=1.3).pairs["slow"].relative["time_to_target_s"] for _ in range(20)]
    assert sum(found.distinguishable is True and found.ratio > 1 for found in told if found.ratio) >= 18


def test_as_many_seeds_as_are_needed_tell_a_gain_nine_times_in_ten() -> None:
    random = np.random.default_rng(5)
    first = [0.9 * math.exp(0.1 * deviate) for deviate in random.normal(size=200)]
    count = seeds_needed(paired(first, [1.0] * 200), -math.log(0.9), 3, 100)
    assert 10 < count < 16, "(t + 1.28)² (0.1 / 0.105)² by hand"
    told = 0
    for _ in range(400):
        ratios = [0.9 * math.exp(0.1 * deviate) for deviate in random.normal(size=count)]
        told += (paired(ratios, [1.0] * count).high or 1.0) < 1
    assert 0.85 < told / 400 < 0.96
    assert seeds_needed(paired([1.0, 1.1], [1.0, 1.0]), 0.1, 3, 50) == 50, "two pairs tell no spread"


def test_a_verdict_names_who_is_held_apart_and_nobody_else() -> None:
    noise = np.random.default_rng(13)
    runs = []
    for seed in range(5):
        for name, pace, size, more in (
            ("sgd", 1.0, 100, {}), ("fast/onebit", 0.4, 3, {}), ("near", 0.41, 3, {}), ("slow", 2.0, 100, {}),
            ("naive", 0.1, 1, {"shown_to_fail": True}), ("lost", 0.2, 100, {"end": 0.5 if seed < 2 else 0.0}),
        ):  # fmt: skip
            runs.append((name, seed, simulated(name, seed, noise, pace, size, **more)))
    pooled = pool(runs)
    target = 2.0**-7.5 + 0.05 * (2.0**-0.125 - 2.0**-7.5)
    assert pooled.target is not None
    assert pooled.target.value == pytest.approx(target, rel=0.02)
    assert "95 % of the progress of sgd, the median over 5 seeds" in pooled.target.source
    text = " ".join(pooled.verdict())
    best, other = sorted(
        ("fast/onebit", "near"), key=lambda name: pooled.pairs[name].relative["time_to_target_s"].ratio or 9
    )
    assert f"Least time to the target {pooled.target}: {best}" in text
    assert f"not distinguishable from it: {other}" in text
    assert "naive" not in text.partition("Shown to fail")[0]
    assert "lost missed the target" in text
    assert "in 2 of 5 seeds: no ratio, and no win." in text
    assert pooled.pairs["lost"].middle("time_to_target_s") is not None
    assert "missed 2 of 5" in said(pooled)
    # The first pair never gets there, and all others always: there is no ratio, and yet that is told.
    ends = {"sgd": 0.5, "csgd": 0.0}
    runs = [(name, seed, simulated(name, seed, noise, end=end)) for name, end in ends.items() for seed in range(5)]
    assert "Least time to the target loss 0.1000: csgd" in " ".join(pool(runs, Target("", 0.1)).verdict())
    assert "Least time" not in " ".join(pool(runs[:3] + runs[5:8], Target("", 0.1)).verdict()), (
        "3 against 3 may be luck"
    )


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_seeds_have_no_interval(count: int) -> None:
    pooled = raced(np.random.default_rng(14), count, sgd=1.0, csgd=0.1)
    found = pooled.pairs["csgd"].relative["time_to_target_s"]
    assert found.ratio is not None
    assert (found.low, found.distinguishable) == (None, None)
    assert "there is no interval, and nobody wins" in said(pooled)
    assert "Least time" not in said(pooled)


def test_the_json_of_pairs_is_what_is_declared() -> None:
    noise = np.random.default_rng(15)
    ends = [("sgd", 3, "ok"), ("sgd", 5, "ok"), ("sgd", 8, "ok"), ("csgd", 8, "ok"), ("csgd", 3, "diverged"),
            ("csgd", 5, "ok"), ("csgd", 9, "interrupted")]  # fmt: skip
    runs = [(name, seed, simulated(name, seed, noise, status=status)) for name, seed, status in ends]
    pooled = pool(runs, sort="time-to-target")
    pairs = json.loads(json.dumps(pooled.as_json(), allow_nan=False))
    msgspec.convert(pairs, list[types.PooledPair])
    assert all(pair.keys() == get_type_hints(types.PooledPair).keys() for pair in pairs)
    first, other = pairs
    assert (first["name"], first["seeds"], first["status"]) == ("sgd", [3, 5, 8], ["ok"] * 3)
    assert first["relative"]["time_to_target_s"]["ratio"] == 1.0
    assert other["status"] == ["diverged", "ok", "ok"]
    assert other["time_to_target_s"]["each"][0] is None
    assert (other["time_to_target_s"]["missed"], other["missed"]) == (1, 1)
    assert other["time_to_target_s"]["median"] == max(other["time_to_target_s"]["each"][1:])
    assert other["relative"]["time_to_target_s"]["ratio"] is None
    assert other["final"]["test_accuracy"]["median"] == min(other["final"]["test_accuracy"]["each"][1:])
    assert pooled.unfinished == {"csgd": 1}
    assert "Left out, as they did not finish: 1 run of csgd." in said(pooled)
    assert pool([]).as_json() == []
    assert "No run has finished." in said(pool([]))


def seeded(path: Path, seed: int, clock: float, **config: Any) -> Path:
    """A run folder of a seed."""
    write_run(path, [4.0, 3.0, 2.0, 1.5, 1.0, 0.9], clock=clock)
    edit(path / "config.json", seed=seed, **config)
    edit(path / "summary.json", seed=seed)
    return path


def compared(path: Path, pairs: dict[str, float], seeds: list[int], trials: bool = False) -> Path:
    """The folder of `compare --seeds`, in which each pair has its time of an iteration."""
    runs = []
    for phase, numbers in (("tune", [99] if trials else []), ("race", seeds)):
        for seed in numbers:
            for at, (pair, clock) in enumerate(pairs.items()):
                algorithm = pair.partition(" ")[0]
                for lr in (0.1, 0.3) if phase == "tune" else (0.3,):
                    folder = f"{phase}{seed}-{at}-{lr}"
                    seeded(path / folder, seed, clock * (1 + 0.01 * (seed % 3) * (1 + at)), lr=lr, algorithm=algorithm)
                    name = f"{pair} seed={seed}"
                    runs.append({"name": name, "folder": folder, "pair": pair, "seed": seed, "phase": phase})
    about = {"schema_version": 1, "status": "done", "runs": runs, "summaries": [], "given_target": None}
    (path / "compare.json").write_text(json.dumps(about))
    return path


def test_runs_that_differ_by_seed_alone_are_pooled_from_several_launches(capsys: pytest.CaptureFixture[str]) -> None:
    compared(Path("first"), {"sgd": 0.2, "sgd #2": 0.2, "csgd": 0.1}, [1, 2, 3], trials=True)
    compared(Path("second"), {"sgd": 0.2, "sgd #2": 0.2, "csgd": 0.1}, [4, 5])
    seeded(Path("alone"), 6, 0.2, lr=0.3, algorithm="sgd")
    seeded(Path("other"), 6, 0.2, lr=0.1, algorithm="sgd")
    assert run(["report", "first", "second", "alone", "other", "--json", "-", "--csv", "table.csv"]) == 0
    out, err = capsys.readouterr()
    pairs = {pair["name"]: pair for pair in json.loads(out)}
    assert {name: pair["seeds"] for name, pair in pairs.items()} == {
        "sgd lr=0.3": [1, 2, 3, 4, 5, 6], "sgd #2": [1, 2, 3, 4, 5], "csgd": [1, 2, 3, 4, 5], "sgd lr=0.1": [6],
    }  # fmt: skip
    assert 0.45 < pairs["csgd"]["relative"]["time_to_target_s"]["ratio"] < 0.55
    assert "Least time to the target" in err
    assert "lr=0.3" in err, "what was chosen is in the table"
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(Path("table.csv").read_text()))}
    assert rows["csgd"]["seeds"] == "1 2 3 4 5"
    assert len(rows["csgd"]["time_to_target_s_each"].split()) == 5
    low, middle, high = (float(rows["csgd"][f"relative_time_to_target_s{end}"]) for end in ("_low", "", "_high"))
    assert low < middle < high < 1
    # A seed that was run twice counts once, by its median.
    runs = [(name, seed, read_run(Path(name))) for name, seed in (("alone", 6), ("alone", 6))]
    assert pool(runs).first.seeds == [6]
    # One seed each is a ranking of runs, as it was, without the trials.
    compared(Path("single"), {"sgd": 0.2, "csgd": 0.1}, [1], trials=True)
    assert by_pair([read_run(Path(name)) for name in ("alone", "other")]) == []
    assert run(["report", "single", "--json", "-"]) == 0
    assert [summary["seed"] for summary in json.loads(capsys.readouterr().out)] == [1, 1]


def test_pairs_over_seeds_have_their_page_and_their_plots(capsys: pytest.CaptureFixture[str]) -> None:
    compared(Path("c"), {"sgd": 0.2, "csgd": 0.1}, [1, 2, 3], trials=True)
    page, html = page_of("c", "--markdown", "table.md", "--latex", "table.tex")
    text = " ".join(" ".join(page.text).split())
    for words in ("Comparison of 2 pairs over seeds", "Least time to loss", "95 % interval", "Every seed",
                  "Time to target and final", "Training loss by time", "Where an iteration's time goes"):  # fmt: skip
        assert words in text, words
    banded = [spec for _, spec in figures_in(html) if any(data["name"] == "bands" for data in spec["data"])]
    assert len(banded) >= 3, "the loss by iteration, bytes and time"
    bands = values_of(banded[0], "bands")
    assert len(bands) == 2
    assert len(bands[0]["x"]) == len(bands[0]["low"]) == len(bands[0]["high"])
    assert "95 %" in Path("table.md").read_text()
    capsys.readouterr()
    for kind in ("loss", "loss-by-bytes", "test-by-time", "phases", "time-by-bandwidth", "pareto"):
        assert run(["report", "c", "--plot", "terminal", "--plot-kind", kind]) == 0, kind
    drawn = capsys.readouterr().out
    assert "Bars are 95 % intervals of what differs from sgd" in drawn
    assert "b  csgd" in drawn
    assert run(["report", "c", "--plot", "pareto.svg", "--plot-kind", "pareto"]) == 0
    assert "<svg" in Path("pareto.svg").read_text()


def test_a_sweeps_best_is_not_held_against_anothers_first() -> None:
    runs = []
    for name, algorithm, clock in (("sgd lr=1", "sgd", 0.4), ("sgd lr=2", "sgd", 0.2), ("csgd lr=1", "csgd", 0.3),
                                   ("csgd lr=2", "csgd", 0.1)):  # fmt: skip
        runs.append(read_run(write_run(Path(name), [4.0, 2.0, 1.0], algorithm=algorithm, clock=clock), name))
    text = " ".join(verdict(rank_runs(runs, Target("", 1.0))))
    assert "csgd lr=2, 0.300 s" in text.replace("300 ms", "0.300 s")
    assert "0.500× that of sgd lr=2 (each the best of 2)" in text
    text = " ".join(verdict(rank_runs([runs[0], *runs[2:]], Target("", 1.0))))
    assert "0.250× that of sgd lr=1 (the best of 2 against 1)" in text


Refused = Callable[..., str]


def test_the_picture_of_both_needs_seeds(refused: Refused) -> None:
    write_run(Path("a"), [2.0, 1.0])
    assert "over seeds" in refused("report", "a", "--plot", "terminal", "--plot-kind", "pareto")
