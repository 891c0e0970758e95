"""Problems that go wrong on one rank, in iteration 30, after at least a second; the file `fault` says when.

And algorithms that do when all is done.
"""

from __future__ import annotations

import atexit
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from mpisqueeze.algorithms.doublesqueeze import DoubleSqueeze
from mpisqueeze.comm import launched, watchdog

D, WHEN = 1000, 30


class Faulty:
    """A gradient of ones, until `fault`."""

    dimension = D
    rank_at_fault = 1

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        self.rank, self.dtype = rank, dtype

    def initial_point(self) -> Any:
        return np.zeros(D, self.dtype)

    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        time.sleep(0.04)
        g = np.ones(D, self.dtype)
        if iteration == WHEN and self.rank == self.rank_at_fault:
            Path("fault").write_text(str(time.time()))
            self.fault(g)
        return 1.0, g

    def fault(self, g: Any) -> None:
        raise NotImplementedError


class Sleeps(Faulty):
    def fault(self, g: Any) -> None:
        time.sleep(1000)


class Stops(Faulty):
    def fault(self, g: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


class RootStops(Stops):
    rank_at_fault = 0


class Dies(Faulty):
    def fault(self, g: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Raises(Faulty):
    def fault(self, g: Any) -> None:
        raise RuntimeError("out of luck")


class NotANumber(Faulty):
    def fault(self, g: Any) -> None:
        g[7] = np.nan


class FullDisk(Faulty):
    """From here on no file of this process may grow."""

    rank_at_fault = 0

    def fault(self, g: Any) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))


class FolderGone(Faulty):
    rank_at_fault = 0

    def fault(self, g: Any) -> None:
        shutil.rmtree(Path("run"))


class FolderTaken(Faulty):
    """Another run, to which this one seemed to be gone, holds its folder."""

    rank_at_fault = 0

    def fault(self, g: Any) -> None:
        other = Path("run", "other")
        other.write_text("{}")
        other.replace(Path("run", "holder.json"))


class Damages(Faulty):
    """From here on this rank's checksums are wrong, as if its messages were damaged."""

    def fault(self, g: Any) -> None:
        from mpisqueeze.comm import checksum

        right = checksum.zlib.crc32

        class Wrong:
            @staticmethod
            def crc32(data: Any) -> int:
                return right(data) ^ 1

        checksum.zlib = Wrong  # type: ignore[misc]


class LauncherDies(Faulty):
    """Kills the program that started the ranks."""

    def fault(self, g: Any) -> None:
        (Path.cwd() / f"pid-{self.rank}").write_text(str(os.getpid()))
        os.kill(os.getppid(), signal.SIGKILL)


class AllStop(Faulty):
    """Every rank stops itself; as a scheduler does that suspends a job."""

    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        if iteration == WHEN:
            (Path.cwd() / f"pid-{self.rank}").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().gradient(x, iteration)

    def fault(self, g: Any) -> None:
        pass


class StopsBefore(Faulty):
    """Rank 1 is stopped while the run is set up."""

    def __init__(self, rank: int, *more: Any) -> None:
        super().__init__(rank, *more)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)


class StopsAfter(Faulty):
    """Rank 1 is stopped when all is done, but for the end of MPI."""

    def __init__(self, rank: int, *more: Any) -> None:
        super().__init__(rank, *more)
        if rank == 1:
            atexit.register(os.kill, os.getpid(), signal.SIGSTOP)


class StopsEncoding:
    """A compressor that stops rank 1 in the fifth call of a benchmark."""

    unbiased = True
    calls = 0

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        self.payload_bytes = dimension * dtype.itemsize

    def encode(self, vector: Any, payload: Any) -> None:
        payload[:] = vector.view(np.uint8)
        StopsEncoding.calls += 1
        if StopsEncoding.calls == 5 and MPI.COMM_WORLD.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)

    def decode(self, payload: Any, out: Any) -> None:
        out[:] = payload.view(out.dtype)


# The program reads its limits before it makes an object of a class: two seconds in place of minutes.
for name, module, limit in (
    ("StopsBefore", watchdog, "SETUP_S"),
    ("StopsEncoding", watchdog, "STAGE_S"),
    ("StopsAfter", launched, "EXIT_S"),
):
    if any(word.endswith(f":{name}") for word in sys.argv):
        setattr(module, limit, 2)


class StopsAtTheEnd(DoubleSqueeze):
    """Rank 1 is stopped while the run is brought to its end."""

    def close(self) -> None:
        if self.setup.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        super().close()


class ToldAtTheEnd(DoubleSqueeze):
    """All ranks are told to stop when nothing is left to stop."""

    def close(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        super().close()
