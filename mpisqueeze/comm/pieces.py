"""Messages that are too long for MPI's counts, in pieces: see `costs.sections.LONGEST`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mpisqueeze.costs.sections import messages, pieces
from mpisqueeze.mpi import MPI


class Pieces:
    """The persistent requests of a message's pieces, in order, as one request."""

    def __init__(self, requests: Sequence[Any]) -> None:
        self._requests = requests

    def Start(self) -> None:
        """Start all."""
        for request in self._requests:
            request.Start()

    def Wait(self) -> None:
        """Wait for all."""
        for request in self._requests:
            request.Wait()

    def Test(self) -> bool:
        """True if `Wait` returns at once."""
        return all(request.Test() for request in self._requests)

    def Cancel(self) -> None:
        """Cancel all."""
        for request in self._requests:
            request.Cancel()

    def Free(self) -> None:
        """Free all."""
        for request in self._requests:
            request.Free()

    @property
    def of_mpi(self) -> list[Any]:
        """MPI's own requests, for the thread that tests them in the background."""
        return [found for request in self._requests for found in requests_of_mpi(request)]


def requests_of_mpi(request: Any) -> list[Any]:
    """MPI's own requests behind one of ours, which its owner waits for; none behind one of virtual workers."""
    if isinstance(request, Pieces):
        return request.of_mpi
    while hasattr(request, "request"):
        request = request.request
    return [] if request is None else [request]


def in_pieces(buffer: Sequence[Any], make: Callable[[Sequence[Any]], Any]) -> Any:
    """The request that `make` gives for a buffer specification of bytes, or several as one where it is too long."""
    array, nbytes, kind = buffer
    if messages(nbytes) == 1:
        return make(buffer)
    return Pieces([make([array[span], span.stop - span.start, kind]) for span in pieces(nbytes)])


def views(array: np.ndarray) -> Iterator[np.ndarray]:
    """A contiguous vector in pieces that MPI can be handed."""
    for span in pieces(array.nbytes, array.itemsize):
        yield array[span.start // array.itemsize : span.stop // array.itemsize]


def add_up(comm: MPI.Comm, vector: np.ndarray) -> None:
    """vector ← its sum over all ranks; collective."""
    for piece in views(vector):
        comm.Allreduce(MPI.IN_PLACE, piece, MPI.SUM)


def gather(comm: MPI.Comm, vector: np.ndarray, rows: np.ndarray) -> None:
    """rows[r] ← rank r's vector, on rank 0; collective.

    Args:
        rows: (ranks, d) on rank 0; not read on the others.
    """
    if comm.rank:
        for piece in views(vector):
            comm.Send(piece, 0)
        return
    rows[0] = vector
    for rank in range(1, comm.size):
        for piece in views(rows[rank]):
            comm.Recv(piece, rank)
