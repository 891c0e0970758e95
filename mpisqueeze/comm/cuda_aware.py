"""Does the loaded MPI library read GPU memory by itself, or must buffers be staged through the host?"""

from __future__ import annotations

import ctypes
import os
import re

_EXTENSION = "MPIX_Query_cuda_support"
_GPU_QUERY = "MPIX_GPU_query_support"
_MPIX_GPU_SUPPORT_CUDA = 0
_C_LIBRARY = re.compile(r"/lib(mpi|mpich|mpi_abi|mpi_cray|mpi_gnu\w*|mpi_ibm)\.so[.\d]*$")


def cuda_awareness() -> tuple[bool, str]:
    """Whether MPI takes device pointers, and why, in a few words (`Open MPI 5.0.11 has no CUDA support`).

    Asks the library that mpi4py loaded; no device buffer is touched, for a library without CUDA would crash
    on it. Never raises: whatever goes wrong counts as not CUDA-aware.
    """
    try:
        name = _short_name(_library_version())
        blocked = _switched_off(name)
        if blocked:
            return False, f"{name}: {blocked}"
        answer = _ask(_mpi_libraries())
        if answer is None:
            if name.startswith("Cray"):  # the variable was checked above, and it has no other word on it
                return True, f"{name} with MPICH_GPU_SUPPORT_ENABLED=1"
            return False, f"{name} cannot say whether it supports CUDA"
        return answer, f"{name} has {'' if answer else 'no '}CUDA support"
    except Exception as error:
        return False, f"unknown ({type(error).__name__}: {error})"


def collectives_take_device_memory() -> tuple[bool, str]:
    """Whether MPI's own collectives may be handed device memory, and why, in a few words.

    Only where the library itself says that it takes it. Where a UCX in front of it moves device memory between ranks,
    its own loops still copy a rank's part and add up on the host, and crash on a device's pointer (open-mpi/ompi issues
    9906, 12045). Blocking calls alone: Open MPI's non-blocking reductions crash with CUDA support, too (issue 9845).
    """
    aware, reason = cuda_awareness()
    return aware, reason if aware else f"{reason}, and its loops add up and copy on the host"


def _library_version() -> str:
    from mpi4py import MPI

    return MPI.Get_library_version()


def _short_name(version: str) -> str:
    """`Open MPI 5.0.11` out of the long text of MPI_Get_library_version."""
    for pattern, name in (
        (r"Open MPI v?([\w.]+)", "Open MPI"),
        (r"CRAY MPICH version ([\w.]+)", "Cray MPICH"),
        (r"MVAPICH\S* Version\s*:\s*([\w.]+)", "MVAPICH"),
        (r"MPICH Version:\s*([\w.]+)", "MPICH"),
        (r"Intel\(R\) MPI Library ([\w.]+)", "Intel MPI"),
    ):
        if found := re.search(pattern, version):
            return f"{name} {found[1]}"
    return next((line.strip()[:60] for line in version.splitlines() if line.strip()), "unknown MPI")


def _switched_off(name: str) -> str:
    """Why the environment keeps this library's GPU support off, or an empty string."""
    if name.startswith("Cray MPICH") and os.environ.get("MPICH_GPU_SUPPORT_ENABLED") != "1":
        return "MPICH_GPU_SUPPORT_ENABLED is not 1"
    if name.startswith("MPICH") and os.environ.get("MPIR_CVAR_ENABLE_GPU", "1").lower() in (
        "0",
        "no",
        "off",
        "false",
    ):
        return "MPIR_CVAR_ENABLE_GPU is 0"
    return ""


def _mpi_libraries() -> list[str | None]:
    """Paths of the MPI C libraries in this process; None stands for its global symbols."""
    paths: dict[str | None, None] = {}
    try:
        with open("/proc/self/maps") as maps:
            for line in maps:
                path = line.rstrip("\n").partition("/")[2]
                if path and _C_LIBRARY.search(f"/{path}"):
                    paths[f"/{path}"] = None
    except OSError:  # no /proc, as on macOS
        pass
    return [*paths, None]


def _ask(libraries: list[str | None]) -> bool | None:
    """The answer of the first library with a query function, or None."""
    for path in libraries:
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        if hasattr(library, _EXTENSION):
            query = getattr(library, _EXTENSION)
            query.argtypes, query.restype = [], ctypes.c_int
            return bool(query())
        if hasattr(library, _GPU_QUERY):
            query = getattr(library, _GPU_QUERY)
            query.argtypes, query.restype = [ctypes.c_int, ctypes.POINTER(ctypes.c_int)], ctypes.c_int
            supported = ctypes.c_int(0)
            return query(_MPIX_GPU_SUPPORT_CUDA, ctypes.byref(supported)) == 0 and bool(supported.value)
    return None
