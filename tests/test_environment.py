"""`environment.json`: its facts about the machines and the software."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from mpisqueeze.record import environment
from mpisqueeze.record.environment import collect_environment, crowding


class FakeComm:
    """A communicator whose other ranks gathered `others`, seen from `rank`."""

    def __init__(self, others: list[dict[str, Any]], rank: int = 0) -> None:
        self.others = others
        self.rank = rank

    def Get_size(self) -> int:  # noqa: N802
        return 1 + len(self.others)

    def gather(self, item: dict[str, Any], root: int) -> list[dict[str, Any]] | None:
        return [item, *self.others] if self.rank == root else None


@pytest.fixture(autouse=True)
def _needs_mpi() -> None:
    try:
        from mpi4py import MPI  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"mpi4py finds no MPI: {error}")


def test_rank_0_gets_an_object_for_json_and_the_others_nothing() -> None:
    found = collect_environment(FakeComm([]))
    assert json.loads(json.dumps(found)) == found
    assert collect_environment(FakeComm([], rank=1)) == {}
    assert {"mpisqueeze", "python", "numpy", "mpi4py", "cupy", "torch"} == found["versions"].keys()
    assert "\n" not in found["mpi_library"]
    assert found["mpi_library"]
    age = datetime.now(timezone.utc) - datetime.fromisoformat(found["started_utc"])
    assert 0 <= age.total_seconds() < 10


def test_ranks_are_counted_by_host() -> None:
    mine = environment._machine()
    elsewhere = {**mine, "hostname": "node2", "cores": [0]}
    found = collect_environment(FakeComm([elsewhere, {**elsewhere, "cores": [1]}, {**elsewhere, "cores": [1]}]))
    assert [(host["hostname"], host["ranks"]) for host in found["hosts"]] == [(mine["hostname"], 1), ("node2", 3)]
    # Two ranks bound to one core each, one of them twice, can use two cores.
    assert [host["cores"] for host in found["hosts"]] == [len(mine["cores"]), 2]
    assert found["hosts"][0]["memory_bytes"] > 2**20
    assert found["ranks"] == 4


def test_only_relevant_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_MCA_btl", "tcp,self")
    monkeypatch.setenv("PRTE_MCA_hwloc_default_binding_policy", "none")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SOME_SECRET", "do not write")
    variables = collect_environment(FakeComm([]))["variables"]
    assert variables["OMPI_MCA_btl"] == "tcp,self"
    assert variables["PRTE_MCA_hwloc_default_binding_policy"] == "none"
    assert variables["OMP_NUM_THREADS"] == "1"
    assert "SOME_SECRET" not in variables


def test_cupy_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(environment, "_version", lambda name: "13.6.0" if name == "cupy-cuda12x" else None)
    assert environment._cupy_version() == "13.6.0"
    assert "cupy" not in sys.modules


def test_git_commit(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("needs git")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "core.hooksPath="]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    module = package / "__init__.py"
    module.write_text("")
    assert environment._git_commit(package) is None
    git("init", "-q")
    (tmp_path / "other").write_text("")
    git("add", "other")
    git("commit", "-q", "-m", "other")
    assert environment._git_commit(package) is None  # in a repository, but no part of it
    git("add", "package")
    git("commit", "-q", "-m", "package")
    commit = git("rev-parse", "HEAD")
    assert environment._git_commit(package) == commit
    module.write_text("changed")
    assert environment._git_commit(package) == f"{commit}+dirty"


@pytest.mark.parametrize(
    ("hosts", "lab", "says"),
    [
        ([(2, 2), (4, 4)], None, None),
        ([(2, 2), (5, 4)], None, "5 ranks share 4 cores"),
        ([(8, 1)], None, "8 ranks share 1 core:"),
        ([(1, 2), (1, 2)], {"mtu": 1500}, None),
        # The hosts of a virtual cluster are one machine.
        ([(1, 2), (1, 2), (1, 2)], {"mtu": 1500}, "3 ranks share 2 cores"),
        ([(3, None)], None, None),
    ],
)
def test_ranks_that_share_cores_are_warned_of(
    hosts: list[tuple[int, int | None]], lab: dict[str, int] | None, says: str | None
) -> None:
    found = crowding({"hosts": [{"ranks": ranks, "cores": cores} for ranks, cores in hosts], "lab": lab})
    assert [text for text in found if says and text.startswith(says)] == found
    assert len(found) == (says is not None)
