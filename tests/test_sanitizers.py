"""The CUDA sources under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, in the emulator.

NVIDIA's compute-sanitizer needs a GPU. What the emulator runs, g++'s sanitizers see: accesses outside of arrays that
end where their memory does, undefined arithmetic, and accesses of two threads that no barrier, atomic or launch orders.
Each of them must report the faults that are planted here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import need
from cuda_emulator.fake_cupy import SITE

from mpisqueeze.kernels.cuda import cuda_sources

PROGRAM = SITE.with_name("sanitized.py")
#: Names as in `sanitized.FAULTS`, with what the report says.
FAULTS = {
    "a store beyond the end": ("address", "AddressSanitizer"),
    "a histogram too small": ("address", "AddressSanitizer|out of bounds"),
    "a shift by too much": ("address", "shift exponent"),
    "no barrier of a warp": ("threads", "data race"),
    "no barrier of a block": ("threads", "data race"),
    "blocks that add without an atomic": ("blocks", "data race"),
}
#: The sanitizer of each kind of check. The threads of a block are checked, and then blocks, whose __shared__ memory is
#: one in the emulator.
SANITIZERS = {"address": "address", "threads": "thread", "blocks": "thread"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def library(kind: str) -> str:
    """The path of a sanitizer's library, which the compiler knows."""
    name = {"address": "libasan.so", "thread": "libtsan.so"}[SANITIZERS[kind]]
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    if not path.is_absolute():
        pytest.skip(f"g++ has no {name}")
    return str(path.resolve())


def sanitized(kind: str, folder: Path, *fault: str) -> subprocess.CompletedProcess[str]:
    need("emulator")
    tests, shared = SITE.parents[1], folder / "shared_memory.txt"
    names = {name for source in cuda_sources().values() for name in re.findall(r"__shared__ \w+ (\w+)", source)}
    shared.write_text("".join(f"race:::{name}$\n" for name in names))
    paths = [str(SITE), str(tests), str(tests / "mpi"), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "LD_PRELOAD": library(kind),
        "CUDA_EMULATOR": str(folder),
        "CUDA_EMULATOR_SANITIZER": SANITIZERS[kind],
        "XDG_CACHE_HOME": str(folder / f"cache-{kind}"),
        "OPENBLAS_NUM_THREADS": "1",
        # Python leaks by design.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0",
    }
    if kind == "threads":
        variables["CUDA_EMULATOR_BLOCKS"] = "ordered"
    if kind == "blocks":
        variables["TSAN_OPTIONS"] += f":suppressions={shared}"
    command = [sys.executable, str(PROGRAM), kind, *fault]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=850)


@pytest.mark.parametrize("kind", SANITIZERS)
def test_a_sanitizer_finds_nothing(kind: str, emulator_folder: Path) -> None:
    done = sanitized(kind, emulator_folder)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "checks" in done.stdout
    assert "runtime error" not in done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sanitizer_finds_what_is_planted(fault: str, emulator_folder: Path) -> None:
    kind, told = FAULTS[fault]
    done = sanitized(kind, emulator_folder, fault)
    assert done.returncode != 0
    assert any(words in done.stderr for words in told.split("|")), done.stderr[-6000:]
