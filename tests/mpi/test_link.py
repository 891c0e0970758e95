"""Emulated links: messages arrive at the model's time, and nothing else changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from parts import GOSSIP, make_algorithm, run_steps, start_at

from mpisqueeze.comm.allreduce import steps
from mpisqueeze.comm.emulated import EmulatedLink, emulate
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.world import World
from mpisqueeze.costs.link import Link, parse_link
from mpisqueeze.devices.device import Device
from mpisqueeze.errors import UsageError

#: How late a message may be, s: eight ranks share a core or two.
LATE = 0.06
TAU = 0.04


def test_a_link_is_what_its_text_says() -> None:
    assert parse_link("latency=5ms,bandwidth=100mbit") == Link(0.0, 5e-3, 8e-8)
    assert parse_link("bandwidth=1gbit") == Link(0.0, 0.0, 8e-9)
    assert parse_link("latency=20us") == Link(0.0, 20e-6, 0.0)
    assert parse_link("latency=5ms,gap=10us,bandwidth=8kbit") == Link(5e-3, 10e-6, 1e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "latency=TIME"),
        ("5ms", "write latency=5ms"),
        ("latncy=5ms", "did you mean 'latency'"),
        ("latency=5", "latency: '5' is not a time"),
        ("latency=-5ms", "is not a time"),
        ("bandwidth=100", "bandwidth: '100' is not a rate"),
        ("bandwidth=0mbit", "is not a rate above 0"),
        ("bandwidth=1parsec", "is not a rate"),
        ("latency=1ms,latency=2ms", "is not a link"),
        ("latency=", "is not a link"),
    ],
)
def test_a_wrong_link_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_link(text)
    assert error.value.option == "--link"
    assert said in error.value.message
    assert "bandwidth=RATE" in error.value.message


def test_a_wrong_link_ends_a_run_before_it_begins(mpisqueeze_run: Callable[..., Any]) -> None:
    finished = mpisqueeze_run(2, "train", "--link", "latency=5parsec")
    assert finished.code == 2
    assert finished.err.count("mpisqueeze: error: --link: latency: '5parsec' is not a time") == 1


def messages_arrive_when_the_link_would_bring_them() -> None:
    """One message, an incast, a ring, both directions at once, an early message behind a late one: to the model's time.

    Never sooner; later only by what a rank waits for a core.
    """
    world = World()
    comm, rank = world.comm, world.rank
    nbytes = 1000
    link = emulate(world, Link(0.0, TAU / 2, TAU / 2 / nbytes))

    def timed(sources: list[int], targets: list[int], begins: float = 0.0) -> list[float]:
        """Seconds from the common start until each message from `sources` was there, in this order of waiting."""
        network = Network(world, Device(), emulated=link)
        link.reset(link.model)
        inbox = [network.receiver(network.wire(nbytes).mpi, source, 1) for source in sources]
        out = network.wire(nbytes)
        sends = [network.sender(out.mpi, target, 1) for target in targets]
        common = comm.bcast(time.monotonic() + 0.02)
        for request in inbox:
            request.Start()
        time.sleep(max(0.0, common + begins - time.monotonic()))
        for request in sends:
            request.Start()
        found = []
        for request in inbox:
            request.Wait()
            found.append(time.monotonic() - common)
        for request in sends:
            request.Wait()
        if sends:
            assert time.monotonic() - common >= begins + len(sends) * TAU
        for request in inbox + sends:
            request.Free()
        comm.Barrier()
        return found

    def near(found: list[float], expected: list[float]) -> None:
        for got, wanted in zip(found, expected, strict=True):
            assert wanted - 1e-3 < got < wanted + LATE, (rank, found, expected)

    others = [r for r in range(4) if r != rank]
    # Three messages queue at the root, in whatever order; the last one says how long.
    found = timed(others if rank == 0 else [], [0] if rank else [])
    if rank == 0:
        assert 3 * TAU - 1e-3 < max(found) < 3 * TAU + LATE
    # A root sends one after the other.
    near(timed([0] if rank else [], others if rank == 0 else []), [rank * TAU] if rank else [])
    # A ring: right neighbours, then left ones; both directions at once.
    right, left = (rank + 1) % 4, (rank - 1) % 4
    near(timed([left, right], [right, left]), [TAU, 2 * TAU])
    near(timed([rank ^ 1], [rank ^ 1]), [TAU])
    # Rank 1 waits for the late message first; the early one has gone through the port before it.
    began = {2: 0.0, 3: TAU / 4}.get(rank, 0.0)
    found = timed([3, 2] if rank == 1 else [], [1] if rank in (2, 3) else [], began)
    near(found, [2 * TAU, 2 * TAU] if rank == 1 else [])


def a_gap_leaves_the_port_free_during_the_latency() -> None:
    world = World()
    link = emulate(world, Link(TAU, TAU / 8, 0.0))
    network = Network(world, Device(), emulated=link)
    began = world.comm.bcast(time.monotonic() + 0.02)
    if world.rank == 0:
        inbox = [network.receiver(network.wire(1).mpi, source, 1) for source in (1, 2)]
        for request in inbox:
            request.Start()
        for request in inbox:
            request.Wait()
        # Two latencies one after the other would be more.
        assert TAU * 1.25 - 1e-3 < time.monotonic() - began < TAU * 1.25 + LATE
    else:
        request = network.sender(network.wire(1).mpi, 0, 1)
        time.sleep(max(0.0, began - time.monotonic()))
        request.Start()
        request.Wait()
    world.comm.Barrier()


def several_hosts_are_refused() -> None:
    world = World()
    world.hosts = 2
    with pytest.raises(UsageError, match="ranks of one host, and these are on 2") as error:
        EmulatedLink(world)
    assert error.value.option == "--link"


def a_link_changes_no_iterate() -> None:
    world = World()
    methods = [(name, {"server": s}) for name in ("sgd", "memsgd", "doublesqueeze") for s in ("root", "sharded")]
    methods += [(name, {}) for name in GOSSIP] + [("dpsgd:order=awc", {})]
    for name, options in methods:
        for d, chunk in ((1, None), (3000, None), (3000, 300)):
            spec = "identity" if name in ("sgd", "dpsgd", "dpsgd:order=awc", "d2") else "uniform:8"
            x = [
                run_steps(
                    make_algorithm(name, spec, d, np.float32, world, chunk=chunk, link=link, **options),
                    start_at(d, np.float32),
                    3,
                )
                for link in (None, "latency=100us,bandwidth=1gbit")
            ]
            assert np.array_equal(x[0], x[1]), (name, options, d, chunk)


def an_allreduce_in_messages_is_the_sum() -> None:
    """Sums by each of the three algorithms, which bandwidth and latency choose; the same bits on every rank."""
    world = World()
    for link in ("latency=500us", "bandwidth=100mbit", "latency=1us,bandwidth=10mbit"):
        for d in (1, 5, 1031):
            algorithm = make_algorithm("allreduce", "identity", d, np.float64, world, link=link)
            x = run_steps(algorithm, start_at(d, np.float64), 2)
            plain = run_steps(make_algorithm("allreduce", "identity", d, np.float64, world), start_at(d, np.float64), 2)
            np.testing.assert_allclose(x, plain, rtol=1e-12, atol=1e-12)
            assert np.array_equal(world.comm.bcast(x), x)
            assert algorithm.setup.network.counter.bytes_are == "counted"


@pytest.mark.parametrize(
    ("holds", "n"),
    [
        pytest.param(messages_arrive_when_the_link_would_bring_them, 4, marks=pytest.mark.timed),
        pytest.param(a_gap_leaves_the_port_free_during_the_latency, 3, marks=pytest.mark.timed),
        (several_hosts_are_refused, 2),
        *((a_link_changes_no_iterate, n) for n in (1, 3, 4)),
        *((an_allreduce_in_messages_is_the_sum, n) for n in (2, 4, 7)),
        pytest.param(a_link_changes_no_iterate, 2, marks=pytest.mark.slow),
        *(pytest.param(an_allreduce_in_messages_is_the_sum, n, marks=pytest.mark.slow) for n in (3, 5)),
    ],
)
def test_on_ranks(on_ranks: Callable[..., None], holds: Callable[[], None], n: int) -> None:
    on_ranks(n, holds)


@pytest.mark.parametrize("way", ["ring", "doubling", "halving"])
@pytest.mark.parametrize("size", range(2, 18))
def test_the_rounds_of_an_allreduce_fit_together(way: str, size: int) -> None:
    """Every send meets a receive of the same numbers, in rounds that all ranks can do in their own order."""
    d = 37
    plans = [list(steps(way, rank, size, d)) for rank in range(size)]
    vectors = [np.full(d, 1 << rank, dtype=object) for rank in range(size)]
    at, waiting = [0] * size, [False] * size
    messages: dict[tuple[int, int], list[np.ndarray]] = {}
    moved = True
    while moved:
        moved = False
        for rank in range(size):
            while at[rank] < len(plans[rank]):
                step = plans[rank][at[rank]]
                if not waiting[rank] and step.target is not None and step.sent != slice(0, 0):
                    messages.setdefault((rank, step.target), []).append(vectors[rank][step.sent].copy())
                    moved = True
                waiting[rank] = True
                if step.source is not None and step.received.stop > step.received.start:
                    queue = messages.get((step.source, rank), [])
                    if not queue:
                        break
                    came = queue.pop(0)
                    assert came.size == step.received.stop - step.received.start
                    vectors[rank][step.received] = vectors[rank][step.received] + came if step.adds else came
                at[rank] += 1
                waiting[rank] = False
                moved = True
    assert at == [len(plan) for plan in plans]
    assert not any(messages.values())
    for vector in vectors:
        assert (vector == (1 << size) - 1).all()


@pytest.mark.timed
def test_a_linked_run_says_so(mpisqueeze_run: Callable[..., Any]) -> None:
    finished = mpisqueeze_run(
        2, "train", "--link", "latency=2ms,bandwidth=10mbit", "--iterations", "8", "--json", "-", "--out", "run"
    ).well()
    summary = finished.json
    assert summary["link"] == "emulated"
    assert "emulated link" in finished.err
    # doublesqueeze/onebit: up and down, one section, α + Bβ each.
    expected = 2 * (2e-3 + summary["payload_bytes"] * 8 / 10e6)
    assert expected <= summary["times"]["comm_s"]["median"] < expected + LATE
    assert summary["port_bytes_per_iteration"] == summary["payload_bytes"]
    assert [line["bytes_sent"] for line in summary["bytes_by_rank"]] == [8 * summary["payload_bytes"]] * 2


def test_links_can_be_swept(mpisqueeze_run: Callable[..., Any]) -> None:
    finished = mpisqueeze_run(
        2, "compare", "sgd", "dpsgd", "--sweep", "link=latency=1ms;latency=20ms", "--iterations", "8", "--json", "-"
    ).well()
    comm = {
        (s["algorithm"], s["run_folder"].rpartition("latency")[2][:5]): s["times"]["comm_s"]["median"]
        for s in finished.json
    }
    assert len(comm) == 4, comm
    quick, slow = sorted(v for (name, _), v in comm.items() if name == "sgd")
    # Twice 19 ms, and what noise there is.
    assert slow - quick > 20e-3
