"""Messages about the MPI library, and about a launcher that does not belong to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpisqueeze.comm import library
from mpisqueeze.comm.library import launched_apart, library_line, other_libraries, short_name, unsuited_launcher


@pytest.mark.parametrize(
    ("version", "line", "name"),
    [
        ("Open MPI v5.0.11, package: x\0", "Open MPI v5.0.11, package: x", "Open MPI 5.0.11"),
        ("MPICH Version:      5.0.2\nMPICH Device: ch4\n", "MPICH 5.0.2", "MPICH 5.0.2"),
        ("MVAPICH2 Version      :\t2.3.7\n", "MVAPICH2 2.3.7", "MVAPICH 2.3.7"),
        (
            "Intel(R) MPI Library 2021.9 for Linux* OS\n",
            "Intel(R) MPI Library 2021.9 for Linux* OS",
            "Intel MPI 2021.9",
        ),
        ("", None, "unknown MPI"),
    ],
)
def test_names(version: str, line: str | None, name: str) -> None:
    assert library_line(version) == line
    assert short_name(version) == name


@pytest.mark.parametrize(
    ("size", "told", "expected"),
    [
        (1, {}, None),
        (4, {"PMI_SIZE": "4"}, None),
        (1, {"PMI_SIZE": "1"}, None),
        (1, {"PMI_SIZE": "4"}, "MPICH's or Intel MPI's launcher started 4 ranks"),
        (1, {"OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "0"}, "Open MPI's launcher started 2 ranks"),
        # One rank of its own launcher, started by a rank of another's.
        (1, {"OMPI_COMM_WORLD_SIZE": "2", "PMI_SIZE": "1"}, None),
        (1, {"SLURM_STEP_NUM_TASKS": "3"}, "srun started 3 ranks"),
        (1, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "3"}, None),
        (1, {"SLURM_STEP_NUM_TASKS": "3", "PMIX_RANK": "0"}, None),
        (1, {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2"}, "torchrun started 2 ranks"),
        (1, {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "1"}, None),
        (1, {"WORLD_SIZE": "2"}, None),
    ],
)
def test_worlds_of_one(monkeypatch: pytest.MonkeyPatch, size: int, told: dict[str, str], expected: str | None) -> None:
    monkeypatch.setattr(library, "library_version", lambda: "MPICH Version: 5.0.2")
    found = launched_apart(size, told)
    assert found == (None if expected is None else f"{expected}, but the MPI that mpi4py loads, MPICH 5.0.2, sees 1")


def test_mpich_under_open_mpis_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "binding_abi", lambda: "mpich")
    assert unsuited_launcher({}) is None
    assert unsuited_launcher({"PMI_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2"}) is None
    assert "Open MPI's launcher" in (unsuited_launcher({"OMPI_COMM_WORLD_SIZE": "2"}) or "")
    monkeypatch.setattr(library, "binding_abi", lambda: "openmpi")
    assert unsuited_launcher({"OMPI_COMM_WORLD_SIZE": "2"}) is None


def test_a_second_library_beside_the_loaded_one(tmp_path: Path) -> None:
    for name, content in (("libmpi.so", "script"), ("libmpi.so.12.1", "MPICH"), ("libmpi.so.40", "Open MPI")):
        (tmp_path / name).write_text(content)
    (tmp_path / "libmpi.so.12").symlink_to("libmpi.so.12.1")
    assert other_libraries(str(tmp_path / "libmpi.so.12")) == [str(tmp_path / "libmpi.so.40")]
    assert other_libraries(str(tmp_path / "libmpi.so.40")) == [str(tmp_path / "libmpi.so.12")]


def test_a_copy_is_no_second_library(tmp_path: Path) -> None:
    for name in ("libmpi.so", "libmpi.so.12", "libmpi.so.12.0.0"):
        (tmp_path / name).write_text("Intel MPI")
    assert other_libraries(str(tmp_path / "libmpi.so")) == []
