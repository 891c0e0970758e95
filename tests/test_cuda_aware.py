"""CUDA support of the MPI library: the query, and the use of its answer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mpisqueeze.comm import library
from mpisqueeze.comm.cuda_aware import collectives_take_device_memory, cuda_awareness

OPEN_MPI = "Open MPI v5.0.11, package: Open MPI, ident: 5.0.11, repo rev: v5.0.11rc1, Sep 16, 2026\0"
MPICH = "MPICH Version:      5.0.2\nMPICH Release date: Fri Sep 25 20:45:26 UTC 2026\n"
CRAY = "MPI VERSION    : CRAY MPICH version 8.1.25.17 (ANL base 3.4a2)\nMPI BUILD INFO : ...\n"
MVAPICH = "MVAPICH2 Version      :\t2.3.7\nMVAPICH2 Release date :\tWed March 02 22:00:00 EST 2022\n"
INTEL = "Intel(R) MPI Library 2021.9 for Linux* OS\n"
CLASSIC = "int MPIX_Query_cuda_support(void) { return %d; }"
# Kind 0 is CUDA; the answer for any other kind is the opposite, so that the wrong question shows.
GENERAL = "int MPIX_GPU_query_support(int kind, int *flag) { *flag = kind == 0 ? %d : !%d; return 0; }"
FAILING = "int MPIX_GPU_query_support(int kind, int *flag) { *flag = 1; return 13; }"


@pytest.fixture
def mpi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """mpi(version text, C source or None): cuda_awareness() sees that library."""
    names = ("MPICH_GPU_SUPPORT_ENABLED", "MPIR_CVAR_ENABLE_GPU", "MV2_USE_CUDA", "MVP_USE_CUDA", "I_MPI_OFFLOAD")
    for name in names:
        monkeypatch.delenv(name, raising=False)

    def pretend(version: str, source: str | None) -> None:
        monkeypatch.setattr(library, "library_version", lambda: version)
        libraries: list[str] = []
        if source is not None:
            compiler = shutil.which("gcc") or shutil.which("cc")
            if compiler is None:
                pytest.skip("needs a C compiler")
            (tmp_path / "stub.c").write_text(source)
            libraries.append(str(tmp_path / "libmpi.so"))
            subprocess.run([compiler, "-shared", "-fPIC", "-o", libraries[0], str(tmp_path / "stub.c")], check=True)
        monkeypatch.setattr(library, "loaded_libraries", lambda: libraries)

    return pretend


@pytest.mark.parametrize("answer", [0, 1])
@pytest.mark.parametrize(
    ("version", "name"), [(OPEN_MPI, "Open MPI 5.0.11"), (MPICH, "MPICH 5.0.2"), (INTEL, "Intel MPI 2021.9")]
)
def test_the_classic_query(mpi, monkeypatch: pytest.MonkeyPatch, version: str, name: str, answer: int) -> None:
    monkeypatch.setenv("I_MPI_OFFLOAD", "1")
    mpi(version, CLASSIC % answer)
    verdict, reason = cuda_awareness()
    assert verdict is bool(answer)
    assert reason == f"{name} has {'' if answer else 'no '}CUDA support"


@pytest.mark.parametrize("answer", [0, 1])
def test_the_general_query(mpi, answer: int) -> None:
    mpi(MPICH, GENERAL % (answer, answer))
    assert cuda_awareness()[0] is bool(answer)


def test_a_failing_query_is_a_no(mpi) -> None:
    mpi(MPICH, FAILING)
    assert cuda_awareness()[0] is False


def test_no_query_function_is_a_no(mpi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("I_MPI_OFFLOAD", "1")
    mpi(INTEL, "int nothing;")
    assert cuda_awareness() == (False, "Intel MPI 2021.9 cannot say whether it supports CUDA")


def test_cray_needs_its_variable(mpi, monkeypatch: pytest.MonkeyPatch) -> None:
    mpi(CRAY, None)
    assert cuda_awareness() == (False, "Cray MPICH 8.1.25.17: MPICH_GPU_SUPPORT_ENABLED is not 1")
    monkeypatch.setenv("MPICH_GPU_SUPPORT_ENABLED", "1")
    assert cuda_awareness()[0] is True
    mpi(CRAY, CLASSIC % 0)
    assert cuda_awareness()[0] is False


def test_mpich_switched_off(mpi, monkeypatch: pytest.MonkeyPatch) -> None:
    mpi(MPICH, CLASSIC % 1)
    monkeypatch.setenv("MPIR_CVAR_ENABLE_GPU", "0")
    assert cuda_awareness() == (False, "MPICH 5.0.2: MPIR_CVAR_ENABLE_GPU is 0")


@pytest.mark.parametrize(
    ("version", "variable", "why"),
    [
        (MVAPICH, "MV2_USE_CUDA", "MVAPICH 2.3.7: neither MV2_USE_CUDA nor MVP_USE_CUDA is 1"),
        (MVAPICH, "MVP_USE_CUDA", "MVAPICH 2.3.7: neither MV2_USE_CUDA nor MVP_USE_CUDA is 1"),
        (INTEL, "I_MPI_OFFLOAD", "Intel MPI 2021.9: I_MPI_OFFLOAD is not 1 or 2"),
    ],
)
def test_gpus_must_be_switched_on(mpi, monkeypatch: pytest.MonkeyPatch, version: str, variable: str, why: str) -> None:
    """What the library was built with does not count where a run has not switched it on."""
    mpi(version, CLASSIC % 1)
    for off in (None, "0"):
        if off is not None:
            monkeypatch.setenv(variable, off)
        assert cuda_awareness() == (False, why)
    monkeypatch.setenv(variable, "1")
    assert cuda_awareness()[0] is True


@pytest.mark.parametrize("answer", [0, 1])
def test_collectives_take_device_memory_where_the_library_says_so(mpi, answer: int) -> None:
    """A UCX in front of the library does not count."""
    mpi(OPEN_MPI, CLASSIC % answer)
    takes, why = collectives_take_device_memory()
    assert takes is bool(answer)
    assert ("on the host" in why) is not takes


def test_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise RuntimeError("cannot load MPI library")

    monkeypatch.setattr(library, "library_version", fail)
    assert cuda_awareness() == (False, "unknown (RuntimeError: cannot load MPI library)")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/lib/libmpi.so.40.30.4", True),
        ("/opt/cray/lib/libmpi_cray.so.12", True),
        ("/opt/cray/lib/libmpi_gnu_91.so.12", True),
        ("/usr/lib/libmpich.so.12", True),
        ("/usr/lib/libmpi_abi.so.1", True),
        ("/usr/lib/libmpi_mpifh.so.40", False),
        ("/usr/lib/libmpi_cxx.so.40", False),
        ("/usr/lib/libmpir.so", False),
    ],
)
def test_which_libraries_are_asked(path: str, expected: bool) -> None:
    assert bool(library._C_LIBRARY.search(path)) is expected
