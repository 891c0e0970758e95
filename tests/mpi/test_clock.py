"""`elapsed_s` is what a clock outside of the run says, whatever the ranks wait for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Finished
from jitter import outer_clock
from parts import CENTRALIZED, GOSSIP

Run = Callable[..., Finished]
JITTER = Path(__file__).with_name("jitter.py")


@pytest.mark.parametrize(
    "methods", [["sgd", "allreduce", "doublesqueeze sharded", "dpsgd", "dpsgd:order=awc", "choco"],
                pytest.param([*CENTRALIZED, *GOSSIP], marks=pytest.mark.slow)]
)  # fmt: skip
def test_elapsed_time_is_that_of_an_outer_clock(on_ranks: Callable[..., None], methods: list[str]) -> None:
    on_ranks(4, outer_clock, methods)


def test_sums_of_iterations_turn_the_order_of_methods_round_and_the_clock_does_not(
    mpisqueeze_run: Run, tmp_path: Path
) -> None:
    """Gossip has no barrier by default, and needs a quarter less time; its iterations add up to more."""
    options = ("--problem", f"{JITTER}:InTurn", "--iterations", "28", "--eval-every", "0", "--lr", "0.01")
    mpisqueeze_run(6, "compare", "sgd", "dpsgd", *options, "--out", "run").well()
    logs = [
        [json.loads(line) for line in (folder / "iterations.jsonl").read_text().splitlines()]
        for folder in sorted((tmp_path / "run").glob("0*"))
    ]
    (sgd, dpsgd), (sgd_sum, dpsgd_sum) = (
        [log[-1]["elapsed_s"] for log in logs],
        [sum(line["iteration_s"] for line in log) for log in logs],
    )
    assert dpsgd < sgd
    assert dpsgd_sum > 1.2 * sgd_sum
    assert {line["wait_s"] for line in logs[1]} == {0.0}
