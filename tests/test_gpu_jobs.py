"""jobs/gpu_check.sh and its programs, in the emulator: on a machine with a GPU they must work at the first try."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import need, start_on_ranks
from cuda_emulator.fake_cupy import SITE

from mpisqueeze.launch import Launcher

JOBS = Path(__file__).parents[1] / "jobs"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_report", JOBS / "gpu_report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(compressor: str, size: int, payload: int, **more: Any) -> dict[str, Any]:
    return {"compressor": compressor, "size": size, "wire_bits": 8 * payload / size, "wrong": 0, **more}


def test_bytes_that_must_move(report: ModuleType) -> None:
    onebit = row("onebit", 1024, 132)
    assert report.encode_bytes(onebit) == 8 * 1024 + 4 * 1024 + 132
    assert report.decode_bytes(onebit) == 132 + 8 * 1024
    double = row("onebit", 1024, 136, dtype="float64")
    assert report.encode_bytes(double) == 24 * 1024 + 136
    # Ten elements of a thousand, each read and written on a sector of its own; all of them touch no more than all.
    assert report.decode_bytes(row("topk:0.01", 1000, 80)) == 80 + 10 * 64
    assert report.decode_bytes(row("randomk:0.01,unbiased", 1000, 48)) == 48 + 10 * 64
    assert report.decode_bytes(row("topk:1", 1000, 8000)) == 8000 + 8000


def test_report_compares_with_the_copy(report: ModuleType, tmp_path: Path) -> None:
    size, copy = 1 << 20, 1e12
    fast = row("onebit", size, size // 8)
    # 90 % of the copy's rate encoding, 50 % decoding.
    fast |= {"encode_s": report.encode_bytes(fast) / (0.9 * copy), "decode_s": report.decode_bytes(fast) / (0.5 * copy)}
    fast |= {"give_s": 7e-6, "add_s": 1e-4}
    small = fast | {"size": 1024, "wrong": 3}
    step = {"exchange": "root", "compressor": "onebit", "size": size, "ranks": 4, "how": "flat, 8 sections", "wrong": 0}
    gpu = {"name": "a GPU", "compute_capability": "9.0", "memory_bytes": 80 << 30}
    device = {"versions": {"python": "3"}, "system": "Linux", "gpus": [gpu], "copy_bytes_per_s": copy}
    for name, content in {
        "device": device,
        "kernels-device": {"results": [fast, small]},
        "kernels-cuda": {"context": {"git_commit": "abc"}, "results": [small, fast]},
        "comm": {"results": [step | {"time_s": 0.002}]},
        "comm-whole": {"results": [step | {"time_s": 0.004}]},
        "kernels-cpu": {"results": [fast | {"encode_s": 20 * fast["encode_s"]}]},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "messages.json").write_text('{"cut off')
    (tmp_path / "steps.tsv").write_text("train\tpassed\t9\t\ndevice\tpassed\t3\t\ntrain\tFAILED\t7\texit code 1\n")
    text = report.document(tmp_path)
    assert "at abc." in text
    assert "a GPU, compute capability 9.0, 80 GiB" in text
    assert "1000 GB/s" in text
    line = next(line for line in text.splitlines() if line.startswith("| onebit"))
    assert ("90 %" in line, "50 %" in line, "20×" in line) == (True, True, True)
    assert "Below 80 % of the copy's rate: onebit decode 50 %." in text
    assert "over sizes 1024 to 1048576: 3." in text
    assert "| train | FAILED | 7 | exit code 1 |" in text
    assert "| train | passed" not in text
    assert f"| root | onebit | {size} | flat, 8 sections | 2.00 | 4.00 | 0.50 | 0 |" in text
    assert "None went through." in text
    assert "None ran." in text


def emulated(folder: Path) -> dict[str, str]:
    need("emulator")
    path = os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "CUDA_EMULATOR": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}


def test_messages_there_and_back(launcher: Launcher, emulator_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(JOBS / "device_messages.py"), "--most", "65536", "--json", "messages.json"]
    start_on_ranks(launcher, 2, command, tmp_path, 120, **emulated(emulator_folder)).well()
    results = json.loads((tmp_path / "messages.json").read_text())["results"]
    assert [found["wrong"] for found in results] == [0] * len(results)
    assert max(found["bytes"] for found in results) == 65536


def gpu_check(*steps: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHON": sys.executable}
    command = ["bash", str(JOBS / "gpu_check.sh"), *steps]
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=300)


SMALL = {
    "SIZES": "4Ki,1Ki",
    "BITS": "1Ki:1Ki",
    "COMM": "1Ki:1Ki",
    "RANKS": "1,2",
    "COMM_RANKS": "2",
    "TRAIN": "--problem mlp:16 --iterations 4",
}


@pytest.mark.slow
def test_gpu_check_runs_its_steps(launcher: Launcher, emulator_folder: Path, tmp_path: Path) -> None:
    out, variables = tmp_path / "out", {**SMALL, **emulated(emulator_folder)}
    done = gpu_check("device", "kernels", "bits", "train", "gossip", "resume", OUT=str(out), **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    files = {
        "README.md", "log.txt", "steps.tsv", "device.json", "kernels-device.json", "kernels-cuda.json",
        "train-staged-1.json", "train-staged-2.json", "train-sgd-2.json", "train-gossip.json",
        "train-resume-whole.json", "train-resume-half.json",
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == files
    assert all(found["wrong"] == 0 for found in json.loads((out / "kernels-cuda.json").read_text())["results"])
    by_clock = json.loads((out / "kernels-device.json").read_text())["results"]
    assert {found["size"] for found in by_clock} == {4096, 1024}
    assert all(found["finite"] and found["encode_s"] > 0 and found["decode_s"] > 0 for found in by_clock)
    assert json.loads((out / "train-sgd-2.json").read_text())["buffers"] == "HOST-STAGED"

    # What is run later adds to what is there.
    done = gpu_check("comm", OUT=str(out), **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in out.iterdir()} == files | {"comm.json", "comm-whole.json"}
    for name in ("comm", "comm-whole"):
        rows = json.loads((out / f"{name}.json").read_text())["results"]
        assert {row["exchange"] for row in rows} == {"sharded", "root", "allreduce"}
        assert all(row["wrong"] == 0 for row in rows)
    text = (out / "README.md").read_text()
    steps = "device kernels bits train-staged-1 train-sgd-2 train-gossip resume-bits comm comm-whole"
    for step in steps.split():
        assert f"| {step} | passed |" in text
    with tarfile.open(f"{out}.tar.gz") as archive:
        assert {Path(name).name for name in archive.getnames()} == {"out", *(path.name for path in out.iterdir())}
    # What is to be committed names no folder of this machine.
    for path in out.iterdir():
        assert str(tmp_path) not in path.read_text(), path.name


@pytest.mark.slow
def test_gpu_check_ends_in_time(launcher: Launcher, emulator_folder: Path, tmp_path: Path) -> None:
    """A step that would take longer is cut off, the next ones are left, and what there is is kept."""
    out = tmp_path / "out"
    small = SMALL | {"SIZES": "4Ki,1Ki,64Mi", "BUDGET": "60"}
    done = gpu_check("kernels", "kernels-cpu", OUT=str(out), **small, **emulated(emulator_folder))
    assert done.returncode == 1
    text = (out / "README.md").read_text()
    assert "| kernels | FAILED |" in text
    assert "took more than" in text
    assert "| kernels-cpu | skipped |" in text
    assert "4096 elements" in text


def test_gpu_check_says_what_it_could_not_do(launcher: Launcher, tmp_path: Path) -> None:
    """It lacks a GPU, and is asked for a step that does not exist."""
    (tmp_path / "cupy.py").write_text("raise ImportError('no CuPy here')\n")
    done = gpu_check("device", "messages", OUT=str(tmp_path / "out"), PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "FAILED   GPU (CuPy is not installed" in done.stdout
    assert "skipped  messages: no GPU" in done.stdout
    assert "| messages | skipped |" in (tmp_path / "out" / "README.md").read_text()
    wrong = gpu_check("devise", OUT=str(tmp_path / "none"))
    assert wrong.returncode == 2
    assert "no step devise" in wrong.stderr
    assert not (tmp_path / "none").exists()
