"""What messages cost on the network that is really there, roughly: enough to choose how to exchange."""

from __future__ import annotations

import time

import numpy as np

from mpisqueeze.comm.world import World
from mpisqueeze.costs.link import Link

#: What an MPI call and the Python around it take, s.
CALL_S = 5e-6
#: What it takes where ranks outnumber cores, and each message waits for its receiver to get one.
CROWDED_S = 500e-6
#: Seconds a byte through the shared memory of a host.
MEMORY_BYTE_S = 2e-10
#: From this many seconds a byte on (10 Gbit/s) a link is slow: how messages are cut decides, not what a call takes.
SLOW_BYTE_S = 8e-10
#: What a message on a slow link may take. Over TCP larger ones go by rendezvous: several at once instead of in order,
#: and opposite directions one after the other.
EAGER_BYTES = 16 << 10
_PROBE, _LARGE = 9, 128 << 10
_known: dict[int, Link] = {}


def estimate(world: World) -> Link:
    """The link between ranks; collective, and measured once where ranks are on several hosts.

    There, rank 0 and the first rank of another host play ping-pong, with 1 byte and with 128 KiB; the fastest of a few
    is taken.
    """
    found = _known.get(world.comm.py2f())
    if found is None:
        found = _known[world.comm.py2f()] = _measure(world) if world.hosts > 1 else _memory(world)
    return found


def _memory(world: World) -> Link:
    return Link(0.0, CROWDED_S if world.load > 1 else CALL_S, MEMORY_BYTE_S)


def _measure(world: World) -> Link:
    comm = world.comm
    hosts = comm.allgather(world.host)
    other = next(rank for rank, host in enumerate(hosts) if host != hosts[0])
    times = None
    if world.rank in (0, other):
        peer = other if world.is_root else 0
        times = [_ping_pong(world, peer, nbytes, rounds) for nbytes, rounds in ((1, 10), (_LARGE, 4))]
    small, large = comm.bcast(times)
    return Link(max(small - CALL_S, 0.0), CALL_S, max(large - small, 1e-9) / _LARGE)


def _ping_pong(world: World, peer: int, nbytes: int, rounds: int) -> float:
    """Half of the fastest round trip, s."""
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
