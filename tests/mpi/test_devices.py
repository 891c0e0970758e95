"""The device path, in the emulator and on a real GPU: the memory that MPI is handed, and training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parts import CENTRALIZED, COMPRESSORS, FIELD, GOSSIP, make_algorithm, run_steps, start_at

from mpisqueeze.comm.cuda_aware import cuda_awareness
from mpisqueeze.comm.exchange import HaltError
from mpisqueeze.comm.world import World
from mpisqueeze.devices.device import CudaDevice

SPECS = ["onebit", "topk:0.1", "qsgd:4", "fp16"]
UNCOMPRESSED = ("sgd", "allreduce", "dpsgd", "d2")
#: (algorithm, server) of every algorithm.
ALGORITHMS = [
    *((name, server) for name in CENTRALIZED for server in ("root", "sharded")),
    *((name, "root") for name in ("allreduce", *FIELD, *GOSSIP)),
    *((name, "allreduce") for name in ("sgd", "memsgd")),
]
LINEAR = ["identity", "randomk:0.3,shared"]


class Watch:
    """A communicator that notes the kind of memory, device or host, that it is handed."""

    def __init__(self, comm: Any, handed: set[str]) -> None:
        self.comm, self.handed = comm, handed

    def _note(self, what: str, buffer: Any) -> None:
        import cupy

        self.handed.add(f"{what} {'device' if isinstance(buffer[0], cupy.ndarray) else 'host'}")

    def Send_init(self, buffer: Any, dest: int, tag: int) -> Any:  # noqa: N802
        self._note("send", buffer)
        return self.comm.Send_init(buffer, dest, tag)

    def Bcast(self, buffer: Any, root: int) -> None:  # noqa: N802
        self._note("bcast", buffer)
        self.comm.Bcast(buffer, root)

    def Allreduce(self, send: Any, receive: Any, op: Any) -> None:  # noqa: N802
        if len(receive) == 3:
            self._note("allreduce", receive)
        self.comm.Allreduce(send, receive, op)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)


@pytest.mark.parametrize(
    ("n", "buffers"), [(1, "device"), (2, "device"), pytest.param(3, "staged", marks=pytest.mark.slow)]
)
def test_training_on_a_gpu_equals_training_on_the_host(
    on_ranks: Callable[..., None],
    cuda_variables: dict[str, str],
    need_device_memory: Callable[[], None],
    n: int,
    buffers: str,
) -> None:
    """The bits are equal, because a step consists of sums and products of two numbers; MPI gets the right memory."""
    if buffers == "device" and n > 1:
        need_device_memory()
    on_ranks(n, gpu_run, buffers == "device", timeout=300, **cuda_variables)


def gpu_run(aware: bool) -> None:
    steps, lr, alone = 3, 0.1, World().size == 1
    for name, server in ALGORITHMS:
        many = name == "doublesqueeze" and not alone
        specs = ["identity"] if name in UNCOMPRESSED else COMPRESSORS if many else SPECS
        specs = [FIELD[name]] if name in FIELD else LINEAR if server == "allreduce" and name == "memsgd" else specs
        for spec in specs:
            # A shard of 1031 numbers begins where no load of 16 bytes may.
            both = ((1031, np.float32, 64), (258, np.float64, None))
            for d, dtype, chunk in both if name in ("doublesqueeze", "choco") and not alone else both[:1]:
                world, handed = World(), set[str]()
                options: dict[str, Any] = {"server": server, "chunk": chunk}
                host = make_algorithm(name, spec, d, dtype, world, **options)
                expected = run_steps(host, start_at(d, dtype), steps, lr)
                device = CudaDevice(0, aware, "a test")
                world.comm = Watch(world.comm, handed)  # type: ignore[assignment]
                algorithm = make_algorithm(name, spec, d, dtype, world, device, **options)
                x = run_steps(algorithm, device.xp.asarray(start_at(d, dtype)), steps, lr)
                assert isinstance(x, device.xp.ndarray)
                assert x.get().tobytes() == expected.tobytes(), (name, spec, server, d, dtype)
                assert {kind.split()[1] for kind in handed} <= {"device" if aware else "host"}
                assert bool(handed) == (world.size > 1)
                residual, kept = algorithm.residual(), host.residual()
                assert (residual is None) == (kept is None)
                if kept is not None:
                    assert residual.get().tobytes() == kept.tobytes(), (name, spec, server, d, dtype)


def test_mpis_collectives_get_host_memory_where_they_would_crash_on_a_devices(
    on_ranks: Callable[..., None], cuda_variables: dict[str, str], need_device_memory: Callable[[], None]
) -> None:
    need_device_memory()
    on_ranks(2, staged_collective, **cuda_variables)


def staged_collective() -> None:
    for name, spec, memory in (("allreduce", "allreduce", "host"), ("dpsgd", "send", "device")):
        world, handed = World(), set[str]()
        host = run_steps(make_algorithm(name, "identity", 100, np.float32, world), start_at(100, np.float32), 2)
        device = CudaDevice(0, True, "a test", collectives=False)
        world.comm = Watch(world.comm, handed)  # type: ignore[assignment]
        algorithm = make_algorithm(name, "identity", 100, np.float32, world, device)
        x = run_steps(algorithm, device.xp.asarray(start_at(100, np.float32)), 2)
        assert np.array_equal(x.get(), host)
        assert handed == {f"{spec} {memory}"}


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
    mpisqueeze_run: Callable[..., Any],
    cuda_variables: dict[str, str],
    need_device_memory: Callable[[], None],
    tmp_path: Path,
) -> None:
    need_device_memory()
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
    options += ["--iterations", "12", "--dtype", "float64", "--checksum", "--json", "-"]
    host = mpisqueeze_run(2, *options, "--device", "cpu")
    options += ["--device", "cuda", "--buffers", "staged", "--out", "run"]
    gpu = mpisqueeze_run(2, *options, timeout=300, **cuda_variables)
    assert (host.code, gpu.code) == (0, 0), gpu.err
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (environment["device"], environment["kernels"], environment["buffers"]) == ("cuda", "cuda", "HOST-STAGED")
    assert gpu.json["bytes_sent"] == host.json["bytes_sent"]
    for field in ("final_loss", "test_loss", "test_accuracy"):
        assert gpu.json[field] == pytest.approx(host.json[field], rel=1e-9), field
