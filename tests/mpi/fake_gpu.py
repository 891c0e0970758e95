"""A GPU made of NumPy memory: its arrays are a type of their own, so that a test sees which memory MPI is handed."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpisqueeze.comm.wire import Wire
from mpisqueeze.devices import CudaDevice


class DeviceArray(np.ndarray):
    """What CuPy's arrays are to the code above the kernels."""

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


class FakeCudaDevice(CudaDevice):
    """`events` lists what happened, in order: `synchronize`, `to host`, `to device`."""

    def __init__(self, aware: bool) -> None:
        self.xp = FakeCupy()
        self.index = 0
        self.label = "fake GPU"
        self.aware = aware
        self.buffers = "DEVICE" if aware else "HOST-STAGED"
        self.buffers_reason = "a test"
        self.events: list[str] = []

    def synchronize(self) -> None:
        self.events.append("synchronize")

    def wire(self, nbytes: int) -> Wire:
        wire = super().wire(nbytes)
        if self.aware:
            wire.mpi[0] = OnlyCudaInterface(wire.array)
        return wire

    def _pinned(self, nbytes: int) -> np.ndarray:
        return np.empty(nbytes, np.uint8)

    def _to_host(self, source: Any, target: np.ndarray) -> None:
        super()._to_host(source, target)
        self.events.append("to host")

    def _to_device(self, source: np.ndarray, target: Any) -> None:
        super()._to_device(source, target)
        self.events.append("to device")
