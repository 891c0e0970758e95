"""`--overlap` changes no number and no count, only when what is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, logged
from overlapping import WHEN, before_the_gradient_ends, more_sections_than_a_link_holds
from parts import CENTRALIZED, FIELD
from test_checkpoint import same_runs

Run = Callable[..., Finished]
PROBLEMS = Path(__file__).with_name("overlapping.py")
#: topk's payload cannot be cut on the way up, where it leaves only when the gradient is complete.
PAIRS = [
    *CENTRALIZED, *(f"{name}/{spec}" for name, spec in FIELD.items()),
    "doublesqueeze/qsgd:4", "memsgd/topk:0.1", "csgd/identity",
]  # fmt: skip
KEPT = ("loss", "lr", "bytes_sent", "messages", "residual_norm")


def runs(folder: Path) -> dict[str, tuple[list[dict[str, Any]], Any, dict[str, Any]]]:
    """Parts of each run's log, model and summary that must not differ in a comparison."""
    found = {}
    for path in sorted(folder.glob("*/summary.json")):
        lines = logged(path.parent / "iterations.jsonl")
        kept = [{name: line[name] for name in KEPT if name in line} for line in lines]
        with np.load(path.parent / "model.npz") as model:
            found[path.parent.name] = kept, model["x"], json.loads(path.read_text())
    return found


def with_and_without(mpisqueeze_run: Run, tmp_path: Path, n: int, *options: str) -> dict[str, Any]:
    """Compare with `options` and both ways; the summaries of the overlapped runs, which must not differ otherwise."""
    for out, more in (("plain", ()), ("overlap", ("--overlap",))):
        mpisqueeze_run(n, "compare", *options, "--save-model", "--out", out, *more).well()
    plain, overlapped = runs(tmp_path / "plain"), runs(tmp_path / "overlap")
    assert plain.keys() == overlapped.keys()
    assert plain
    for name, (lines, x, summary) in plain.items():
        assert overlapped[name][0] == lines, name
        assert overlapped[name][1].tobytes() == x.tobytes(), name
        assert overlapped[name][2]["bytes_by_rank"] == summary["bytes_by_rank"]
    return {name: summary for name, (_, _, summary) in overlapped.items()}


@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("server", ["root", "sharded"])
def test_no_bit_changes(mpisqueeze_run: Run, tmp_path: Path, server: str, n: int) -> None:
    options = (*PAIRS, "--problem", "mlp:64x48", "--server", server, "--chunk", "1Ki", "--iterations", "6")
    more = ("--momentum", "0.9", "--weight-decay", "0.01", "--lr", "0.05")
    summaries = with_and_without(mpisqueeze_run, tmp_path, n, *options, *more)
    # Sections are what overlaps: one alone would make this test void.
    assert n == 1 or any(summary["chunks"] > 3 for summary in summaries.values())


@pytest.mark.slow
@pytest.mark.parametrize("options", [("memsgd:lr=inside",), ("--no-barrier",), ("--checksum",), ("--dtype", "float64")])
def test_no_bit_changes_beside(mpisqueeze_run: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    common = ("memsgd", "sgd", "--problem", "mlp:64x48", "--chunk", "1Ki", "--iterations", "4", "--lr", "0.05")
    with_and_without(mpisqueeze_run, tmp_path, 3, *common, *options)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["root", "sharded"])
def test_no_bit_changes_on_an_emulated_link(mpisqueeze_run: Run, tmp_path: Path, server: str) -> None:
    options = ("sgd", "doublesqueeze", "--problem", "mlp:64x48", "--link", "latency=100us,bandwidth=1gbit")
    with_and_without(mpisqueeze_run, tmp_path, 3, *options, "--server", server, "--chunk", "1Ki", "--iterations", "3")


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed (extra torch)")
@pytest.mark.parametrize("server", ["root", "sharded"])
def test_no_bit_changes_with_torch(mpisqueeze_run: Run, tmp_path: Path, server: str) -> None:
    options = ("sgd", "doublesqueeze", "--problem", f"{PROBLEMS}:torch_net", "--server", server, "--chunk", "1Ki")
    more = ("--iterations", "4", "--momentum", "0.9", "--weight-decay", "0.01", "--lr", "0.05")
    summaries = with_and_without(mpisqueeze_run, tmp_path, 2, *options, *more)
    assert all(summary["chunks"] > 3 for summary in summaries.values())


@pytest.mark.parametrize("server", [pytest.param("root", marks=pytest.mark.slow), "sharded"])
@pytest.mark.parametrize(
    ("fault", "code", "expected"),
    [
        ("Raises", 4, f"rank 1, iteration {WHEN}: RuntimeError('out of luck')"),
        ("RaisesBefore", 4, f"rank 1, iteration {WHEN}: RuntimeError('out of luck')"),
        ("NotANumber", 3, f"rank 1, iteration {WHEN}"),
        ("LossIsNotANumber", 3, f"rank 1, iteration {WHEN}: the loss was nan"),
        ("Rises", 2, "gradient_in_parts told of float32 numbers from 2048 on, after 1024"),
    ],
)
def test_a_fault_behind_the_first_section_ends_all_ranks(
    mpisqueeze_run: Run, tmp_path: Path, fault: str, code: int, expected: str, server: str
) -> None:
    options = ("--server", server, "--chunk", "64", "--iterations", "50", "--lr", "0.1", "--out", "run")
    problem = f"{PROBLEMS}:{fault}"
    finished = mpisqueeze_run(3, "train", "--problem", problem, "--overlap", *options, timeout=30)
    assert finished.code == code, finished.err
    assert expected in finished.err + finished.out
    log = tmp_path / "run" / "iterations.jsonl"
    # The iteration that failed is not one.
    assert len(log.read_text().splitlines() if log.exists() else ()) == (0 if fault == "Rises" else WHEN - 1)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["root", "sharded"])
@pytest.mark.parametrize(
    ("fault", "options", "codes", "expected"),
    [
        ("Dies", (), (4, 137), "signal 9"),
        ("Sleeps", ("--timeout", "3s"), (4,), f"rank 1 did not come to the end of the gradient; iteration {WHEN}"),
        ("Damages", ("--checksum",), (4,), "from rank 1 was damaged on the way"),
        ("Raises", ("--no-barrier",), (4,), f"rank 1, iteration {WHEN}: RuntimeError('out of luck')"),
        ("Raises", ("--link", "latency=1ms,bandwidth=1gbit"), (4,), "RuntimeError('out of luck')"),
        ("Raises", ("--checksum", "--timeout", "20s"), (4,), "RuntimeError('out of luck')"),
    ],
)
def test_nobody_waits_for_a_rank_that_is_lost_in_its_gradient(
    mpisqueeze_run: Run, fault: str, options: tuple[str, ...], codes: tuple[int, ...], expected: str, server: str
) -> None:
    more = ("--overlap", "--server", server, "--chunk", "64", "--iterations", "500", "--lr", "0.1", "--out", "run")
    finished = mpisqueeze_run(
        3, "train", "--problem", f"{PROBLEMS}:{fault}", *more, *options, timeout=60, alone=fault == "Dies"
    )
    assert finished.code in codes, finished.err
    assert expected in finished.err + finished.out
    # What is damaged may meet several.
    assert fault == "Damages" or finished.err.count("mpisqueeze: rank") <= 1


@pytest.mark.slow
@pytest.mark.parametrize("server", ["root", "sharded"])
def test_a_run_interrupted_in_a_gradient_goes_on_as_if_nothing_had_been(
    mpisqueeze_run: Run, tmp_path: Path, server: str
) -> None:
    options = ("--overlap", "--server", server, "--chunk", "64", "--lr", "0.1", "--save-model")
    for problem, out in (("InQuarters", "whole"), ("Interrupted", "part")):
        arguments = ("train", "--problem", f"{PROBLEMS}:{problem}", *options, "--checkpoint-every", "100", "--out", out)
        finished = mpisqueeze_run(3, *arguments, "--iterations", "40")
        assert finished.code == (130 if out == "part" else 0), finished.err
    assert WHEN <= len((tmp_path / "part" / "iterations.jsonl").read_text().splitlines()) <= WHEN + 2
    mpisqueeze_run(3, "train", "--resume", "part").well()
    same_runs(tmp_path / "whole", tmp_path / "part")


@pytest.mark.parametrize("server", ["root", pytest.param("sharded", marks=pytest.mark.slow)])
def test_sections_leave_and_are_answered_before_the_gradient_is_complete(
    on_ranks: Callable[..., None], server: str
) -> None:
    on_ranks(2, before_the_gradient_ends, server, timeout=60)


def test_an_emulated_link_takes_any_number_of_sections(on_ranks: Callable[..., None]) -> None:
    on_ranks(2, more_sections_than_a_link_holds, timeout=60)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--algorithm", "dpsgd"], ["dpsgd sends nothing before", "allreduce", "doublesqueeze", "dpsgd:order=awc"]),
        (["--algorithm", "allreduce", "--link", "latency=1ms"], ["allreduce leaves bucket by bucket"]),
        (["--problem", "quadratic:9"], ["quadratic gives its gradient in one piece", "mlp", "resnet20"]),
        (["--clip-norm", "1"], ["--clip-norm needs the whole gradient"]),
        (["--device", "cuda"], ["use --device cpu"]),
    ],
)
def test_what_cannot_overlap_is_refused(mpisqueeze_run: Run, options: list[str], says: list[str]) -> None:
    finished = mpisqueeze_run(1, "train", "--overlap", *options)
    assert finished.code == 2
    assert finished.err.count("\n") == 1
    assert all(part in finished.err for part in ["--overlap", *says]), finished.err


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed (extra torch)")
def test_compiled_modules_are_refused(mpisqueeze_run: Run) -> None:
    finished = mpisqueeze_run(1, "train", "--overlap", "--problem", f"{PROBLEMS}:torch_net,compile=true")
    assert finished.code == 2
    assert "torch.compile gives the gradient in one piece" in finished.err
