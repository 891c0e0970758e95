"""The byte counters of the hosts' network interfaces, to stand beside this program's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
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

    Building it is collective, as are `start`, `stop`, `paused` and `by_host`. Without an interface it counts nothing
    and costs nothing.

    Args:
        name: the interface on every host; None for all physical ones, where ranks are on several hosts.

    Raises:
        UsageError: a host has no interface of that name.

    Attributes:
        names: the interfaces that this rank reads: those of its host, on the host's first rank.
    """

    def __init__(self, world: World, name: str | None) -> None:
        self._world, self._host = world, os.uname().nodename
        found = [name] if name else physical() if world.hosts > 1 else []
        if name and not (_FOLDER / name).exists():
            raise UsageError(f"{self._host} has no network interface {name!r}", VARIABLE)
        self.names = found if world.local_rank == 0 else []
        files = [[_FOLDER / one / "statistics" / f"{way}_bytes" for one in self.names] for way in ("tx", "rx")]
        self._files, self._used = files, bool(found)
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
        """On rank 0 an entry for each host, in the order of their first ranks; None elsewhere and if one is blind."""
        sent, received = self._total
        mine = {"rank": self._world.rank, "host": self._host, "interfaces": self.names}
        entries = self._world.comm.gather({**mine, "bytes_sent": sent, "bytes_received": received})
        found = [entry for entry in entries or () if entry["interfaces"]]
        return found if found and len(found) == self._world.hosts else None

    def _read(self) -> list[int]:
        return [sum(int(file.read_text()) for file in files) for files in self._files]


def physical() -> list[str]:
    """This host's network cards: no loopback, bridge, bond or other interface whose bytes pass a second one, too."""
    return sorted(folder.name for folder in _FOLDER.glob("*") if (folder / "device").exists())


def interface_meter(world: World) -> InterfaceMeter:
    """The meter of the interface that the environment names, or of all physical ones. Raises UsageError."""
    return world.collectively(lambda: InterfaceMeter(world, os.environ.get(VARIABLE) or None))
