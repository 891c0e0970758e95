"""The script of docs/library.md runs as printed: as it was written for DDP, and with its changed lines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mpisqueeze

pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "library.md").read_text()


def changed(script: str) -> str:
    """The script with the page's changes."""
    (hunks,) = re.findall(r"^```diff\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for hunk in hunks.strip("\n").split("\n\n"):
        lines = hunk.splitlines()
        before, after = ("".join(f"{line[1:]}\n" for line in lines if line[0] in kept) for kept in ("- ", "+ "))
        assert script.count(before) == 1
        script = script.replace(before, after)
    assert sum(line.startswith("+") for line in hunks.splitlines()) == 3
    return script


def synthetic(folder: Path) -> None:
    """Files like CIFAR-10's, of images that are easy to tell apart."""
    generator = np.random.default_rng(1)
    patterns = generator.integers(0, 255, (10, 3072))
    for name, count in {**{f"data_batch_{i}": 26 for i in range(1, 6)}, "test_batch": 20}.items():
        labels = generator.integers(0, 10, count)
        noise = generator.normal(0, 20, (count, 3072))
        images = np.clip(patterns[labels] + noise, 0, 255)
        np.column_stack([labels, images]).astype(np.uint8).tofile(folder / f"{name}.bin")


@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=pytest.mark.slow), "distribute"])
def test_the_script_runs_as_printed(kind: str, tmp_path: Path) -> None:
    script = (ROOT / "tests" / "examples" / "cifar_ddp.py").read_text()
    assert f"```python\n{script}```" in PAGE
    (tmp_path / "cifar.py").write_text(script if kind == "ddp" else changed(script))
    synthetic(tmp_path)
    command = [sys.executable, "-m", "mpisqueeze", "launch", "-n", "2", "cifar.py", ".", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(epoch [12]: loss \d\.\d+, test accuracy [01]\.\d+\n){2}", done.stdout)
    if kind == "distribute":
        run = mpisqueeze.load(tmp_path / "run")
        assert isinstance(run, mpisqueeze.RunResult)
        assert (run.summary["status"], run.summary["iterations"], run.summary["ranks"]) == ("ok", 4, 2)
        assert run.settings["iterations"] == 4
        assert run.settings["problem"] == "cifar.py"


@pytest.mark.usefixtures("launcher")
def test_an_exception_of_one_rank_ends_all(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sys, torch, mpisqueeze\n"
        "model = torch.nn.Linear(2, 1)\n"
        "optimizer = mpisqueeze.torch.distribute(torch.optim.Adam(model.parameters()), algorithm='sgd', out='run')\n"
        "for t in range(1000):\n"
        "    model(torch.ones(2)).sum().backward()\n"
        "    if t == 3 and optimizer.iteration == 3 and sys.argv[1:] == ['one']:\n"
        "        from mpi4py import MPI\n"
        "        if MPI.COMM_WORLD.rank: raise RuntimeError('mine')\n"
        "    optimizer.step()\n"
    )
    command = [sys.executable, "-m", "mpisqueeze", "launch", "-n", "2", "script.py", "one"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "RuntimeError: mine" in done.stderr
    assert "runpy" not in done.stderr
    run = mpisqueeze.load(tmp_path / "run")
    assert isinstance(run, mpisqueeze.RunResult)
    assert run.summary["status"] == "killed"
    assert not (tmp_path / "run" / "holder.json").exists()


def test_a_script_that_is_not_there(refused: object) -> None:
    assert "nowhere.py is not there" in refused("launch", "-n", "2", "nowhere.py")  # type: ignore[operator]
