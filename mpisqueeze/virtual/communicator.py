"""The part of mpi4py's communicators that this package uses, between workers that take turns.

Differences from MPI, all of which it allows or leaves open:

- A message is copied once, from the sender's buffer to the receiver's, when both have started; a send completes then.
- A collective is carried out once, by the worker that comes last, and all workers leave it together.
- Reductions add in the order of ranks. Libraries of MPI may choose another order, by the number of ranks and bytes.
- Objects that go through `bcast`, `allgather` and the like are not copied within a process: they are to be read only.

Workers of other processes are reached by the `Post`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np

from mpisqueeze.mpi import MPI
from mpisqueeze.virtual import collectives
from mpisqueeze.virtual.collectives import Attendance, Call, Group, Meeting
from mpisqueeze.virtual.messages import Receive, RemoteSend, Request, Send
from mpisqueeze.virtual.scheduler import Worker


class Comm:
    """A worker's communicator, with the methods of mpi4py's.

    Attributes:
        rank, size: as in MPI.
        virtual: True, by which a world knows that its ranks are workers.
        process: the world of real ranks.
        leads: this worker is the first of the group in its process.
        is_local: all workers of the group are of this process.
        worker: the worker.
        now: function that gives the time (s) by its clock.
    """

    virtual = True

    def __init__(self, group: Group, worker: Worker) -> None:
        self._group, self.worker, self.now = group, worker, worker.now
        self.rank, self.size = group.members.index(worker.index), len(group.members)
        self.process = group.office.process
        self.leads, self.is_local = self.rank == group.here[0], group.is_local
        self._calls = self._shares = 0

    @property
    def members(self) -> Sequence[int]:
        """The workers' numbers, by rank."""
        return self._group.members

    @property
    def simulates(self) -> bool:
        """A network is simulated: workers that wait for each other do so by its clock."""
        return self.worker.moment() > -math.inf

    @property
    def turn(self) -> int:
        """The number of the worker of this process whose turn it is."""
        return self.worker.scheduler.current.index

    def Get_size(self) -> int:
        """The number of workers."""
        return self.size

    def py2f(self) -> Hashable:
        """A name of the group within this process."""
        return "virtual", id(self._group.office), self._group.name

    # Groups.

    def Dup(self) -> Comm:
        """The same workers, whose messages never meet those of this communicator."""
        self._calls += 1
        return Comm(self._group.office.group((self._group.name, self._calls), self._group.members), self.worker)

    def Split(self, color: Any = 0, key: int = 0) -> Any:
        """The workers of one color, in the order of their keys; COMM_NULL for those of MPI.UNDEFINED."""
        everyone = self.allgather((color, key))
        if color == MPI.UNDEFINED:
            return MPI.COMM_NULL
        mine = sorted((place, rank) for rank, (other, place) in enumerate(everyone) if other == color)
        members = [self._group.members[rank] for _, rank in mine]
        return Comm(self._group.office.group((self._group.name, self._calls, color), members), self.worker)

    def Split_type(self, split_type: int) -> Any:
        """The workers of this host."""
        return self.Split(self.process.host, self.rank)

    def Free(self) -> None:
        """Nothing is held that others would need."""

    def share(self, value: Any) -> list[Any]:
        """A list of the values of this process's workers, which have theirs in it as soon as they call this; it is the
        same one for all of them. Collective."""
        self._shares += 1
        return self._group.share(self._shares, self.rank, value)

    # Messages.

    def Send_init(self, buffer: Any, target: int, tag: int = 0) -> Request:
        """A persistent send."""
        return self._send(_memory(buffer), target, tag, False)

    def Recv_init(self, buffer: Any, source: int, tag: int = 0) -> Request:
        """A persistent receive."""
        return self._receive(_memory(buffer), source, tag, False)

    def Isend(self, buffer: Any, target: int, tag: int = 0) -> Request:
        """A send that has been started."""
        request = self.Send_init(buffer, target, tag)
        request.Start()
        return request

    def Irecv(self, buffer: Any, source: int, tag: int = 0) -> Request:
        """A receive that has been started."""
        request = self.Recv_init(buffer, source, tag)
        request.Start()
        return request

    def Send(self, buffer: Any, target: int, tag: int = 0) -> None:
        """Send, and wait until the message has been handed over."""
        self.Isend(buffer, target, tag).Wait()

    def Recv(self, buffer: Any, source: int, tag: int = 0) -> None:
        """Receive."""
        self.Irecv(buffer, source, tag).Wait()

    def send(self, value: Any, target: int, tag: int = 0) -> None:
        """Send an object."""
        request = self._send(value, target, tag, True)
        request.Start()
        request.Wait()

    def recv(self, *, source: int, tag: int = 0) -> Any:
        """Receive an object."""
        request = self._receive(None, source, tag, True)
        request.Start()
        request.Wait()
        return request.data

    def _send(self, data: Any, target: int, tag: int, boxed: bool) -> Request:
        group = self._group
        home = group.homes[target]
        if home == group.office.number:
            return Send(self.worker, group.channel(self.rank, target, tag), target, data, boxed)
        post = group.office.post
        assert post
        send = partial(post.send, home, "arrive", group.name, self.rank, target, tag, boxed)
        return RemoteSend(self.worker, send, target, data, boxed)

    def _receive(self, data: Any, source: int, tag: int, boxed: bool) -> Request:
        return Receive(self.worker, self._group.channel(source, self.rank, tag), source, data, boxed)

    # Collectives of objects.

    def Barrier(self) -> None:
        """Wait for all."""
        self._meet(collectives.BARRIER, None)

    def Ibarrier(self) -> Attendance:
        """Wait for all, by the request."""
        return Attendance(self._come(collectives.BARRIER, None), self.worker)

    def allgather(self, value: Any) -> list[Any]:
        """Everyone's objects, by rank."""
        return [*self._meet(collectives.ALL, value)]

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        """Everyone's objects, by rank, at the root."""
        found = self._meet(collectives.to_root(root), value)
        return [*found] if self.rank == root else None

    def bcast(self, value: Any, root: int = 0) -> Any:
        """The root's object."""
        return self._meet(collectives.from_root(root), value)

    def allreduce(self, value: Any, op: Any = None) -> Any:
        """Everyone's objects, put together in the order of ranks."""
        operation = MPI.SUM if op is None else op
        return self._meet(Call(lambda given, boxes: reduce(operation, given)), value)

    # Collectives of memory.

    def Allreduce(self, given: Any, box: Any, op: Any = None) -> None:
        """box ← the sum, or what else `op` makes of everyone's memory, in the order of ranks."""
        self._reduce(given, box, op).wait(self.worker)

    def Iallreduce(self, given: Any, box: Any, op: Any = None) -> Attendance:
        """The same, by the request."""
        return Attendance(self._reduce(given, box, op), self.worker)

    def Reduce(self, given: Any, box: Any, op: Any = None, root: int = 0) -> None:
        """The same at the root alone; box is None elsewhere."""
        target = _memory(box) if self.rank == root else None
        own = target if given is MPI.IN_PLACE else _memory(given)
        self._come(collectives.adding(_ufunc(op)), own, target).wait(self.worker)

    def Bcast(self, buffer: Any, root: int = 0) -> None:
        """buffer ← the root's."""
        memory = _memory(buffer)
        self._meet(collectives.memory_from(root), memory, memory)

    def Gather(self, given: Any, box: Any, root: int = 0) -> None:
        """At the root, box ← everyone's memory, by rank."""
        self._meet(collectives.memory_to(root), _memory(given), _memory(box) if self.rank == root else None)

    def Allgather(self, given: Any, box: Any) -> None:
        """box ← everyone's memory, by rank."""
        self._meet(collectives.MEMORY, _memory(given), _memory(box))

    def Alltoall(self, given: Any, box: Any) -> None:
        """box ← from everyone the part for this rank, by rank."""
        self._meet(collectives.PARTS, _memory(given), (self.rank, _memory(box)))

    def _reduce(self, given: Any, box: Any, op: Any) -> Meeting:
        target = _memory(box)
        return self._come(collectives.adding(_ufunc(op)), target if given is MPI.IN_PLACE else _memory(given), target)

    def _come(self, call: Call, given: Any, box: Any = None) -> Meeting:
        self._calls += 1
        return self._group.come(self._calls, self.rank, call, given, box, self.worker.moment())

    def _meet(self, call: Call, given: Any, box: Any = None) -> Any:
        return self._come(call, given, box).wait(self.worker)


def _memory(buffer: Any) -> Any:
    """The memory of a buffer specification of mpi4py's, as a vector of its type."""
    if isinstance(buffer, list | tuple):
        buffer, kind = buffer[0], buffer[-1]
        if buffer.dtype == np.uint8 and kind != MPI.BYTE:
            buffer = buffer.view(np.dtype(kind.tocode()))
    return buffer if buffer.ndim == 1 else buffer.reshape(-1)


def _ufunc(op: Any) -> Any:
    for known, ufunc in ((MPI.SUM, np.add), (MPI.MAX, np.maximum), (MPI.MIN, np.minimum)):
        if op is None or op == known:
            return ufunc
    raise NotImplementedError(f"workers do not reduce memory by {op}")
