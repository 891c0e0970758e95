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
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mpisqueeze.mpi import MPI
from mpisqueeze.virtual.scheduler import Worker

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World


class Post(Protocol):
    """The way to the workers of other processes."""

    def home(self, worker: int) -> int:
        """The process that a worker lives in."""
        ...

    def send(self, process: int, kind: str, name: Hashable, *about: Any) -> None:
        """Have `Office.deliver` called there with these arguments."""


class Channel:
    """The messages of one kind from one worker to another that have been started at one end alone, in order.

    Attributes:
        first, last: of a chain of requests by their `next`.
        sends: they are sends, and not receives.
    """

    __slots__ = ("first", "last", "sends")

    def __init__(self) -> None:
        self.first: Any = None
        self.last: Any = None
        self.sends = False

    def add(self, request: Any, sends: bool) -> None:
        """Queue a request that has no counterpart yet."""
        request.next = None
        if self.first is None:
            self.first, self.sends = request, sends
        else:
            self.last.next = request
        self.last = request

    def remove(self, request: Any) -> None:
        """Take a request out of the chain, if it is there."""
        before, at = None, self.first
        while at is not None and at is not request:
            before, at = at, at.next
        if at is None:
            return
        if before is None:
            self.first = at.next
        else:
            before.next = at.next
        if self.last is request:
            self.last = before


class Request:
    """A message's end at one worker, persistent: `Start`, then `Wait` or `Test`, any number of times.

    Attributes:
        data: the memory to send or to receive into; an object that is sent or was received, where `boxed`.
    """

    __slots__ = ("_channel", "_peer", "_sleeps", "_worker", "boxed", "data", "done", "next")

    #: No request of MPI's own stands behind it, see `comm.pieces.requests_of_mpi`.
    request = None

    def __init__(self, worker: Worker, channel: Channel, peer: int, data: Any, boxed: bool = False) -> None:
        self._worker, self._channel, self._peer, self.data, self.boxed = worker, channel, peer, data, boxed
        self.done, self._sleeps = True, False
        self.next: Any = None

    def Wait(self) -> None:
        """Let others go on until the message has been handed over."""
        if not self.done:
            self._sleeps = True
            self._worker.wait(self)
            self._sleeps = False

    def Test(self) -> bool:
        """True if `Wait` returns at once."""
        return self.done

    def complete(self) -> None:
        """The message has been handed over."""
        self.done = True
        if self._sleeps:
            self._worker.wake()

    def Free(self) -> None:
        """Forget the message's memory."""
        self.data = None

    def Start(self) -> None:
        """Start the message."""
        raise NotImplementedError


class Send(Request):
    """A send."""

    __slots__ = ()

    def Start(self) -> None:
        """Hand the message over if its receiver is ready, else when it will be."""
        channel = self._channel
        receive = channel.first
        if receive is None or channel.sends:
            self.done = False
            channel.add(self, True)
        else:
            channel.first = receive.next
            hand_over(self, receive)
            receive.complete()
            self.done = True

    def __str__(self) -> str:
        return f"its message to rank {self._peer}"


class RemoteSend(Request):
    """A send to a worker of another process; its memory may be used again at once."""

    __slots__ = ("_post",)

    def __init__(self, worker: Worker, post: Callable[[Any], None], peer: int, data: Any, boxed: bool) -> None:
        super().__init__(worker, Channel(), peer, data, boxed)
        self._post = post

    def Start(self) -> None:
        """Send a copy on its way."""
        self._post(self.data if self.boxed else _portable(self.data))


class Receive(Request):
    """A receive."""

    __slots__ = ()

    def Start(self) -> None:
        """Take the message if it is there, else when it comes."""
        channel = self._channel
        send = channel.first
        if send is None or not channel.sends:
            self.done = False
            channel.add(self, False)
        else:
            channel.first = send.next
            hand_over(send, self)
            send.complete()
            self.done = True

    def Cancel(self) -> None:
        """Give up a message that will not come."""
        if not self.done:
            self._channel.remove(self)
            self.done = True

    def __str__(self) -> str:
        return f"a message from rank {self._peer}"


class Arrived:
    """A message from another process that no receive was ready for; it takes a send's place in its channel."""

    __slots__ = ("boxed", "data", "next")

    def __init__(self, data: Any, boxed: bool) -> None:
        self.data, self.boxed, self.next = data, boxed, None

    def complete(self) -> None:
        """Nobody waits for this."""


def hand_over(send: Any, receive: Request) -> None:
    """Give a receive what was sent. Raises ValueError for a message that is too long."""
    if receive.boxed:
        receive.data = send.data
        return
    source, target = send.data, receive.data
    if len(source) == len(target):
        target[:] = source
    elif len(source) < len(target):
        target[: len(source)] = source
    else:
        raise ValueError(f"a message of {len(source)} bytes for a buffer of {len(target)}")


class Meeting:
    """A collective call of a group's workers, nonblocking: it is carried out when the last one has come.

    Attributes:
        given: what each worker brought, by its rank; of workers of other processes what is needed here.
        boxes: the memory in which each worker of this process wants the result, by its rank.
        missing: the number of workers of this process that have not come.
        result: what `Call.finish` returned.
        moment: the time (s) of the last to come, by the workers' clock.
    """

    __slots__ = ("_waiting", "boxes", "call", "done", "given", "missing", "moment", "result")

    request = None

    def __init__(self, group: Group) -> None:
        size = len(group.members)
        self.given: list[Any] = [_ABSENT] * size
        self.boxes: list[Any] = [None] * size
        self.missing = len(group.here)
        self.call: Call
        self.result: Any = None
        self.done, self.moment = False, -math.inf
        self._waiting: list[Worker] = []

    def wait(self, worker: Worker) -> Any:
        """Let others go on until all have come; the result."""
        if not self.done:
            self._waiting.append(worker)
            worker.wait(self)
        worker.reach(self.moment)
        return self.result

    def complete(self, result: Any) -> None:
        """All have come."""
        self.result, self.done = result, True
        self.given = self.boxes = []
        for worker in self._waiting:
            worker.reach(self.moment)
            worker.wake()
        self._waiting = []

    def __str__(self) -> str:
        return f"{self.missing} others at a collective call"


class Attendance:
    """A worker's part in a nonblocking collective, as MPI's request."""

    __slots__ = ("_meeting", "_worker")

    request = None

    def __init__(self, meeting: Meeting, worker: Worker) -> None:
        self._meeting, self._worker = meeting, worker

    def Wait(self) -> None:
        """Let others go on until all have come."""
        self._meeting.wait(self._worker)

    def Test(self) -> bool:
        """True if `Wait` returns at once."""
        return self._meeting.done and self._meeting.moment <= self._worker.moment()


@dataclass(frozen=True)
class Call:
    """A kind of collective.

    Attributes:
        finish: (given, boxes) → the result; or (sum, boxes), where `adds`. It fills the boxes that are not None.
        target: the rank that alone needs what the others give; None for all of them.
        source: the rank that alone gives; None for all of them.
        adds: (total, addend), which adds in place: what the workers give is summed up in the order of ranks.
    """

    finish: Callable[[Any, list[Any]], Any]
    target: int | None = None
    source: int | None = None
    adds: Callable[[Any, Any], Any] | None = None


class Group:
    """The workers of a communicator.

    Attributes:
        name: the same in all processes.
        members: their numbers, by rank.
        here: the ranks of those of this process.
        homes: the processes of all.
        is_local: all of them are of this process.
        runs: (process, ranks) of neighbours in one process, in the order of ranks.
    """

    def __init__(self, office: Office, name: Hashable, members: Sequence[int]) -> None:
        self.office, self.name, self.members = office, name, tuple(members)
        self.homes = [office.home(member) for member in self.members]
        self.here = [rank for rank, home in enumerate(self.homes) if home == office.number]
        self.is_local = len(self.here) == len(self.members)
        self.runs = [
            (home, [rank for rank, _ in run]) for home, run in groupby(enumerate(self.homes), lambda at: at[1])
        ]
        self._others = sorted({*self.homes} - {office.number})
        #: For each rank and tag, one for each source.
        self._channels: dict[int, list[Channel | None]] = {}
        self._meetings: dict[int, Meeting] = {}
        self._shared: dict[int, list[Any]] = {}
        #: What other processes told of meetings that are not over.
        self._told: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)

    def channel(self, source: int, target: int, tag: int) -> Channel:
        """The messages from one rank to another with this tag."""
        size = len(self.members)
        row = self._channels.get(tag * size + target)
        if row is None:
            row = self._channels[tag * size + target] = [None] * size
        found = row[source]
        if found is None:
            found = row[source] = Channel()
        return found

    def come(self, number: int, rank: int, call: Call, given: Any, box: Any, moment: float) -> Meeting:
        """A worker comes to the group's collective call of this number, at a moment (s) of its clock."""
        meeting = self._meetings.get(number)
        if meeting is None:
            meeting = self._meetings[number] = Meeting(self)
            meeting.call = call
        meeting.given[rank], meeting.boxes[rank] = given, box
        meeting.moment = max(meeting.moment, moment)
        meeting.missing -= 1
        if not meeting.missing:
            if self.is_local:
                self._conclude(number, meeting)
            else:
                self._tell(number, meeting)
                self._settle(number)
        return meeting

    def told(self, number: int, *news: Any) -> None:
        """Another process tells of a collective call."""
        self._told[number].append(news)
        meeting = self._meetings.get(number)
        if meeting is not None and not meeting.missing:
            self._settle(number)

    def share(self, number: int, rank: int, value: Any) -> list[Any]:
        """The list of this number, in which a worker's value stands from now on."""
        shared = self._shared.setdefault(number, [_ABSENT] * len(self.members))
        shared[rank] = value
        if _ABSENT not in shared:
            del self._shared[number]
        return shared

    def arrive(self, source: int, target: int, tag: int, boxed: bool, data: Any) -> None:
        """A message arrives from another process."""
        channel, arrived = self.channel(source, target, tag), Arrived(data, boxed)
        receive = channel.first
        if receive is None or channel.sends:
            channel.add(arrived, True)
        else:
            channel.first = receive.next
            hand_over(arrived, receive)
            receive.complete()

    def _conclude(self, number: int, meeting: Meeting) -> None:
        """Carry out a call of which everything is known."""
        del self._meetings[number]
        self._told.pop(number, None)
        call, given = meeting.call, meeting.given
        if call.adds:
            given = self._sum(call.adds, None, given, meeting.boxes[self.here[0]])
        meeting.complete(call.finish(given, meeting.boxes))

    @staticmethod
    def _sum(adds: Callable[[Any, Any], Any], total: Any, addends: Iterable[Any], memory: Any) -> Any:
        """total + the addends, in their order; in `memory`, which may be that of the first one, where total is None."""
        for addend in addends:
            if total is None:
                total = memory
                if memory is not addend:
                    total[...] = addend
            else:
                adds(total, addend)
        return total

    def _tell(self, number: int, meeting: Meeting) -> None:
        """Tell other processes what they need of a call to which all workers of this one have come."""
        call = meeting.call
        if call.adds:
            return
        post, own = self.office.post, self.office.number
        assert post
        if call.source is not None and self.homes[call.source] != own:
            return
        given = {rank: _portable(meeting.given[rank]) for rank in self.here if call.source in (None, rank)}
        for other in self._others if call.target is None else {self.homes[call.target]} - {own}:
            post.send(other, "told", self.name, number, given)

    def _settle(self, number: int) -> None:
        """Carry out a call to which all workers of this process have come, if what others give is known, too."""
        meeting, own = self._meetings[number], self.office.number
        call, news = meeting.call, self._told.pop(number, [])
        if call.adds:
            self._fold(number, meeting, news)
            return
        for (given,) in news:
            for rank, value in given.items():
                meeting.given[rank] = value
        if call.source is not None:
            complete = meeting.given[call.source] is not _ABSENT
        else:
            concerned = call.target is None or self.homes[call.target] == own
            complete = not concerned or all(given is not _ABSENT for given in meeting.given)
        if complete:
            self._conclude(number, meeting)

    def _fold(self, number: int, meeting: Meeting, news: Sequence[tuple[Any, ...]]) -> None:
        """Pass a sum along the runs of neighbours, and its end on to all processes."""
        call, post, own = meeting.call, self.office.post, self.office.number
        assert post
        assert call.adds
        at, total = news[-1] if news else (-1, None)
        while at + 1 < len(self.runs) and self.runs[at + 1][0] == own:
            at += 1
            first = meeting.given[self.runs[at][1][0]]
            memory = np.empty_like(first) if total is None else None
            total = self._sum(call.adds, total, (meeting.given[rank] for rank in self.runs[at][1]), memory)
            total = _portable(total)
            if at + 1 == len(self.runs):
                for other in self._others:
                    post.send(other, "told", self.name, number, at, total)
            elif self.runs[at + 1][0] != own:
                post.send(self.runs[at + 1][0], "told", self.name, number, at, total)
        if at + 1 == len(self.runs):
            del self._meetings[number]
            meeting.complete(call.finish(total, meeting.boxes))


class Office:
    """The part that the communicators of a process have in common: groups, and the way to other processes.

    Args:
        process: the world of real ranks.
        post: the way to other processes; None where there is no other one.
    """

    def __init__(self, process: World, post: Post | None = None) -> None:
        self.process, self.post = process, post
        self.number = process.rank
        self._groups: dict[Hashable, Group] = {}
        self._early: defaultdict[Hashable, list[tuple[str, tuple[Any, ...]]]] = defaultdict(list)

    def home(self, worker: int) -> int:
        """The process that a worker lives in."""
        return self.post.home(worker) if self.post else self.number

    def group(self, name: Hashable, members: Sequence[int]) -> Group:
        """The group of that name."""
        if name not in self._groups:
            found = self._groups[name] = Group(self, name, members)
            for kind, about in self._early.pop(name, ()):
                getattr(found, kind)(*about)
        return self._groups[name]

    def deliver(self, kind: str, name: Hashable, *about: Any) -> None:
        """Deal with what another process sent: have the group's method of that name called."""
        if name in self._groups:
            getattr(self._groups[name], kind)(*about)
        else:
            self._early[name].append((kind, about))


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
        """A list with this worker's value at its rank, and in time the others': the same list for all, whose calls come
        in the same order. For groups that are local."""
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
        self._meet(_BARRIER, None)

    def Ibarrier(self) -> Attendance:
        """Wait for all, by the request."""
        return Attendance(self._come(_BARRIER, None), self.worker)

    def allgather(self, value: Any) -> list[Any]:
        """Everyone's objects, by rank."""
        return [*self._meet(_ALL, value)]

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        """Everyone's objects, by rank, at the root."""
        found = self._meet(_to(root), value)
        return [*found] if self.rank == root else None

    def bcast(self, value: Any, root: int = 0) -> Any:
        """The root's object."""
        return self._meet(_from(root), value)

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
        self._come(_adding(_ufunc(op)), own, target).wait(self.worker)

    def Bcast(self, buffer: Any, root: int = 0) -> None:
        """buffer ← the root's."""
        memory = _memory(buffer)
        self._meet(_memory_from(root), memory, memory)

    def Gather(self, given: Any, box: Any, root: int = 0) -> None:
        """At the root, box ← everyone's memory, by rank."""
        self._meet(_memory_to(root), _memory(given), _memory(box) if self.rank == root else None)

    def Allgather(self, given: Any, box: Any) -> None:
        """box ← everyone's memory, by rank."""
        self._meet(_MEMORY, _memory(given), _memory(box))

    def Alltoall(self, given: Any, box: Any) -> None:
        """box ← from everyone the part for this rank, by rank."""
        self._meet(_PARTS, _memory(given), (self.rank, _memory(box)))

    def _reduce(self, given: Any, box: Any, op: Any) -> Meeting:
        target = _memory(box)
        return self._come(_adding(_ufunc(op)), target if given is MPI.IN_PLACE else _memory(given), target)

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


def _portable(value: Any) -> Any:
    """The same in this process's own memory: other processes see no device."""
    return value.get() if hasattr(value, "get") and hasattr(value, "device") else value


def _ufunc(op: Any) -> Any:
    for known, ufunc in ((MPI.SUM, np.add), (MPI.MAX, np.maximum), (MPI.MIN, np.minimum)):
        if op is None or op == known:
            return ufunc
    raise NotImplementedError(f"workers do not reduce memory by {op}")


def _fill(given: Sequence[Any], boxes: Sequence[Any]) -> None:
    """Each box ← everything that is given, in a row."""
    for box in boxes:
        if box is not None:
            start = 0
            for some in given:
                box[start : start + len(some)] = some
                start += len(some)


def _deal(given: Sequence[Any], boxes: Sequence[Any]) -> None:
    """Each box ← the parts that are its rank's."""
    for rank, box in filter(None, boxes):
        length = len(box) // len(given)
        for source, some in enumerate(given):
            box[source * length : (source + 1) * length] = some[rank * length : (rank + 1) * length]


@cache
def _adding(ufunc: Any) -> Call:
    def spread(total: Any, boxes: Sequence[Any]) -> None:
        for box in boxes:
            if box is not None and box is not total:
                box[...] = total

    return Call(spread, adds=lambda total, addend: ufunc(total, addend, out=total))


@cache
def _to(root: int) -> Call:
    return Call(lambda given, boxes: given, target=root)


@cache
def _from(root: int) -> Call:
    return Call(lambda given, boxes: given[root], source=root)


@cache
def _memory_to(root: int) -> Call:
    return Call(_fill, target=root)


@cache
def _memory_from(root: int) -> Call:
    def spread(given: Sequence[Any], boxes: Sequence[Any]) -> None:
        for box in boxes:
            if box is not None and box is not given[root]:
                box[...] = given[root]

    return Call(spread, source=root)


_ABSENT = object()
_ALL = Call(lambda given, boxes: given)
_BARRIER = Call(lambda given, boxes: None)
_MEMORY, _PARTS = Call(_fill), Call(_deal)
