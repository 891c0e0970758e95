"""`bench comm`: what a step takes through each exchange, beside MPI_Allreduce of full vectors in the same run.

At each size all exchanges are timed in turn, round by round in a rotating order, so that what else the machine does
meets them alike. Ranks meet before each; its time is the slowest rank's. What was computed is compared with the same
equations on one rank, to the bit.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI

from mpisqueeze.algorithms.base import Setup
from mpisqueeze.bench.exchanges import BASELINE, EXCHANGES, FULL, STEPS, Case, Stage, StepCase
from mpisqueeze.bench.kernels import make_compressor
from mpisqueeze.bench.timing import (
    Repetitions,
    Statistics,
    check_memory,
    command_line,
    differing,
    no_garbage_collection,
    rotated,
)
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.link import emulate
from mpisqueeze.comm.placement import choose_device
from mpisqueeze.comm.signals import Signal
from mpisqueeze.comm.world import RankFailureError, World
from mpisqueeze.compressors.base import Compressor
from mpisqueeze.costs.link import Link, parse_link
from mpisqueeze.devices.device import Device
from mpisqueeze.errors import UsageError
from mpisqueeze.kernels import kernels_for, threads_of, use_threads
from mpisqueeze.language import suggestion
from mpisqueeze.parts import contracts, registry
from mpisqueeze.parts.registry import Part
from mpisqueeze.record.environment import collect_environment
from mpisqueeze.runs.interrupts import Interrupts
from mpisqueeze.runs.training import link_facts
from mpisqueeze.settings import Settings
from mpisqueeze.topology import Topology

SCHEMA_VERSION = 1
COMPRESSORS = ("identity", "onebit")
#: Runs whose result is compared with the equations, the second with residuals.
_CHECKED_RUNS = 2
#: Numbers, of all ranks' vectors together, up to which rank 0 computes what they must end with.
_MOST_CHECKED = 128 << 20
#: Rounds after which residuals and models go back to the start, so that they stay finite whatever the compressor.
_ROUNDS_TO_RESET = 8
#: Vectors that a rank needs for an exchange, roughly.
_VECTORS = 6
_SEED = 1


@dataclass(frozen=True)
class Request:
    """What `bench comm` is asked for.

    Attributes:
        exchanges: names, in the order of the rows.
        compressors: for the exchanges that take one.
        sizes: numbers in a vector.
        check: compare results with the equations.
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
    ) -> Request:
        """From the options. Raises UsageError."""
        link = settings.link
        for name in exchanges:
            if name not in EXCHANGES:
                known = f"known: {', '.join(EXCHANGES)}"
                raise UsageError(f"unknown exchange {name!r}{suggestion(name, EXCHANGES)}; {known}", "EXCHANGE")
            if link and name.startswith("mpi-"):
                raise UsageError(f"{name} is MPI's own and passes by an emulated link; use `mpisqueeze lab`", "--link")
        parts = [registry.compressors.find(spec) for spec in dict.fromkeys(compressors or COMPRESSORS)]
        default = [name for name in EXCHANGES if not (link and name.startswith("mpi-"))]
        emulated = None if link is None else parse_link(link)
        names = list(dict.fromkeys(exchanges)) or default
        return Request(names, parts, sizes, repetitions, check, settings, emulated)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.settings.dtype)

    @property
    def cases(self) -> list[tuple[str, str]]:
        """(exchange, compressor's spec) of each row of a size."""
        specs = [part.spec for part in self.compressors]
        return [(name, spec) for name in self.exchanges for spec in (specs if name in STEPS else ["identity"])]

    @property
    def rounds(self) -> int:
        """Of all sizes together."""
        return sum(len(self.repetitions.rounds(size)) for size in self.sizes)


@dataclass(frozen=True)
class Outcome:
    """How a benchmark ended.

    Attributes:
        results: rows, on rank 0; those that were done where a signal ended it.
        stopped_by: Signal.INTERRUPT or Signal.TERMINATE if a signal ended it, else Signal.NONE.
    """

    results: list[dict[str, Any]]
    stopped_by: Signal = Signal.NONE


class _StopError(Exception):
    """A signal came, and all ranks know."""


@dataclass
class Bench:
    """All ranks, measuring together. Building it is collective.

    Raises:
        UsageError, RankFailureError: on every rank alike.
    """

    request: Request
    world: World
    stopped_by: Signal = field(default=Signal.NONE, init=False)

    def __post_init__(self) -> None:
        request, settings, world = self.request, self.request.settings, self.world
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
            world.collectively(partial(self._try, part))

    def context(self) -> dict[str, Any]:
        """What is known before anything is measured, on rank 0: the JSON's `context`; collective."""
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

    def run(self, row: Callable[[dict[str, Any]], None], tick: Callable[[str], None]) -> Outcome:
        """Time everything; collective.

        Args:
            row: called on rank 0 with each row of `results`.
            tick: called on every rank after each round, with what is being timed.
        """
        world, results = self.world, list[dict[str, Any]]()
        with Interrupts() as interrupts:
            self._interrupts = interrupts
            try:
                for size in self.request.sizes:
                    for found in self._measure(size, tick):
                        results.append(found)
                        if world.is_root:
                            row(found)
            except _StopError:
                pass
        return Outcome(results if world.is_root else [], self.stopped_by)

    # -- one size

    def _measure(self, size: int, tick: Callable[[str], None]) -> list[dict[str, Any]]:
        world = self.world
        stage = world.collectively(lambda: Stage(self.network, size, self.request.dtype))
        cases: list[Case] = world.collectively(lambda: self._cases(stage))
        try:
            rows = self._rows(stage, cases, self._run_cases(stage, cases, tick))
        except _StopError:
            # All ranks stopped where they met, with no message on its way.
            _close(cases)
            raise
        _close(cases)
        return rows

    def _run_cases(self, stage: Stage, cases: list[Case], tick: Callable[[str], None]) -> list[int | None]:
        """Time all cases in turn; how many of each one's numbers are wrong, None where that is not known."""
        request = self.request
        wrong: list[int | None] = self._check(stage, cases) if request.check else [None] * len(cases)
        with no_garbage_collection():
            for number in request.repetitions.rounds(stage.size):
                for case in rotated(cases, number):
                    if number % _ROUNDS_TO_RESET == 0:
                        case.reset()
                    seconds = self._timed(case)
                    if number >= 0:
                        case.seconds.append(seconds)
                tick(f"{stage.size} numbers")
        if request.check:
            wrong = [self._still_alike(case, count) for case, count in zip(cases, wrong, strict=True)]
        return wrong

    def _try(self, part: Part) -> None:
        contracts.try_compressor(part, partial(self._compressor, part), self.request.sizes[0], self.device.xp)

    def _cases(self, stage: Stage) -> list[Case]:
        cases: list[Case] = []
        for name in self.request.exchanges:
            if name in FULL:
                cases.append(FULL[name](stage, name))
                continue
            for part in self.request.compressors:
                setup = Setup(
                    self.network,
                    stage.size,
                    stage.dtype,
                    _SEED,
                    partial(self._compressor, part),
                    self.topology,
                    server="sharded" if name == "sharded" else "root",
                )
                spec = None if part.name == "identity" and not part.is_plugin else part.spec
                on_host = partial(self._compressor, part, device=Device())
                cases.append(StepCase(stage, name, setup, spec, on_host))
        return cases

    def _compressor(self, part: Part, dimension: int, seed: int, device: Device | None = None) -> Compressor:
        xp = (device or self.device).xp
        return make_compressor(part, dimension, xp, self.request.dtype, seed, option="--compressor")

    def _timed(self, case: Case) -> float:
        """Seconds of a run on this rank, once all have come."""
        case.prepare()
        self._meet()
        synchronize = self.device.synchronize
        synchronize()
        began = perf_counter()
        try:
            case.run()
        except Exception as error:
            # The others wait for what this rank will not send.
            what = f"rank {self.world.rank}, {case.exchange} with {case.compressor}: {error!r}"
            raise RankFailureError(what, traceback.format_exc(), alone=True) from error
        synchronize()
        return perf_counter() - began

    def _meet(self) -> None:
        """Wait for all ranks. Raises _StopError on all of them once one was told to stop."""
        agreed = self.world.agree(self._interrupts.wish)
        if agreed:
            self.stopped_by = Signal(agreed)
            raise _StopError

    # -- is it right

    def _check(self, stage: Stage, cases: list[Case]) -> list[int | None]:
        """How many numbers of all ranks' results differ from the equations', by case; None where it is not known."""
        counts: list[int | None] = []
        feasible = stage.size * stage.ranks <= _MOST_CHECKED
        gradients = stage.all_gradients() if feasible and self.world.is_root else []
        for case in cases:
            case.reset()
            for _ in range(_CHECKED_RUNS):
                self._timed(case)
            counts.append(self._compare(case, gradients) if feasible else 0 if case.alike else None)
        return counts

    def _compare(self, case: Case, gradients: list[np.ndarray]) -> int:
        """How many numbers differ from what they must be; vectors travel only where digests differ."""
        world, comm = self.world, self.world.comm
        expected: Callable[[int], np.ndarray] | None = None

        def compute() -> list[bytes]:
            nonlocal expected
            expected = case.expected(gradients, _CHECKED_RUNS)
            digests = [_digest(expected(rank)) for rank in range(1 if case.alike else world.size)]
            return digests * (world.size if case.alike else 1)

        digests = world.on_root(compute)
        found = case.output()
        off = comm.allgather(_digest(found) != digests[world.rank])
        count = 0
        for rank in range(world.size):
            if not off[rank]:
                continue
            if world.is_root:
                assert expected is not None
                if rank:
                    comm.send(expected(rank), rank)
                else:
                    count = differing(found, expected(0))
            elif rank == world.rank:
                count = differing(found, comm.recv(source=0))
        return comm.allreduce(count)

    def _still_alike(self, case: Case, count: int | None) -> int | None:
        """`count`, and numbers in which a rank differs from rank 0 after all runs, where it must not."""
        if not case.alike:
            return count
        comm, found = self.world.comm, case.output()
        digests = comm.allgather(_digest(found))
        if all(digest == digests[0] for digest in digests):
            return count
        return (count or 0) + comm.allreduce(differing(found, comm.bcast(found)))

    # -- what came out

    def _rows(self, stage: Stage, cases: list[Case], wrong: Sequence[int | None]) -> list[dict[str, Any]]:
        self.network.settle()
        self._raise_troubles()
        comm, counter = self.world.comm, self.network.counter
        rows = []
        for case, count in zip(cases, wrong, strict=True):
            times = np.array(case.seconds)
            comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
            counter.reset()
            self._timed(case)
            sent = comm.allgather(counter.bytes_sent)
            statistics = Statistics.of(times.tolist())
            rate, effective = (1e-9 * nbytes / statistics.median for nbytes in (case.payload_bytes, stage.vector_bytes))
            rows.append(
                {
                    "exchange": case.exchange,
                    "compressor": case.compressor,
                    "algorithm": case.algorithm,
                    "ranks": stage.ranks,
                    "size": stage.size,
                    "bytes": stage.vector_bytes,
                    **statistics.named("time"),
                    "payload_bytes": round(sum(sent) / len(sent)),
                    "payload_bytes_busiest": max(sent),
                    "payload_bytes_all": sum(sent),
                    "vector_payload_bytes": case.payload_bytes,
                    "algbw": rate,
                    "busbw": rate * case.bus_factor,
                    "effective_algbw": effective,
                    "effective_busbw": effective * case.bus_factor,
                    "ratio": None,
                    "wrong": count,
                    "how": case.how(),
                    "iterations": len(case.seconds),
                    "samples": {"time_s": times.tolist()},
                }
            )
        base = next((row["time_s"] for row in rows if row["exchange"] == BASELINE), None)
        for row in rows:
            row["ratio"] = row["time_s"] / base if base else None
        return rows

    def _raise_troubles(self) -> None:
        """Raise RankFailureError on all ranks if one of them could not encode."""
        troubles = self.world.comm.allgather(self.network.trouble)
        for rank, trouble in enumerate(troubles):
            if trouble is not None:
                raise RankFailureError(f"rank {rank}: {trouble.message}", trouble.details)


def _close(cases: Sequence[Case]) -> None:
    for case in cases:
        case.close()


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).data).digest()
