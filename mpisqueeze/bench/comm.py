"""`bench comm`: the time of a step through each exchange, beside MPI_Allreduce of full vectors in the same run.

At each size all exchanges are timed in turn, round by round in a rotating order, so that other work of the machine
meets them alike. Ranks meet before each; its time is the slowest rank's. Results are compared with those of as many
virtual workers in one process, to the bit.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mpisqueeze.algorithms.base import Setup
from mpisqueeze.bench.exchanges import BASELINE, DIRECT, EXCHANGES, FULL, STEPS, Case, Stage, StepCase
from mpisqueeze.bench.kernels import make_compressor
from mpisqueeze.bench.timing import (
    Repetitions,
    TimeStatistics,
    check_memory,
    command_line,
    no_garbage_collection,
    rotated,
    seconds_of,
)
from mpisqueeze.bench.verify import count_unlike, count_wrong
from mpisqueeze.comm.counters import BytesAre
from mpisqueeze.comm.emulated import emulate
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.placement import choose_device
from mpisqueeze.comm.world import RankFailureError, World
from mpisqueeze.compressors.base import Compressor
from mpisqueeze.costs.link import Link, parse_link
from mpisqueeze.costs.sections import LONGEST
from mpisqueeze.devices.device import Device
from mpisqueeze.errors import UsageError
from mpisqueeze.kernels import kernels_for, threads_of, use_threads
from mpisqueeze.language import suggestion
from mpisqueeze.mpi import MPI
from mpisqueeze.parts import contracts, registry
from mpisqueeze.parts.registry import Part
from mpisqueeze.record.environment import collect_environment
from mpisqueeze.runs.interrupts import Interrupts, StoppedError
from mpisqueeze.runs.plan import check_workers
from mpisqueeze.runs.training import link_facts
from mpisqueeze.settings import ALLREDUCE, SERVERS, Settings
from mpisqueeze.topology import Topology

COMPRESSORS = ("identity", "onebit")
#: Runs before the result is compared; the second one has residuals.
_CHECKED_RUNS = 2
#: Elements of all ranks' vectors together up to which rank 0 computes the result that they must have.
_MOST_CHECKED = 128 << 20
#: Rounds after which residuals and models go back to the start, so that they stay finite whatever the compressor.
_ROUNDS_TO_RESET = 8
#: Vectors that a rank needs for an exchange, roughly.
_VECTORS = 10
_SEED = 1


def _adds_up(part: Part) -> bool:
    """The compressor is linear, and not `identity`, which is what full vectors stand for."""
    return part.name != "identity" and make_compressor(part, 64, np, np.dtype(np.float32), 0).linear


@dataclass(frozen=True)
class CommRequest:
    """The options of `bench comm`, checked.

    Attributes:
        compressors: for the exchanges that take one.
        sizes: elements of a vector.
        link: to emulate; None for the network that is there.
    """

    exchanges: list[str]
    compressors: list[Part]
    sizes: list[int]
    repetitions: Repetitions
    check: bool
    settings: Settings
    link: Link | None

    @staticmethod
    def checked(
        exchanges: Sequence[str],
        compressors: Sequence[str],
        sizes: list[int],
        repetitions: Repetitions,
        check: bool,
        settings: Settings,
    ) -> CommRequest:
        """The request for these options. Raises UsageError."""
        link = settings.link
        check_workers(settings)
        if link and settings.workers:
            raise UsageError("is between real ranks: leave it out, or --workers", "--link")
        for name in exchanges:
            if name not in EXCHANGES:
                known = f"known: {', '.join(EXCHANGES)}"
                raise UsageError(f"unknown exchange {name!r}{suggestion(name, EXCHANGES)}; {known}", "EXCHANGE")
            if link and name in DIRECT:
                raise UsageError(
                    f"{name} calls MPI itself and passes by an emulated link; use `mpisqueeze lab`", "--link"
                )
        parts = [registry.compressors.find(spec) for spec in dict.fromkeys(compressors or COMPRESSORS)]
        default = [name for name in EXCHANGES if not (link and name in DIRECT)]
        emulated = None if link is None else parse_link(link)
        names = list(dict.fromkeys(exchanges)) or default
        nbytes = sizes[-1] * np.dtype(settings.dtype).itemsize
        if too_long := [name for name in names if name in DIRECT and nbytes > LONGEST]:
            raise UsageError(
                f"{sizes[-1]} elements are {nbytes} bytes, and {', '.join(too_long)} hand MPI whole vectors of at "
                f"most {LONGEST}: leave them out, or name smaller sizes",
                "-m",
            )
        return CommRequest(names, parts, sizes, repetitions, check, settings, emulated)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.settings.dtype)

    @property
    def cases(self) -> list[tuple[str, str]]:
        """(exchange, compressor's spec) of each row of a size."""
        return [(name, part.spec) for name in self.exchanges for part in self.takers(name)]

    def takers(self, exchange: str) -> list[Part]:
        """The compressors with which an exchange is timed; full vectors come first where they are its baseline."""
        if exchange in STEPS:
            return self.compressors
        full = registry.compressors.find("identity")
        return [full, *(part for part in self.compressors if exchange == ALLREDUCE and _adds_up(part))]

    @property
    def rounds(self) -> int:
        """The number of rounds of all sizes together."""
        return sum(len(self.repetitions.rounds(size)) for size in self.sizes)


@dataclass(frozen=True)
class ExchangeRow:
    """A row of `results`: an exchange with a compressor at one size.

    Attributes:
        algorithm: whose step it is; None for a collective of MPI alone.
        bytes: of a vector of `size` elements.
        time: the slowest rank's.
        payload_bytes: that a rank sends, mean over ranks; `…_busiest`: the most; `…_all`: all ranks together; `…_are`:
            `counted`, or `by definition` of one of MPI's own collectives.
        vector_payload_bytes: of a rank's whole vector as it is sent.
        algbw, busbw: GB/s of payload; `effective_…`: of full vectors in the same time.
        ratio: time over that of the baseline, or None.
        kernels_s: median of what the kernels of a compressed step take alone, the slowest rank's; None for others.
        kernels_ratio: time over that.
        wrong: elements of all ranks that differ from those of virtual workers, None where that is not known.
    """

    exchange: str
    compressor: str
    algorithm: str | None
    ranks: int
    size: int
    bytes: int
    time: TimeStatistics
    payload_bytes: int
    payload_bytes_busiest: int
    payload_bytes_all: int
    payload_bytes_are: BytesAre
    vector_payload_bytes: int
    algbw: float
    busbw: float
    effective_algbw: float
    effective_busbw: float
    ratio: float | None
    kernels_s: float | None
    kernels_ratio: float | None
    wrong: int | None
    how: str | None
    iterations: int
    samples: dict[str, list[float]]


class Bench:
    """All ranks, measuring together. Building it is collective.

    Raises:
        UsageError, RankFailureError: on every rank alike.
    """

    def __init__(self, request: CommRequest, world: World) -> None:
        self.request, self.world = request, world
        self.interrupts = Interrupts(world.leads)
        settings = request.settings
        use_threads(settings.threads)
        self.device = choose_device(settings.device, settings.buffers, world)
        # A rank's share of a host's memory is not known, but how many ranks it is for is.
        local = world.comm.allreduce(world.local_rank, MPI.MAX) + 1
        vectors = local * (_VECTORS * len(request.cases) + 2) + world.size * ("mpi-gather-bcast" in request.exchanges)
        nbytes = vectors * request.sizes[-1] * request.dtype.itemsize
        world.collectively(lambda: check_memory(nbytes, "benchmarking all of this at once"))
        emulated = emulate(world, request.link) if request.link else None
        self.network = Network(world, self.device, False, emulated, settings.chunk, settings.tree)
        self.topology = Topology("ring", world.size)
        for part in request.compressors:
            make = partial(self._compressor, part, self.device)
            world.collectively(partial(contracts.try_compressor, part, make, request.sizes[0], self.device.xp))

    def context(self) -> dict[str, Any]:
        """The JSON's `context`, on rank 0; collective."""
        request, environment = self.request, collect_environment(self.world.comm)
        if not self.world.is_root:
            return {}
        kernels = kernels_for(self.device.xp, request.dtype)
        return {
            "command": command_line(),
            **environment,
            "device": self.device.label,
            "buffers": self.device.buffers,
            "buffers_reason": self.device.buffers_reason,
            "kernels": kernels.name,
            "threads": threads_of(kernels),
            **link_facts(self.network),
            "link_given": request.settings.link,
            "dtype": request.dtype.name,
            "chunk": request.settings.chunk,
            "tree": request.settings.tree,
            "warmup": request.repetitions.warmup,
            "check": request.check,
            "baseline": BASELINE,
        }

    def run(self, row: Callable[[ExchangeRow], None], tick: Callable[[str], None]) -> list[ExchangeRow]:
        """The rows, on rank 0; collective.

        Args:
            row: called on rank 0 with each of them, as it is done.
            tick: called on every rank after each round, with what is being timed.

        Raises:
            StoppedError: on every rank alike.
        """
        results: list[ExchangeRow] = []
        with self.interrupts:
            for size in self.request.sizes:
                for found in self._measure(size, tick):
                    if self.world.is_root:
                        results.append(found)
                        row(found)
        return results

    # -- one size

    def _measure(self, size: int, tick: Callable[[str], None]) -> list[ExchangeRow]:
        request = self.request
        stage = self.world.collectively(lambda: Stage(self.network, size, request.dtype))
        with self._cases(stage) as cases:
            wrong: list[int | None] = self._check(stage, cases) if request.check else [None] * len(cases)
            with no_garbage_collection():
                for number in request.repetitions.rounds(size):
                    for case in rotated(cases, number):
                        if number % _ROUNDS_TO_RESET == 0:
                            case.reset()
                        seconds = self._timed(case)
                        alone = self._timed(case.kernels) if case.kernels else 0.0
                        if number >= 0:
                            case.seconds.append(seconds)
                            if case.kernels:
                                case.kernels.seconds.append(alone)
                    tick(f"{size} elements")
            for index, case in enumerate(cases):
                # All runs together must have left ranks alike, too.
                if request.check and case.alike and (off := count_unlike(self.world.comm, case.output())):
                    wrong[index] = (wrong[index] or 0) + off
            return self._rows(stage, cases, wrong)

    @contextmanager
    def _cases(self, stage: Stage) -> Iterator[list[Case]]:
        """Build all cases; closed where they are done, or where all ranks stopped, with no message on its way."""
        cases: list[Case] = self.world.collectively(lambda: list(self._built(stage)))
        try:
            yield cases
        except StoppedError:
            self._close(cases)
            raise
        self._close(cases)

    @staticmethod
    def _close(cases: Sequence[Case]) -> None:
        for case in cases:
            case.close()

    def _built(self, stage: Stage) -> Iterator[Case]:
        for name in self.request.exchanges:
            server = name if name in (*SERVERS, ALLREDUCE) else "root"
            for part in self.request.takers(name):
                if name in FULL and part.spec == "identity":
                    yield FULL[name](stage, name)
                    continue
                make, on_host = (partial(self._compressor, part, device) for device in (self.device, Device()))
                setup = Setup(self.network, stage.size, stage.dtype, _SEED, make, self.topology, server=server)
                spec = None if part.name == "identity" and not part.is_plugin else part.spec
                yield StepCase(stage, name, setup, spec, on_host)

    def _compressor(self, part: Part, device: Device, dimension: int, seed: int) -> Compressor:
        return make_compressor(part, dimension, device.xp, self.request.dtype, seed, option="--compressor")

    def _timed(self, case: Case) -> float:
        """Seconds of a run on this rank, once all have come. Raises StoppedError on all of them for a signal."""
        case.prepare()
        self.interrupts.agree(self.world)
        try:
            return seconds_of(case.run, self.device, self.world.now)
        except Exception as error:
            # The others wait for what this rank will not send.
            what = f"rank {self.world.rank}, {case.exchange} with {case.compressor}: {error!r}"
            raise RankFailureError(what, traceback.format_exc(), alone=True) from error

    def _check(self, stage: Stage, cases: list[Case]) -> list[int | None]:
        """The number of elements of all ranks that are not what they must be, by case; None where it is not known."""
        counts: list[int | None] = []
        feasible = stage.size * stage.ranks <= _MOST_CHECKED
        gradients = stage.all_gradients() if feasible and self.world.is_root else []
        for case in cases:
            case.reset()
            for _ in range(_CHECKED_RUNS):
                self._timed(case)
            if feasible:
                expected = partial(case.expected, gradients, _CHECKED_RUNS)
                counts.append(count_wrong(self.world, case.output(), expected))
            else:
                counts.append(0 if case.alike else None)
        return counts

    # -- what came out

    def _rows(self, stage: Stage, cases: list[Case], wrong: Sequence[int | None]) -> list[ExchangeRow]:
        self.network.settle()
        self._raise_troubles()
        seconds = [self._slowest(case) for case in cases]
        statistics = [TimeStatistics.of(times) for times in seconds]
        medians = [found.median for case, found in zip(cases, statistics, strict=True) if case.exchange == BASELINE]
        base = medians[0] if medians else None
        return [self._row(stage, *each, base) for each in zip(cases, seconds, statistics, wrong, strict=True)]

    def _slowest(self, case: Case) -> list[float]:
        """The slowest rank's time of each run; collective."""
        times = np.array(case.seconds)
        self.world.comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
        return times.tolist()

    def _row(
        self,
        stage: Stage,
        case: Case,
        seconds: list[float],
        time: TimeStatistics,
        wrong: int | None,
        base: float | None,
    ) -> ExchangeRow:
        kernels = TimeStatistics.of(self._slowest(case.kernels)).median if case.kernels else None
        self.network.counter.reset()
        self._timed(case)
        sent = self.world.comm.allgather(self.network.counter.bytes_sent)
        rate, effective = (1e-9 * nbytes / time.median for nbytes in (case.payload_bytes, stage.vector_bytes))
        return ExchangeRow(
            exchange=case.exchange,
            compressor=case.compressor,
            algorithm=case.algorithm,
            ranks=stage.ranks,
            size=stage.size,
            bytes=stage.vector_bytes,
            time=time,
            payload_bytes=round(sum(sent) / len(sent)),
            payload_bytes_busiest=max(sent),
            payload_bytes_all=sum(sent),
            payload_bytes_are=case.bytes_are,
            vector_payload_bytes=case.payload_bytes,
            algbw=rate,
            busbw=rate * case.bus_factor,
            effective_algbw=effective,
            effective_busbw=effective * case.bus_factor,
            ratio=time.median / base if base else None,
            kernels_s=kernels,
            kernels_ratio=time.median / kernels if kernels else None,
            wrong=wrong,
            how=case.how(),
            iterations=len(seconds),
            samples={"time_s": seconds},
        )

    def _raise_troubles(self) -> None:
        """Raise RankFailureError on all ranks if one of them could not encode."""
        troubles = self.world.comm.allgather(self.network.trouble)
        for rank, trouble in enumerate(troubles):
            if trouble is not None:
                raise RankFailureError(f"rank {rank}: {trouble.message}", trouble.details)
