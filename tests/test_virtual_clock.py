"""The simulated clock of virtual workers, against times worked out by hand and by the cost model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from programs import Cluster, Seconds, Steps, after_barriers, gossip, sharded, through_root

from mpisqueeze.costs import exchanges
from mpisqueeze.costs.link import Link
from mpisqueeze.devices.clock import Phase
from mpisqueeze.errors import UsageError
from mpisqueeze.virtual.clock import Clock, WorkerClock
from mpisqueeze.virtual.jitter import parse_jitter

#: A message of 100 bytes keeps a port for 2 s, and arrives 5 s later.
LINK = Link(latency=5.0, gap=1.0, byte_s=0.01)


class Worker:
    def __init__(self, index: int) -> None:
        self.index, self.worked = index, 0.0

    def work_s(self) -> float:
        return self.worked


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
    ends = Cluster(4, LINK).run(program)
    # Starts at 0.5, 1 and 3; the port is free at 2.5, 4.5 and 6.5.
    assert times == [7.5, 9.5, 11.5]
    assert ends.tolist() == [11.5, 5.0, 3.0, 2.5]


def test_a_port_sends_and_receives_at_once_and_sends_one_after_the_other() -> None:
    def program(net: Cluster, me: int) -> Steps:
        other = 1 - me
        first, second = net.send(me, other, 100), net.send(me, other, 300)
        assert (first.free, second.free) == (2.0, 6.0)
        yield from net.receive(me, other)
        assert net.clock.now(me) == 7.0
        yield from net.receive(me, other)

    assert Cluster(2, LINK).run(program).tolist() == [11.0, 11.0]


def test_a_barrier_takes_the_time_of_the_last() -> None:
    def program(net: Cluster, me: int) -> Steps:
        net.clock.spend(me, float(me))
        yield from net.meet(me)

    assert Cluster(5, LINK).run(program).tolist() == [4.0] * 5


@pytest.mark.parametrize(
    ("way", "sections", "ranks"),
    [("flat", 1, 5), ("flat", 4, 5), ("binomial", 1, 8), ("binomial", 1, 13), ("binary", 3, 7), ("chain", 4, 5)],
)
def test_a_root_takes_what_the_cost_model_says(way: str, sections: int, ranks: int) -> None:
    """The formula is exact but for ports that are not in step, by less than a message a level."""
    ends = Cluster(ranks, LINK).run(through_root(way, 1200, 2400, sections))
    modelled = exchanges.through_root(LINK, ranks, 1200, 2400, sections, way).seconds
    slack = 1e-9 if way in ("flat", "binomial") else LINK.message(2400 / sections)
    assert max(ends) == pytest.approx(modelled, abs=slack)


def ring(size: int) -> list[list[int]]:
    return [[(me + 1) % size, (me - 1) % size] for me in range(size)]


def test_neighbours_on_a_ring_take_what_the_cost_model_says() -> None:
    ends = gossip(ring(6), 500, LINK, np.zeros((1, 6)))
    assert ends.max() == ends.min() == pytest.approx(exchanges.neighbours(LINK, 2, 500).seconds)


def test_sharded_servers_take_what_the_cost_model_says() -> None:
    ends = Cluster(6, LINK).run(sharded(2400, 2400))
    assert max(ends) == pytest.approx(exchanges.sharded(LINK, 6, 2400, 2400).seconds)


@pytest.mark.parametrize("exchange", [through_root("binary", 900, 300, 4), sharded(900, 300)])
def test_exchanges_behind_barriers_all_take_the_same(exchange: Callable[[Cluster, int], Steps]) -> None:
    """One that is simulated stands for all: beside the simulation of each."""

    def program(net: Cluster, me: int) -> Steps:
        for t, seconds in enumerate(work[:, me]):
            net.clock.spend(me, seconds)
            yield from net.meet(me)
            yield from exchange(net, me)
            ends[t, me] = net.clock.now(me)

    work = np.random.default_rng(1).exponential(10.0, (6, 7))
    ends = np.empty_like(work)
    Cluster(7, LINK).run(program)
    np.testing.assert_allclose(after_barriers(exchange, LINK, work), ends, rtol=1e-12)


def event_by_event(neighbours: list[list[int]], link: Link, work: Seconds, order: Sequence[int]) -> Seconds:
    """The ends of iterations of gossip with payloads of 100 bytes, each worker a program of its own."""

    def program(net: Cluster, me: int) -> Steps:
        targets = sorted(neighbours[me], key=lambda target: (target - me) % net.size)
        for t, seconds in enumerate(work[:, me]):
            net.clock.spend(me, seconds)
            sent = [net.send(me, target, 100) for target in targets]
            for source in targets:
                yield from net.receive(me, source)
            for message in sent:
                net.clock.sent(me, message)
            ends[t, me] = net.clock.now(me)

    ends = np.empty_like(work)
    Cluster(len(neighbours), link).run(program, order)
    return ends


@pytest.mark.parametrize("seed", range(45))
def test_gossip_takes_the_same_event_by_event_in_any_order(seed: int) -> None:
    """On any graph, some without a neighbour: at random paces, with stragglers, or with starts that often coincide."""
    draw = np.random.default_rng(seed)
    size, iterations = int(draw.integers(4, 12)), 15
    joined = np.triu(draw.random((size, size)) < draw.random(), 1)
    neighbours = [np.flatnonzero(others).tolist() for others in joined | joined.T]
    link = Link(*(float(draw.choice(values)) for values in ((0, 0.5, 5), (0, 1, 2), (0, 0.01))))
    shape = iterations, size
    work = (
        draw.exponential(10.0, shape),
        0.02 + 50.0 * (draw.random(shape) < 0.1),
        draw.integers(0, 4, shape).astype(float),
    )[seed % 3]
    found = gossip(neighbours, 100, link, work)
    for _ in range(2):
        assert event_by_event(neighbours, link, work, draw.permutation(size).tolist()).tolist() == found.tolist()


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


def test_a_given_gradient_in_parts_takes_its_time_as_they_do() -> None:
    clock, worker = Clock(1, LINK, compute_s=10.0), Worker(0)
    mine = WorkerClock(clock, worker, lambda: 0)
    for expected in ([10.0, 0.0, 0.0], [5.0, 2.0, 3.0], [5.0, 2.0, 3.0]):
        mine.start()
        for taken, ended in zip((0.5, 0.2, 0.3), np.cumsum(expected), strict=True):
            worker.worked += taken
            mine.lap(Phase.COMPUTE)
            assert mine.seconds[Phase.COMPUTE] == pytest.approx(ended)


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
