"""The MPI library that mpi4py loaded, and the check that this process's launcher belongs to it."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path

_C_LIBRARY = re.compile(r"/lib(mpi|mpich|mpi_abi|mpi_cray|mpi_gnu\w*|mpi_ibm)\.so[.\d]*$")
#: Variables with the number of ranks, and the launchers that set them.
_SIZE_VARIABLES = {
    "OMPI_COMM_WORLD_SIZE": "Open MPI's launcher",
    "PMI_SIZE": "MPICH's or Intel MPI's launcher",
    "MV2_COMM_WORLD_SIZE": "MVAPICH's launcher",
}


def library_version() -> str:
    """The library's own version text, often several lines."""
    from mpisqueeze.mpi import MPI

    return MPI.Get_library_version().strip("\0 \n")


def library_line(version: str) -> str | None:
    """The first line of `library_version` without columns: `MPICH 5.0.2`, `Open MPI v5.0.11, package: …`."""
    first = version.strip("\0 \n").partition("\n")[0]
    return " ".join(re.sub(r"\s+Version\s*:", " ", first).split()) or None


def short_name(version: str) -> str:
    """A short name such as `Open MPI 5.0.11`, from the long text of `library_version`."""
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


def loaded_libraries() -> list[str]:
    """Paths of the MPI C libraries in this process; empty where the system does not show them."""
    paths: dict[str, None] = {}
    try:
        with open("/proc/self/maps", errors="surrogateescape") as maps:
            for line in maps:
                path = line.rstrip("\n").partition("/")[2]
                if path and _C_LIBRARY.search(f"/{path}"):
                    paths[f"/{path}"] = None
    except OSError:  # no /proc, as on macOS
        pass
    return list(paths)


def other_libraries(loaded: str) -> list[str]:
    """Paths of MPI libraries beside the loaded one; there are some if wheels of two MPIs share an environment."""
    mine = Path(loaded).stat()
    # Wheels contain copies instead of links, and a linker script as libmpi.so.
    found = (path for path in Path(loaded).parent.iterdir() if re.fullmatch(r"libmpi\.so\.\d+", path.name))
    return sorted(str(path) for path in found if path.stat().st_size != mine.st_size)


def binding_abi() -> str | None:
    """The ABI of mpi4py's module as its wheels name it (`mpich`, `openmpi`), or None if it was built here.

    The library is loaded, but MPI is not started.
    """
    try:
        found = importlib.util.find_spec("mpi4py.MPI")
    except (ImportError, RuntimeError, ValueError):
        return None
    name = re.match(r"MPI\.([a-z]+)\.", os.path.basename(found.origin or "")) if found else None
    return None if name is None or name[1] in ("abi", "cpython", "pypy") else name[1]


def unsuited_launcher(environment: Mapping[str, str]) -> str | None:
    """An error message if Open MPI's launcher started this process but mpi4py loads MPICH; else None.

    MPICH's wheels lack PMIx, so MPICH would end the process.
    """
    if "OMPI_COMM_WORLD_SIZE" not in environment or "PMI_SIZE" in environment or binding_abi() != "mpich":
        return None
    return "Open MPI's launcher started this program, but mpi4py loads MPICH or one of its kin: use that one's mpiexec"


def launched_apart(size: int, environment: Mapping[str, str]) -> str | None:
    """An error message if another MPI's launcher started this process, so that each rank is alone; else None.

    Args:
        size: size of COMM_WORLD.
        environment: environment variables of this process.
    """
    if size != 1:
        return None
    told = [(environment.get(name, ""), who) for name, who in _SIZE_VARIABLES.items()]
    if "TORCHELASTIC_RUN_ID" in environment:
        # `mpisqueeze launch` sets WORLD_SIZE, too, but it starts ranks of MPI.
        told.append((environment.get("WORLD_SIZE", ""), "torchrun"))
    told = [(count, who) for count, who in told if count.isdigit()]
    if not told and not any(name.startswith(("PMIX_", "PMI_")) for name in environment):
        # An srun without a PMI plug-in starts the program all the same. Under mpirun, srun starts the daemons instead.
        told = [(environment.get("SLURM_STEP_NUM_TASKS", ""), "srun")]
    wrong = [(int(count), who) for count, who in told if count.isdigit()]
    if not wrong or any(count == 1 for count, _ in wrong):  # a launcher may have been started by another's rank
        return None
    count, who = wrong[0]
    return f"{who} started {count} ranks, but the MPI that mpi4py loads, {short_name(library_version())}, sees 1"
