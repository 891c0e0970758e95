"""Runs of virtual workers with a simulated network between them: their times, labels, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, logged

from mpisqueeze.cli.app import run
from mpisqueeze.costs.exchanges import allreduce, neighbours, sharded, through_root
from mpisqueeze.costs.link import parse_link
from mpisqueeze.virtual.scheduler import Scheduler, Worker

TEXT = "latency=2ms,bandwidth=100mbit,gap=500us"
LINK = parse_link(TEXT)
WORKERS, D = 8, 5001
OPTIONS = ("--problem", f"quadratic:{D}", "--iterations", "8", "--eval-every", "0", "--lr", "0.1", "--compute", "20ms",
           "--link", TEXT)  # fmt: skip


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`train(method, …)`: a run's summary, and the columns of its log."""
    monkeypatch.chdir(tmp_path)

    def train(*words: str, workers: int = WORKERS) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        path = f"{len(list(tmp_path.iterdir()))}"
        assert run(["train", "--algorithm", *words, "--workers", f"{workers}", *OPTIONS, "--out", path]) == 0
        capsys.readouterr()
        lines = logged(tmp_path / path / "iterations.jsonl")
        columns = {name: np.array([line[name] for line in lines], float) for name in lines[0]}
        return json.loads((tmp_path / path / "summary.json").read_text()), columns

    return train


def modelled(summary: dict[str, Any]) -> float:
    """Time (s) of an exchange by the cost model."""
    full, cut = 4 * D, summary["chunks"]
    match summary["algorithm"], summary["server"]:
        case "allreduce", _:
            return allreduce(LINK, WORKERS, full).seconds
        case "dpsgd", _:
            return neighbours(LINK, 2, full).seconds
        case _, "sharded":
            return sharded(LINK, WORKERS, full, full, cut).seconds
    return through_root(LINK, WORKERS, full, full, cut, summary["tree"]).seconds


@pytest.mark.parametrize("method", ["sgd", "sgd --server sharded", "allreduce", "dpsgd"])
def test_an_exchange_takes_what_the_cost_model_says(train: Callable[..., Any], method: str) -> None:
    """But for coding, which is measured: a gradient of 20 ms, and each phase as virtual as the network."""
    summary, columns = train(*method.split())
    assert summary["virtual"]
    assert summary["link"] == "virtual"
    assert columns["compute_s"] == pytest.approx(0.02)
    assert np.median(columns["comm_s"]) == pytest.approx(modelled(summary), rel=0.04)
    each = np.diff(columns["elapsed_s"])
    assert np.median(each) == pytest.approx(0.02 + modelled(summary), rel=0.04)


def test_a_straggler_delays_all_where_there_is_a_server_and_a_neighbourhood_where_there_is_none(
    train: Callable[..., Any],
) -> None:

    def seconds(method: str, *more: str) -> float:
        """Of all iterations but the first, in which work is timed for the first time."""
        elapsed = train(method, *more, workers=12)[1]["elapsed_s"]
        return float(elapsed[-1] - elapsed[0])

    alone = {method: seconds(method) for method in ("sgd", "dpsgd")}
    for method, took in alone.items():
        assert seconds(method, "--jitter", "constant:50ms,worker=3") - took == pytest.approx(7 * 0.05, rel=0.05)
    # One late worker in seven, another one each time: gossip waits for neighbours alone.
    sgd, dpsgd = (seconds(method, "--jitter", "constant:100ms,probability=15%") - alone[method] for method in alone)
    assert dpsgd < 0.95 * sgd


def test_the_network_changes_no_result(train: Callable[..., Any]) -> None:
    for method in ("doublesqueeze --server sharded", "choco --compressor topk:0.01"):
        (first, lines), (second, others) = (train(*method.split(), "--jitter", jitter) for jitter in
                                            ("exponential:50ms", "uniform:1ms"))  # fmt: skip
        for name in ("loss", "bytes_sent", "messages", "residual_norm"):
            np.testing.assert_array_equal(lines[name], others[name])
        assert first["elapsed_s"] > second["elapsed_s"]


def test_overlap_hides_a_gossip_exchange_behind_the_gradient(train: Callable[..., Any]) -> None:
    _, columns = train("dpsgd:order=awc")
    assert modelled({"algorithm": "dpsgd", "server": None, "chunks": None}) < 0.02
    assert np.median(columns["comm_s"]) < 1e-3
    assert np.median(columns["iteration_s"]) == pytest.approx(0.02, rel=0.1)


def test_tables_and_json_say_that_times_are_virtual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--algorithm", "sgd", *OPTIONS[:8], "--out", "real"]) == 0
    assert run(["compare", "sgd", "dpsgd", "--workers", "3", *OPTIONS, "--out", "both"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"link: virtual workers, {TEXT}" in said
    assert "Times are virtual" in said
    assert run(["report", "both", "real", "--plot", "loss.svg", "--plot-kind", "loss-by-time"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Times of sgd, dpsgd are virtual" in said.replace("sgd (both)", "sgd") or "Times of " in said
    assert "warning: These runs differ in" in said
    assert "virtual)" in (tmp_path / "loss.svg").read_text()
    assert run(["report", "both", "--json", "-"]) == 0
    assert all(summary["virtual"] for summary in json.loads(capsys.readouterr().out))


def test_advice_on_a_network_that_is_not_here(tmp_path: Path) -> None:
    """In a process of its own, whose start the budget counts."""
    words = ["advise", "doublesqueeze/onebit", "-n", "8", "--latency", "50us", "--bandwidth", "1mbit"]
    more = ["--compute", "1ms", "--problem", "quadratic:3000", "--iterations", "24", "--seeds", "3", "--budget", "60s"]
    command = [sys.executable, "-m", "mpisqueeze", *words, *more, "--out", "advice", "--json", "-"]
    advice = json.loads(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout)
    assert advice == json.loads((tmp_path / "advice" / "advice.json").read_text())
    assert advice["virtual"]
    assert advice["ranks"] == 8
    network = "virtual workers, latency=50us,bandwidth=1mbit"
    assert advice["network"] == network
    assert advice["sentences"][0].startswith(f"On {network}: ")
    assert advice["compute_s"] == pytest.approx(1e-3)
    runs = {name for candidate in advice["candidates"] for name in candidate["runs"]}
    summaries = [json.loads((tmp_path / "advice" / name / "summary.json").read_text()) for name in runs]
    assert all(summary["virtual"] and summary["workers"] == 8 for summary in summaries)
    assert all("--workers 8 --link latency=50us" in candidate["command"] for candidate in advice["candidates"])
    # A vector takes 96 ms at this rate, and its signs a 32nd: what ends the race is not how long it takes here.
    ratio = advice["ratio"]["time"]["ratio"]
    assert ratio is None or ratio < 1


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("train", "--compute", "5ms"), "--compute"),
        (("train", "--jitter", "exponential:5ms"), "--jitter"),
        (("train", "--workers", "4", "--jitter", "normal:5ms"), "--jitter"),
        (("train", "--workers", "4", "--compute", "5"), "--compute"),
        (("advise", "-n", "4", "--latency", "1ms"), "--bandwidth"),
        (("advise", "--latency", "1ms", "--bandwidth", "1gbit"), "-n"),
        (("advise", "-n", "1", "--latency", "1ms", "--bandwidth", "1gbit"), "-n"),
        (("advise", "-n", "4", "--latency", "1", "--bandwidth", "1gbit"), "--latency"),
        (("advise", "--workers", "4"), "--link"),
    ],
)
def test_what_virtual_networks_do_not_go_with(refused: Callable[..., str], words: tuple[str, ...], option: str) -> None:
    assert f" {option}: " in refused(*words)


def test_a_network_is_simulated_in_one_process(mpisqueeze_run: Callable[..., Finished]) -> None:
    finished = mpisqueeze_run(2, "train", "--workers", "4", *OPTIONS)
    assert finished.code == 2
    (line,) = [line for line in finished.err.splitlines() if line.startswith("mpisqueeze: error")]
    assert " --link: " in line
    assert "leave mpirun out" in line


def test_vectors_may_be_made_of_several_temporaries() -> None:
    """NumPy looks at the callers on the stack there, and has to find some beyond a worker's own."""
    x = np.ones(100_000)

    def deep(calls: int, work: Callable[[], Any]) -> Any:
        return next(map(lambda _: deep(calls - 1, work), [0])) if calls else work()  # noqa: C417

    def work(worker: Worker) -> float:
        random = np.random.default_rng(worker.index)
        total = 0.0
        for _ in range(20):
            total += deep(int(random.integers(6)), lambda: (x - 2.0 + random.normal(size=x.size) / 2)[0])
            worker.wake()
            deep(int(random.integers(6)), lambda: worker.scheduler.block(worker))
        return total

    assert Scheduler(range(6)).run(work) != 0.0
