"""A command's work on virtual workers (`--workers`), however many real ranks there are."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np

from mpisqueeze.comm.world import World
from mpisqueeze.control_groups import free_memory
from mpisqueeze.data import keeping
from mpisqueeze.errors import RankFailureError, UsageError
from mpisqueeze.quantities import grouped, size
from mpisqueeze.virtual.collectives import Office, Post
from mpisqueeze.virtual.communicator import Comm
from mpisqueeze.virtual.scheduler import Scheduler, Worker

T = TypeVar("T")

#: Seconds between two looks for messages of other processes, when no worker can go on.
PAUSE = 50e-6
#: Memory of a worker at the least: its stack, its world and its parts, without vectors.
LEAST_BYTES = 256 << 10


class Mail(Post):
    """Messages between processes: each names what it is for, so that one communicator carries all.

    Args:
        world: of the real ranks.
        starts: the first worker of each, in order.
    """

    def __init__(self, world: World, starts: np.ndarray) -> None:
        self._comm, self._starts = world.comm.Dup(), starts
        self._outgoing: deque[Any] = deque()
        self.office: Office

    def home(self, worker: int) -> int:
        """The process that a worker lives in."""
        return int(np.searchsorted(self._starts, worker, "right")) - 1

    def send(self, process: int, kind: str, name: Hashable, *about: Any) -> None:
        """Have `Office.deliver` called in another process."""
        self._outgoing.append(self._comm.isend((kind, name, *about), process))

    def poll(self) -> None:
        """Deal with the messages that have come; rest if there are none."""
        message = self._comm.improbe()
        if message is None:
            time.sleep(PAUSE)
        while message is not None:
            self.office.deliver(*message.recv())
            message = self._comm.improbe()
        while self._outgoing and self._outgoing[0].test()[0]:
            self._outgoing.popleft()

    def close(self) -> None:
        """Wait until everything has left."""
        while self._outgoing:
            self.poll()


def _check_room(world: World, count: int) -> None:
    """Raise UsageError where so many workers cannot even begin on this host, before any of them is made."""
    needed, free = count * LEAST_BYTES // world.hosts, free_memory()
    if needed > free:
        raise UsageError(
            f"{grouped(count)} workers take {size(needed)} at the least, before any vector; {size(free)} are free",
            "--workers",
        )


def on_workers(world: World, count: int | None, work: Callable[[World], T]) -> T:
    """Call `work` with the world of each of `count` workers, which the ranks host, one more or less each; collective.

    Args:
        count: None for the ranks themselves, each of which then calls `work` once.

    Returns:
        On each rank what its first worker returned.

    Raises:
        UsageError: there are fewer workers than ranks; or all workers raised one.
        RankFailureError: all workers raised one, or one alone.
    """
    if count is None:
        return work(world)
    if count < world.size:
        raise UsageError(f"{count} workers cannot be spread over {world.size} ranks", "--workers")
    _check_room(world, count)
    starts = np.arange(world.size + 1) * count // world.size
    post = Mail(world, starts[:-1]) if world.size > 1 else None
    office = Office(world, post)
    if post:
        post.office = office
    everyone = range(count)

    def carry_out(worker: Worker) -> T:
        return work(World(Comm(office.group("all", everyone), worker)))

    mine = range(int(starts[world.rank]), int(starts[world.rank + 1]))
    with keeping(together=True):
        found = Scheduler(mine, post.poll if post else None).run(carry_out, (UsageError, RankFailureError))
    if post:
        post.close()
    return found
