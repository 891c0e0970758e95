"""The device path without a GPU: what MPI is handed, and when, on a fake one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_gpu import DeviceArray, FakeCudaDevice, OnlyCudaInterface
from mpi4py import MPI
from parts import CENTRALIZED, GOSSIP, make_algorithm, run_steps, start_at

from mpisqueeze.comm.world import World

SPECS = ["onebit", "topk:0.1", "qsgd:4", "fp16"]


class Watch:
    """A communicator that notes, in the device's own list of events, which kind of memory it is handed."""

    def __init__(self, comm: Any, events: list[str]) -> None:
        self.comm, self.events = comm, events

    def _note(self, what: str, buffer: Any) -> None:
        kind = "device" if isinstance(buffer[0], DeviceArray | OnlyCudaInterface) else "host"
        self.events.append(f"{what} {kind}")

    def Send_init(self, buffer: Any, dest: int, tag: int) -> Any:  # noqa: N802
        watch = self

        class Noted(MPI.Prequest):
            def Start(self) -> None:  # noqa: N802
                watch._note("send", buffer)
                super().Start()

        return Noted(self.comm.Send_init(buffer, dest, tag))

    def Bcast(self, buffer: Any, root: int) -> None:  # noqa: N802
        self._note("bcast" if self.comm.rank == root else "receive", buffer)
        self.comm.Bcast(buffer, root)

    def Allreduce(self, send: Any, receive: Any, op: Any) -> None:  # noqa: N802
        if len(receive) == 3:
            self._note("allreduce", receive)
        self.comm.Allreduce(send, receive, op)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)


@pytest.mark.parametrize("aware", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_device_run_equals_the_host_run_and_hands_mpi_the_right_memory(
    on_ranks: Callable[..., None], n: int, aware: bool
) -> None:
    on_ranks(n, device_run, aware)


def device_run(aware: bool) -> None:
    d, steps = 257, 3
    servers = [(name, server) for name in CENTRALIZED for server in ("root", "sharded")]
    for name, server in [*servers, *((name, "root") for name in ("allreduce", *GOSSIP))]:
        for spec in SPECS if name not in ("sgd", "allreduce", "dpsgd", "d2") else ["identity"]:
            world = World()
            host = make_algorithm(name, spec, d, np.float32, world, server=server)
            expected = run_steps(host, start_at(d, np.float32), steps)
            device = FakeCudaDevice(aware)
            world.comm = Watch(world.comm, device.events)  # type: ignore[assignment]
            algorithm = make_algorithm(name, spec, d, np.float32, world, device, server=server)
            x = run_steps(algorithm, start_at(d, np.float32).view(DeviceArray), steps)
            assert np.array_equal(x, expected), (name, spec, server)
            check_events(device.events, aware, world.size)


def check_events(events: list[str], aware: bool, size: int) -> None:
    """All that MPI is handed is of one kind, and is ready when it is handed over."""
    handed = [i for i, event in enumerate(events) if event.split()[0] in ("send", "bcast", "receive", "allreduce")]
    assert bool(handed) == (size > 1)
    for i in handed:
        what, kind = events[i].split()
        assert kind == ("device" if aware else "host"), events[i]
        if what != "receive":
            before = [event for event in events[:i] if event in ("synchronize", "to host")]
            assert before, f"{what} without a synchronisation before it"
            assert aware or "to host" in before
    if not aware and size > 1:
        assert "to device" in events or "bcast host" in events


@pytest.mark.parametrize("aware", [True, False])
def test_a_payload_is_synchronised_between_its_encoding_and_mpi(on_ranks: Callable[..., None], aware: bool) -> None:
    on_ranks(2, order_of_events, aware)


def order_of_events(aware: bool) -> None:
    world = World()
    device = FakeCudaDevice(aware)
    world.comm = Watch(world.comm, device.events)  # type: ignore[assignment]
    algorithm: Any = make_algorithm("doublesqueeze", "onebit", 100, np.float32, world, device)
    compressor = algorithm.codec.compressor
    encode = compressor.encode_feedback

    def noted(*arguments: Any) -> None:
        encode(*arguments)
        device.events.append("encoded")

    compressor.encode_feedback = noted
    run_steps(algorithm, start_at(100, np.float32).view(DeviceArray), 1)
    if not world.is_root:
        sent = next(i for i, event in enumerate(device.events) if event.startswith("send"))
        encoded = device.events.index("encoded")
        assert encoded < device.events.index("synchronize" if aware else "to host", encoded) < sent
