"""Arrays of the emulated device: as CuPy's, they are no NumPy arrays and have no buffer that a host may read.

What fills memory that is there is given to the current stream. What makes new memory is done at once, behind all that
this stream was given before.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from cuda_emulator.streams import COPY, KERNEL, Stream, current_stream, pinned_block

_CUDA = 2  # DLPack's name of a device
_METHODS = "all any argmax argmin astype copy cumsum dot max mean min prod ravel repeat round std sum take var"
_VIEWS = "reshape squeeze swapaxes transpose view"
_FACTS = "dtype flags itemsize nbytes ndim shape size strides"


class FakeArray(np.lib.mixins.NDArrayOperatorsMixin):
    """Memory of the device, which is the host's in truth, and arithmetic with other arrays of the device alone."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self)

    @property
    def T(self) -> FakeArray:  # noqa: N802
        return FakeArray(self._memory.T)

    # What MPI and torch take a device's memory by.

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        found = dict(self._memory.__array_interface__)
        return {name: found[name] for name in ("shape", "typestr", "data", "strides")} | {"version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, 0

    def __dlpack__(self, stream: int | None = None) -> Any:
        if stream != -1:
            current_stream().synchronize()
        capsule = self._memory.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        # The address comes first, and then the kind of the device.
        ctypes.c_int32.from_address(pointer(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)).value = _CUDA
        return capsule

    # To and from the host.

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("a device array becomes a host array by get() alone")

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        current_stream().synchronize()
        if out is None:
            return np.array(self._memory)
        if isinstance(out, FakeArray) or out.dtype != self.dtype or out.shape != self.shape:
            raise TypeError("get fills a host array of the same dtype and shape")
        out[...] = self._memory
        return out

    def set(self, source: np.ndarray) -> None:
        if isinstance(source, FakeArray) or source.dtype != self.dtype or source.shape != self.shape:
            raise TypeError("set takes a host array of the same dtype and shape")
        current_stream().synchronize()
        self._memory[...] = source

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self) -> bytes:
        return self.get().tobytes()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __repr__(self) -> str:
        return f"device {self.get()!r}"

    # Work of the device.

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        only_device_arrays(ufunc.__name__, (*inputs, *(out or ())))
        places = None if out is None else tuple(map(memory_of, out))

        def call() -> Any:
            given = [_flushed(memory_of(value)) for value in inputs]
            result = getattr(ufunc, method)(*given, **memory_of(options), **({} if places is None else {"out": places}))
            for value in (result,) if places is None else places:
                if _may_be_denormal(value):
                    value[...] = _flushed(value)
            return result

        if out is not None:
            _give(call)
            return out[0]
        current_stream().synchronize()
        with np.errstate(all="ignore"):
            return on_device(call())

    def __array_function__(self, function: Any, _: Any, arguments: Any, options: Any) -> Any:
        return device_function(function)(*arguments, **options)

    def fill(self, value: Any) -> None:
        _give(functools.partial(self._memory.fill, memory_of(value)))

    def __len__(self) -> int:
        return len(self._memory)

    def __getitem__(self, key: Any) -> FakeArray:
        if not _is_basic(key):
            current_stream().synchronize()
        found = self._memory[memory_of(key)]
        # An element is an array of no dimension, in the same memory.
        return FakeArray(found if isinstance(found, np.ndarray) else self._memory[(*_tuple(key), Ellipsis)])

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim and not _is_whole(key):
            raise TypeError("a host array is given to a whole array by set()")
        # Of the host's memory CUDA takes what is there now.
        value = value._memory if isinstance(value, FakeArray) else np.array(value)
        _give(functools.partial(self._memory.__setitem__, memory_of(key), value))


def _define(names: str, make: Callable[[str], Any]) -> None:
    for name in names.split():
        setattr(FakeArray, name, make(name))


def _fact(name: str) -> Any:
    return property(lambda self: getattr(self._memory, name))


def _view(name: str) -> Any:
    return lambda self, *arguments, **options: FakeArray(getattr(self._memory, name)(*arguments, **options))


def _method(name: str) -> Any:
    return lambda self, *arguments, **options: device_function(getattr(np.ndarray, name))(self, *arguments, **options)


_define(_FACTS, _fact)
_define(_VIEWS, _view)
_define(_METHODS, _method)


class MemoryPointer:
    """The address of a device array."""

    def __init__(self, array: FakeArray) -> None:
        self._array = array
        self.ptr = array._memory.ctypes.data

    def copy_to_host_async(self, memory: int, size: int, stream: Stream | None = None) -> None:
        self._copy(memory, self.ptr, memory, size, stream)

    def copy_from_host_async(self, memory: int, size: int, stream: Stream | None = None) -> None:
        self._copy(self.ptr, memory, memory, size, stream)

    def _copy(self, target: int, source: int, host: int, size: int, stream: Stream | None) -> None:
        array, block = self._array, pinned_block(host, size)
        if size > array.nbytes:
            raise ValueError("a copy reaches beyond its array")

        def copy() -> None:
            assert array is not None
            assert block is not None
            ctypes.memmove(target, source, size)

        (stream or current_stream()).give(copy, COPY)


def on_device(result: Any) -> Any:
    """What NumPy made, as memory of the device: arrays, and what it makes numbers of, which CuPy does not."""
    if isinstance(result, tuple | list):
        return type(result)(map(on_device, result))
    return FakeArray(np.asarray(result)) if isinstance(result, np.ndarray | np.generic) else result


def memory_of(value: Any) -> Any:
    """The memory of device arrays, inside of lists, tuples and dictionaries, too; other values as they are."""
    if isinstance(value, FakeArray):
        return value._memory
    if isinstance(value, tuple | list):
        return type(value)(map(memory_of, value))
    if isinstance(value, dict):
        return {name: memory_of(held) for name, held in value.items()}
    return value


def only_device_arrays(name: str, values: Any) -> None:
    """Raises TypeError for a host array among device arrays, as CuPy's functions do."""
    for value in values:
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError(f"{name}: a host array among device arrays")


def device_function(function: Any) -> Any:
    """NumPy's function with arrays of the device as arguments and results."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        only_device_arrays(function.__name__, (*arguments, *options.values()))
        current_stream().synchronize()
        with np.errstate(all="ignore"):
            result = function(*memory_of(arguments), **memory_of(options))
        out = options.get("out")
        return on_device(result) if out is None else out

    return call


def _give(work: Callable[[], Any]) -> None:
    """Have the current stream do it, with no warnings, as a device has none."""

    def quietly() -> None:
        with np.errstate(all="ignore"):
            work()

    current_stream().give(quietly, KERNEL)


def _may_be_denormal(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float32


def _flushed(value: Any) -> Any:
    """`value` with zeros in place of denormal elements, as CuPy's own kernels take and leave them in float32."""
    if not _may_be_denormal(value):
        return value
    denormal = (np.abs(value) < np.finfo(np.float32).tiny) & (value != 0)
    return np.where(denormal, np.copysign(np.float32(0), value), value) if denormal.any() else value


def _tuple(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _is_basic(key: Any) -> bool:
    """The key makes a view."""
    return all(part is None or part is Ellipsis or isinstance(part, int | np.integer | slice) for part in _tuple(key))


def _is_whole(key: Any) -> bool:
    return key is Ellipsis or key == slice(None)
