"""The simulated clock of virtual workers, against times worked out by hand and by the cost model."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from functools import partial

import numpy as np
import pytest

from mpisqueeze.costs.exchanges import Tree, neighbours, sharded, through_root
from mpisqueeze.costs.link import Link
from mpisqueeze.devices.clock import Phase
from mpisqueeze.errors import UsageError
from mpisqueeze.virtual.clock import Clock, Message, WorkerClock
from mpisqueeze.virtual.jitter import parse_jitter

#: A message of 100 bytes keeps a port for 2 s, and arrives 5 s later.
LINK = Link(latency=5.0, gap=1.0, byte_s=0.01)
Steps = Generator[None, None, None]


class Worker:
    def __init__(self, index: int) -> None:
        self.index, self.worked = index, 0.0

    def work_s(self) -> float:
        return self.worked


class Cluster:
    """Workers that are generators: they give way where they wait."""

    def __init__(self, size: int, link: Link = LINK, order: Callable[[list[int]], object] = list.sort) -> None:
        self.clock, self.size, self._order = Clock(size, link), size, order
        self._workers = [Worker(index) for index in range(size)]
        self._sent: defaultdict[tuple[int, int, int], deque[Message]] = defaultdict(deque)
        self._waiting: set[tuple[int, int, int]] = set()
        self._here: list[int] = []

    def send(self, me: int, target: int, nbytes: int, tag: int = 0) -> Message:
        message = self.clock.send(me, target, nbytes)
        self._sent[me, target, tag].append(message)
        if (me, target, tag) in self._waiting:
            self._waiting.remove((me, target, tag))
            self.clock.append(self._workers[target])
        return message

    def receive(self, me: int, source: int, tag: int = 0) -> Steps:
        key = source, me, tag
        if not self._sent[key]:
            self._waiting.add(key)
            yield
        message = self._sent[key].popleft()
        if not self.clock.arrived(self._workers[me], message):
            yield
        self.clock.receive(me, message)

    def barrier(self, me: int) -> Steps:
        self._here.append(me)
        if len(self._here) == self.size:
            latest = max(self.clock.now(worker) for worker in self._here)
            for worker in self._here:
                self.clock.reach(worker, latest)
                self.clock.append(self._workers[worker])
            self._here = []
        yield

    def run(self, program: Callable[[Cluster, int], Steps]) -> list[float]:
        """The workers' times at the end of their programs."""
        workers = list(range(self.size))
        programs = {worker: program(self, worker) for worker in workers}
        self._order(workers)
        for worker in workers:
            self.clock.append(self._workers[worker])
        while self.clock:
            worker = self.clock.popleft().index
            if next(programs[worker], self) is self:
                del programs[worker]
        assert not programs, "somebody waits for ever"
        return [self.clock.now(worker) for worker in range(self.size)]


def test_messages_queue_at_a_root_in_the_order_of_their_starts() -> None:
    def program(net: Cluster, me: int) -> Steps:
        if me:
            net.clock.spend(me, 3.0 if me == 1 else 0.5 * (4 - me))  # 3, 1, 0.5
            net.clock.sent(me, net.send(me, 0, 100))
        else:
            for source in (3, 2, 1):
                yield from net.receive(0, source)
                times.append(net.clock.now(0))

    times: list[float] = []
    ends = Cluster(4).run(program)
    # Starts at 0.5, 1 and 3; the port is free at 2.5, 4.5 and 6.5.
    assert times == [7.5, 9.5, 11.5]
    assert ends == [11.5, 5.0, 3.0, 2.5]


def test_a_port_sends_and_receives_at_once_and_sends_one_after_the_other() -> None:
    def program(net: Cluster, me: int) -> Steps:
        other = 1 - me
        first, second = net.send(me, other, 100), net.send(me, other, 300)
        assert (first.free, second.free) == (2.0, 6.0)
        yield from net.receive(me, other)
        assert net.clock.now(me) == 7.0
        yield from net.receive(me, other)

    assert Cluster(2).run(program) == [11.0, 11.0]


def test_a_barrier_takes_the_time_of_the_last() -> None:
    def program(net: Cluster, me: int) -> Steps:
        net.clock.spend(me, float(me))
        yield from net.barrier(me)

    assert Cluster(5).run(program) == [4.0] * 5


def through(way: str, up: int, down: int, sections: int) -> Callable[[Cluster, int], Steps]:
    """All send their sections to worker 0, which answers each down a tree."""

    def program(net: Cluster, me: int) -> Steps:
        tree = Tree(way, net.size)
        if me:
            for _ in range(sections):
                net.send(me, 0, up // sections, 1)
        for _ in range(sections):
            if me:
                yield from net.receive(me, tree.parent(me) or 0, 2)
            else:
                for source in range(1, net.size):
                    yield from net.receive(0, source, 1)
            for child in tree.children(me):
                net.send(me, child, down // sections, 2)

    return program


@pytest.mark.parametrize(
    ("way", "sections", "ranks"),
    [("flat", 1, 5), ("flat", 4, 5), ("binomial", 1, 8), ("binomial", 1, 13), ("binary", 3, 7), ("chain", 4, 5)],
)
def test_a_root_takes_what_the_cost_model_says(way: str, sections: int, ranks: int) -> None:
    """The formula is exact but for ports that are not in step, by less than a message a level."""
    ends = Cluster(ranks).run(through(way, 1200, 2400, sections))
    modelled = through_root(LINK, ranks, 1200, 2400, sections, way).seconds
    slack = 1e-9 if way in ("flat", "binomial") else LINK.message(2400 / sections)
    assert max(ends) == pytest.approx(modelled, abs=slack)


def test_neighbours_on_a_ring_take_what_the_cost_model_says() -> None:
    def program(net: Cluster, me: int) -> Steps:
        right, left = (me + 1) % net.size, (me - 1) % net.size
        for target in (right, left):
            net.send(me, target, 500)
        for source in (left, right):
            yield from net.receive(me, source)

    ends = Cluster(6).run(program)
    assert max(ends) == min(ends) == pytest.approx(neighbours(LINK, 2, 500).seconds)


def test_sharded_servers_take_what_the_cost_model_says() -> None:
    def program(net: Cluster, me: int) -> Steps:
        behind = [(me + k) % net.size for k in range(1, net.size)]
        for tag in (1, 2):
            for target in behind:
                net.send(me, target, 400, tag)
            for source in reversed(behind):
                yield from net.receive(me, source, tag)

    ends = Cluster(6).run(program)
    assert max(ends) == pytest.approx(sharded(LINK, 6, 2400, 2400).seconds)


def test_times_do_not_depend_on_the_order_in_which_workers_are_run() -> None:
    """Gossip at random paces: a worker may be an iteration ahead of its neighbour's neighbour."""

    def program(net: Cluster, me: int) -> Steps:
        paces = random.Random(me)
        for _ in range(20):
            net.clock.spend(me, paces.expovariate(0.1))
            pair = [(me + 1) % net.size, (me - 1) % net.size]
            sent = [net.send(me, target, 100) for target in pair]
            for source in reversed(pair):
                yield from net.receive(me, source)
            for message in sent:
                net.clock.sent(me, message)

    found = [Cluster(9, order=random.Random(seed).shuffle).run(program) for seed in range(3)]
    assert found[0] == found[1] == found[2]
    assert len({*found[0]}) > 1


def test_a_gradient_takes_the_median_of_its_times() -> None:
    """A pause of the process in the fourth iteration is no time of the worker's, and nor is what it waited for here."""
    clock, worker = Clock(2, Link(0.0, 0.0, 0.0)), Worker(0)
    mine = WorkerClock(clock, worker, lambda: 0)
    for taken, counted in ((0.5, 0.5), (0.3, 0.3), (0.4, 0.3), (9.0, 0.4), (0.4, 0.4)):
        mine.start()
        worker.worked += taken
        mine.lap(Phase.COMPUTE)
        worker.worked += 5.0
        mine.lap(Phase.COMM)
        worker.worked += 0.25
        mine.work(Phase.COMM)
        mine.stop(Phase.UPDATE)
        # The first iteration has nothing to be held against.
        assert mine.seconds[Phase.COMPUTE] == pytest.approx(counted)
        assert mine.seconds[Phase.COMM] == pytest.approx(0.25)
    assert clock.now(0) == pytest.approx(1.9 + 5 * 0.25)
    assert clock.now(1) == 0


def test_a_given_gradient_and_its_jitter_are_the_same_in_each_run() -> None:
    found = []
    for _ in range(2):
        clock = Clock(3, LINK, 0.25, parse_jitter("exponential:100ms"), seed=7)
        for worker in range(3):
            iterations = iter((1, 2))
            phases = WorkerClock(clock, Worker(worker), partial(next, iterations))
            for _ in range(2):
                phases.start()
                phases.lap(Phase.COMPUTE)
                found.append(phases.seconds[Phase.COMPUTE])
    assert found[:6] == found[6:]
    assert len({*found}) == 6
    assert min(found) > 0.25


@pytest.mark.parametrize(
    ("text", "mean"),
    [("exponential:2ms", 2e-3), ("uniform:8ms,low=4ms", 6e-3), ("constant:1s,probability=25%", 0.25),
     ("pareto:2ms,shape=4", 8e-3 / 3), ("constant:40ms,worker=3", 40e-3 / 8)],
)  # fmt: skip
def test_the_mean_of_a_distribution(text: str, mean: float) -> None:
    jitter = parse_jitter(text)
    drawn = np.array([[jitter(1, worker, iteration) for iteration in range(2000)] for worker in range(8)])
    assert drawn.mean() == pytest.approx(mean, rel=0.03)
    if "worker" in text:
        assert not drawn[[0, 1, 2, 4, 5, 6, 7]].any()


@pytest.mark.parametrize(
    ("text", "says"),
    [("exponental:2ms", "did you mean 'exponential'"), ("exponential:2", "such as 2ms"), ("exponential", "needs mean"),
     ("constant:1s,probability=2", "from 0 to 1"), ("uniform:1ms,low=2ms", "low"), ("constant:1s,rank=1", "worker")],
)  # fmt: skip
def test_a_wrong_distribution_is_one_clear_error(text: str, says: str) -> None:
    with pytest.raises(UsageError, match="--jitter") as error:
        parse_jitter(text)
    assert says in str(error.value)
