"""Running code on real ranks: `on_ranks` for a function, `mpisqueeze_run` for the program. On a GPU: `cuda`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cuda_emulator.fake_cupy import SITE, fake_cupy, have_compiler
from hypothesis import settings

from mpisqueeze.devices import gpu_count
from mpisqueeze.errors import UsageError
from mpisqueeze.launch import Launcher, find_launcher, make_plan

HERE = Path(__file__).parent
#: Where a test runs that needs a GPU: in the emulator, and on a GPU where there is one (`pytest -m gpu`).
EMULATOR_AND_GPU = ["emulator", pytest.param("gpu", marks=pytest.mark.gpu)]

# A run of CI draws the same examples each time.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")


@dataclass
class Finished:
    """A program that ended by itself."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def launcher() -> Launcher:
    """The MPI launcher of this environment; tests that need ranks are skipped where there is none."""
    try:
        return find_launcher(None)
    except UsageError as error:
        pytest.skip(str(error))


def need(where: str) -> None:
    """Skip the test where there is no GPU, or no compiler for the emulator.

    With MPISQUEEZE_REQUIRE_GPU set, a GPU that cannot be used is a failure.
    """
    if where == "emulator":
        if not have_compiler():
            pytest.skip("g++ is not installed: the CUDA kernels cannot be emulated")
        return
    count, why = gpu_count()
    if count == 0:
        (pytest.fail if os.environ.get("MPISQUEEZE_REQUIRE_GPU") else pytest.skip)(f"no GPU: {why}")


@pytest.fixture(scope="session")
def emulator_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are compiled to for the emulator."""
    return tmp_path_factory.mktemp("cuda_emulator")


@pytest.fixture(scope="module", params=EMULATOR_AND_GPU)
def cuda(request: pytest.FixtureRequest, emulator_folder: Path) -> Iterator[Any]:
    """The module cupy: emulated, and the real one."""
    need(request.param)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "emulator":
            patch.setitem(sys.modules, "cupy", fake_cupy(emulator_folder))
            patch.setenv("XDG_CACHE_HOME", str(emulator_folder / "cache"))
        import cupy

        yield cupy


@pytest.fixture(params=EMULATOR_AND_GPU)
def cuda_variables(request: pytest.FixtureRequest, emulator_folder: Path) -> dict[str, str]:
    """Environment variables for a program on the emulated GPU, and none for one on a real GPU."""
    need(request.param)
    if request.param == "gpu":
        return {}
    path = os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH")]))
    return {
        "PYTHONPATH": path,
        "CUDA_EMULATOR": str(emulator_folder),
        "XDG_CACHE_HOME": str(emulator_folder / "cache"),
    }


def start_on_ranks(
    launcher: Launcher, n: int, command: list[str], cwd: Path, timeout: float, **variables: str
) -> Finished:
    """Run `command` on n ranks; a timeout is a failure, and kills them all."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MPISQUEEZE_") or k == "MPISQUEEZE_KERNELS"}
    plan = make_plan(launcher, n, command, environment)
    process = subprocess.Popen(
        plan.arguments,
        env={**environment, **plan.settings, **variables},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        pytest.fail(f"{command} on {n} ranks did not end within {timeout} s\n{out[-2000:]}\n{err[-2000:]}")
    return Finished(process.returncode, out, err)


@pytest.fixture
def on_ranks(launcher: Launcher, tmp_path: Path) -> Callable[..., None]:
    """`on_ranks(n, function, *arguments)`: call a module-level function on n ranks; it fails if it does on any.

    Arguments must survive JSON. One launch costs about a second, so that loops belong inside the function.
    """

    def run(n: int, function: Callable[..., None], *arguments: Any, timeout: float = 120, **variables: str) -> None:
        command = [
            sys.executable,
            str(HERE / "mpi" / "call.py"),
            str(sys.modules[function.__module__].__file__),
            function.__name__,
            json.dumps(arguments),
        ]
        finished = start_on_ranks(launcher, n, command, tmp_path, timeout, **variables)
        assert finished.code == 0, f"{function.__name__} on {n} ranks:\n{finished.out[-3000:]}\n{finished.err[-5000:]}"

    return run


@pytest.fixture
def mpisqueeze_run(launcher: Launcher, tmp_path: Path) -> Callable[..., Finished]:
    """`mpisqueeze_run(n, "train", …)`: the program itself on n ranks, in an empty folder."""

    def run(n: int, *arguments: str, timeout: float = 120, **variables: str) -> Finished:
        command = [sys.executable, "-m", "mpisqueeze", *arguments]
        return start_on_ranks(launcher, n, command, tmp_path, timeout, **variables)

    return run
