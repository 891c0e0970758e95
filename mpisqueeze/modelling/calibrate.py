"""`mpisqueeze calibrate` measures what messages, memory and compressors cost here, the way that exchanges use them.

Messages are persistent requests of `comm.exchange.Network`, over the real network or an emulated link. While two ranks
talk, the others sleep. Every stage ends with an agreement of all ranks, where a signal that any of them noted ends the
measurement on all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

import numpy as np

from mpisqueeze import __version__
from mpisqueeze.algorithms.base import Setup
from mpisqueeze.algorithms.doublesqueeze import DoubleSqueeze
from mpisqueeze.bench.kernels import Workload, make_compressor
from mpisqueeze.bench.timing import seconds_of
from mpisqueeze.comm.emulated import emulate
from mpisqueeze.comm.estimate import shared_cores
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.placement import choose_device
from mpisqueeze.comm.world import World
from mpisqueeze.compressors.onebit import OneBit
from mpisqueeze.costs.link import Link, parse_link
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.errors import UsageError
from mpisqueeze.mpi import MPI
from mpisqueeze.parts import registry
from mpisqueeze.parts.registry import Part
from mpisqueeze.record.calibration import SCHEMA_VERSION, Fit, fit_line
from mpisqueeze.record.environment import collect_environment
from mpisqueeze.runs.interrupts import Interrupts
from mpisqueeze.settings import Settings
from mpisqueeze.topology import Topology

#: One sensible spec of each built-in compressor, and what `predict` shows by itself.
COMPRESSORS = (
    "identity", "onebit", "qsgd:4", "qsgd:8", "uniform:2", "uniform:8", "ternary", "topk:0.01", "randomk:0.01",
    "randomk:0.01,shared", "clip:16", "fp16", "bf16", "fp8", "natural",
)  # fmt: skip
#: Lengths of vectors whose in-place addition is measured beside that of long ones.
ADDED = (1 << 16, 1 << 18, 1 << 20)
#: Length of the vectors that kernels are measured on.
KERNEL_ELEMENTS = 1 << 20
#: Sections in which a step is timed, beside one, and elements of each: a block of `onebit`.
_SECTIONS, _SECTION_ELEMENTS = 64, 1024
#: Sizes grow no further once a message takes this long, s.
SLOWEST_S = 0.5
#: Ranks that rank 0 plays ping-pong with.
MOST_PARTNERS = 3
#: Messages that each sender of an incast has on its way, at first and at most; large ones fewer.
_FEW, _MANY, _SMALL = 4, 16, 4 << 10
_PING, _FLOOD, _ROUND, _NOTHING = 21, 22, 23, 24
#: Ranks that each rank sends to when all send at once, and seconds between two looks for what has arrived: at least,
#: and as a part of the time that the messages are expected to take.
_TARGETS, _PAUSE_S, _PAUSES = 3, 1e-3, 8
_MIB = 1 << 20


@dataclass(frozen=True)
class CalibrationRequest:
    """The options of `calibrate`, checked.

    Attributes:
        link: to emulate, with its text; None for the network that is there.
        max_size: bytes of the largest message.
        quick: fewer sizes and repetitions.
    """

    link: Link | None
    link_text: str | None
    compressors: list[Part]
    max_size: int
    quick: bool
    dtype: str
    device: str

    @staticmethod
    def checked(compressors: Sequence[str], max_size: int, quick: bool, settings: Settings) -> CalibrationRequest:
        """The request for these options. Raises UsageError."""
        if max_size < 2:
            raise UsageError(f"must be at least 2 bytes, for a line through two sizes, got {max_size}", "--max-size")
        # Full vectors are what everything is compared with.
        specs = dict.fromkeys(["identity", *(compressors or COMPRESSORS)])
        parts = [registry.compressors.find(spec) for spec in specs]
        link = None if settings.link is None else parse_link(settings.link)
        return CalibrationRequest(link, settings.link, parts, max_size, quick, settings.dtype, settings.device)

    @property
    def sizes(self) -> list[int]:
        """Bytes: 1, 2, 4, … up to the largest."""
        step = 4 if self.quick else 2
        most = min(self.max_size, _MIB) if self.quick else self.max_size
        sizes = [step**k for k in range(64) if step**k < most]
        return [*sizes, most]

    @property
    def budget_s(self) -> float:
        """Seconds to spend on a size."""
        return 0.02 if self.quick else 0.1

    @property
    def repetitions(self) -> int:
        return 3 if self.quick else 9


@dataclass(frozen=True)
class _Session:
    """All ranks, measuring together."""

    request: CalibrationRequest
    world: World
    network: Network
    interrupts: Interrupts
    say: Callable[[str], None]

    def meet(self) -> None:
        """Wait for all ranks without taking a core. Raises StoppedError on all of them once one was told to stop."""
        self.world.rest()
        self.interrupts.agree(self.world)

    def between(self, partner: int, measure: Callable[[int], list[float]]) -> list[float]:
        """The times that rank 0 measures with its partner, `measure(peer)`, while the others sleep; collective."""
        rank, times = self.world.rank, None
        if rank in (0, partner):
            times = measure(0 if rank else partner)
        self.meet()
        return self.world.comm.bcast(times)

    def wire(self, nbytes: int) -> Wire:
        """A buffer whose memory is there already."""
        wire = self.network.wire(nbytes)
        wire.array.fill(1)
        wire.push()
        return wire


def calibrate(request: CalibrationRequest, world: World, say: Callable[[str], None]) -> dict[str, Any]:
    """The object of calibration.json, on rank 0, elsewhere an empty one; collective.

    Args:
        say: called on rank 0 with what happens next.

    Raises:
        UsageError, RankFailureError, StoppedError: on every rank alike.
    """
    device = choose_device(request.device, "auto", world)
    emulated = emulate(world, request.link) if request.link else None
    network = Network(world, device, emulated=emulated)
    environment = collect_environment(world.comm)
    with Interrupts() as interrupts:
        session = _Session(request, world, network, interrupts, say)
        link = _measure_link(session)
        allreduce = None if emulated or world.size == 1 else _measure_allreduce(session)
        memory = _measure_memory(session)
        section_s = _measure_section(session)
        kernels = [_measure_kernel(session, part) for part in request.compressors]
    if not world.is_root:
        return {}
    return {
        "schema_version": SCHEMA_VERSION,
        "mpisqueeze": __version__,
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment,
        "ranks": world.size,
        "hosts": world.hosts,
        "device": device.kind,
        "buffers": device.buffers,
        "dtype": request.dtype,
        "quick": request.quick,
        "link": link,
        "allreduce": allreduce,
        "memory": memory,
        "section_s": section_s,
        "kernels": kernels,
    }


# -- the network


def assumed_link(text: str) -> dict[str, Any]:
    """The `link` object of a network that is given, as `--link` has it, and not measured."""
    link = parse_link(text)
    bandwidth = 8 / link.byte_s if link.byte_s else None
    alpha = link.latency + link.gap
    return {"kind": "virtual", "given": text, "alpha_s": alpha, "gap_s": link.gap, "bandwidth": bandwidth}


def partners(world: World) -> list[int]:
    """The ranks that rank 0 plays ping-pong with: 1, the last, and the first on another host; collective."""
    hosts = world.comm.allgather(world.host)
    away = [rank for rank, host in enumerate(hosts) if host != hosts[0]]
    chosen = [1, world.size - 1, *away[:1]] if world.size > 1 else []
    return list(dict.fromkeys(chosen))[:MOST_PARTNERS]


def _measure_link(session: _Session) -> dict[str, Any] | None:
    """The `link` object, on every rank; None for a single one."""
    request, world = session.request, session.world
    if world.size == 1:
        return None
    hosts = world.comm.allgather(world.host)
    pairs: list[tuple[int, Fit, list[dict[str, Any]]]] = []
    for other in partners(world):
        session.say(f"ping-pong between ranks 0 and {other}")
        found = list(_ping_pong(session, other))
        pairs.append((other, fit_line([p["size"] for p in found], [p["time_s"] for p in found]), found))
    # All wait for the slowest.
    partner, fit, slowest = max(pairs, key=lambda pair: pair[1].alpha_s + pair[1].byte_s * _MIB)
    session.say(f"incast: {world.size - 1} to rank 0")
    flood = list(_incast(session, fit))
    gap = fit_line([point["size"] for point in flood], [point["per_message_s"] for point in flood])
    session.say(f"both directions at once between ranks 0 and {partner}")
    duplex = _duplex(session, partner, slowest)
    processor = _measure_processor(session, fit)
    largest = slowest[-1]["size"]
    return {
        "kind": "emulated" if request.link else "lab" if os.environ.get("MPISQUEEZE_LAB") else "real",
        "given": request.link_text,
        "ranks": [0, partner],
        "alpha_s": fit.alpha_s,
        "bandwidth": fit.bandwidth,
        # A port is busy for a part of a message's whole time.
        "gap_s": min(gap.alpha_s, fit.alpha_s),
        "processor": processor,
        "incast_bandwidth": gap.bandwidth,
        "duplex_ratio": duplex["ratio"],
        "largest_size": largest,
        "stopped_at": largest if largest < request.sizes[-1] else None,
        "fit": fit.as_json(),
        "pairs": [
            {
                "ranks": [0, other],
                "same_host": hosts[0] == hosts[other],
                "alpha_s": line.alpha_s,
                "bandwidth": line.bandwidth,
                "fit": line.as_json(),
            }
            for other, line, _ in pairs
        ],
        "ping_pong": [{"ranks": [0, other], **point} for other, _, found in pairs for point in found],
        "incast": flood,
        "incast_fit": gap.as_json(),
        "duplex": duplex,
    }


def _ping_pong(session: _Session, partner: int) -> Iterator[dict[str, Any]]:
    """Half round trips between ranks 0 and `partner` for growing sizes, until one takes too long; collective."""
    expected = 0.0
    for size in session.request.sizes:
        few = 2 if expected > 0.05 else 3
        rounds = int(max(few, min(200, session.request.budget_s / (2 * max(expected, 1e-6)))))
        warm = expected < SLOWEST_S / 4
        leads = session.world.is_root
        times = session.between(partner, lambda peer: _rounds(session, peer, size, rounds, warm, leads))  # noqa: B023
        point = {"size": size, **_timed([seconds / 2 for seconds in times])}
        yield point
        expected = point["time_s"]
        if expected > SLOWEST_S:
            return


def _rounds(session: _Session, peer: int, size: int, count: int, warm: bool, leads: bool) -> list[float]:
    """Seconds until this rank has sent to `peer` and heard of it; `leads`: sends before it has heard.

    With `warm` one more goes first and is not counted.
    """
    network = session.network
    out, back = session.wire(size), session.wire(size)
    send, receive = network.sender(out.mpi, peer, _PING), network.receiver(back.mpi, peer, _PING)
    times = []
    for _ in range(count + warm):
        began = time.perf_counter()
        receive.Start()
        if leads:
            send.Start()
        receive.Wait()
        if not leads:
            send.Start()
        send.Wait()
        times.append(time.perf_counter() - began)
    send.Free()
    receive.Free()
    return times[warm:]


def _incast(session: _Session, fit: Fit) -> Iterator[dict[str, Any]]:
    """The time of one more message to rank 0 while all others send to it, by size; collective.

    All send 1 message, and then a few. The difference, divided by the number of messages more, is the time that each
    keeps rank 0's port busy.
    """
    request, senders = session.request, session.world.size - 1
    for size in (1, 256, 4 << 10, 64 << 10, 256 << 10, _MIB, 4 * _MIB):
        several = _MANY if size <= _SMALL else _FEW
        message = fit.alpha_s + size * fit.byte_s
        if size > min(request.max_size, request.sizes[-1]) or (size > 4096 and message * senders * several > 2):
            return
        repetitions = int(max(2, min(3 * request.repetitions, request.budget_s * 10 / (message * senders * several))))
        times: dict[int, list[float]] = {1: [], several: []}
        for count in (*times,) * repetitions:
            times[count].append(_flood(session, size, count))
        session.meet()
        # The fastest of each: a difference of two times has the noise of both.
        one, more = session.world.comm.bcast([min(times[count]) for count in (1, several)])
        per_message = max((more - one) / (senders * (several - 1)), 1e-9)
        yield {
            "size": size,
            "senders": senders,
            "messages": several,
            "one_s": one,
            "all_s": more,
            "per_message_s": per_message,
            "repetitions": repetitions,
        }


def _flood(session: _Session, size: int, count: int) -> float:
    """Each rank but 0 sends `count` messages to it at once; on rank 0 the seconds until it has them all."""
    network, world = session.network, session.world
    sources = [source for source in range(1, world.size) for _ in range(count)] if world.is_root else []
    wires = [session.wire(size) for _ in sources or [0]]
    receives = [network.receiver(wire.mpi, source, _FLOOD) for wire, source in zip(wires, sources, strict=False)]
    sends = [] if world.is_root else [network.sender(wires[0].mpi, 0, _FLOOD) for _ in range(count)]
    for request in receives:
        request.Start()
    world.comm.Barrier()
    began = time.perf_counter()
    for request in sends:
        request.Start()
    for request in [*receives, *sends]:
        request.Wait()
    seconds = time.perf_counter() - began
    for request in [*receives, *sends]:
        request.Free()
    return seconds


def _duplex(session: _Session, partner: int, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Ranks 0 and `partner` send to each other at once; ratio: over one direction's time, 1 to 2; collective."""
    point = [p for p in points if p["time_s"] < SLOWEST_S / 4 or p is points[0]][-1]
    size, count = point["size"], session.request.repetitions
    both = _timed(session.between(partner, lambda peer: _rounds(session, peer, size, count, True, True)))
    return {"size": size, **both, "one_direction_s": point["time_s"], "ratio": both["time_s"] / point["time_s"]}


def _measure_processor(session: _Session, fit: Fit) -> dict[str, Any]:
    """The work of messages for processors, with all ranks at work at once; collective.

    o and O are from the CPU time of all ranks while each sends small, then large messages to a few others and sleeps
    until they are there, so that it is work and no waiting that counts, and programs beside it count little. w is the
    median time of a round, in which each rank sends a byte to the next and waits for the one before, beyond α.
    """
    request, world = session.request, session.world
    session.say("all ranks at once: processor time of messages, and rounds")
    targets = min(_TARGETS, world.size - 1)
    few = int(max(1, min(_MANY, request.budget_s * 10 / max(fit.alpha_s * targets, 1e-9))))
    look_s = float(np.median(world.comm.allgather(_look_s(session))))
    most = request.budget_s * 5 / max(fit.byte_s * targets * _FEW, 1e-15)
    large = int(max(2, min(_MIB, request.max_size, most)))
    points = []
    for size, count in ((1, few), (large, _FEW)):
        pause = max(_PAUSE_S, (fit.alpha_s + targets * count * size * fit.byte_s) / _PAUSES)
        times = [_all_at_once(session, size, count, targets, look_s, pause) for _ in range(request.repetitions + 1)]
        messages = world.size * targets * count
        points.append(float(np.median(np.sum(world.comm.allgather(times[1:]), axis=0))) / messages)
        session.meet()
    message_s = max(points[0], 0.0)
    rounds = [_one_round(session) for _ in range(20 * request.repetitions)]
    slowest = np.max(world.comm.allgather(rounds), axis=0)
    session.meet()
    ranks, cores = shared_cores(world)
    return {
        "message_s": message_s,
        "byte_s": max(points[1] - message_s, 0.0) / large,
        "wake_s": max(float(np.median(slowest)) - fit.alpha_s, 0.0),
        "ranks": ranks,
        "cores": cores,
        "large_size": large,
    }


def _look_s(session: _Session) -> float:
    """CPU time (s) of a look for a message that is not there, and of the sleep after it; all ranks at once."""
    world = session.world
    receive = session.network.receiver(session.wire(1).mpi, (world.rank + 1) % world.size, _NOTHING)
    receive.Start()
    world.comm.Barrier()
    began, looks = time.process_time(), 50
    for _ in range(looks):
        receive.Test()
        time.sleep(_PAUSE_S)
    seconds = (time.process_time() - began) / looks
    session.meet()
    receive.Cancel()
    receive.Wait()
    receive.Free()
    return seconds


def _all_at_once(session: _Session, size: int, count: int, targets: int, look_s: float, pause: float) -> float:
    """CPU time (s) of this rank while each sends `count` messages to each of the `targets` next ones, without looks."""
    network, world = session.network, session.world
    others = [(step, number) for step in range(1, targets + 1) for number in range(count)]
    out = session.wire(size)
    requests = [
        network.receiver(session.wire(size).mpi, (world.rank - step) % world.size, _FLOOD) for step, _ in others
    ] + [network.sender(out.mpi, (world.rank + step) % world.size, _FLOOD) for step, _ in others]
    world.comm.Barrier()
    began, looks = time.process_time(), 0
    for request in requests:
        request.Start()
    for request in requests:
        while not request.Test():
            looks += 1
            time.sleep(pause)
        request.Wait()
    seconds = time.process_time() - began - looks * look_s
    for request in requests:
        request.Free()
    return seconds


def _one_round(session: _Session) -> float:
    """Seconds until this rank has sent a byte to the next one and heard from the one before, all at once."""
    network, world = session.network, session.world
    send = network.sender(session.wire(1).mpi, (world.rank + 1) % world.size, _ROUND)
    receive = network.receiver(session.wire(1).mpi, (world.rank - 1) % world.size, _ROUND)
    world.comm.Barrier()
    began = time.perf_counter()
    receive.Start()
    send.Start()
    receive.Wait()
    send.Wait()
    seconds = time.perf_counter() - began
    send.Free()
    receive.Free()
    return seconds


def _measure_allreduce(session: _Session) -> list[dict[str, Any]]:
    """The times of MPI_Allreduce in place by size, which is what a user would otherwise pick; collective."""
    request, world = session.request, session.world
    session.say("MPI_Allreduce")
    rows: list[dict[str, Any]] = []
    dtype = np.dtype(request.dtype)
    kind = MPI.DOUBLE if dtype.itemsize == 8 else MPI.FLOAT
    for size in (256, 4 << 10, 64 << 10, _MIB, 16 * _MIB):
        # Each step is 16 times as large.
        if size > max(256, min(request.max_size, request.sizes[-1])) or (rows and 16 * rows[-1]["time_s"] > 1):
            break
        wire = session.wire(size)
        wire.array.fill(0)
        buffer = [wire.mpi[0], size // dtype.itemsize, kind]
        allreduce = partial(world.comm.Allreduce, MPI.IN_PLACE, buffer, MPI.SUM)
        rows.append({"size": size, **_repeat(session, allreduce, world.comm.Barrier)})
    return rows


# -- memory and kernels


def _measure_memory(session: _Session) -> dict[str, Any]:
    """The slowest rank's times of an in-place add and a copy, on all ranks at once; collective."""
    request, device = session.request, session.network.device
    xp, dtype = device.xp, np.dtype(request.dtype)
    elements = (4 if request.quick else 16) * KERNEL_ELEMENTS
    session.say(f"memory: {elements:,} {request.dtype}".replace(",", " "))
    a, b = xp.ones(elements, dtype), xp.ones(elements, dtype)
    lengths = [n for n in ADDED if n < elements]
    adds = [_repeat(session, partial(xp.add, a[:n], b[:n], out=a[:n])) for n in (*lengths, elements)]
    copy, add = _repeat(session, lambda: xp.copyto(a, b)), adds[-1]
    return {
        "elements": elements,
        "add_s_per_element": add["time_s"] / elements,
        "add_spread": add["spread"],
        "copy_s_per_element": copy["time_s"] / elements,
        "copy_spread": copy["spread"],
        # Two vectors read and one written; one read and one written.
        "add_gb_s": 3e-9 * elements * dtype.itemsize / add["time_s"],
        "copy_gb_s": 2e-9 * elements * dtype.itemsize / copy["time_s"],
        # Shorter ones stay in a cache.
        "shorter": [
            {"elements": n, "add_s_per_element": row["time_s"] / n} for n, row in zip(lengths, adds, strict=False)
        ],
    }


def _measure_kernel(session: _Session, part: Part) -> dict[str, Any]:
    """Encoding with and without error feedback, and decoding to add, on all ranks at once; collective.

    The slowest rank's medians count, s an element.
    """
    request, world, device, d = session.request, session.world, session.network.device, KERNEL_ELEMENTS
    session.say(f"kernels: {part.spec}")
    dtype = np.dtype(request.dtype)
    compressor = world.collectively(lambda: make_compressor(part, d, device.xp, dtype, 1, option="--compressor"))
    workload = world.collectively(lambda: Workload(part, compressor, device, world.rank))
    row = {"compressor": part.spec, "elements": d, "payload_bytes": compressor.payload_bytes}
    for name, operation in (("encode", "encode"), ("plain_encode", "plain_encode"), ("decode_add", "decode")):
        before, work = workload.operations[operation]
        timed = _repeat(session, work, before)
        row |= {f"{name}_s_per_element": timed["time_s"] / d, f"{name}_spread": timed["spread"]}
    return row


def _measure_section(session: _Session) -> float:
    """The time (s) that an exchange spends on a section whatever its length, without messages; collective.

    The difference of a step of `doublesqueeze` in many sections and in one, of each rank alone, all at once.
    """
    session.say("sections")
    device, dtype = session.network.device, np.dtype(session.request.dtype)
    make = partial(_one_bit, device.xp, dtype)
    elements, chunk = _SECTIONS * _SECTION_ELEMENTS, make(_SECTION_ELEMENTS, 1).payload_bytes
    alone, times, counts = World(MPI.COMM_SELF), [], []
    g, x = device.xp.ones(elements, dtype), device.xp.zeros(elements, dtype)
    for chunk_bytes in (None, chunk):
        network = Network(alone, device, chunk_bytes=chunk_bytes)
        algorithm = DoubleSqueeze(Setup(network, elements, dtype, 1, make, Topology("ring", 1)))
        times.append(_repeat(session, partial(algorithm.step, x, lambda _: g, 0.1))["time_s"])
        counts.append(len(algorithm.exchange.up[0]))
        algorithm.close()
    return max(times[1] - times[0], 0.0) / (counts[1] - counts[0])


def _one_bit(xp: Any, dtype: Any, dimension: int, seed: int) -> Any:
    return OneBit(dimension, xp, dtype, seed)


def _repeat(session: _Session, work: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """Time `work` on all ranks at once; the slowest one's times. Collective."""

    def measure() -> list[float]:
        times = []
        for _ in range(session.request.repetitions + 1):
            before()
            times.append(seconds_of(work, session.network.device))
        return times[1:]

    session.meet()
    times = session.world.collectively(measure)
    return max(session.world.comm.allgather(_timed(times)), key=lambda row: row["time_s"])


def _timed(times: Sequence[float]) -> dict[str, Any]:
    """Median and fastest (s), and half of the interquartile range over the median."""
    low, median, high = np.percentile(times, [25, 50, 75])
    return {
        "time_s": float(median),
        "fastest_s": float(min(times)),
        "spread": float((high - low) / 2 / median),
        "repetitions": len(times),
    }
