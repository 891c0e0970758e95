"""Collective calls of virtual workers, carried out once for all, and the groups that call them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mpisqueeze.virtual.messages import Arrived, Channel, portable
from mpisqueeze.virtual.scheduler import Worker

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World

_ABSENT = object()


class Post(Protocol):
    """The way to the workers of other processes."""

    def home(self, worker: int) -> int:
        """The process that a worker lives in."""
        ...

    def send(self, process: int, kind: str, name: Hashable, *about: Any) -> None:
        """Have `Office.deliver` called there with these arguments."""


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
def adding(ufunc: Any) -> Call:
    """Memory, reduced by a ufunc in the order of ranks."""

    def spread(total: Any, boxes: Sequence[Any]) -> None:
        for box in boxes:
            if box is not None and box is not total:
                box[...] = total

    return Call(spread, adds=lambda total, addend: ufunc(total, addend, out=total))


@cache
def to_root(root: int) -> Call:
    """Everyone's objects, for the root."""
    return Call(lambda given, boxes: given, target=root)


@cache
def from_root(root: int) -> Call:
    """The root's object, for everyone."""
    return Call(lambda given, boxes: given[root], source=root)


@cache
def memory_to(root: int) -> Call:
    """Everyone's memory, into the root's."""
    return Call(_fill, target=root)


@cache
def memory_from(root: int) -> Call:
    """The root's memory, into everyone's."""

    def spread(given: Sequence[Any], boxes: Sequence[Any]) -> None:
        for box in boxes:
            if box is not None and box is not given[root]:
                box[...] = given[root]

    return Call(spread, source=root)


#: Everyone's objects, for everyone; their memory; of that, the parts that are each rank's; and nothing.
ALL, MEMORY, PARTS = Call(lambda given, boxes: given), Call(_fill), Call(_deal)
BARRIER = Call(lambda given, boxes: None)


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
        #: News of other processes about meetings that are not over.
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
        shared = self._shared.setdefault(number, [_ABSENT] * len(self.here))
        shared[self.here.index(rank)] = value
        if _ABSENT not in shared:
            del self._shared[number]
        return shared

    def arrive(self, source: int, target: int, tag: int, boxed: bool, data: Any) -> None:
        """A message arrives from another process."""
        self.channel(source, target, tag).start(Arrived(data, boxed))

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
        given = {rank: portable(meeting.given[rank]) for rank in self.here if call.source in (None, rank)}
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
            total = portable(total)
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
