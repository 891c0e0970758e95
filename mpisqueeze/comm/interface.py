"""A network interface's own byte counters, to compare with this program's."""

from __future__ import annotations

import os
from pathlib import Path

from mpisqueeze.comm.world import World

#: Environment variable with the name of this rank's network interface; `mpisqueeze lab` sets it.
VARIABLE = "MPISQUEEZE_INTERFACE"


class InterfaceMeter:
    """Bytes through this rank's interface between `start` and `stop`, with headers and acknowledgements.

    Attributes:
        total: [bytes sent, bytes received] so far.
    """

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        folder = Path("/sys/class/net", name, "statistics")
        self._files = [folder / "tx_bytes", folder / "rx_bytes"]
        self.total = [0, 0]
        self._before = self._read()

    def start(self) -> None:
        self._before = self._read()

    def stop(self) -> None:
        """Count what came since `start`, once all ranks have received everything; collective."""
        self._world.comm.Barrier()
        self.total = [
            total + now - then for total, now, then in zip(self.total, self._read(), self._before, strict=True)
        ]

    def _read(self) -> list[int]:
        return [int(file.read_text()) for file in self._files]


def interface_meter(world: World) -> InterfaceMeter | None:
    """The meter if every rank's environment names an interface, else None; collective."""
    name = os.environ.get(VARIABLE, "")
    if not all(world.comm.allgather(bool(name))):
        return None
    return world.collectively(lambda: InterfaceMeter(world, name))
