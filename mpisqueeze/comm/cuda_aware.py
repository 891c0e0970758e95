"""Does the loaded MPI library read GPU memory by itself, or must buffers be staged through the host?"""

from __future__ import annotations

import ctypes
import os

from mpisqueeze.comm import library

_EXTENSION = "MPIX_Query_cuda_support"
_GPU_QUERY = "MPIX_GPU_query_support"
_MPIX_GPU_SUPPORT_CUDA = 0
_OFF = ("0", "no", "off", "false", "disable")
#: Switches of MVAPICH2, and of MVAPICH since version 3; it is built with CUDA, and does without it by default.
_MVAPICH = ("MV2_USE_CUDA", "MVP_USE_CUDA")


def cuda_awareness() -> tuple[bool, str]:
    """(True if MPI takes device pointers, the reason in a few words: `Open MPI 5.0.11 has no CUDA support`).

    The library that mpi4py loaded is asked; no device buffer is tried, since a library without CUDA would crash. An
    error counts as not CUDA-aware.
    """
    try:
        name = library.short_name(library.library_version())
        blocked = _switched_off(name)
        if blocked:
            return False, f"{name}: {blocked}"
        answer = _ask([*library.loaded_libraries(), None])
        if answer is None:
            if name.startswith("Cray"):  # it has no query function, and the variable was checked above
                return True, f"{name} with MPICH_GPU_SUPPORT_ENABLED=1"
            return False, f"{name} cannot say whether it supports CUDA"
        return answer, f"{name} has {'' if answer else 'no '}CUDA support"
    except Exception as error:
        return False, f"unknown ({type(error).__name__}: {error})"


def collectives_take_device_memory() -> tuple[bool, str]:
    """(True if MPI's blocking collectives take device pointers, the reason in a few words).

    The library itself must say so. Where only UCX moves device memory between ranks, the library's loops still copy and
    add on the host, and crash on a device pointer (open-mpi/ompi issues 9906, 12045). Open MPI's non-blocking
    reductions crash even with CUDA support (issue 9845).
    """
    aware, reason = cuda_awareness()
    return aware, reason if aware else f"{reason}, and its loops add up and copy on the host"


def _switched_off(name: str) -> str:
    """The environment variable that switches this library's GPU support off, or an empty string."""
    if name.startswith("Cray MPICH") and os.environ.get("MPICH_GPU_SUPPORT_ENABLED") != "1":
        return "MPICH_GPU_SUPPORT_ENABLED is not 1"
    if name.startswith("MVAPICH") and "1" not in (os.environ.get(variable) for variable in _MVAPICH):
        return f"neither {' nor '.join(_MVAPICH)} is 1"
    # 0, the default, keeps device memory from Intel MPI, whatever its library can do.
    if name.startswith("Intel") and os.environ.get("I_MPI_OFFLOAD", "0").lower() in _OFF:
        return "I_MPI_OFFLOAD is not 1 or 2"
    if name.startswith("MPICH") and os.environ.get("MPIR_CVAR_ENABLE_GPU", "1").lower() in _OFF:
        return "MPIR_CVAR_ENABLE_GPU is 0"
    return ""


def _ask(libraries: list[str | None]) -> bool | None:
    """The answer of the first library that has a query function, or None; a path of None is the global namespace."""
    for path in libraries:
        try:
            mpi = ctypes.CDLL(path)
        except OSError:
            continue
        if hasattr(mpi, _EXTENSION):
            query = getattr(mpi, _EXTENSION)
            query.argtypes, query.restype = [], ctypes.c_int
            return bool(query())
        if hasattr(mpi, _GPU_QUERY):
            query = getattr(mpi, _GPU_QUERY)
            query.argtypes, query.restype = [ctypes.c_int, ctypes.POINTER(ctypes.c_int)], ctypes.c_int
            supported = ctypes.c_int(0)
            return query(_MPIX_GPU_SUPPORT_CUDA, ctypes.byref(supported)) == 0 and bool(supported.value)
    return None
