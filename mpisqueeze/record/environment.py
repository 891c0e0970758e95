"""The software and the machines of a run: the content of `environment.json`."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mpisqueeze
from mpisqueeze.comm import library
from mpisqueeze.control_groups import total_memory
from mpisqueeze.devices.cores import cpu_quotas, granted, logical_cores
from mpisqueeze.quantities import counted

if TYPE_CHECKING:
    from mpisqueeze.mpi import MPI

# Names of settings that change timings or placement; never the whole environment, which may hold secrets.
_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "SLURM_JOB_ID",
    "SLURM_JOB_NUM_NODES",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_PARTITION",
    "SLURM_NTASKS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_CPUS_PER_TASK",
    "PBS_JOBID",
    "LSB_JOBID",
    "MPICH_GPU_SUPPORT_ENABLED",
    "MV2_USE_CUDA",
    "MVP_USE_CUDA",
    "MPISQUEEZE_LAUNCHED_RANKS",
)
_PREFIXES = ("OMPI_MCA_", "PRTE_MCA_", "PMIX_MCA_", "MPIR_CVAR_", "I_MPI_", "UCX_", "FI_", "NCCL_")
# Set by launchers for their own use, different in every run.
_INTERNAL = (
    "PMIX_MCA_mca_base_component_show_load_errors",
    "I_MPI_HYDRA_UUID",
    "I_MPI_ROOT",
    "FI_PROVIDER_PATH",
)
_CUPY_WHEELS = ("cupy", "cupy-cuda12x", "cupy-cuda13x", "cupy-cuda11x")


def collect_environment(comm: MPI.Comm) -> dict[str, Any]:
    """Gather the description of this run's software and machines; collective over `comm`.

    Returns:
        On rank 0, an object for `environment.json`, memory in bytes and times in UTC; on other ranks an empty
        one. What cannot be found out is None. Versions and variables are those of rank 0.
    """
    # Of virtual workers, the first one of each process speaks for it.
    gathered = comm.gather(_machine() if getattr(comm, "leads", True) else None, root=0)
    if gathered is None:
        return {}
    machines = [machine for machine in gathered if machine]
    from mpisqueeze.mpi import MPI

    major, minor = MPI.Get_version()
    loaded = library.loaded_libraries()
    return {
        **_software(),
        "mpi_library": library.library_line(library.library_version()),
        "mpi_library_path": loaded[0] if loaded else None,
        "mpi_abi": library.binding_abi(),
        "mpi_standard": f"{major}.{minor}",
        "ranks": len(machines),
        "workers": len(gathered) if getattr(comm, "virtual", False) else None,
        "hosts": _by_host(machines),
        "variables": _variables(),
    }


def local_environment() -> dict[str, Any]:
    """The same for this process alone, without MPI."""
    unknown = dict.fromkeys(("mpi_library", "mpi_library_path", "mpi_abi", "mpi_standard", "workers"))
    return {
        **_software(),
        **unknown,
        "ranks": 1,
        "hosts": _by_host([_machine()]),
        "variables": _variables(),
    }


def crowding(environment: Mapping[str, Any]) -> list[str]:
    """A warning, or none, for an object of `collect_environment`: ranks share cores, and so take turns."""
    hosts = [host for host in environment.get("hosts") or [] if host.get("cores") and host.get("ranks")]
    if environment.get("lab") and hosts:
        # Its hosts are one machine.
        hosts = [{"ranks": sum(host["ranks"] for host in hosts), "cores": max(host["cores"] for host in hosts)}]
    most = max(hosts, key=lambda host: host["ranks"] / host["cores"], default=None)
    if most is None or most["ranks"] <= most["cores"]:
        return []
    cores = counted(most["cores"], "core")
    return [f"{most['ranks']} ranks share {cores}: they take turns, and times are longer than with a core for each"]


def cores_of(host: Mapping[str, Any]) -> str:
    """The cores of one of `hosts`, and the CPU time that quotas grant of them, in words."""
    cores, quota = host.get("cores"), host.get("cpu_quota")
    known = "cores unknown" if cores is None else counted(cores, "core")
    return f"{known} with a CPU quota of {quota:.3g}" if quota else known


def ranks_on_hosts(environment: Mapping[str, Any]) -> str:
    """The MPI library, its ranks and hosts, and the cores of the one with the least quota, in words."""
    library, hosts = (environment["mpi_library"] or "unknown").partition(",")[0], environment["hosts"]
    least = min((host for host in hosts if host["cpu_quota"]), key=lambda host: host["cpu_quota"], default=None)
    return f"{library}, {places(environment)}" + (f"; {cores_of(least)}" if least else "")


def places(environment: Mapping[str, Any]) -> str:
    """Ranks and hosts, and the virtual workers that they have, in words."""
    found = f"{counted(environment['ranks'], 'rank')} on {counted(len(environment['hosts']), 'host')}"
    workers = environment.get("workers")
    return f"{counted(workers, 'virtual worker')} on {found}" if workers else found


def _software() -> dict[str, Any]:
    return {
        "started_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command_line": shlex.join([sys.executable, *sys.orig_argv[1:]]),
        "git_commit": _own_commit(),
        "versions": {
            "mpisqueeze": mpisqueeze.__version__,
            "python": platform.python_version(),
            "numpy": _version("numpy"),
            "mpi4py": _version("mpi4py"),
            "cupy": _cupy_version(),
            "torch": _version("torch") if "torch" in sys.modules else None,
        },
    }


def _machine() -> dict[str, Any]:
    return {
        "hostname": platform.node(),
        "cpu_model": _cpu_model(),
        "memory_bytes": total_memory(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": sorted(logical_cores()),
        "cpu_quota": cpu_quotas(),
    }


def _by_host(machines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a host, in order of its lowest rank; a rank bound to some cores adds those to its host's."""
    hosts: dict[str, dict[str, Any]] = {}
    for machine in machines:
        host = hosts.setdefault(machine["hostname"], {**machine, "ranks": 0, "cores": set(), "cpu_quota": []})
        host["ranks"] += 1
        host["cores"].update(machine["cores"])
        host["cpu_quota"].append(machine["cpu_quota"])
    for host in hosts.values():
        cores, quota = len(host["cores"]), granted(host["cpu_quota"])
        host |= {"cores": cores, "cpu_quota": quota if quota < cores else None}
    return list(hosts.values())


def _cpu_model() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or None


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cupy_version() -> str | None:
    """CuPy's version without importing it, for that would start CUDA on runs that stay on the CPU."""
    loaded = getattr(sys.modules.get("cupy"), "__version__", None)
    return loaded or next((version for wheel in _CUPY_WHEELS if (version := _version(wheel))), None)


def _variables() -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in _VARIABLES or (name.startswith(_PREFIXES) and name not in _INTERNAL)
    }


@cache
def _own_commit() -> str | None:
    """The commit of this program, which no edit changes while it runs."""
    return _git_commit(Path(mpisqueeze.__file__).parent)


def _git_commit(package: Path) -> str | None:
    """The commit of the source tree around `package`, with `+dirty` if its tracked files differ from it."""

    def git(*arguments: str) -> str:
        # Without optional locks, a status on a tree that someone else works in leaves their index alone.
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(package), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()

    try:
        # An installed copy may lie within somebody else's repository, which does not track it.
        git("ls-files", "--error-unmatch", "__init__.py")
        commit = git("rev-parse", "HEAD")
        return f"{commit}+dirty" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None
