"""The one process that writes to a folder: a file in it names the process, and is removed when it ends.

The file is made with O_CREAT | O_EXCL, which is atomic on local and on network file systems (NFS from version 3 on).
Its time of modification is the holder's sign of life. The operating system's own locks (`flock`, `lockf`) reach no
other host on many network file systems, and do not say who holds them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from mpisqueeze.errors import UsageError
from mpisqueeze.streams import say

NAME = "holder.json"
#: A folder beside it while a process removes the file of another one that is gone.
TAKING = "holder.taking"
#: Seconds between two signs of life, and those after which a holder that cannot be looked up is gone.
BEAT_S, STALE_S = 2.0, 60.0
#: Seconds between two looks at a holder that may be gone.
PAUSE_S = 0.1
#: Batch systems: the variables with a job's number, and with how often it was requeued.
_JOBS = {"SLURM_JOB_ID": "SLURM_RESTART_COUNT", "PBS_JOBID": "", "LSB_JOBID": "", "JOB_ID": ""}
#: The holds of this process that have not ended.
_held: list[Hold] = []


class Holder(msgspec.Struct, frozen=True):
    """A process, as holder.json has it.

    Attributes:
        started: when the process began, in the kernel's ticks since the machine did; empty where that is not known.
        place: what its number is unique in: the host, the machine's start and the namespace of processes.
        job: number of the batch job, or None.
        requeued: how often the job was requeued before.
        since: time (UTC) of taking the folder.
        token: random, so that no two holders' files are alike.
    """

    host: str
    pid: int
    started: str
    place: str
    job: str | None
    requeued: int
    since: str
    token: str

    @staticmethod
    def here(environment: Mapping[str, str]) -> Holder:
        """This process, from now on."""
        host, pid = socket.gethostname(), os.getpid()
        place = host
        with contextlib.suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            place = f"{host} {boot} {os.readlink('/proc/self/ns/pid')}"
        job = next((name for name in _JOBS if environment.get(name)), "")
        count = environment.get(_JOBS.get(job, ""), "")
        requeued = int(count) if count.isdecimal() else 0
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        token = secrets.token_hex(8)
        return Holder(host, pid, _started(pid) or "", place, environment.get(job), requeued, now, token)

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


def _started(pid: int) -> str | None:
    """The start of a process of this machine, in ticks; empty where that cannot be told, None if it is gone."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        # Somebody else's, which /proc may hide.
        return ""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if state in "ZX" else rest[18]


class Hold:
    """A folder that this process holds or, without a descriptor, another rank of its run.

    Attributes:
        note: what was found out about a holder before that is gone, for the user; empty if there was none.
    """

    def __init__(self, folder: Path, content: bytes, descriptor: int | None = None, note: str = "") -> None:
        self.content, self.note = content, note
        # The current folder may change.
        self._path = folder.absolute() / NAME
        self._descriptor, self._beaten = descriptor, time.monotonic()
        _held.append(self)

    def check(self) -> None:
        """Give a sign of life if it is time. Raises OSError if the folder is gone or no longer held by this one."""
        if self._descriptor is None:
            return
        try:
            if os.fstat(self._descriptor).st_nlink:
                if time.monotonic() - self._beaten > BEAT_S:
                    self._beaten = time.monotonic()
                    os.utime(self._descriptor)
                return
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        what = "the run folder was removed"
        if os.path.exists(self._path):
            what = "another process has taken the run folder over"
        elif os.path.exists(self._path.parent):
            what = "the run folder was given up, since another rank of this run failed or the file was removed"
        raise FileNotFoundError(errno.ENOENT, what, str(self._path))

    def release(self) -> None:
        """Give the folder up."""
        if self in _held:
            _held.remove(self)
            if self._descriptor is not None:
                self.remove()
                os.close(self._descriptor)
                self._descriptor = None

    def remove(self) -> None:
        """Remove the file, if it is still of this hold."""
        with contextlib.suppress(OSError):
            if self._path.read_bytes() == self.content:
                self._path.unlink()


def beat() -> None:
    """A sign of life in all folders that this process holds, if it is time; from any thread."""
    for hold in [*_held]:
        # Whoever writes to the folder will find out.
        with contextlib.suppress(OSError):
            hold.check()


def release_all() -> None:
    """Give up all folders that this process holds, as its command has ended."""
    for hold in [*_held]:
        hold.release()


@contextlib.contextmanager
def releasing() -> Iterator[None]:
    """Give up what was taken in the block and is still held, as after an error; what was held before stays."""
    before = [*_held]
    try:
        yield
    finally:
        for hold in [hold for hold in _held if hold not in before]:
            hold.release()


def abandon() -> None:
    """Give up all folders of all ranks, which are about to be ended: none of them will come to it."""
    for hold in [*_held]:
        hold.remove()


def take(folder: Path, option: str) -> Hold:
    """Hold a folder, for which this process waits as `check_free` does. Raises UsageError, blaming `option`."""
    path, note = folder / NAME, ""
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileExistsError:
            if gone := _gone(folder, option):
                content, note = gone
                _clear(folder, content)
            continue
        content = msgspec.json.format(msgspec.json.encode(Holder.here(os.environ))) + b"\n"
        hold = Hold(folder, content, descriptor, note)
        try:
            os.write(descriptor, content)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return hold


def check_free(folder: Path, option: str) -> None:
    """Raise UsageError, blaming `option` and naming the holder, if another process holds a folder.

    A holder on this machine is looked up. One elsewhere is waited for: for its next sign of life or, if there is none,
    until the last one is STALE_S seconds old.
    """
    _gone(folder, option)


def _gone(folder: Path, option: str) -> tuple[bytes, str] | None:
    """The content of a file whose holder is gone, and a sentence that says so; None if there is no file."""
    path, here = folder / NAME, Holder.here(os.environ)
    began, first, skew = time.monotonic(), None, 0.0
    while True:
        try:
            with open(path, "rb") as file:
                # Opened anew each time, since a network file system then asks its server.
                content, beaten = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        try:
            holder: Holder | None = msgspec.json.decode(content, type=Holder)
        except msgspec.MsgspecError:
            # It is being written.
            holder = None
        who = str(holder or "a process that is not named")
        if first is None:
            skew = _file_time(folder) - time.time()
        silent = max(time.time() + skew - beaten, time.monotonic() - began if beaten == first else 0.0)
        if holder and holder.place == here.place:
            started = _started(holder.pid)
            if started is None or (started and holder.started and started != holder.started):
                return content, f"{folder} was left behind by {who}, which is gone"
        elif holder and holder.job and holder.job == here.job and holder.requeued < here.requeued:
            return content, f"{folder} was left behind by {who}: the job was requeued"
        elif silent > STALE_S:
            return content, f"{folder} was left behind by {who}, of which there was no sign for {silent:.0f} s"
        elif first in (None, beaten):
            if first is None and holder:
                say(f"mpisqueeze: {folder} is held by {who}: waiting at most {STALE_S:.0f} s for a sign of life")
            first = beaten
            time.sleep(PAUSE_S)
            continue
        what = f"{who}; wait until it ends, or remove {path} if it cannot be at work"
        if holder and (holder.place, holder.pid) == (here.place, here.pid):
            what = f"a run of this process, since {holder.since}; end that first, a script's by finish()"
        raise UsageError(f"{folder} is being written by {what}", option)


def _file_time(folder: Path) -> float:
    """The time (s) by the clock of the file system, which may be another machine's."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _clear(folder: Path, content: bytes) -> None:
    """Remove the file of a holder that is gone, unless another process has done so."""
    path, taking = folder / NAME, folder / TAKING
    try:
        taking.mkdir()
    except FileExistsError:
        # Where several find the holder gone, one at a time looks again: the next may find a new holder.
        with contextlib.suppress(OSError):
            if _file_time(folder) - taking.stat().st_mtime > STALE_S:
                taking.rmdir()
        time.sleep(PAUSE_S)
        return
    try:
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == content:
                path.unlink()
    finally:
        taking.rmdir()
