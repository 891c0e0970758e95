"""The comparison of what ranks computed with what they must have, to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from mpisqueeze.bench.timing import differing
from mpisqueeze.comm.pieces import views
from mpisqueeze.comm.world import World
from mpisqueeze.mpi import MPI


def count_wrong(world: World, found: np.ndarray, compute: Callable[[], Callable[[int], np.ndarray]]) -> int:
    """The number of elements, over all ranks, in which `found` differs from what it must be; collective.

    Args:
        compute: called on rank 0; gives what each rank must have, by its number.
    """
    comm = world.comm
    expected = world.collectively(lambda: compute() if world.is_root else None)
    if expected is None:
        comm.send(found, 0)
        return comm.bcast(None)
    count = differing(found, expected(0))
    for rank in range(1, world.size):
        count += differing(comm.recv(source=rank), expected(rank))
    return comm.bcast(count)


def count_unlike(comm: MPI.Comm, found: np.ndarray) -> int:
    """The number of elements, over all ranks, in which `found` differs from that of rank 0; collective."""
    digest = hashlib.sha256(np.ascontiguousarray(found).data).digest()
    # The vectors travel only where they differ.
    if len(set(comm.allgather(digest))) == 1:
        return 0
    reference = found.copy()
    for piece in views(reference):
        comm.Bcast(piece, 0)
    return comm.allreduce(differing(found, reference))
