"""A fake GPU on NumPy memory: its arrays have their own type, so that a test sees which memory MPI is handed."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpisqueeze.devices.buffers import DeviceWire, Fence, Wire
from mpisqueeze.devices.clock import PhaseClock
from mpisqueeze.devices.device import CudaDevice


class DeviceArray(np.ndarray):
    """An array that acts as CuPy's do for the code above the kernels."""

    @property
    def data(self) -> int:
        return self.ctypes.data

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        assert not isinstance(out, DeviceArray)
        if out is None:
            return np.array(self)
        out[...] = self.view(np.ndarray)
        return out

    def set(self, source: np.ndarray) -> None:
        assert not isinstance(source, DeviceArray)
        self[...] = source


class FakeCupy:
    """NumPy whose new arrays are DeviceArrays."""

    __name__ = "fake_cupy"
    ndarray = np.ndarray

    def __getattr__(self, name: str) -> Any:
        made = getattr(np, name)
        if name not in ("empty", "zeros", "full", "asarray", "array", "empty_like", "zeros_like", "eye", "arange"):
            return made
        return lambda *arguments, **options: made(*arguments, **options).view(DeviceArray)


class OnlyCudaInterface:
    """An object without a buffer protocol, as a real device array is: mpi4py can only read its CUDA interface."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        host = self.array.__array_interface__
        return {key: host[key] for key in ("shape", "typestr", "data", "strides")} | {"version": 3}


class FakeFence(Fence):
    def __init__(self, events: list[str]) -> None:
        self.events = events

    def wait(self) -> None:
        self.events.append("synchronize")


class FakeCopy:
    """A copy to the host, done when it is waited for."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.copy = lambda: None

    def synchronize(self) -> None:
        self.copy()
        self.events.append("to host")


class FakeLanes:
    """`buffers.Lanes` on host memory."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def fence(self) -> Fence:
        return FakeFence(self.events)

    def event(self) -> FakeCopy:
        return FakeCopy(self.events)

    def to_host(self, source: Any, target: int, nbytes: int, done: FakeCopy) -> None:
        done.copy = lambda: ctypes.memmove(target, source, nbytes)

    def to_device(self, source: int, target: Any, nbytes: int) -> None:
        ctypes.memmove(target, source, nbytes)
        self.events.append("to device")

    def faulty(self) -> bool:
        return False


class FakeCudaDevice(CudaDevice):
    """`events` lists what happened, in order: `synchronize`, `to host`, `to device`."""

    def __init__(self, aware: bool, collectives: bool | None = None) -> None:
        self.xp = FakeCupy()
        self.index = 0
        self.label = "fake GPU"
        self._hand_out(aware, "a test", collectives)
        self.events: list[str] = []
        self.lanes = FakeLanes(self.events)

    def synchronize(self) -> None:
        self.events.append("synchronize")

    def clock(self) -> PhaseClock:
        return PhaseClock()

    def faults(self) -> Sequence[str]:
        return ()

    def adopt(self, compressor: Any) -> None:
        pass

    def wire(self, nbytes: int, collective: bool = False) -> Wire:
        wire = super().wire(nbytes, collective)
        if isinstance(wire, DeviceWire):
            wire.mpi[0] = OnlyCudaInterface(wire.array)
        return wire

    def _pinned(self, nbytes: int) -> np.ndarray:
        return np.empty(nbytes, np.uint8)
