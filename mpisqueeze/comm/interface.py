"""The byte counters of the hosts' network interfaces, to stand beside this program's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpisqueeze.comm.world import World
from mpisqueeze.errors import UsageError

#: Environment variable with the name of each host's network interface; `mpisqueeze lab` sets it.
VARIABLE = "MPISQUEEZE_INTERFACE"
_FOLDER = Path("/sys/class/net")


class InterfaceMeter:
    """Bytes through each host's network interfaces from `start` to `stop`, by the kernel's counters.

    They count whatever passes there: headers, acknowledgements, barriers, and what other programs send. Where TCP hands
    a card several packets as one frame (segmentation offload), most drivers and every virtual interface count that
    frame's headers once. RDMA passes these counters by.

    Its methods are collective. Without interfaces it counts nothing and costs nothing.

    Args:
        names: interfaces of this rank's host; empty on all ranks or on none.
    """

    def __init__(self, world: World, names: Sequence[str]) -> None:
        self._world, self._used = world, bool(names)
        # A host's first rank reads.
        self._names = list(names) if world.local_rank == 0 else []
        self._files = [[_FOLDER / name / "statistics" / f"{way}_bytes" for name in self._names] for way in ("tx", "rx")]
        #: None while it is stopped.
        self._before: list[int] | None = None
        self._total = [0, 0]

    def start(self) -> None:
        """Count from when all ranks are here."""
        if self._used:
            self._world.comm.Barrier()
            self._before = self._read()

    def stop(self) -> None:
        """Count no further, once all ranks have received everything."""
        if self._used:
            self._world.comm.Barrier()
            if self._before is not None:
                counts = zip(self._total, self._read(), self._before, strict=True)
                self._total, self._before = [total + now - then for total, now, then in counts], None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what ranks exchange in the block, as for an evaluation; after an error it stays stopped."""
        self.stop()
        yield
        self.start()

    def by_host(self) -> list[dict[str, Any]] | None:
        """On rank 0 an entry for each host, in the order of their first ranks; None elsewhere and without one."""
        sent, received = self._total
        about = {"rank": self._world.rank, "host": os.uname().nodename, "interfaces": self._names}
        entries = self._world.comm.gather({**about, "bytes_sent": sent, "bytes_received": received})
        return [entry for entry in entries or () if entry["interfaces"]] or None

    def _read(self) -> list[int]:
        return [sum(int(file.read_text()) for file in files) for files in self._files]


def interfaces(world: World, name: str | None) -> list[str]:
    """The interfaces of this rank's host that count: the one of this name, else where ranks are on several hosts its
    network cards. Raises UsageError."""
    if name:
        if not (_FOLDER / name).exists():
            raise UsageError(f"{os.uname().nodename} has no network interface {name!r}", VARIABLE)
        return [name]
    # No loopback, bridge or bond, and no card below another one, which counts its bytes again.
    cards = (path for path in _FOLDER.glob("*") if (path / "device").exists() and world.hosts > 1)
    return sorted(path.name for path in cards if not (path / "master" / "device").exists())


def interface_meter(world: World) -> InterfaceMeter:
    """The meter of the interface that the environment names, or of all network cards; collective. Raises UsageError.

    Messages between virtual workers pass no interface.
    """
    if getattr(world.comm, "virtual", False):
        return InterfaceMeter(world, [])
    found = world.collectively(lambda: interfaces(world, os.environ.get(VARIABLE) or None))
    return InterfaceMeter(world, found if all(world.comm.allgather(bool(found))) else [])
