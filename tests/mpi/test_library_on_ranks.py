"""`train`, `compare` and `advise` as functions: in one process without a launcher, as in a notebook, and on ranks."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mpisqueeze
from mpisqueeze.mpi import MPI
from mpisqueeze.record.folder import finite

Call = Callable[..., None]
QUICK = {"problem": "quadratic:30,noise=0.1", "iterations": 20}


def test_importing_it_is_light() -> None:
    """Neither the package nor `load` brings MPI, torch or the command line."""
    text = """
import sys, mpisqueeze
heavy = {"numpy", "mpi4py", "typer", "torch", "rich", "requests", "altair"} & sys.modules.keys()
mpisqueeze.load
print(*heavy, *({"mpi4py", "typer", "torch", "requests", "pandas"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_is_there() -> None:
    pytest.importorskip("torch")
    for name in mpisqueeze.__all__:
        assert getattr(mpisqueeze, name) is getattr(mpisqueeze, name)
        assert name in dir(mpisqueeze)
    for name in mpisqueeze.torch.__all__:
        assert inspect.getdoc(getattr(mpisqueeze.torch, name))
    with pytest.raises(AttributeError, match="has no attribute 'tarin'"):
        mpisqueeze.tarin  # type: ignore[attr-defined]  # noqa: B018


def test_a_session_of_several_runs(empty_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each gives what its folder has, and nothing is printed unless it is asked for."""
    first = mpisqueeze.train("memsgd/topk:0.1", **QUICK, out="first", batch_size="1k", lr=0.1)
    assert (first.name, first.path) == ("memsgd/topk:0.1", Path("first"))
    assert first.summary == json.loads(Path("first/summary.json").read_text())
    assert first.settings["batch_size"] == 1000
    assert first.environment["ranks"] == 1
    lines = [json.loads(line) for line in Path("first/iterations.jsonl").read_text().splitlines()]
    assert first.columns.keys() == lines[0].keys()
    for name in ("iteration", "epoch", "loss", "bytes_sent", "elapsed_s", "consensus"):
        assert [finite(value) for value in first.columns[name]] == [line[name] for line in lines]
    assert first.columns["loss"].shape == (20,)
    again = mpisqueeze.load("first")
    assert isinstance(again, mpisqueeze.RunResult)
    assert again.summary == first.summary
    assert all(np.array_equal(again.columns[name], first.columns[name], equal_nan=True) for name in first.columns)

    both = mpisqueeze.compare("sgd", "memsgd/topk:0.1", **QUICK, out="both", lr=0.1, sort="given")
    assert [result["name"] for result in both.results] == ["sgd", "memsgd/topk:0.1"]
    assert (both.runs[1].columns["loss"] == first.columns["loss"]).all()
    assert both.facts["status"] == "done"
    assert not Path("both/holder.json").exists()
    seeds = mpisqueeze.compare(["sgd", "csgd/qsgd:4"], **QUICK, out="seeds", seeds=[3, 5, 8], target_loss=5, lr=0.1)
    assert [result["seeds"] for result in seeds.results] == [[3, 5, 8]] * 2
    loaded = mpisqueeze.load("seeds")
    assert isinstance(loaded, mpisqueeze.ComparisonResult)
    assert loaded.results == seeds.results
    assert len(loaded.runs) == 6
    assert capfd.readouterr() == ("", "")
    mpisqueeze.train("sgd", **QUICK, out="last", verbose=True)
    assert "run folder: last" in capfd.readouterr().out


def test_errors_are_exceptions(empty_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mpisqueeze.train("sgd", **QUICK, out="run")
    for text, call in {
        "--algorithm: unknown algorithm 'sdg'; did you mean 'sgd'": lambda: mpisqueeze.train("sdg"),
        "--batch-size: must be a whole number": lambda: mpisqueeze.train("sgd", batch_size=0),
        "--lr: must be a positive number, got '0.1,0.2'": lambda: mpisqueeze.train("sgd", lr=[0.1, 0.2]),  # type: ignore[typeddict-item]
        "run is not empty": lambda: mpisqueeze.train("sgd", out="run"),
        "--resume: the run has its own settings": lambda: mpisqueeze.train("sgd", resume="run"),
        "--seeds: must be a number of seeds up to": lambda: mpisqueeze.compare("sgd", seeds=[3]),
        "--seeds: is no flag, got True": lambda: mpisqueeze.compare("sgd", seeds=True),  # type: ignore[typeddict-item]
        "--seeds: must be a number of seeds up to 1000, such as 5, or a list of them, such as 3,5,8, got '-1,0'": (
            lambda: mpisqueeze.compare("sgd", seeds=range(-1, 1))  # type: ignore[typeddict-item]
        ),
        "--target-loss: must be a float, got 'low'": lambda: mpisqueeze.compare("sgd", target_loss="low"),  # type: ignore[typeddict-item]
        "--sort": lambda: mpisqueeze.compare("sgd", sort="beauty"),
        "a network that is not here is -n N --latency TIME": lambda: mpisqueeze.advise(ranks=64),
        "nowhere is not there": lambda: mpisqueeze.load("nowhere"),
        "config.json is not there": lambda: mpisqueeze.load("."),
    }.items():
        with pytest.raises(mpisqueeze.UsageError) as caught:
            call()  # type: ignore[no-untyped-call]
        assert text in str(caught.value)
    with pytest.raises(TypeError, match=r"train\(\) got an unexpected keyword argument 'algoritm'"):
        mpisqueeze.train(algoritm="sgd")  # type: ignore[call-arg]
    failed = mpisqueeze.compare("sgd", problem="quadratic:30", lr=1e30, iterations=50, out="diverges")
    assert failed.runs[0].summary["status"] == "diverged"
    # What they hold they give up.
    assert not [*Path().rglob("holder.json")]
    assert capfd.readouterr().out == ""


def test_ctrl_c_ends_the_run_and_no_more(empty_folder: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        mpisqueeze.train("sgd", problem="quadratic:30", iterations=10_000_000, eval_every=0, out="run")
    assert signal.getsignal(signal.SIGINT) is before
    found = mpisqueeze.load("run")
    assert isinstance(found, mpisqueeze.RunResult)
    assert found.summary["status"] == "interrupted"
    assert found.summary["iterations"] == found.columns["loss"].size > 0
    assert mpisqueeze.train("sgd", **QUICK, out="next").summary["status"] == "ok"


def test_it_works_in_a_thread(empty_folder: Path) -> None:
    found: list[mpisqueeze.RunResult] = []
    thread = threading.Thread(target=lambda: found.append(mpisqueeze.train("sgd", **QUICK, out="run")))
    thread.start()
    thread.join()
    assert found[0].summary["status"] == "ok"


def test_frames(empty_folder: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    run = mpisqueeze.train("sgd", epochs=2, data="digits", out="run")
    frame = run.frame()
    assert frame.index.name == "iteration"
    assert [*frame.reset_index()["epoch"]] == [*run.columns["epoch"]]
    assert [*frame.index] == [*range(1, len(run.columns["loss"]) + 1)]
    assert (frame["loss"] == run.columns["loss"]).all()
    evaluated = frame["test_accuracy"].dropna()
    assert [*evaluated] == [line["test_accuracy"] for line in run.evaluations[1:]]
    table = mpisqueeze.compare("sgd", "memsgd", **QUICK, out="both").frame()
    assert [*table["name"]] == ["sgd", "memsgd/onebit"]
    assert (table["times.encode_s.median"] > 0).all()


def called_on_ranks() -> None:
    rank = MPI.COMM_WORLD.rank
    for number, server in enumerate(["root", "sharded"]):
        run = mpisqueeze.train("doublesqueeze", **QUICK, server=server, out=f"run-{number}")
        assert run.summary["ranks"] == 2
        assert run.summary["bytes_sent"] > 0
        everyone = MPI.COMM_WORLD.allgather((run.summary, run.columns["loss"].tobytes()))
        assert everyone[0] == everyone[1]
    # Folders that differ by rank: rank 0's counts.
    both = mpisqueeze.compare("sgd", "dpsgd", **QUICK, out=f"both-{rank}")
    assert both.path == Path("both-0")
    assert [run.summary["ranks"] for run in both.runs] == [2, 2]
    with pytest.raises(mpisqueeze.UsageError, match="--compressor: unknown compressor"):
        mpisqueeze.train(compressor="onebyte", **QUICK)


def test_on_ranks(on_ranks: Call) -> None:
    on_ranks(2, called_on_ranks)


def advised() -> None:
    facts = mpisqueeze.advise(
        "doublesqueeze/onebit", problem="mlp:16", data="synthetic:8x200", budget="8s", out="advice"
    )
    assert facts["baseline"] == "allreduce"
    assert MPI.COMM_WORLD.bcast(facts) == facts


@pytest.mark.slow
def test_advice_on_ranks(on_ranks: Call) -> None:
    on_ranks(2, advised)
