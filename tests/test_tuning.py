"""Seeds in turns, grids, and the choice among trials, without MPI."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mpisqueeze.analysis.ranking import Target
from mpisqueeze.analysis.trials import best_trial
from mpisqueeze.record.figures import no_columns
from mpisqueeze.record.reading import RunLog
from mpisqueeze.runs.pairs import Entry, expand, parse_pair
from mpisqueeze.runs.seeding import parse_seeds, seeded, seeds_apart
from mpisqueeze.runs.tuning import parse_grid, plan_grids, tune
from mpisqueeze.settings import Settings

ACCURATE = Target("test_accuracy", 0.9)


def entries(*pairs: str) -> list[Entry]:
    return expand([parse_pair(pair) for pair in pairs], [], Settings())


def log(name: str, accuracies: Sequence[float], seconds: float = 1.0, status: str = "ok") -> RunLog:
    """A run whose loss is what its accuracy lacks of 1, evaluated after each iteration."""
    done = len(accuracies)
    columns = {**no_columns(), "loss": 1 - np.array(accuracies), "bytes_sent": np.ones(done)}
    columns["elapsed_s"] = seconds * np.arange(1, done + 1)
    evaluations = [{"iteration": t, "test_accuracy": value} for t, value in enumerate(accuracies, 1)]
    return RunLog(name, None, {"status": status}, done, 1, columns, evaluations)


def test_a_count_or_a_list_of_seeds() -> None:
    assert parse_seeds("3", 7) == (7, 8, 9)
    assert parse_seeds("3, 5,8", 1) == (3, 5, 8)
    assert [seeds_apart(seeds, 2) for seeds in ((1, 2), (0, 1, 3), (0, 4))] == [[0, 3], [2, 4], [1, 2]]


def test_each_lap_is_the_last_one_backwards() -> None:
    runs = seeded(entries("sgd", "memsgd", "sgd"), (3, 1, 2))
    one, two, again = "sgd", "memsgd/onebit", "sgd #2"
    assert [run.pair for run in runs] == [one, two, again, again, two, one, one, two, again]
    assert [run.seed for run in runs] == [3] * 3 + [1] * 3 + [2] * 3
    assert len({run.name for run in runs} | {run.folder for run in runs}) == 18
    # Laps that are added later go on with the turns.
    assert [run.pair for run in seeded(entries("sgd", "memsgd"), (9,), lap=3)] == [two, one]


def test_a_grid_is_logarithmic_and_goes_on_by_its_own_step() -> None:
    grid = parse_grid("lr=0.01:1:5")
    values = grid.values(5)
    assert values == ["0.01", "0.0316", "0.1", "0.316", "1"]
    assert grid.beyond(values, "1") == "3.16"
    assert grid.beyond(values, "0.01") == "0.00316"
    assert grid.beyond(values, "0.1") is None
    assert parse_grid("batch-size=1:4:9").values(9) == ["1", "2", "3", "4"]
    assert len(set(parse_grid("lr=0.1:0.101:40").values(40))) == 40


def test_every_pair_has_the_same_budget() -> None:
    """sgd has no step of gossip, and tries as many more rates; allreduce with a server of its own has neither."""
    grids = [parse_grid("lr=0.1:1:4"), parse_grid("eta=0.1:0.9:3")]
    found = plan_grids(entries("sgd", "choco/onebit"), grids)
    assert [len(one.choices) for one in found] == [12, 12]
    assert [set(one.values) for one in found] == [{"lr"}, {"lr", "eta"}]
    only, without = plan_grids(entries("choco/onebit", "sgd"), grids[1:])
    assert (len(only.choices), without.choices, without.race(None).plan) == (3, [], without.entry.plan)
    trial = found[1].trial({"lr": "0.5", "eta": "0.3"}, 0)
    assert (trial.plan.config.lr, trial.plan.algorithm.options["eta"], trial.seed) == (0.5, 0.3, 0)
    assert trial.folder.startswith("tune-02-choco")


@pytest.mark.parametrize(
    ("runs", "target", "best"),
    [
        ([log("a", [0.5, 0.95]), log("b", [0.95, 0.5])], ACCURATE, 1),
        ([log("a", [0.5, 0.95], 0.1), log("b", [0.95, 0.5])], ACCURATE, 0),
        ([log("a", [0.5, 0.7]), log("b", [0.8, 0.6])], ACCURATE, 0),
        ([log("a", [0.95, 0.95], status="diverged"), log("b", [0.1, 0.1])], ACCURATE, 1),
        ([log("a", [0.1, 0.2]), log("b", [0.1, 0.3])], None, 1),
        ([log("a", [0.9], status="failed")], None, None),
    ],
)
def test_the_first_at_the_target_is_the_best_and_else_the_nearest(
    runs: list[RunLog], target: Target | None, best: int | None
) -> None:
    assert best_trial(runs, target) == best


def test_where_iterations_take_as_long_the_clock_does_not_matter() -> None:
    runs = [log("a", [0.5, 0.95], 0.1), log("b", [0.95, 0.5])]
    assert [best_trial(runs, ACCURATE, paced) for paced in (True, False)] == [0, 1]


class Timed:
    """A track on which a run's accuracy depends on its rate alone."""

    def __init__(self, best: float) -> None:
        self.best, self.ran = best, list[Entry]()
        self.world = SimpleNamespace(on_root=lambda work: work())

    def expect(self, entries: Sequence[Entry]) -> None:
        self.expected = [*entries]

    def run(self, entries: Sequence[Entry]) -> list[RunLog]:
        assert self.expected[: len(entries)] == [*entries]
        self.ran += entries
        return [log(run.name, [0.8 - abs(np.log10(run.plan.lr / self.best)) / 10]) for run in entries]


@pytest.mark.parametrize(
    ("best", "chosen", "trials", "edge"),
    [(0.1, 0.1, 3, []), (1e-4, 0.001, 4, ["lr"]), (0.0011, 0.001, 4, ["lr"]), (1.3, 1.0, 4, []), (9, 10, 4, ["lr"])],
)
def test_a_grid_is_widened_once(best: float, chosen: float, trials: int, edge: list[str]) -> None:
    (one,) = plan_grids(entries("sgd"), [parse_grid("lr=0.01:1:3")])
    track: Any = Timed(best)
    tune([one], 0, ACCURATE, track)
    assert len(track.ran) == len(one.tried) == trials
    assert (one.race(one.chosen).plan.lr, one.at_edge) == (chosen, edge)
    assert one.as_json()["settings"] == {"lr": chosen}


def test_nothing_is_tried_beyond_what_a_parameter_may_be() -> None:
    """Momentum is below 1."""
    (one,) = plan_grids(entries("sgd"), [parse_grid("momentum=0.1:0.9:2")])
    one.chosen = {"momentum": "0.9"}
    assert one.widened() == []
    assert one.at_edge == ["momentum"]
