"""The comparison of what ranks computed with what they must have, to the bit; vectors travel only where they differ."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from mpisqueeze.bench.timing import differing
from mpisqueeze.comm.world import World


def count_wrong(
    world: World, found: np.ndarray, compute: Callable[[], Callable[[int], np.ndarray]], alike: bool
) -> int:
    """The number of elements, over all ranks, in which `found` differs from what it must be; collective.

    Args:
        found: of this rank.
        compute: called on rank 0; gives what each rank must have, by its number.
        alike: all ranks must have the same.
    """
    comm = world.comm
    expected: Callable[[int], np.ndarray] | None = None

    def digests_of_expected() -> list[bytes]:
        nonlocal expected
        expected = compute()
        digests = [_digest(expected(rank)) for rank in range(1 if alike else world.size)]
        return digests * (world.size if alike else 1)

    digests = world.on_root(digests_of_expected)
    count = 0
    for rank, off in enumerate(comm.allgather(_digest(found) != digests[world.rank])):
        if not off:
            continue
        if expected is not None and rank:
            comm.send(expected(rank), rank)
        elif expected is not None:
            count = differing(found, expected(0))
        elif rank == world.rank:
            count = differing(found, comm.recv(source=0))
    return comm.allreduce(count)


def count_unlike(comm: MPI.Comm, found: np.ndarray) -> int:
    """The number of elements, over all ranks, in which `found` differs from that of rank 0; collective."""
    if len(set(comm.allgather(_digest(found)))) == 1:
        return 0
    return comm.allreduce(differing(found, comm.bcast(found)))


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).data).digest()
