"""Running code on real ranks: `on_ranks` for a function, `mpisqueeze_run` for the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mpisqueeze.errors import UsageError
from mpisqueeze.launch import Launcher, find_launcher, make_plan

HERE = Path(__file__).parent


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

    def run(n: int, function: Callable[..., None], *arguments: Any, timeout: float = 120) -> None:
        command = [
            sys.executable,
            str(HERE / "mpi" / "call.py"),
            str(sys.modules[function.__module__].__file__),
            function.__name__,
            json.dumps(arguments),
        ]
        finished = start_on_ranks(launcher, n, command, tmp_path, timeout)
        assert finished.code == 0, f"{function.__name__} on {n} ranks:\n{finished.out[-3000:]}\n{finished.err[-5000:]}"

    return run


@pytest.fixture
def mpisqueeze_run(launcher: Launcher, tmp_path: Path) -> Callable[..., Finished]:
    """`mpisqueeze_run(n, "train", …)`: the program itself on n ranks, in an empty folder."""

    def run(n: int, *arguments: str, timeout: float = 120, **variables: str) -> Finished:
        command = [sys.executable, "-m", "mpisqueeze", *arguments]
        return start_on_ranks(launcher, n, command, tmp_path, timeout, **variables)

    return run
