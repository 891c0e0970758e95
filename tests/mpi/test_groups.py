"""Groups of ranks, on real ranks: what they come to, what is sent where, and that nobody waits after an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from test_checkpoint import same_runs, whole_and_part

from mpisqueeze.modelling.methods import Method

Run = Callable[..., Finished]
BATCHES = f"{Path(__file__).parent}/batches.py:Batches"
D = 35
PAIRS = (
    *("sgd", "allreduce", "csgd/qsgd:4", "memsgd/topk:0.3", "doublesqueeze/onebit", "ef21/topk:0.2", "powersgd:1"),
    *("dgc/topk:0.3", "signum", "onebit-adam:freeze=2/onebit"),
)
STARTS = ("--problem", BATCHES, "--dtype", "float64", "--lr", "0.1", "--iterations", "9", "--save-model")


def runs_of(folder: Path) -> dict[str, tuple[np.ndarray, dict[str, object]]]:
    """Model and summary of the runs of a comparison."""
    summaries = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/summary.json")}
    return {name: (np.load(folder / name / "model.npz")["x"], summary) for name, summary in summaries.items()}


def test_a_group_is_one_rank_with_all_of_its_samples(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """Model, bytes and messages of half as many ranks with twice the batch; and what travels inside the groups."""
    sweeps = ("--sweep", "server=root,sharded", "--sweep", "local-steps=1,3")
    for n, more in ((2, ("--batch-size", "6")), (4, ("--batch-size", "3", "--group", "2"))):
        mpisqueeze_run(n, "compare", *PAIRS, *sweeps, *STARTS, *more, "--out", str(n)).well()
    alone, grouped = (runs_of(tmp_path / name) for name in "24")
    assert alone.keys() == grouped.keys()
    assert len(alone) > 30
    for name, (x, summary) in grouped.items():
        assert (x == x[0]).all(), name
        np.testing.assert_allclose(x[0], alone[name][0][0], rtol=1e-9, atol=1e-12, err_msg=name)
        for figure in ("bytes_sent", "messages", "sgd_bytes_sent"):
            assert summary[figure] == alone[name][1][figure], (name, figure)
        exchanges = 9 // (3 if "local-steps-3" in name else 1)
        assert summary["bytes_local"] == 2 * 2 * 8 * D * exchanges, name
        assert (summary["ranks"], summary["groups"]) == (4, 2)
        assert alone[name][1]["bytes_local"] == 0
        if not any(part in name for part in ("ef21", "onebit-adam")):
            config = json.loads((tmp_path / "4" / name / "config.json").read_text())
            traffic = Method.ran(config).traffic(4, D, "float64", [(5, 6), (5,)])
            assert traffic.per_iteration * 9 == pytest.approx(summary["bytes_sent"], abs=1e-6), name


@pytest.mark.parametrize("n", [1, 2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_a_single_group_is_an_allreduce(mpisqueeze_run: Run, tmp_path: Path, n: int) -> None:
    """So it is with `host`; nothing leaves the group, whatever the compressor would make of it."""
    sizes = "1,host" if n == 1 else f"1,{n},host"
    mpisqueeze_run(
        n, "compare", "allreduce", "sgd", "--sweep", f"group={sizes}", *STARTS, "--out", "all",
    ).well()  # fmt: skip
    found = runs_of(tmp_path / "all")
    (first, _) = found.pop(next(name for name in found if "allreduce" in name and name.endswith("group-1")))
    assert len(found) >= 3
    for name, (x, summary) in found.items():
        np.testing.assert_allclose(x, first, rtol=1e-12, atol=1e-15, err_msg=name)
        if not name.endswith("group-1"):
            assert summary["bytes_sent"] == 0
            assert summary["bytes_local"] == 9 * 2 * (n - 1) * 8 * D


def test_groups_go_on_as_if_nothing_had_been(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """Leaders have the algorithm's memory and the optimizer's; the link is emulated between them."""
    options = (
        *("--algorithm", "doublesqueeze", "--group", "2", "--optimizer", "adam", "--problem", "mlp:32", "--lr", "0.01"),
        *("--link", "latency=100us,bandwidth=1gbit"),
    )
    same_runs(*whole_and_part(mpisqueeze_run, tmp_path, 4, *options, last=20, saved=18))


@pytest.mark.parametrize("barrier", ["--barrier", pytest.param("--no-barrier", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("fails", "nan", "code"), [(3, 0, 4), (3, 1, 3), (0, 1, 3)])
def test_an_error_inside_a_group_ends_all(
    mpisqueeze_run: Run, tmp_path: Path, barrier: str, fails: int, nan: int, code: int
) -> None:
    finished = mpisqueeze_run(
        4, "train", "--problem", f"{BATCHES}:fails={fails},nan={nan}", "--group", "2", "--iterations", "40", barrier,
        "--out", "run",
    )  # fmt: skip
    assert finished.code == code, finished.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == ("diverged" if nan else "failed")
    assert ("lost" if not nan else "NaN") in summary["reason"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--group", "0"), "--group: must be host, or a number of ranks"),
        (("--group", "hosts"), "--group: must be host, or a number of ranks"),
        (("--group", "3"), "--group: 3 does not divide the 2 ranks of this run"),
        (("--group", "2", "--algorithm", "choco"), "--group: is for centralized algorithms, and choco gossips"),
        (("--group", "2", "--overlap"), "--overlap"),
    ],
)
def test_mistakes(mpisqueeze_run: Run, options: tuple[str, ...], told: str) -> None:
    finished = mpisqueeze_run(2, "train", *options, "--iterations", "20")
    assert (finished.code, told in finished.err) == (2, True), finished.err
