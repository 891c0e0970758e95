"""The cases of `bench comm`: a step of training through each exchange, and MPI's own collectives on full vectors.

By `allreduce` go full vectors, and the payloads of linear compressors, by `memsgd`.

Gradients are normal numbers rounded to multiples of 2⁻¹⁰: their sum over up to a thousand ranks is exact in float32, in
whatever order MPI adds them, so that every result is known to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from mpisqueeze.algorithms.allreduce import Allreduce
from mpisqueeze.algorithms.base import Algorithm, Codec, Setup
from mpisqueeze.algorithms.deepsqueeze import DeepSqueeze
from mpisqueeze.algorithms.doublesqueeze import DoubleSqueeze
from mpisqueeze.algorithms.dpsgd import DPSGD
from mpisqueeze.algorithms.memsgd import MemSGD
from mpisqueeze.algorithms.sgd import SGD
from mpisqueeze.comm.counters import BytesAre
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.world import World
from mpisqueeze.compressors.base import Compressor
from mpisqueeze.compressors.identity import Identity
from mpisqueeze.devices.device import Device
from mpisqueeze.kernels import kernels_for
from mpisqueeze.mpi import MPI
from mpisqueeze.settings import ALLREDUCE
from mpisqueeze.topology import Topology
from mpisqueeze.virtual.workers import on_workers

LR = 0.1
_GRID = 1024
_START = 2**32


def gradient_of(rank: int, size: int, dtype: np.dtype[Any]) -> np.ndarray:
    """The gradient (size,) of a rank."""
    draws = np.random.default_rng([3, rank]).standard_normal(size, np.float32)
    draws *= _GRID
    np.rint(draws, out=draws)
    draws /= _GRID
    return draws.astype(dtype, copy=False)


class Stage:
    """Shared by the cases of one size on this rank.

    Attributes:
        gradient, start: g of this rank and x₀ (size,), on the device; not to be written to.
    """

    def __init__(self, network: Network, size: int, dtype: np.dtype[Any]) -> None:
        self.network, self.size, self.dtype = network, size, dtype
        self.xp = network.device.xp
        self.gradient = self.xp.asarray(gradient_of(network.world.rank, size, dtype))
        self.start = self.xp.asarray(gradient_of(_START, size, dtype))

    @property
    def ranks(self) -> int:
        return self.network.world.size

    @property
    def vector_bytes(self) -> int:
        return self.size * self.dtype.itemsize

    def home(self, array: Any) -> np.ndarray:
        """`array` on the host."""
        return self.network.device.to_numpy(array)

    def all_gradients(self) -> list[np.ndarray]:
        """The gradients of all ranks, on the host."""
        return [gradient_of(rank, self.size, self.dtype) for rank in range(self.ranks)]


class Case:
    """One exchange of one vector, to be timed again and again.

    Attributes:
        compressor: its spec; `identity` where full vectors travel.
        algorithm: whose step it is; None for a collective of MPI alone.
        payload_bytes: of a rank's whole vector as it is sent.
        bus_factor: busbw/algbw. nccl-tests (doc/PERFORMANCE.md) defines it by the operation, whatever carries it out:
            2(n − 1)/n where all get a sum, here also where a server's answer stands for it, and for a payload to each
            neighbour their number.
        alike: all ranks end with the same output.
        kernels: what is timed beside it, in the same rounds, where it is a step that compresses.
        bytes_are: the source of the bytes that the counter gets.
    """

    algorithm: str | None = None
    compressor = "identity"
    alike = True
    kernels: StepKernels | None = None
    bytes_are: BytesAre = "counted"

    def __init__(self, stage: Stage, exchange: str) -> None:
        self.stage, self.exchange = stage, exchange
        self.payload_bytes = stage.vector_bytes
        self.bus_factor = 2 * (stage.ranks - 1) / stage.ranks
        self.seconds: list[float] = []

    def reset(self) -> None:
        """Back to where it was before its first run."""

    def prepare(self) -> None:
        """Before each run, and not timed: leave things as they are when a gradient has just been computed."""

    def run(self) -> None:
        """The work that is timed. The network's counter counts what it sends."""
        raise NotImplementedError

    def output(self) -> np.ndarray:
        """The result of a run on this rank."""
        raise NotImplementedError

    def expected(self, gradients: Sequence[np.ndarray], runs: int) -> Callable[[int], np.ndarray]:
        """rank → its result after `runs` runs from the start; the same for all ranks of an exchange that is `alike`."""
        raise NotImplementedError

    def how(self) -> str | None:
        """The arrangement of its messages, for people; None where MPI decides that."""
        return None

    def close(self) -> None:
        """Free what MPI holds."""


class _Step(Case):
    """A step of an algorithm, from the stage's start along its gradient."""

    def __init__(self, stage: Stage, exchange: str, algorithm: Algorithm) -> None:
        super().__init__(stage, exchange)
        self._part, self.algorithm = algorithm, algorithm.name
        self._x, self._g = stage.start.copy(), stage.gradient.copy()

    def reset(self) -> None:
        self.stage.xp.copyto(self._x, self.stage.start)

    def prepare(self) -> None:
        self.stage.xp.copyto(self._g, self.stage.gradient)

    def run(self) -> None:
        self._part.step(self._x, self._gradient, LR)

    def _gradient(self, _: Any) -> Any:
        return self._g

    def output(self) -> np.ndarray:
        return self.stage.home(self._x)

    def close(self) -> None:
        self._part.close()


class StepCase(_Step):
    """A complete step of a method: encode with feedback, exchange, server, decode, update.

    Args:
        setup: with the compressor; None for `compressor` sends full vectors, by `sgd` or `dpsgd`.
        host_compressor: makes the same compressor for NumPy arrays.
    """

    def __init__(
        self,
        stage: Stage,
        exchange: str,
        setup: Setup,
        compressor: str | None,
        host_compressor: Callable[[int, int], Compressor],
    ) -> None:
        gossips = exchange == "ring"
        cls: type[Algorithm]
        if gossips:
            cls = DPSGD if compressor is None else DeepSqueeze
        elif compressor is None:
            cls = SGD
        else:
            cls = MemSGD if setup.server == ALLREDUCE else DoubleSqueeze
        super().__init__(stage, exchange, cls(setup))
        self._setup, self._host_compressor = setup, host_compressor
        self._given, self.compressor, self.alike = compressor, compressor or "identity", not gossips
        if gossips:
            self.bus_factor = float(setup.topology.degree(setup.rank))
        assert self._part.payload_bytes is not None
        self.payload_bytes = self._part.payload_bytes
        self.bytes_are = stage.network.counter.bytes_are if exchange == ALLREDUCE else "counted"
        self._iteration = 0
        if compressor and setup.server != ALLREDUCE:
            self.kernels = (GossipKernels if gossips else ServerKernels)(stage, exchange, setup)

    def reset(self) -> None:
        super().reset()
        for memory in self._part.memory:
            kept = getattr(self._part, memory)
            if kept is not None:
                kept.fill(0)
        self._iteration = 0

    def prepare(self) -> None:
        super().prepare()
        self._iteration += 1
        self.stage.network.iteration = self._iteration

    def expected(self, gradients: Sequence[np.ndarray], runs: int) -> Callable[[int], np.ndarray]:
        found: dict[int, np.ndarray] = {}

        def work(world: World) -> None:
            """The same on a virtual worker, which has neither MPI nor a GPU."""
            network, make = Network(world, Device(), barrier=False), self._host_compressor
            setup = replace(self._setup, network=network, make_compressor=make)
            stage = Stage(network, self.stage.size, self.stage.dtype)
            case = StepCase(stage, self.exchange, setup, self._given, make)
            for _ in range(runs):
                case.prepare()
                case.run()
            found[world.rank] = case.output()
            case.close()

        on_workers(_this_process(), self.stage.ranks, work)
        return found.__getitem__

    def how(self) -> str | None:
        schedule: Any = getattr(self._part, "schedule", None)
        if schedule is None:
            return None
        return f"{schedule.way}, {schedule.sections} sections" if schedule.way else f"{schedule.sections} sections"


class StepKernels(Case):
    """The kernels of a compressed step through servers, alone: each over all that it has to do, without a message.

    Each goes through all of its vectors before the next one does, which finds its own as cold as a step's. Where ranks
    share cores, all of them end with the last one: a rank's own time may be a core's before others have had it.

    Args:
        length, payloads: elements that this rank adds up, and of how many ranks.
    """

    def __init__(self, stage: Stage, exchange: str, setup: Setup, length: int, payloads: int) -> None:
        super().__init__(stage, exchange)
        self._x, self._g, self._delta = stage.start.copy(), stage.gradient.copy(), setup.zeros()
        self._codec, self._adding = setup.worker_codec(), setup.worker_codec(0, length)
        self._payload = self._coded(self._codec, self._g)
        self._arrived = [self._coded(self._adding, self._g[:length]) for _ in range(payloads)]
        self._sum = setup.zeros(length)

    def _coded(self, codec: Codec, vector: Any) -> Any:
        payload = self.stage.xp.zeros(codec.payload_bytes, np.uint8)
        codec.encode(vector, payload)
        return payload

    def prepare(self) -> None:
        self.stage.xp.copyto(self._g, self.stage.gradient)

    def run(self) -> None:
        self.compute()
        if self.stage.network.crowded:
            self.stage.network.world.comm.Barrier()

    def compute(self) -> None:
        """The kernels."""
        raise NotImplementedError


class ServerKernels(StepKernels):
    """The kernels of `doublesqueeze`."""

    def __init__(self, stage: Stage, exchange: str, setup: Setup) -> None:
        self._length = setup.served.stop - setup.served.start
        super().__init__(stage, exchange, setup, self._length, stage.ranks if self._length else 0)
        self._delta_bar, self._answering = setup.zeros(self._length), setup.server_codec(0, self._length)
        self._answer = stage.xp.zeros(self._answering.payload_bytes, np.uint8)

    def compute(self) -> None:
        self._codec.encode_feedback(self._g, self._delta, self._payload)
        if self._length:
            if self._adding.combines:
                self._adding.combine(self._arrived, self._sum)
            else:
                self._adding.add_up(self._arrived, self._sum)
                self._sum /= len(self._arrived)
            self._answering.encode_feedback(self._sum, self._delta_bar, self._answer)
        self._codec.decode_add(self._payload, self._x, -LR)


class GossipKernels(StepKernels):
    """The kernels of `deepsqueeze`."""

    def __init__(self, stage: Stage, exchange: str, setup: Setup) -> None:
        own, edges = setup.topology.weights(setup.rank)
        self._weights = tuple(setup.dtype.type(weight) for weight in (own - 1, *(weight for _, weight in edges)))
        super().__init__(stage, exchange, setup, stage.size, len(self._weights))
        self._add_weighted = kernels_for(stage.xp, stage.dtype).axpy

    def compute(self) -> None:
        self._add_weighted(self._x, self.stage.dtype.type(-LR), self._g)
        self._codec.encode_feedback(self._x, self._delta, self._payload)
        if self._adding.combines:
            self._adding.combine(self._arrived, self._x, self._weights, LR)
        else:
            self._adding.add_up(self._arrived, self._sum, self._weights)
            self._add_weighted(self._x, self.stage.dtype.type(LR), self._sum)


@cache
def _this_process() -> World:
    """A world of this process alone; MPI has no communicators for one a case."""
    return World(MPI.COMM_SELF)


class AllreduceCase(_Step):
    """A step of `allreduce`, the baseline."""

    def __init__(self, stage: Stage, exchange: str) -> None:
        make = partial(_identity, stage)
        setup = Setup(stage.network, stage.size, stage.dtype, 0, make, Topology("ring", stage.ranks))
        super().__init__(stage, exchange, Allreduce(setup))
        self.bytes_are = stage.network.counter.bytes_are

    def expected(self, gradients: Sequence[np.ndarray], runs: int) -> Callable[[int], np.ndarray]:
        return _summed(self.stage, gradients, runs)


class _Collective(Case):
    """MPI's own calls and nothing else; what they move is the library's choice."""

    bytes_are = "by definition"

    def __init__(self, stage: Stage, exchange: str) -> None:
        super().__init__(stage, exchange)
        self._comm = stage.network.world.comm
        self._kind = MPI.DOUBLE if stage.dtype.itemsize == 8 else MPI.FLOAT

    def _wire(self, elements: int) -> tuple[Any, Any, list[Any]]:
        """(wire, its elements on the device, the buffer specification for MPI) of zeros."""
        wire = self.stage.network.wire(elements * self.stage.dtype.itemsize, collective=True)
        values = wire.array.view(self.stage.dtype)
        values.fill(0)
        return wire, values, [wire.mpi[0], self._kind]


class MpiAllreduce(_Collective):
    """MPI_Allreduce in place."""

    def __init__(self, stage: Stage, exchange: str) -> None:
        super().__init__(stage, exchange)
        self._both, self._vector, self._mpi = self._wire(stage.size)
        share, rest = divmod(2 * (stage.ranks - 1) * stage.vector_bytes, stage.ranks)
        self._share = share + (stage.network.world.rank < rest)

    def prepare(self) -> None:
        self.stage.xp.copyto(self._vector, self.stage.gradient)
        self._both.push()

    def run(self) -> None:
        self._comm.Allreduce(MPI.IN_PLACE, self._mpi, MPI.SUM)
        self.stage.network.counter.bytes_sent += self._share

    def output(self) -> np.ndarray:
        self._both.pull()
        return self.stage.home(self._vector)

    def expected(self, gradients: Sequence[np.ndarray], runs: int) -> Callable[[int], np.ndarray]:
        total = _sum(gradients)
        return lambda rank: total


class ByHand(MpiAllreduce):
    """The loop that one would write: MPI_Allreduce in place, then x ← x − (γ/N)·sum in one pass."""

    def __init__(self, stage: Stage, exchange: str) -> None:
        super().__init__(stage, exchange)
        self._x, self._factor = stage.start.copy(), -LR / stage.ranks
        self._add = kernels_for(stage.xp, stage.dtype).copy_decode

    def reset(self) -> None:
        self.stage.xp.copyto(self._x, self.stage.start)

    def prepare(self) -> None:
        self.stage.xp.copyto(self._vector, self.stage.gradient)

    def run(self) -> None:
        self._both.push()
        super().run()
        self._both.pull()
        self._add(self._both.array, self._x, True, self._factor)

    def output(self) -> np.ndarray:
        return self.stage.home(self._x)

    def expected(self, gradients: Sequence[np.ndarray], runs: int) -> Callable[[int], np.ndarray]:
        return _summed(self.stage, gradients, runs)


class MpiGatherBcast(_Collective):
    """MPI_Gather of full vectors to rank 0, then MPI_Bcast of one; nothing is added up."""

    alike = False

    def __init__(self, stage: Stage, exchange: str) -> None:
        super().__init__(stage, exchange)
        is_root = stage.network.world.is_root
        self._out, self._vector, self._out_mpi = self._wire(stage.size)
        self._inbox, self._gathered, inbox_mpi = self._wire(stage.size * stage.ranks if is_root else 0)
        self._answer, self._answered, self._answer_mpi = self._wire(stage.size)
        self._inbox_mpi = inbox_mpi if is_root else None
        if is_root:
            stage.xp.copyto(self._answered, stage.gradient)
            self._answer.push()
        self._sent = stage.vector_bytes * (stage.ranks - 1 if is_root else 1)

    def prepare(self) -> None:
        self.stage.xp.copyto(self._vector, self.stage.gradient)
        self._out.push()

    def run(self) -> None:
        self._comm.Gather(self._out_mpi, self._inbox_mpi, 0)
        self._comm.Bcast(self._answer_mpi, 0)
        self.stage.network.counter.bytes_sent += self._sent

    def output(self) -> np.ndarray:
        self._inbox.pull()
        self._answer.pull()
        return np.concatenate([self.stage.home(self._gathered), self.stage.home(self._answered)])

    def expected(self, gradients: Sequence[np.ndarray], runs: int) -> Callable[[int], np.ndarray]:
        return lambda rank: np.concatenate([*([] if rank else gradients), gradients[0]])


class MpiAlltoallAllgather(_Collective):
    """MPI_Alltoall of shards to their servers, then MPI_Allgather of one each; nothing is added up.

    Where N does not divide the vector, zeros fill the last shard.
    """

    alike = False

    def __init__(self, stage: Stage, exchange: str) -> None:
        super().__init__(stage, exchange)
        self._shard = -(-stage.size // stage.ranks)
        rank, whole = stage.network.world.rank, self._shard * stage.ranks
        self._out, self._shards, self._out_mpi = self._wire(whole)
        self._inbox, self._received, self._inbox_mpi = self._wire(whole)
        self._answer, answer, self._answer_mpi = self._wire(self._shard)
        self._all, self._gathered, self._all_mpi = self._wire(whole)
        self._shards[: stage.size] = stage.gradient
        answer[...] = self._shards[rank * self._shard : (rank + 1) * self._shard]
        self._answer.push()
        self._sent = 2 * (stage.ranks - 1) * self._shard * stage.dtype.itemsize

    def prepare(self) -> None:
        self._shards[: self.stage.size] = self.stage.gradient
        self._out.push()

    def run(self) -> None:
        self._comm.Alltoall(self._out_mpi, self._inbox_mpi)
        self._comm.Allgather(self._answer_mpi, self._all_mpi)
        self.stage.network.counter.bytes_sent += self._sent

    def output(self) -> np.ndarray:
        self._inbox.pull()
        self._all.pull()
        return np.concatenate([self.stage.home(self._received), self.stage.home(self._gathered)])

    def expected(self, gradients: Sequence[np.ndarray], runs: int) -> Callable[[int], np.ndarray]:
        stage, shard = self.stage, self._shard
        filled = np.zeros((stage.ranks, stage.ranks * shard), stage.dtype)
        for rank, gradient in enumerate(gradients):
            filled[rank, : stage.size] = gradient
        cut = filled.reshape(stage.ranks, stage.ranks, shard)
        answers = np.concatenate([cut[rank, rank] for rank in range(stage.ranks)])
        return lambda rank: np.concatenate([cut[:, rank].ravel(), answers])


def _identity(stage: Stage, dimension: int, seed: int) -> Compressor:
    return Identity(dimension, stage.xp, stage.dtype, seed)


def _sum(gradients: Sequence[np.ndarray]) -> np.ndarray:
    total = gradients[0].copy()
    for gradient in gradients[1:]:
        total += gradient
    return total


def _summed(stage: Stage, gradients: Sequence[np.ndarray], runs: int) -> Callable[[int], np.ndarray]:
    """Each rank's x after `runs` steps x ← x − (γ/N)·sum from the start."""
    x, total = stage.home(stage.start).copy(), _sum(gradients)
    total *= stage.dtype.type(-LR / stage.ranks)
    for _ in range(runs):
        x += total
    return lambda rank: x


#: The exchanges that take a compressor, with what carries them out.
STEPS: dict[str, str] = {
    "sharded": "a step through servers of a shard each: sgd, or doublesqueeze with the compressor",
    "root": "the same through rank 0",
    "ring": "a gossip step on a ring: dpsgd, or deepsqueeze with the compressor",
}
FULL: dict[str, type[Case]] = {
    "allreduce": AllreduceCase,
    "by-hand": ByHand,
    "mpi-allreduce": MpiAllreduce,
    "mpi-gather-bcast": MpiGatherBcast,
    "mpi-alltoall-allgather": MpiAlltoallAllgather,
}
#: All exchanges, in the order in which they are shown.
EXCHANGES = ("allreduce", "by-hand", *STEPS, "mpi-allreduce", "mpi-gather-bcast", "mpi-alltoall-allgather")
#: Exchanges that call MPI directly, past an emulated link.
DIRECT = ("by-hand", "mpi-allreduce", "mpi-gather-bcast", "mpi-alltoall-allgather")
#: The exchange that the others are compared with.
BASELINE = "allreduce"
