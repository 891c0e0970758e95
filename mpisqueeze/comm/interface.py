"""What a network interface itself counts, beside what this program counts."""

from __future__ import annotations

import os
from pathlib import Path

from mpisqueeze.comm.world import World

#: Names the interface that this rank's messages leave by; set by `mpisqueeze lab`.
VARIABLE = "MPISQUEEZE_INTERFACE"


class InterfaceMeter:
    """Bytes through this rank's interface, headers and acknowledgements included, while it is told to count.

    Attributes:
        total: bytes sent and received so far.
    """

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        folder = Path("/sys/class/net", name, "statistics")
        self._files = [folder / "tx_bytes", folder / "rx_bytes"]
        self.total = [0, 0]
        self._before = self._read()

    def start(self) -> None:
        """Count from here on."""
        self._before = self._read()

    def stop(self) -> None:
        """Count up to here, once all ranks have received what was sent; collective."""
        self._world.comm.Barrier()
        self.total = [
            total + now - then for total, now, then in zip(self.total, self._read(), self._before, strict=True)
        ]

    def _read(self) -> list[int]:
        return [int(file.read_text()) for file in self._files]


def interface_meter(world: World) -> InterfaceMeter | None:
    """The meter, where every rank is told of an interface; collective."""
    name = os.environ.get(VARIABLE, "")
    if not all(world.comm.allgather(bool(name))):
        return None
    return world.collectively(lambda: InterfaceMeter(world, name))
