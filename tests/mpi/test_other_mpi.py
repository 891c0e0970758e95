"""MPICH beside the MPI of the other tests: the same bits, and clear words where launcher and library do not match.

It is taken from the folder `mpich` of this environment:
pip install --no-deps --ignore-installed --prefix .venv/mpich mpich
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished, start_on_ranks

from mpisqueeze.launch import Flavour, Launcher, identify

PREFIX = Path(sys.prefix) / "mpich"
LIBRARY = PREFIX / "lib" / "libmpi.so.12"
Run = Callable[..., Finished]
#: What adds up in an order of its own; MPI_Allreduce's order is the library's.
PAIRS = ("sgd", "csgd/qsgd:4", "memsgd/topk:0.1", "doublesqueeze/onebit", "deepsqueeze/uniform:2", "choco/randomk:0.3")


@pytest.fixture(scope="module")
def hydra() -> Launcher:
    if not LIBRARY.is_file():
        pytest.skip(f"no MPICH in {PREFIX}")
    return identify(str(PREFIX / "bin" / "mpiexec"))


def program(launcher: Launcher, n: int, folder: Path, *arguments: str, **variables: str) -> Finished:
    return start_on_ranks(launcher, n, [sys.executable, "-m", "mpisqueeze", *arguments], folder, 120, **variables)


@pytest.mark.parametrize(("n", "server"), [(2, "root"), (3, "sharded")])
def test_models_and_logs_are_the_same_to_the_bit(
    mpisqueeze_run: Run, hydra: Launcher, tmp_path: Path, n: int, server: str
) -> None:
    # The launchers bind ranks to cores in ways of their own, and the choice of sections depends on that.
    options = ("compare", *PAIRS, "--server", server, "--problem", "quadratic:10007", "--chunk", "4Ki")
    options += ("--iterations", "8", "--save-model", "--out")
    here = mpisqueeze_run(n, *options, "here")
    yields = {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}  # in case that cores are busy
    there = program(hydra, n, tmp_path, *options, "mpich", MPI4PY_LIBMPI=str(LIBRARY), **yields)
    assert (here.code, there.code) == (0, 0), here.err + there.err
    environment = json.loads(next(tmp_path.glob("mpich/*/environment.json")).read_text())
    assert environment["mpi_library"].startswith("MPICH ")
    assert environment["mpi_library_path"] == str(LIBRARY)
    folders = sorted(path.parent for path in tmp_path.glob("here/*/model.npz"))
    assert len(folders) == len(PAIRS)
    for folder in folders:
        other = tmp_path / "mpich" / folder.name
        models = [np.load(path / "model.npz")["x"].tobytes() for path in (folder, other)]
        assert models[0] == models[1], folder.name
        logs = [(path / "iterations.jsonl").read_text().splitlines() for path in (folder, other)]
        for mine, theirs in zip(*(map(json.loads, log) for log in logs), strict=True):
            for key in ("iteration", "loss", "bytes_sent", "messages", "residual_norm"):
                assert mine[key] == theirs[key], (folder.name, key)


def test_ranks_of_another_launcher_are_not_so_many_worlds_of_one(
    launcher: Launcher, hydra: Launcher, tmp_path: Path
) -> None:
    if launcher.flavour is not Flavour.OPEN_MPI:
        pytest.skip(f"{launcher.flavour.value} starts what Hydra starts")
    apart = program(hydra, 2, tmp_path, "train", MPISQUEEZE_LAUNCHED_RANKS="")
    assert apart.code == 2, apart.err
    assert apart.err.count("mpisqueeze: error: ") == 1
    assert "launcher started 2 ranks, but the MPI that mpi4py loads, Open MPI" in apart.err
    assert list(tmp_path.iterdir()) == []


def test_mpich_under_open_mpis_launcher_is_warned_of(launcher: Launcher, hydra: Launcher, tmp_path: Path) -> None:
    if launcher.flavour is not Flavour.OPEN_MPI:
        pytest.skip(f"{launcher.flavour.value} starts MPICH")
    finished = program(launcher, 2, tmp_path, "train", MPI4PY_LIBMPI=str(LIBRARY))
    assert finished.code != 0
    warning = "mpisqueeze: warning: Open MPI's launcher started this program, but mpi4py loads MPICH"
    assert finished.err.count(warning) == 1
