"""`mpisqueeze reproduce` as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Finished

Run = Callable[..., Finished]

MINE = """
title = "Two of mine"
says = "One holds, one does not."
source = "this test"
seeds = [1, 2]
[settings]
problem = "quadratic:101"
iterations = 10
[sweep]
ranks = [2, 3]
[runs.sgd]
algorithm = "sgd"
[runs.squeezed]
algorithm = "doublesqueeze"
[[decisions]]
text = "fewer bytes"
holds = "squeezed.bytes < sgd.bytes"
[[decisions]]
text = "more bytes"
holds = "squeezed.bytes > sgd.bytes"
[figure]
kind = "sweep"
y = "bytes"
"""


def test_verdicts_folders_and_ranks_that_rest(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """A claim of the package holds, one of one's own fails; runs on fewer ranks leave the others waiting."""
    (tmp_path / "mine.toml").write_text(MINE)
    finished = mpisqueeze_run(
        3, "reproduce", "traffic", "mine.toml", "latency", "--out", "all", "--json", "all.json"
    ).well()
    assert "\x1b" not in finished.out
    summary = "1 of 3 claims hold, 1 does not, 1 could not be tested here."
    assert summary in finished.out
    verdicts = json.loads((tmp_path / "all.json").read_text())
    assert [(found["claim"], found["verdict"]) for found in verdicts] == [
        ("traffic", "PASS"), ("mine", "FAIL"), ("latency", "SKIPPED"),
    ]  # fmt: skip
    assert "6 ranks" in verdicts[2]["reason"]
    page = (tmp_path / "all" / "report.html").read_text()
    assert summary in page
    assert "Bytes an iteration by ranks" in page
    mine = verdicts[1]
    assert [decision["passed"] for decision in mine["decisions"]] == [True, False]
    assert [(run["run"], run["x"], run["seed"]) for run in mine["runs"]] == [
        (run, n, seed)
        for n in (2, 3)
        for seed, turn in ((1, ("sgd", "squeezed")), (2, ("squeezed", "sgd")))
        for run in turn
    ]
    assert [run["bytes"] for run in mine["runs"] if run["run"] == "sgd"] == [2 * 404, 2 * 404, 4 * 404, 4 * 404]
    for run in mine["runs"]:
        config = json.loads((tmp_path / run["run_folder"] / "config.json").read_text())
        assert config["ranks"] == run["x"]
        assert config["seed"] == run["seed"]
    told = json.loads((tmp_path / "all" / "claims.json").read_text())
    assert told["status"] == "done"
    assert told["claims"] == verdicts
    assert (tmp_path / "all" / "mine" / "compare.json").is_file()


VIRTUAL = """
title = "Noise averages"
says = "Sixteen workers with four times the step size of four need a quarter of their iterations."
source = "this test"
[settings]
problem = "quadratic:100,condition=1,noise=2,spread=0"
stop_at = "distance=3"
eval_every = 1
[sweep]
workers = [4, 16]
[sweep.settings]
lr = [0.02, 0.08]
iterations = [100, 25]
[runs.sgd]
algorithm = "sgd"
[runs.stays]
algorithm = "sgd"
lr = 0.0001
[[decisions]]
text = "as many gradients"
holds = "0.8 <= N * sgd.iterations_to_target / (4 * first(sgd.iterations_to_target)) <= 1.2"
[[decisions]]
text = "the other one does not get there"
holds = "last(stays.iterations_to_target) > 1000"
[figure]
kind = "sweep"
y = "iterations_to_target"
log = true
"""


@pytest.mark.parametrize(("ranks", "options"), [(1, ()), (3, ("--workers", "5"))])
def test_a_claim_on_workers_of_its_own(
    mpisqueeze_run: Run, tmp_path: Path, ranks: int, options: tuple[str, ...]
) -> None:
    """It has them whatever ranks there are, and whatever workers others share."""
    (tmp_path / "mine.toml").write_text(VIRTUAL)
    finished = mpisqueeze_run(
        ranks, "reproduce", "mine.toml", "traffic", *options, "--out", "all", "--json", "all.json"
    ).well()
    assert "mine: 4 runs on up to 16 virtual workers" in finished.out
    mine, traffic = json.loads((tmp_path / "all.json").read_text())
    assert (mine["verdict"], mine["workers"]) == ("PASS", 16)
    assert (traffic["verdict"], traffic["workers"]) == ("PASS" if ranks > 1 else "SKIPPED", None)
    for row in mine["runs"]:
        summary = json.loads((tmp_path / row["run_folder"] / "summary.json").read_text())
        assert (summary["workers"], summary["ranks"], summary["virtual"]) == (row["x"], 1, True)
        assert (row["iterations_to_target"] is None) == (row["run"] == "stays")
    page = (tmp_path / "all" / "report.html").read_text()
    assert "Iterations to the target by virtual workers" in page
    assert "4 runs on up to 16 virtual workers" in page


def test_a_failed_run_is_no_verdict_for_a_claim(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """What a run that failed should have measured is unknown, and decides nothing."""
    plugin = Path(__file__).with_name("plugins.py")
    (tmp_path / "mine.toml").write_text(MINE.replace("quadratic:101", f"{plugin}:RaisesLater").replace("[2, 3]", "[2]"))
    mpisqueeze_run(2, "reproduce", "mine.toml", "--json", "all.json").well()
    found = json.loads((tmp_path / "all.json").read_text())[0]
    assert found["verdict"] == "FAIL"
    assert "on purpose" in found["reason"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("trafic",), "did you mean 'traffic'"),
        (("traffic", "--scale", "huge"), "laptop, full"),
        (("none.toml",), "cannot be read"),
        (("traffic", "--device", "tpu"), "auto, cpu or cuda"),
        (("traffic", "--out", "full"), "not empty"),
    ],
)
def test_errors_of_use(mpisqueeze_run: Run, tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    finished = mpisqueeze_run(2, "reproduce", *arguments)
    assert finished.code == 2
    assert expected in finished.err
    assert finished.err.count("Error") <= 1
    assert "Traceback" not in finished.err


def test_the_list_of_claims(mpisqueeze_run: Run) -> None:
    finished = mpisqueeze_run(1, "reproduce", "--json", "-").well()
    assert {"traffic", "dcd", "deepsqueeze"} <= {claim["claim"] for claim in finished.json}
