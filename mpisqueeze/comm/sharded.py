"""Exchange among servers that are all ranks: rank s serves the s-th shard of the vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mpisqueeze.comm.counters import Phase
from mpisqueeze.comm.exchange import Network

_UP, _DOWN = 5, 6


class ShardedExchange:
    """All-to-all of shard payloads, then all-gather of the answers, with persistent point-to-point requests.

    The layout of 1-bit Adam's compressed all-reduce (arXiv 2102.02888, §5). Counted: every payload that leaves its
    rank; shards of no elements (more ranks than elements) send nothing.

    Args:
        up_bytes, down_bytes: payload sizes of each shard, the same on every rank; 0 for an empty shard.

    Attributes:
        up: uint8 for each shard: this rank's payloads, to be filled before `gather`.
        down: uint8 for each shard: the answers; rank s fills the s-th before `broadcast`.
    """

    def __init__(self, network: Network, up_bytes: Sequence[int], down_bytes: Sequence[int]) -> None:
        self.network = network
        world = network.world
        comm, self._rank, self._size = world.comm, world.rank, world.size
        self._others = [rank for rank in range(self._size) if rank != self._rank]
        self._up, self._down = [network.wire(n) for n in up_bytes], [network.wire(n) for n in down_bytes]
        self.up, self.down = [wire.array for wire in self._up], [wire.array for wire in self._down]
        mine = up_bytes[self._rank]
        self._inbox = {rank: network.wire(mine) for rank in self._others} if mine else {}
        self._arrivals = {rank: comm.Recv_init(wire.mpi, rank, _UP) for rank, wire in self._inbox.items()}
        self._to_servers = {s: comm.Send_init(self._up[s].mpi, s, _UP) for s in self._others if up_bytes[s]}
        self._answers = {s: comm.Recv_init(self._down[s].mpi, s, _DOWN) for s in self._others if down_bytes[s]}
        targets = self._others if down_bytes[self._rank] else []
        self._from_me = {rank: comm.Send_init(self._down[self._rank].mpi, rank, _DOWN) for rank in targets}

    def gather(self) -> Iterator[Any]:
        """The payload of this rank's shard from every rank in rank order; must be exhausted."""
        network = self.network
        counter, clock = network.counter, network.clock
        for s in self._to_servers:
            self._up[s].push()
        network.gate.enter()
        for request in (*self._answers.values(), *self._arrivals.values()):
            request.Start()
        for s, request in self._to_servers.items():
            request.Start()
            counter.bytes_sent += self._up[s].nbytes
            counter.messages += 1
        clock.lap(Phase.COMM)
        for rank in range(self._size):
            if rank == self._rank:
                if self._up[rank].nbytes:
                    yield self.up[rank]
            elif rank in self._arrivals:
                self._arrivals[rank].Wait()
                wire = self._inbox[rank]
                wire.pull()
                counter.bytes_received += wire.nbytes
                clock.lap(Phase.COMM)
                yield wire.array
        for request in self._to_servers.values():
            request.Wait()
        clock.lap(Phase.COMM)

    def broadcast(self) -> Iterator[tuple[int, Any]]:
        """Send this rank's answer to all; (shard, its answer) for every shard in order; must be exhausted."""
        counter, clock = self.network.counter, self.network.clock
        if self._from_me:
            wire = self._down[self._rank]
            wire.push()
            for request in self._from_me.values():
                request.Start()
            counter.bytes_sent += wire.nbytes * len(self._from_me)
            counter.messages += len(self._from_me)
        for s in range(self._size):
            if s in self._answers:
                self._answers[s].Wait()
                self._down[s].pull()
                counter.bytes_received += self._down[s].nbytes
            if self._down[s].nbytes:
                clock.lap(Phase.COMM)
                yield s, self.down[s]
        for request in self._from_me.values():
            request.Wait()
        clock.lap(Phase.COMM)

    def close(self) -> None:
        """Free the persistent requests."""
        for requests in (self._arrivals, self._to_servers, self._answers, self._from_me):
            for request in requests.values():
                request.Free()
            requests.clear()
