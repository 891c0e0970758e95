"""The device path: the memory that MPI is handed on a fake GPU, and training in the emulator and on a real GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import DeviceArray, FakeCudaDevice, OnlyCudaInterface
from mpi4py import MPI
from parts import CENTRALIZED, COMPRESSORS, GOSSIP, make_algorithm, run_steps, start_at

from mpisqueeze.comm.cuda_aware import cuda_awareness
from mpisqueeze.comm.exchange import HaltError
from mpisqueeze.comm.world import World
from mpisqueeze.devices.device import CudaDevice

SPECS = ["onebit", "topk:0.1", "qsgd:4", "fp16"]
UNCOMPRESSED = ("sgd", "allreduce", "dpsgd", "d2")
#: (algorithm, server) of every algorithm.
ALGORITHMS = [
    *((name, server) for name in CENTRALIZED for server in ("root", "sharded")),
    *((name, "root") for name in ("allreduce", *GOSSIP)),
]


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
    for name, server in ALGORITHMS:
        for spec in SPECS if name not in UNCOMPRESSED else ["identity"]:
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


def test_mpis_collectives_get_host_memory_where_they_would_crash_on_a_devices(on_ranks: Callable[..., None]) -> None:
    on_ranks(2, staged_collective)


def staged_collective() -> None:
    for collectives in (True, False):
        for name in ("allreduce", "dpsgd"):
            world, device = World(), FakeCudaDevice(True, collectives)
            world.comm = Watch(world.comm, device.events)  # type: ignore[assignment]
            algorithm = make_algorithm(name, "identity", 100, np.float32, world, device)
            host = run_steps(make_algorithm(name, "identity", 100, np.float32, World()), start_at(100, np.float32), 2)
            x = run_steps(algorithm, start_at(100, np.float32).view(DeviceArray), 2)
            assert np.array_equal(x, host)
            handed = {event for event in device.events if event.startswith(("allreduce", "send"))}
            if name == "dpsgd":
                assert handed == {"send device"}
            else:
                assert handed == {"allreduce device" if collectives else "allreduce host"}


# -- training


@pytest.mark.parametrize(("n", "buffers"), [(1, "device"), (3, "staged")])
def test_training_on_a_gpu_equals_training_on_the_host(
    on_ranks: Callable[..., None], cuda_variables: dict[str, str], n: int, buffers: str
) -> None:
    """The bits are equal, because a step consists of sums and products of two numbers."""
    on_ranks(n, gpu_run, buffers == "device", timeout=300, **cuda_variables)


def gpu_run(aware: bool) -> None:
    steps, lr, alone = 3, 0.1, World().size == 1
    for name, server in ALGORITHMS:
        many = name == "doublesqueeze" and not alone
        for spec in ["identity"] if name in UNCOMPRESSED else COMPRESSORS if many else SPECS:
            # A shard of 1031 numbers begins where no load of 16 bytes may.
            both = ((1031, np.float32, 64), (258, np.float64, None))
            for d, dtype, chunk in both if name in ("doublesqueeze", "choco") and not alone else both[:1]:
                world = World()
                options: dict[str, Any] = {"server": server, "chunk": chunk}
                host = make_algorithm(name, spec, d, dtype, world, **options)
                expected = run_steps(host, start_at(d, dtype), steps, lr)
                device = CudaDevice(0, aware, "a test")
                algorithm = make_algorithm(name, spec, d, dtype, world, device, **options)
                x = run_steps(algorithm, device.xp.asarray(start_at(d, dtype)), steps, lr)
                assert isinstance(x, device.xp.ndarray)
                assert x.get().tobytes() == expected.tobytes(), (name, spec, server, d, dtype)
                residual, kept = algorithm.residual(), host.residual()
                assert (residual is None) == (kept is None)
                if kept is not None:
                    assert residual.get().tobytes() == kept.tobytes(), (name, spec, server, d, dtype)


def test_a_nan_on_a_gpu_halts_all_ranks(on_ranks: Callable[..., None], cuda_variables: dict[str, str]) -> None:
    on_ranks(2, gpu_divergence, **cuda_variables)


def gpu_divergence() -> None:
    world, device = World(), CudaDevice(0, False, "a test")
    algorithm = make_algorithm("doublesqueeze", "onebit", 100, np.float32, world, device)
    algorithm.setup.network.iteration = 1
    x = device.xp.zeros(100, np.float32)
    with pytest.raises(HaltError):
        algorithm.step(x, lambda point: device.xp.full(100, np.nan if world.rank else 1, np.float32), 0.1)
    trouble = algorithm.setup.network.trouble
    assert (trouble is not None) == (world.rank == 1)
    algorithm.close()


def test_allreduce_on_device_buffers_says_that_it_is_staged(
    mpisqueeze_run: Callable[..., Any], cuda_variables: dict[str, str], tmp_path: Path
) -> None:
    if cuda_awareness()[0]:
        pytest.skip("this MPI library takes device memory in its collectives")
    command = "train --algorithm allreduce --iterations 2 --device cuda --buffers device --out run --json -"
    assert mpisqueeze_run(2, *command.split(), timeout=300, **cuda_variables).code == 0
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["buffers"] == "DEVICE"
    assert "collectives get host memory" in environment["buffers_reason"]


@pytest.mark.parametrize(("algorithm", "compressor"), [("doublesqueeze", "onebit"), ("choco", "topk:0.1")])
def test_the_program_trains_on_a_gpu_as_on_the_host(
    mpisqueeze_run: Callable[..., Any], cuda_variables: dict[str, str], algorithm: str, compressor: str, tmp_path: Path
) -> None:
    """Results agree to rounding, because a GPU adds up the products of a layer in its own order."""
    options = ["train", "--algorithm", algorithm, "--compressor", compressor]
    options += ["--iterations", "12", "--dtype", "float64", "--json", "-"]
    host = mpisqueeze_run(2, *options, "--device", "cpu")
    options += ["--device", "cuda", "--buffers", "staged", "--out", "run"]
    gpu = mpisqueeze_run(2, *options, timeout=300, **cuda_variables)
    assert (host.code, gpu.code) == (0, 0), gpu.err
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (environment["device"], environment["kernels"], environment["buffers"]) == ("cuda", "cuda", "HOST-STAGED")
    assert gpu.json["bytes_sent"] == host.json["bytes_sent"]
    for field in ("final_loss", "test_loss", "test_accuracy"):
        assert gpu.json[field] == pytest.approx(host.json[field], rel=1e-9), field
