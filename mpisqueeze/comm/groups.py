"""Exchange in groups of ranks: each group adds up at its leader, and leaders alone exchange with each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpisqueeze.comm.exchange import HoldingLink, Network
from mpisqueeze.comm.world import World
from mpisqueeze.costs.sections import LONGEST, pieces
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.devices.clock import Phase
from mpisqueeze.mpi import MPI


class LeadersNetwork(Network):
    """The leaders' own network, with the clock and the counter of the whole one.

    Leaders do not agree among themselves: what one complains of, it tells all ranks when they next meet. So none of
    them leaves an exchange while others, or its group, wait in it.

    Args:
        whole: the network of all ranks.
        world: the leaders.
        emulated: the emulated or simulated link between them, or None.
    """

    def __init__(self, whole: Network, world: World, emulated: HoldingLink | None) -> None:
        super().__init__(world, whole.device, False, emulated, whole.chunk_bytes, whole.tree, whole.checksum)
        self._whole = whole
        self.clock, self.counter = whole.clock, whole.counter

    def complain(self, signal: int, message: str, option: str | None = None, details: str = "") -> None:
        """Report an error to all ranks."""
        self._whole.complain(signal, message, option, details)


class GroupExchange:
    """The sum of a group's vectors at its leader, by MPI_Reduce, and a vector of the leader's for all, by MPI_Bcast.

    Counted as local, by definition: each rank but the leader sends its vector, and the leader one to each of them.

    Args:
        network: of all ranks.
        team: the group; its rank 0 is the leader.
        dtype: of the vectors.
    """

    def __init__(self, network: Network, team: MPI.Comm, dtype: np.dtype[Any]) -> None:
        self._network, self._team, self._dtype = network, team, dtype
        self._kind = MPI.DOUBLE if dtype.itemsize == 8 else MPI.FLOAT
        self._summed, self._handed = _Bound(network, dtype), _Bound(network, dtype)

    @property
    def leads(self) -> bool:
        """This rank is the leader."""
        return self._team.rank == 0

    def reduce(self, vector: Any) -> None:
        """On the leader, `vector` (d) ← the sum of all vectors; the others keep theirs. Raises HaltError.

        All ranks of the run meet before, so that groups begin together.
        """
        network, team = self._network, self._team
        wire = self._summed.to(vector)
        wire.push()
        network.gate.enter()
        for part, count in self._summed.parts:
            values = [part, count, self._kind]
            if self.leads:
                team.Reduce(MPI.IN_PLACE, values, MPI.SUM)
            else:
                team.Reduce(values, None, MPI.SUM)
        if self.leads:
            wire.pull()
        else:
            network.counter.bytes_local += wire.nbytes
        network.clock.lap(Phase.COMM)

    def hand_on(self, vector: Any) -> None:
        """`vector` (d) ← the leader's."""
        network, team = self._network, self._team
        wire = self._handed.to(vector)
        if self.leads:
            wire.push()
            network.counter.bytes_local += (team.size - 1) * wire.nbytes
        for part, count in self._handed.parts:
            team.Bcast([part, count, self._kind])
        if not self.leads:
            wire.pull()
        network.clock.lap(Phase.COMM)


class _Bound:
    """A buffer for MPI over the memory of a vector, as long as that stays the same, in pieces that MPI can count."""

    def __init__(self, network: Network, dtype: np.dtype[Any]) -> None:
        self._device, self._size = network.device, dtype.itemsize
        self._vector: Any = None
        self._wire: Wire
        self.parts: list[tuple[Any, int]] = []

    def to(self, vector: Any) -> Wire:
        if vector is not self._vector:
            self._vector = vector
            self._wire = self._device.wire_over(vector.view(np.uint8), collective=True)
            memory, nbytes = self._wire.mpi[0], self._wire.nbytes
            spans = pieces(nbytes, self._size, LONGEST)
            self.parts = [(memory[span], (span.stop - span.start) // self._size) for span in spans]
        return self._wire
