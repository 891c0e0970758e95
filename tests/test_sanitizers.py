"""The CUDA sources under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, in the emulator.

NVIDIA's compute-sanitizer needs a GPU. What the emulator runs, g++'s sanitizers see: accesses outside of arrays that
end where their memory does, undefined arithmetic, and accesses of two threads that no barrier, atomic or launch orders.
Each of them must report the faults that are planted here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import need
from cuda_emulator.fake_cupy import SITE

PROGRAM = SITE.with_name("sanitized.py")
#: Names as in `sanitized.FAULTS`, with what the report says.
FAULTS = {
    "a store beyond the end": ("address", "AddressSanitizer"),
    "a histogram too small": ("address", "AddressSanitizer|out of bounds"),
    "a shift by too much": ("address", "shift exponent"),
    "no barrier of a warp": ("thread", "data race"),
    "no barrier of a block": ("thread", "data race"),
    "blocks that do not count themselves": ("thread", "data race"),
}

pytestmark = pytest.mark.slow


def library(kind: str) -> str:
    """The path of a sanitizer's library, which the compiler knows."""
    name = {"address": "libasan.so", "thread": "libtsan.so"}[kind]
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    if not path.is_absolute():
        pytest.skip(f"g++ has no {name}")
    return str(path.resolve())


def sanitized(kind: str, folder: Path, *fault: str) -> subprocess.CompletedProcess[str]:
    need("emulator")
    tests = SITE.parents[1]
    paths = [str(SITE), str(tests), str(tests / "mpi"), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "LD_PRELOAD": library(kind),
        "CUDA_EMULATOR": str(folder),
        "CUDA_EMULATOR_SANITIZER": kind,
        "XDG_CACHE_HOME": str(folder / f"cache-{kind}"),
        "OPENBLAS_NUM_THREADS": "1",
        # Python leaks by design.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0",
    }
    command = [sys.executable, str(PROGRAM), kind, *fault]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize("kind", ["address", "thread"])
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
