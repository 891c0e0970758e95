"""Streams whose copies and kernels run late or early: results do not change, and each wait is needed.

The emulator runs a stream's work as late as events and synchronisations allow, or as early. Without one of the waits
the bits must be wrong, or these tests would test nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from parts import kinds_of_buffers, make_algorithm, start_at

from mpisqueeze.comm import pipeline
from mpisqueeze.comm.exchange import HaltError, Network
from mpisqueeze.comm.neighbours import NeighbourExchange
from mpisqueeze.comm.world import World
from mpisqueeze.devices.buffers import DeviceWire, Fence, StagedWire
from mpisqueeze.devices.device import CudaDevice
from mpisqueeze.devices.streams import CudaLanes, StreamFence

STEPS, LR, D = 4, 0.1, 1031
#: Work that runs early; other work runs as late as it may.
EARLY = ((), ("kernel",), ("copy",))
#: (algorithm, server, compressor, bytes of a section's message, link), with many sections where there can be.
RUNS = [
    ("doublesqueeze", "root", "onebit:64", 64, None),
    ("doublesqueeze", "sharded", "onebit:64", 32, None),
    ("memsgd", "root", "topk:0.1", 200, None),
    ("csgd-double", "sharded", "fp16", 200, None),
    ("sgd", "root", "identity", 200, None),
    ("choco", "root", "topk:0.1", None, None),
    ("dpsgd", "root", "identity", 200, None),
    ("allreduce", "root", "identity", None, "latency=1ms,bandwidth=1gbit"),
]


def emulate(early: tuple[str, ...]) -> None:
    """Have the emulator, where it is one, do these kinds of work early."""
    import cupy

    if cupy.__version__ == "emulated":
        cupy.settings.early = frozenset(early)


def gradients(world: World) -> list[np.ndarray]:
    return [np.random.default_rng([world.rank, t]).standard_normal(D).astype(np.float32) for t in range(STEPS)]


def equals_the_host(aware: bool, run: tuple[Any, ...]) -> bool:
    """True if all ranks end with the host's bits; only the exchange makes the host wait for the device."""
    name, server, spec, chunk, link = run
    world = World()
    ends: list[np.ndarray] = []
    for device in (None, CudaDevice(0, aware, "a test")):
        algorithm = make_algorithm(name, spec, D, np.float32, world, device, server=server, chunk=chunk, link=link)
        xp = device.xp if device else np
        given = [xp.array(g) for g in gradients(world)]
        x = xp.array(start_at(D, np.float32))
        try:
            for t in range(1, STEPS + 1):
                algorithm.setup.network.iteration = t
                algorithm.step(x, lambda _, g=given[t - 1]: g, LR)
        except HaltError:
            return False
        finally:
            algorithm.close()
        ends.append(x.get() if device else x)
    return all(world.comm.allgather(ends[0].tobytes() == ends[1].tobytes()))


def test_nothing_shows(on_ranks: Callable[..., None], cuda_variables: dict[str, str]) -> None:
    on_ranks(3, late_and_early, timeout=300, **cuda_variables)


def late_and_early() -> None:
    for early in EARLY:
        emulate(early)
        for aware in kinds_of_buffers():
            for run in RUNS:
                assert equals_the_host(aware, run), (early, aware, run)


def no_wait(*_: Any) -> None:
    """A replacement for a wait."""


def to_host_at_once(self: Any, source: Any, target: int, nbytes: int, done: Any) -> None:
    source.copy_to_host_async(target, nbytes, self._down)
    done.record(self._down)


def to_device_and_on(self: Any, source: int, target: Any, nbytes: int) -> None:
    target.copy_from_host_async(source, nbytes, self._up)


#: (whether MPI takes device memory, the wait that is replaced by one that does not wait).
WAITS = [
    (False, StagedWire, "finish_push", no_wait),
    (False, CudaLanes, "to_host", to_host_at_once),
    (False, CudaLanes, "to_device", to_device_and_on),
    (True, DeviceWire, "finish_push", no_wait),
    (True, StreamFence, "wait", no_wait),
]


def only_emulated(cuda_variables: dict[str, str]) -> dict[str, str]:
    if not cuda_variables:
        pytest.skip("a GPU may be in time without a wait")
    return cuda_variables


def test_each_wait_is_needed(on_ranks: Callable[..., None], cuda_variables: dict[str, str]) -> None:
    on_ranks(3, without_a_wait, timeout=300, **only_emulated(cuda_variables))


def without_a_wait() -> None:
    emulate(())
    for aware, owner, name, broken in WAITS:
        for run in RUNS[:2]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(owner, name, broken)
                assert not equals_the_host(aware, run), (owner.__name__, name, run)
        assert equals_the_host(aware, RUNS[0])


@pytest.mark.parametrize("aware", [False, True])
def test_a_buffer_is_not_received_into_before_it_was_read(
    on_ranks: Callable[..., None], cuda_variables: dict[str, str], aware: bool
) -> None:
    on_ranks(2, read_late, aware, **only_emulated(cuda_variables))


def read_late(aware: bool) -> None:
    emulate(())
    for way in (through_an_inbox, between_neighbours):
        with pytest.MonkeyPatch.context() as patch:
            assert way(aware, patch), way
            patch.setattr(CudaDevice, "fence", lambda self: Fence())
            assert not way(aware, patch), way


def through_an_inbox(aware: bool, patch: pytest.MonkeyPatch) -> bool:
    """True if a server's window of two buffers hands out every payload as it was sent."""
    patch.setattr(pipeline, "WINDOW_BYTES", 1)
    count, nbytes, tag = 9, 48, 7
    world = World()
    network = Network(world, CudaDevice(0, aware, "a test"))
    if world.rank:
        # All of them are there before any is asked for.
        sent = [np.full(nbytes, i + 1, np.uint8) for i in range(count)]
        MPI.Request.Waitall([world.comm.Isend([array, MPI.BYTE], 0, tag) for array in sent])
        world.comm.Barrier()
        return world.comm.bcast(None)
    inbox = pipeline.Inbox(network, [nbytes] * count, [1], tag)
    world.comm.Barrier()
    out = network.device.xp.zeros((count, nbytes), np.uint8)
    inbox.open()
    for i in range(count):
        out[i] = inbox.next()[0]
    found = out.get()
    inbox.close()
    return world.comm.bcast(bool((found == np.arange(1, count + 1)[:, None]).all()))


def between_neighbours(aware: bool, patch: pytest.MonkeyPatch) -> bool:
    """True if a neighbour that is an iteration ahead does not overwrite data that has not been read."""
    rounds, nbytes = 4, 48
    world = World()
    device = CudaDevice(0, aware, "a test")
    exchange = NeighbourExchange(Network(world, device, barrier=False), [1 - world.rank], nbytes)
    out = device.xp.zeros((rounds, nbytes), np.uint8)
    for t in range(rounds):
        # Rank 0 gets ready for a message that is there already.
        for rank in (1, 0):
            if rank == world.rank:
                exchange.expect()
                exchange.out.fill(10 * rank + t)
                exchange.send()
            world.comm.Barrier()
        for _, payload in exchange.receive():
            out[t] = payload
    found = out.get()
    exchange.close()
    expected = 10 * (1 - world.rank) + np.arange(rounds)
    return all(world.comm.allgather(bool((found == expected[:, None]).all())))


def test_a_fault_is_told_and_its_payload_is_not(on_ranks: Callable[..., None], cuda_variables: dict[str, str]) -> None:
    """A NaN behind the first section: the others get zeros in its place, and the iteration has trouble."""
    on_ranks(2, fault_in_a_late_section, **cuda_variables)


def fault_in_a_late_section() -> None:
    for aware in kinds_of_buffers():
        world, device = World(), CudaDevice(0, aware, "a test")
        algorithm: Any = make_algorithm("csgd", "onebit:64", D, np.float32, world, device, chunk=64)
        network = algorithm.setup.network
        network.iteration = 1
        g = np.ones(D, np.float32)
        if world.rank == 1:
            g[-1] = np.nan
        x, given = device.xp.zeros(D, np.float32), device.xp.array(g)
        algorithm.step(x, lambda _, given=given: given, 1.0)
        network.settle()
        assert np.isfinite(x.get()).all()
        assert (network.trouble is not None) == (world.rank == 1)
        if network.trouble is not None:
            assert network.trouble.iteration == 1
            assert "onebit" in network.trouble.message
        algorithm.close()


def test_phases_of_a_gpu_add_up(cuda_variables: dict[str, str], on_ranks: Callable[..., None]) -> None:
    on_ranks(2, phases, **cuda_variables)


def phases() -> None:
    world, device = World(), CudaDevice(0, False, "a test")
    algorithm = make_algorithm("doublesqueeze", "onebit:64", D, np.float32, world, device, chunk=64)
    network = algorithm.setup.network
    g, x = device.xp.ones(D, np.float32), device.xp.zeros(D, np.float32)
    for t in (1, 2):
        network.iteration = t
        began = network.clock.start()
        algorithm.step(x, lambda _: g, 0.1)
        seconds = network.clock.stop(0) - began
        # The device's clock differs from the host's, and each event's time is rounded.
        assert 0 < sum(network.clock.seconds) <= seconds * 1.01 + 1e-5
        assert min(network.clock.seconds) >= 0
    algorithm.close()
