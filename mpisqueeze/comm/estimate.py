"""A rough estimate of the real network's message costs, good enough to choose sections."""

from __future__ import annotations

import os
import time

import numpy as np

from mpisqueeze.comm.world import World
from mpisqueeze.costs.link import Link, Processor
from mpisqueeze.devices.cores import cpu_quotas, granted, logical_cores, whole_cores

#: Seconds for an MPI call and the Python around it.
CALL_S = 5e-6
#: The same where ranks outnumber cores, so that each message waits until its receiver gets a core.
CROWDED_S = 500e-6
#: Seconds per byte through a host's shared memory.
MEMORY_BYTE_S = 2e-10
#: Seconds per byte (10 Gbit/s) from which a link is slow: there the size of messages matters more than calls.
SLOW_BYTE_S = 8e-10
#: Most bytes in a message on a slow link. Over TCP, MPI sends larger ones by rendezvous: several at once instead of in
#: order, and opposite directions one after the other.
EAGER_BYTES = 16 << 10
#: Seconds of a core per byte through TCP.
TCP_BYTE_S = 7e-10
#: The shorter one is what a shaper may pass in a burst.
_PROBE, _LARGE, _LARGER = 9, 128 << 10, 384 << 10
_known: dict[int, Link] = {}


def estimate(world: World) -> Link:
    """The link between ranks; collective. On several hosts it is measured once, on one host or between virtual
    workers it is assumed.

    The measurement is a ping-pong between rank 0 and the first rank of another host with 1 byte, 128 KiB and 384 KiB,
    of which the fastest of a few rounds counts.
    """
    found = _known.get(world.comm.py2f())
    if found is None:
        in_memory = Link(0.0, CROWDED_S if world.load > 1 else CALL_S, MEMORY_BYTE_S)
        found = _known[world.comm.py2f()] = _measure(world) if world.hosts > 1 and not world.virtual else in_memory
    return found


def _measure(world: World) -> Link:
    comm = world.comm
    hosts = comm.allgather(world.host)
    other = next(rank for rank, host in enumerate(hosts) if host != hosts[0])
    times = None
    if world.rank in (0, other):
        peer = other if world.is_root else 0
        times = [_ping_pong(world, peer, nbytes, rounds) for nbytes, rounds in ((1, 10), (_LARGE, 2), (_LARGER, 2))]
    small, large, larger = comm.bcast(times)
    processor = Processor(CALL_S, TCP_BYTE_S, 0.0, *shared_cores(world))
    byte_s = max(larger - large, 1e-9) / (_LARGER - _LARGE)
    return Link(max(small - CALL_S, 0.0), CALL_S, byte_s, processor=processor)


def shared_cores(world: World) -> tuple[int, int]:
    """The numbers of ranks and of cores, as far as quotas grant their time, of the host with the most ranks per core.

    The hosts of a lab are one machine. Collective.
    """
    if "MPISQUEEZE_LAB" in os.environ:
        return world.size, whole_cores(len(logical_cores()), granted([cpu_quotas()]))
    hosts: dict[int, tuple[int, set[int]]] = {}
    for host, cores in world.comm.allgather((world.host, logical_cores())):
        ranks, known = hosts.get(host, (0, set()))
        hosts[host] = ranks + 1, known | cores
    shares = [(ranks, whole_cores(len(cores), ranks * world.quota)) for ranks, cores in hosts.values()]
    return max(shares, key=lambda host: host[0] / host[1])


def _ping_pong(world: World, peer: int, nbytes: int, rounds: int) -> float:
    """Half of the fastest round trip (s)."""
    buffer = np.zeros(nbytes, np.uint8)
    fastest = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        if world.is_root:
            world.comm.Send(buffer, peer, _PROBE)
            world.comm.Recv(buffer, peer, _PROBE)
        else:
            world.comm.Recv(buffer, peer, _PROBE)
            world.comm.Send(buffer, peer, _PROBE)
        fastest = min(fastest, time.perf_counter() - began)
    return fastest / 2
