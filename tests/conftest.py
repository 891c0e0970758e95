"""Running code on real ranks: `on_ranks` for a function, `mpisqueeze_run` for the program. On a GPU: `cuda`."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from pathlib import Path
from typing import Any

import pytest
from cuda_emulator.fake_cupy import SITE, fake_cupy, have_compiler
from hypothesis import settings

from mpisqueeze.comm.cuda_aware import cuda_awareness
from mpisqueeze.devices.device import gpu_count
from mpisqueeze.errors import UsageError
from mpisqueeze.launch import Launcher, find_launcher, make_plan

HERE = Path(__file__).parent
#: Where a test runs that needs a GPU: in the emulator, and on a GPU where there is one (`pytest -m gpu`).
EMULATOR_AND_GPU = ["emulator", pytest.param("gpu", marks=pytest.mark.gpu)]

# `nohup pytest &` and some CI have SIGINT ignored, and every program that a test starts would inherit that. A handler
# that does nothing leaves pytest as deaf as it was told to be, and becomes the default action in those programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, lambda number, frame: None)

# A run of CI draws the same examples each time. How long one takes depends on what else the machine does.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# Ranks share cores with those of other workers of pytest-xdist: one that waits leaves its core to others.
os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
# Open MPI sleeps for a second when it closes its one-sided transfers by libfabric, in each rank that starts.
os.environ.setdefault("OMPI_MCA_btl", "^ofi")
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
#: Files that one worker runs, since they share ranks that wait for calls.
SHARE_RANKS = (
    (
        "test_train",
        "test_check",
        "test_compare",
        "test_checkpoint",
        "test_examples",
        "test_reproduce",
        "test_acceptance",
    ),
    ("test_identities", "test_gossip", "test_link", "test_overlap", "test_pieces", "test_world"),
)
#: Files that take long: a worker that began one of them last would be waited for.
LONG = (
    *itertools.chain(*SHARE_RANKS), "test_faults", "test_docs", "test_lab", "test_job_files", "test_holder",
    "test_launch", "test_gpu_jobs", "test_stdout", "test_kernel_properties", "test_streams", "test_devices",
    "test_html", "test_acceptance", "test_clock",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers of pytest-xdist get whole files, or groups of them, in the order in which they are collected."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = Path(nodeid.partition("::")[0]).stem
            return next((names[0] for names in SHARE_RANKS if name in names), name)

    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if IS_WORKER:
        items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if IS_WORKER else base


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest, common_folder: Path) -> Iterator[None]:
    """While a test marked `timed` runs, other workers wait with their next one: it measures times."""
    if not IS_WORKER:
        yield
        return
    kind = LOCK_EX if request.node.get_closest_marker("timed") else LOCK_SH
    with open(common_folder / "door", "w") as door, open(common_folder / "room", "w") as room:
        # Who waits for the room to be empty lets nobody else in.
        flock(door, LOCK_EX)
        flock(room, kind)
        flock(door, LOCK_UN)
        try:
            yield
        finally:
            # A process that was forked meanwhile has the same lock.
            flock(room, LOCK_UN)


@pytest.fixture(scope="session")
def session_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths that nobody has had. pytest's `mktemp` reads all names of its folder each time."""
    base = tmp_path_factory.mktemp("sessions")
    return (base / f"{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def own_session_folder(session_folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for the session of an mpirun that a test starts without `launch`: see `launch.session_folder`."""
    folder = next(session_folders)
    folder.mkdir()
    monkeypatch.setenv("PRTE_MCA_prte_local_tmpdir_base", str(folder))


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the test, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wait_for(
    condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = 60, pause: float = 0.02
) -> Any:
    """The first true value of `condition`, which is asked again and again."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        late = time.monotonic() > deadline
        assert not late, f"waited {seconds} s for {what if isinstance(what, str) else what()}"
        time.sleep(pause)
    return found


def logged(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, each a JSON object."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass
class Finished:
    """A program that ended by itself."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def well(self) -> Finished:
        """Itself; it must have ended well."""
        assert self.code == 0, self.err + self.out
        return self


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
def emulator_folder(common_folder: Path) -> Path:
    """Folder of the kernels that are compiled for the emulator."""
    folder = common_folder / "cuda_emulator"
    folder.mkdir(exist_ok=True)
    return folder


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


@pytest.fixture
def need_device_memory(cuda_variables: dict[str, str]) -> Callable[[], None]:
    """Skip a test where MPI would be handed a GPU's memory that it cannot read, and crash."""

    def need_it() -> None:
        if not cuda_variables and not cuda_awareness()[0]:
            pytest.skip("this MPI library takes no device memory")

    return need_it


def start(
    launcher: Launcher, n: int, command: list[str], cwd: Path, stdout: Any, stderr: Any, **variables: str
) -> subprocess.Popen[str]:
    """Start `command` on n ranks, in a process group of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MPISQUEEZE_") or k == "MPISQUEEZE_KERNELS"}
    plan = make_plan(launcher, n, command, environment)
    return subprocess.Popen(
        plan.arguments,
        env={**environment, **plan.settings, **variables},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def start_on_ranks(
    launcher: Launcher, n: int, command: list[str], cwd: Path, timeout: float, **variables: str
) -> Finished:
    """Run `command` on n ranks; a timeout is a failure, and kills them all."""
    process = start(launcher, n, command, cwd, subprocess.PIPE, subprocess.PIPE, **variables)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        pytest.fail(f"{command} on {n} ranks did not end within {timeout} s\n{out[-2000:]}\n{err[-2000:]}")
    return Finished(process.returncode, out, err)


class Ranks:
    """n ranks that wait for functions to call."""

    def __init__(self, launcher: Launcher, n: int, folder: Path, **variables: str) -> None:
        self.n, self.folder = n, folder
        for name in ("done", *(f"calls.{rank}" for rank in range(n))):
            os.mkfifo(folder / name)
        command = [sys.executable, str(HERE / "mpi" / "call.py"), str(folder)]
        with open(folder / "launcher", "w") as said:
            self.process = start(launcher, n, command, folder, stdout=said, stderr=said, **variables)
        # Open for reading, too, so that neither end waits for the other, or finds it gone.
        self.calls = [os.open(folder / f"calls.{rank}", os.O_RDWR) for rank in range(n)]
        self.done = os.open(folder / "done", os.O_RDWR)

    def call(self, function: Callable[..., None], arguments: tuple[Any, ...], here: Path, timeout: float) -> None:
        """Call a module-level function on all of them; where that fails they are gone, and so does the test."""
        said = {path: path.stat().st_size for path in self.printed()}
        if not self.ended(str(sys.modules[function.__module__].__file__), function.__name__, arguments, here, timeout):
            text = "".join(path.read_bytes()[said.get(path, 0) :].decode()[-5000:] for path in self.printed())
            pytest.fail(f"{function.__name__} on {self.n} ranks ended with {self.process.returncode}:\n{text}")

    def program(self, arguments: tuple[str, ...], here: Path, folder: Path, timeout: float) -> Finished:
        """Run the program on all of them, what it prints going to `folder`."""
        well = self.ended(str(HERE / "mpi" / "call.py"), "program", (str(folder), arguments), here, timeout)
        out, err = ("".join(path.read_text() for path in sorted(folder.glob(f"{name}.*"))) for name in ("out", "err"))
        codes = [int(path.read_text()) for path in sorted(folder.glob("code.*"))] if well else [self.process.returncode]
        return Finished(next((code for code in codes if code), 0), out, err)

    def ended(self, file: str, function: str, arguments: tuple[Any, ...], here: Path, timeout: float) -> bool:
        line = json.dumps([file, function, arguments, str(here)]) + "\n"
        for pipe in self.calls:
            os.write(pipe, line.encode())
        waiting, deadline = self.n, time.monotonic() + timeout
        while waiting:
            if select.select([self.done], [], [], 0.05)[0]:
                waiting -= os.read(self.done, 4096).count(b"\n")
            elif not self.alive():
                self.end()
                return False
            elif time.monotonic() > deadline:
                self.end()
                pytest.fail(f"{function} {arguments} on {self.n} ranks did not end within {timeout} s")
        return True

    def printed(self) -> list[Path]:
        return [*sorted(self.folder.glob("printed.*")), self.folder / "launcher"]

    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        """No more calls: they end by themselves, unless they are stuck in one."""
        for pipe in (*self.calls, self.done):
            os.close(pipe)
        self.calls = []
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def waiting_ranks(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Ranks]]:
    """`waiting_ranks(n, **variables)`: n ranks that all tests share, or all that need the emulator."""
    started: dict[Any, Ranks] = {}

    def get(n: int, **variables: str) -> Ranks:
        key = (n, *sorted(variables.items()))
        if key not in started or not started[key].alive():
            started[key] = Ranks(launcher, n, tmp_path_factory.mktemp(f"ranks-{n}"), **variables)
        return started[key]

    yield get
    for ranks in started.values():
        if ranks.calls:
            ranks.end()


def shared(alone: bool, variables: dict[str, str]) -> bool:
    """Whether ranks that wait for calls will do: they have no other variables than the emulator's."""
    return not alone and (not variables or "CUDA_EMULATOR" in variables)


@pytest.fixture
def on_ranks(
    launcher: Launcher, waiting_ranks: Callable[..., Ranks], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., None]:
    """`on_ranks(n, function, *arguments)`: call a module-level function on n ranks; it fails if it does on any.

    Arguments must survive JSON. All functions are called by the same n ranks, since a launch costs about a second.
    One that changes the process that it is in asks for ranks of its own, `alone=True`; environment variables do, too.
    """

    def run(
        n: int,
        function: Callable[..., None],
        *arguments: Any,
        timeout: float = 120,
        alone: bool = False,
        **variables: str,
    ) -> None:
        if shared(alone, variables):
            waiting_ranks(n, **variables).call(function, arguments, tmp_path, timeout)
            return
        ranks = Ranks(launcher, n, tmp_path_factory.mktemp("ranks"), **variables)
        ranks.call(function, arguments, tmp_path, timeout)
        ranks.end()

    return run


@pytest.fixture
def mpisqueeze_run(
    launcher: Launcher, waiting_ranks: Callable[..., Ranks], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Finished]:
    """`mpisqueeze_run(n, "train", …)`: the program on n ranks, in an empty folder.

    It is called by ranks that wait for that. With `alone=True`, or with environment variables, it is launched.
    """

    def run(n: int, *arguments: str, timeout: float = 120, alone: bool = False, **variables: str) -> Finished:
        if shared(alone, variables):
            return waiting_ranks(n, **variables).program(arguments, tmp_path, tmp_path_factory.mktemp("said"), timeout)
        command = [sys.executable, "-m", "mpisqueeze", *arguments]
        return start_on_ranks(launcher, n, command, tmp_path, timeout, **variables)

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line that is wrong, in this process; give the one line that says so."""
    from mpisqueeze.cli.app import run

    def refuse(*arguments: str) -> str:
        assert run(list(arguments)) == 2
        out, err = capsys.readouterr()
        (line,) = [line for line in err.splitlines() if line.startswith("mpisqueeze: error:")]
        assert out == ""
        assert "Traceback" not in err
        return line

    return refuse
