"""The exchange by MPI_Allreduce, the baseline that a user would otherwise pick."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from mpisqueeze.comm.departure import Departure
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.pipeline import Moves
from mpisqueeze.costs import exchanges
from mpisqueeze.costs.sections import LONGEST, messages, pieces
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.devices.clock import Phase
from mpisqueeze.mpi import MPI

_STEP, _BEAT = 16, 17


@dataclass(frozen=True)
class Step:
    """One round of an all-reduce on one rank: a slice to send, a slice to receive, and whether that is added."""

    target: int | None
    sent: slice
    source: int | None
    received: slice
    adds: bool


def steps(way: str, rank: int, size: int, length: int) -> Iterator[Step]:
    """This rank's rounds of `way`, which is `ring`, `doubling` or `halving`: see `costs.exchanges.allreduce`."""
    whole, nothing = slice(0, length), slice(0, 0)
    if way == "ring":
        bounds = list(pairwise(length * s // size for s in range(size + 1)))
        right, left = (rank + 1) % size, (rank - 1) % size
        for lead, adds in ((0, True), (1, False)):
            for k in range(size - 1):
                sent, received = bounds[(rank + lead - k) % size], bounds[(rank + lead - k - 1) % size]
                yield Step(right, slice(*sent), left, slice(*received), adds)
        return
    power = 1 << (size.bit_length() - 1)
    if rank >= power:
        yield Step(rank - power, whole, None, nothing, False)
        yield Step(None, nothing, rank - power, whole, False)
        return
    partner = rank + power if rank + power < size else None
    if partner is not None:
        yield Step(None, nothing, partner, whole, True)
    distances = [1 << k for k in range(power.bit_length() - 1)]
    if way == "doubling":
        for distance in distances:
            yield Step(rank ^ distance, whole, rank ^ distance, whole, True)
    else:
        low, high, halves = 0, length, []
        for distance in reversed(distances):
            middle = (low + high) // 2
            lower, upper = slice(low, middle), slice(middle, high)
            mine, theirs = (upper, lower) if rank & distance else (lower, upper)
            yield Step(rank ^ distance, theirs, rank ^ distance, mine, True)
            low, high = mine.start, mine.stop
            halves.append((distance, mine, theirs))
        for distance, mine, theirs in reversed(halves):
            yield Step(rank ^ distance, mine, rank ^ distance, theirs, False)
    if partner is not None:
        yield Step(partner, whole, None, nothing, False)


@dataclass(frozen=True)
class RankTraffic:
    """The bytes and messages of a rank in an all-reduce; empty messages are left out."""

    bytes_sent: int
    bytes_received: int
    messages: int


def _traffic(rounds: Iterable[Step], itemsize: int) -> RankTraffic:
    sent, received = zip(*((step.sent, step.received) for step in rounds), strict=True)
    lengths = [part.stop - part.start for part in sent]
    return RankTraffic(
        itemsize * sum(lengths),
        itemsize * sum(part.stop - part.start for part in received),
        sum(messages(itemsize * length) for length in lengths if length),
    )


def _definition(nbytes: int, size: int, calls: int) -> list[RankTraffic]:
    """2(N − 1)/N of the vector a rank; bytes that N does not divide go to the first ranks, so that the sum is exact."""
    share, rest = divmod(2 * (size - 1) * nbytes, size)
    return [RankTraffic(share + (rank < rest), share + (rank < rest), 2 * (size - 1) * calls) for rank in range(size)]


def _counted(network: Network, nbytes: int, itemsize: int) -> list[RankTraffic]:
    """Traffic of each rank in messages of our own."""
    size = network.world.size
    way = exchanges.allreduce(network.link, size, nbytes).way
    return [_traffic(steps(way, rank, size, nbytes // itemsize), itemsize) for rank in range(size)]


class _Rounds:
    """An all-reduce in messages of our own, which an emulated link can hold back: the fastest way by the cost model."""

    def __init__(self, network: Network, wire: Wire, dtype: Any) -> None:
        world = network.world
        self._past, self._clock = network.device.fence(), network.clock
        scratch = network.wire(wire.nbytes)
        way = exchanges.allreduce(network.link, world.size, wire.nbytes).way
        size = dtype.itemsize
        self._rounds: list[tuple[Any, Wire, Any, Wire, Any, Any]] = []
        for step in steps(way, world.rank, world.size, wire.nbytes // size):
            sent = wire.part(step.sent.start * size, step.sent.stop * size)
            here = wire.part(step.received.start * size, step.received.stop * size)
            there = scratch.part(step.received.start * size, step.received.stop * size) if step.adds else here
            send = receive = None
            if step.target is not None and sent.nbytes:
                send = network.sender(sent.mpi, step.target, _STEP)
            if step.source is not None and there.nbytes:
                receive = network.receiver(there.mpi, step.source, _STEP)
            total = here.array.view(dtype) if step.adds else None
            self._rounds.append((send, sent, receive, there, total, there.array.view(dtype)))

    def run(self) -> None:
        for send, sent, receive, there, total, addend in self._rounds:
            # This may be received into a buffer that was received into last.
            self._past.wait()
            if receive:
                receive.Start()
            if send:
                sent.push()
                send.Start()
            if receive:
                receive.Wait()
                there.pull()
            if send:
                send.Wait()
            # The sum may be what was sent.
            if total is not None:
                self._clock.lap(Phase.COMM)
                total += addend
                self._clock.work(Phase.COMM)
            self._past.set()

    def close(self) -> None:
        for send, _, receive, *_ in self._rounds:
            for request in (send, receive):
                if request:
                    request.Free()
        self._rounds = []


class AllreduceExchange:
    """The sum of a vector over all ranks, by MPI_Allreduce in place; on an emulated link in messages of our own.

    What the library moves is its own choice, and not known here. It is booked by definition: 2(N − 1)/N of the vector
    a rank, as reduce-scatter and allgather move it (Thakur, Rabenseifner & Gropp 2005), in 2(N − 1) messages a rank
    and call; a vector of more than `costs.sections.LONGEST` bytes takes several calls.
    In any all-reduce some rank sends at least as much (Patarasuk & Yuan 2009). Open MPI moves more where N
    is no power of two, since it folds the ranks beyond one, and where the vector is small, by recursive doubling. Our
    own messages are counted.

    Args:
        dimension, dtype: of the vector.
        longest: most bytes of a call.

    Attributes:
        total_bytes: of all ranks together in a `sum`.
    """

    def __init__(self, network: Network, dimension: int, dtype: Any, longest: int = LONGEST) -> None:
        self.network, self._dtype = network, dtype
        world, nbytes = network.world, dimension * dtype.itemsize
        self._size = world.size
        self._in_messages = bool(network.emulated) and self._size > 1
        self._spans = pieces(nbytes, dtype.itemsize, longest)
        if self._in_messages:
            by_rank = _counted(network, nbytes, dtype.itemsize)
        else:
            by_rank = _definition(nbytes, self._size, len(self._spans))
        self._traffic = by_rank[world.rank]
        self.total_bytes = sum(one.bytes_sent for one in by_rank)
        if not self._in_messages and self._size > 1:
            network.counter.bytes_are = "by definition"
        self._kind = MPI.DOUBLE if dtype.itemsize == 8 else MPI.FLOAT
        self._vector: Any = None
        self._wire: Wire
        self._rounds: _Rounds | None = None

    def sum(self, vector: Any) -> Any:
        """`vector` (d), contiguous, overwritten with its sum over all ranks; best the same array each time."""
        network = self.network
        if vector is not self._vector:
            self._bind(vector)
        wire = self._wire
        if not wire.immediate and self._size > 1:
            wire.push()
        network.gate.enter()
        if self._rounds:
            self._rounds.run()
        elif self._size > 1:
            for buffer in self._buffers:
                network.world.comm.Allreduce(MPI.IN_PLACE, buffer, MPI.SUM)
            if not wire.immediate:
                wire.pull()
        self._count()
        network.clock.lap(Phase.COMM)
        return vector

    @property
    def later_bytes(self) -> int:
        """Bytes that a sum takes besides the vector: ours on an emulated link, else what Open MPI's ring takes.

        The ring has a block, 1/N of a message, on two ranks and two blocks on more.
        """
        if self._in_messages:
            return self._spans[-1].stop
        return self._spans[0].stop * min(2, self._size - 1) // self._size

    def _count(self) -> None:
        counter = self.network.counter
        counter.bytes_sent += self._traffic.bytes_sent
        counter.bytes_received += self._traffic.bytes_received
        counter.messages += self._traffic.messages

    def _bind(self, vector: Any) -> None:
        """Have MPI work in the memory of `vector`."""
        network, in_messages = self.network, self._in_messages
        self.close()
        self._vector = vector
        self._wire = network.device.wire_over(vector.view(np.uint8), collective=not in_messages)
        whole, size = self._wire.mpi[0], self._dtype.itemsize
        self._buffers = [[whole[span], (span.stop - span.start) // size, self._kind] for span in self._spans]
        self._rounds = _Rounds(network, self._wire, self._dtype) if in_messages else None

    def close(self) -> None:
        """Free the persistent requests, with nothing on its way."""
        if self._rounds:
            self.network.device.synchronize()
            self._rounds.close()


class EarlyAllreduce(AllreduceExchange):
    """The same for a gradient that is still computed (`--overlap`): bucket by bucket, by MPI_Iallreduce in place.

    Backpropagation finds the end of a gradient first, so that the last bucket leaves first. A thread keeps MPI at work
    meanwhile. Buckets have `--chunk` bytes, or as many as `costs.exchanges.bucket` says. The order in which ranks'
    elements are added is MPI's choice, by the length of a bucket and the place in it: on more than two ranks the sum
    may differ in its rounding from that of one call.

    On a host, and not over an emulated link, which MPI's own messages pass by.

    Attributes:
        buckets: bytes of the vector, in the order of leaving.
    """

    def __init__(self, network: Network, dimension: int, dtype: Any) -> None:
        nbytes = dimension * dtype.itemsize
        super().__init__(
            network, dimension, dtype, network.chunk_bytes or exchanges.bucket(network.link, network.world.size, nbytes)
        )
        self.buckets = self._spans[::-1]
        self._requests: list[Any] = []
        self._departure: Departure | None = None
        self._beat: Any = None

    def run(
        self, moves: Moves, sections: Sequence[Any], x: Any, gradient: Callable[..., Any], take: Callable[[Any], None]
    ) -> None:
        """Sum the gradient at x. Raises HaltError.

        Args:
            sections: those of the buckets, whose payloads are summed; always the same.
            take: given the gradient when elements of it are final.
        """
        if self._departure is None:
            items: list[tuple[Any, None, Any]] = [
                (section, None, partial(self._start, section)) for section in sections
            ]
            self._departure = Departure(self.network, items, self._post, self._advance)
        departure, clock = self._departure, self.network.clock
        self._requests.clear()
        departure.watch(moves, x, gradient, take, [section.span.start for section in sections])
        departure.finish(moves)
        for number, section in enumerate(sections):
            if self._requests:
                self._requests[number].Wait()
            clock.lap(Phase.COMM)
            moves.apply(section)
            clock.lap(Phase.UPDATE)
        self._count()
        departure.close_books()

    def _start(self, section: Any) -> None:
        if self._size > 1:
            values = section.payload.view(self._dtype)
            buffer = [values, values.size, self._kind]
            self._requests.append(self.network.world.comm.Iallreduce(MPI.IN_PLACE, buffer, MPI.SUM))

    def _post(self) -> list[Any]:
        """A message that never comes, which the thread looks at and by that lets MPI work."""
        if self._beat is None:
            world = self.network.world
            self._beat = world.comm.Recv_init(np.empty(1, np.uint8), world.rank, _BEAT)
            self._beat.Start()
        return [self._beat]

    def _advance(self, moves: Moves, left: int) -> None:
        for request in self._requests:
            request.Test()

    def close(self) -> None:
        super().close()
        if self._departure is not None:
            self._departure.close()
        if self._beat is not None:
            self._beat.Cancel()
            self._beat.Wait()
            self._beat.Free()
            self._beat = None
