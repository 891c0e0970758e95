"""`mpisqueeze calibrate`: the line through message times, and files that predict reads."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpisqueeze.cli.app import run
from mpisqueeze.devices.cores import logical_cores
from mpisqueeze.record.calibration import fit_line, read_calibration

SIZES = [2**k for k in range(25)]


@pytest.mark.parametrize(("alpha", "bandwidth"), [(1e-6, 80e9), (50e-6, 10e9), (5e-3, 100e6)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_fit_finds_the_line_under_noise(alpha: float, bandwidth: float, seed: int) -> None:
    """With 5 % of noise, and three of 25 sizes that took up to ten times as long."""
    draw = np.random.default_rng(seed)
    times = np.array([alpha + 8 * m / bandwidth for m in SIZES]) * draw.normal(1, 0.05, len(SIZES))
    times[draw.choice(len(SIZES), 3, replace=False)] *= draw.uniform(2, 10, 3)
    fit = fit_line(SIZES, times.tolist())
    assert fit.alpha_s == pytest.approx(alpha, rel=0.08)
    assert fit.bandwidth == pytest.approx(bandwidth, rel=0.08)
    assert len(fit.residuals) == len(SIZES)


def test_the_fit_is_exact_without_noise_and_never_negative() -> None:
    fit = fit_line(SIZES, [2e-6 + 3e-9 * m for m in SIZES])
    assert (fit.alpha_s, fit.byte_s) == pytest.approx((2e-6, 3e-9), rel=1e-9)
    assert max(map(abs, fit.residuals)) < 1e-9
    falling = fit_line([1, 10, 100], [3.0, 2.0, 1.0])
    assert falling.alpha_s > 0
    assert falling.byte_s == 0
    assert falling.bandwidth is None
    through_zero = fit_line([1, 10, 100], [0.9, 10.0, 101.0])
    assert through_zero.alpha_s == 0
    assert through_zero.byte_s == pytest.approx(1, rel=0.05)


def test_the_fit_looks_past_what_a_shaper_lets_through_in_a_burst() -> None:
    """Up to 32 KiB half of the time passes while the answer travels, as a token bucket of 100 Mbit/s has it."""
    times = [12e-6 + 8e-8 * m * (0.5 if m <= 32 << 10 else 1) for m in SIZES]
    fit = fit_line(SIZES, times)
    assert fit.bandwidth == pytest.approx(100e6, rel=0.05)
    assert fit.alpha_s == pytest.approx(12e-6, rel=0.2)
    bursts = fit_line([1, 256, 4 << 10, 64 << 10, 256 << 10, 1 << 20], [1e-7, 1e-7, 3.3e-4, 5.4e-3, 2.1e-2, 8.6e-2])
    assert bursts.bandwidth == pytest.approx(100e6, rel=0.05)


@pytest.mark.timed
def test_a_quick_calibration_on_an_emulated_link_is_read_by_predict(
    mpisqueeze_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--quick", "--link", "latency=4ms,bandwidth=400mbit,gap=1ms", "--compressor", "onebit"]
    options += ["--max-size", "256Ki"]
    finished = mpisqueeze_run(
        3, "calibrate", *options, "--out", "measured.json", "--json", "-", "--color", "never"
    ).well()
    path = tmp_path / "measured.json"
    facts = json.loads(path.read_text())
    assert finished.json == facts
    assert not list(tmp_path.glob("*.part"))
    link = facts["link"]
    assert (facts["ranks"], facts["hosts"], facts["allreduce"]) == (3, 1, None)
    assert (link["kind"], link["given"]) == ("emulated", options[2])
    # A message takes its latency and its gap; ranks that share cores are late, never early.
    assert 4.5e-3 < link["alpha_s"] < 15e-3
    assert 100e6 < link["bandwidth"] < 450e6
    assert 0.3e-3 < link["gap_s"] < 5e-3
    processor = link["processor"]
    assert (processor["ranks"], processor["cores"]) == (3, len(logical_cores()))
    # Work of a core, not the 4 ms for which a message travels and everybody sleeps.
    assert 0 <= processor["message_s"] < 1e-3
    assert 0 <= processor["byte_s"] < 1e-8
    assert processor["wake_s"] >= 0
    assert {tuple(point["ranks"]) for point in link["ping_pong"]} == {(0, 1), (0, 2)}
    assert [point["senders"] for point in link["incast"]] == [2] * len(link["incast"])
    assert [row["compressor"] for row in facts["kernels"]] == ["identity", "onebit"]
    assert all(row[key] > 0 for row in facts["kernels"] for key in row if key.endswith("_s_per_element"))
    assert facts["memory"]["add_gb_s"] > 0
    assert 0 < facts["section_s"] < 0.01
    assert facts["environment"]["versions"]["mpisqueeze"]
    calibration = read_calibration(path)
    assert calibration.link is not None
    assert calibration.link.latency + calibration.link.gap == pytest.approx(link["alpha_s"])
    assert calibration.link.processor is not None
    assert calibration.link.processor.message_s == processor["message_s"]
    command = ["predict", "--dimension", "1M", "--calibration", str(path), "doublesqueeze/onebit", "--json", "-"]
    assert run(command) == 0
    predicted = json.loads(capsys.readouterr().out)
    assert predicted["context"]["ranks"] == 3
    assert predicted["context"]["kernels"] == "measured"


def test_a_single_rank_measures_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["calibrate", "--quick", "--compressor", "topk:0.01"]) == 0
    assert "one rank sends nothing" in " ".join(capsys.readouterr().out.split())
    facts = json.loads(Path("calibration.json").read_text())
    assert facts["link"] is None
    assert facts["allreduce"] is None
    assert run(["predict", "-n", "4", "--dimension", "1M", "--calibration", "calibration.json"]) == 2
    assert "was measured on a single rank" in capsys.readouterr().err
    network = ["--latency", "1ms", "--bandwidth", "1gbit", "memsgd/topk:0.01", "--json", "-"]
    assert run(["predict", "-n", "4", "--dimension", "1M", "--calibration", "calibration.json", *network]) == 0
    assert json.loads(capsys.readouterr().out)["context"]["kernels"] == "measured"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--compressor qsdg:4", "--compressor: |did you mean 'qsgd'"),
        ("--link 5ms", "--link: |latency=TIME"),
        ("--max-size 1", "--max-size: |2 bytes"),
        ("--max-size lots", "--max-size: |size"),
        ("--dtype float16", "--dtype: |float32"),
        ("--device gpu", "--device: |cuda"),
        ("--out no/such/folder/c.json", "--out: "),
        ("--color pink", "--color: |never"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(options: str, says: str, refused: Callable[..., str]) -> None:
    line = refused("calibrate", "--quick", *options.split())
    assert all(text in line for text in says.split("|")), line


def test_an_interrupt_ends_it_without_a_file(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mpisqueeze", "calibrate"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    # It listens from the first stage on.
    assert "memory" in process.stdout.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 30
    assert not (tmp_path / "calibration.json").exists()
