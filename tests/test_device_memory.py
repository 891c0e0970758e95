"""What is asked before a GPU is used: NVRTC, and a message from device memory in a process apart."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_emulator.fake_cupy import SITE
from mpi4py import MPI

from mpisqueeze.comm import placement
from mpisqueeze.comm.device_probe import _alone, device_memory_fault
from mpisqueeze.comm.progress import ProgressThread
from mpisqueeze.comm.world import World
from mpisqueeze.devices.device import gpu_count
from mpisqueeze.errors import UsageError
from mpisqueeze.kernels.cuda import pinned

only_emulated = pytest.mark.parametrize("cuda", ["emulator"], indirect=True)


def without_nvrtc() -> tuple[int, int]:
    raise RuntimeError("libnvrtc.so.12: cannot open\nshared object file")


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_driver_alone_is_no_gpu(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    nvrtc = SimpleNamespace(getVersion=lambda: (12, 9))
    cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: gpus), nvrtc=nvrtc)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    assert gpu_count()[0] == gpus
    nvrtc.getVersion = without_nvrtc
    count, why = gpu_count()
    assert count == 0
    assert ("extras cuda12, cuda13" in why and "cannot open shared object file" in why) == (gpus > 0)


@only_emulated
def test_pinned_memory_is_as_long_as_it_must_be(cuda: Any) -> None:
    for nbytes in (0, 1, (1 << 20) + 1):
        assert pinned(cuda, nbytes).shape == (nbytes,)


def test_the_thread_that_moves_messages_begins_on_the_ranks_device() -> None:
    if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
        pytest.skip("this MPI library has no THREAD_MULTIPLE")
    began: list[str] = []
    progress = ProgressThread(lambda: began.append(threading.current_thread().name))
    request = MPI.COMM_SELF.Irecv(np.zeros(1), 0, 3)
    progress.give([request])
    MPI.COMM_SELF.Send(np.ones(1), 0, 3)
    progress.take_back()
    request.Wait()
    progress.close()
    assert began == ["mpisqueeze progress"]


def test_a_process_apart_is_no_rank() -> None:
    variables = {
        "OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1", "PMI_FD": "8", "SLURM_PROCID": "1", "OMPI_MCA_ess": "pmi",
        "OMPI_MCA_pml": "ucx", "UCX_TLS": "all", "PATH": "/bin",
    }  # fmt: skip
    assert _alone(variables).keys() == {"OMPI_MCA_pml", "UCX_TLS", "PATH"}


#: A GPU whose memory MPI must not read: nobody's is at this address.
UNREADABLE = """
from cuda_emulator.arrays import FakeArray
FakeArray.__dlpack_device__ = property()
FakeArray.__cuda_array_interface__ = property(
    lambda self: {"shape": self.shape, "typestr": "|u1", "data": (4096, False), "strides": None, "version": 3}
)
"""


@pytest.mark.parametrize("readable", [True, False])
def test_device_memory_is_tried_in_a_process_apart(
    emulator_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    """A library without CUDA takes the pointer for one into the host's memory, and its process dies."""
    (tmp_path / "cupy.py").write_text((SITE / "cupy.py").read_text() + ("" if readable else UNREADABLE))
    paths = [str(tmp_path), str(SITE.parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("CUDA_EMULATOR", str(emulator_folder))
    tried, fault = device_memory_fault(0)
    assert tried
    assert ("ended its process with" in fault) is not readable, fault
    assert (fault == "") is readable


@only_emulated
@pytest.mark.parametrize(
    ("buffers", "found", "memory", "why"),
    [
        ("auto", (True, ""), "DEVICE", "has CUDA support"),
        ("auto", (True, "it died"), "HOST-STAGED", "has CUDA support, but it died"),
        ("auto", (False, "it was not tried"), "HOST-STAGED", "has CUDA support, but it was not tried"),
        ("device", (False, "it was not tried"), "DEVICE", "set by --buffers; it was not tried"),
        ("staged", (True, "it died"), "HOST-STAGED", "set by --buffers"),
    ],
)
def test_buffers_follow_what_was_tried(
    cuda: Any, monkeypatch: pytest.MonkeyPatch, buffers: str, found: tuple[bool, str], memory: str, why: str
) -> None:
    world = World()
    monkeypatch.setattr(world, "size", 2)
    monkeypatch.setattr(placement, "cuda_awareness", lambda: (True, "has CUDA support"))
    monkeypatch.setattr(placement, "collectives_take_device_memory", lambda: (True, "has CUDA support"))
    monkeypatch.setattr(placement, "device_memory_fault", lambda gpu: found)
    device = placement.choose_device("cuda", buffers, world)
    assert (device.buffers, device.buffers_reason) == (memory, why)


@only_emulated
def test_wanted_device_memory_that_mpi_cannot_read_is_refused(
    cuda: Any, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ["train", "--device", "cuda", "--buffers", "device", "--iterations", "2"]
    line = refused(*train, "--checksum")
    assert "--buffers: device: --checksum computes checksums on the host; use auto or staged" in line
    world = World()
    monkeypatch.setattr(world, "size", 2)
    monkeypatch.setattr(placement, "device_memory_fault", lambda gpu: (True, "it died"))
    with pytest.raises(UsageError, match="--buffers: device: it died; use auto or staged"):
        placement.choose_device("cuda", "device", world)
