"""The part of CuPy that mpisqueeze uses, on NumPy memory, with kernels that run in the emulator.

`fake_cupy(folder)` makes a module object to stand in `sys.modules["cupy"]`; compiled sources go to `folder`. A program
gets it by `import cupy` with the folder `site` beside this file on PYTHONPATH.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cuda_emulator.streams import (
    COPY,
    KERNEL,
    SETTINGS,
    Event,
    Stream,
    alloc_pinned_memory,
    current_stream,
    get_elapsed_time,
    pinned_block,
)

FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-fPIC")
#: Reports to emulator.h, so that no sanitizer's library is linked.
SANITIZE = ("-fsanitize=alignment", "-fsanitize-recover=alignment")
MEMORY_BYTES = 512 << 20
HEADER = Path(__file__).with_name("emulator.h")
SITE = Path(__file__).with_name("site")
_FAILURES = {1: "threads wait at a barrier that others never reach", 2: "an access is not aligned to its size"}


class FakeArray(np.ndarray):
    """NumPy memory with what a device array has; as there, no arithmetic with host arrays.

    What fills memory that is there is given to the current stream. What makes new memory is done at once, behind all
    that this stream was given before.
    """

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self)

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        current_stream().synchronize()
        if out is None:
            return np.array(self.view(np.ndarray))
        if isinstance(out, FakeArray) or out.dtype != self.dtype or out.shape != self.shape:
            raise TypeError("get fills a host array of the same dtype and shape")
        out[...] = self.view(np.ndarray)
        return out

    def set(self, source: np.ndarray) -> None:
        if isinstance(source, FakeArray) or source.dtype != self.dtype or source.shape != self.shape:
            raise TypeError("set takes a host array of the same dtype and shape")
        current_stream().synchronize()
        self.view(np.ndarray)[...] = source

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        for array in (*inputs, *(out or ())):
            if isinstance(array, np.ndarray) and not isinstance(array, FakeArray) and array.ndim:
                raise TypeError(f"{ufunc.__name__}: a host array among device arrays")
        call = functools.partial(getattr(ufunc, method), *(_host(array) for array in inputs), **options)
        if out is not None:
            _give(functools.partial(call, out=tuple(_host(array) for array in out)))
            return out[0]
        current_stream().synchronize()
        result = call()
        return result.view(FakeArray) if isinstance(result, np.ndarray) else result

    def fill(self, value: Any) -> None:
        _give(functools.partial(self.view(np.ndarray).fill, value))

    def __setitem__(self, key: Any, value: Any) -> None:
        # Of the host's memory CUDA takes what is there now.
        value = _host(value) if isinstance(value, FakeArray) else np.array(value)
        _give(functools.partial(self.view(np.ndarray).__setitem__, key, value))


def _give(work: Callable[[], Any]) -> None:
    """Have the current stream do it, with no warnings, as a device has none."""

    def quietly() -> None:
        with np.errstate(all="ignore"):
            work()

    current_stream().give(quietly, KERNEL)


def _in_order(name: str) -> Any:
    """NumPy's method, behind what the current stream was given before."""
    method = getattr(np.ndarray, name)

    @functools.wraps(method)
    def call(self: FakeArray, *arguments: Any, **options: Any) -> Any:
        current_stream().synchronize()
        return method(self, *arguments, **options)

    return call


_METHODS = """
    __array_function__ __bool__ __float__ __int__
    all any argmax argmin astype copy dot item max mean min sum tobytes tolist
"""
for _name in _METHODS.split():
    setattr(FakeArray, _name, _in_order(_name))


class MemoryPointer:
    """The address of a device array."""

    def __init__(self, array: FakeArray) -> None:
        self._array = array
        self.ptr = array.__array_interface__["data"][0]

    def copy_to_host_async(self, memory: int, size: int, stream: Stream | None = None) -> None:
        self._copy(memory, self.ptr, memory, size, stream)

    def copy_from_host_async(self, memory: int, size: int, stream: Stream | None = None) -> None:
        self._copy(self.ptr, memory, memory, size, stream)

    def _copy(self, target: int, source: int, host: int, size: int, stream: Stream | None) -> None:
        array, block = self._array, pinned_block(host, size)
        if not 0 <= self.ptr - array.__array_interface__["data"][0] <= array.nbytes - size:
            raise ValueError("a copy reaches beyond its array")

        def copy() -> None:
            assert array is not None
            assert block is not None
            ctypes.memmove(target, source, size)

        (stream or current_stream()).give(copy, COPY)


def _host(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, FakeArray) else value


def fake_array(values: np.ndarray) -> FakeArray:
    """`values` as a device array, without a copy."""
    return values.view(FakeArray)


class EmulatedKernel:
    def __init__(self, name: str, function: Any) -> None:
        self.name, self.function = name, function

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        if grid[0] < 1:
            raise ValueError(f"{self.name}: a grid of {grid[0]} blocks cannot be launched")
        values = [_argument(value) for value in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        backwards, kept = int(SETTINGS.backwards), [values, arguments]

        def run() -> None:
            outcome = self.function(grid[0], block[0], pointers, backwards)
            kept.clear()
            if outcome:
                raise RuntimeError(f"{self.name}: {_FAILURES[outcome]}")

        current_stream().give(run, KERNEL)


def _argument(value: Any) -> np.ndarray:
    """The memory that a kernel's parameter is copied from."""
    if isinstance(value, FakeArray):
        if not value.flags.c_contiguous:
            raise TypeError("a kernel takes contiguous arrays")
        return np.array([value.data.ptr], np.uint64)
    if isinstance(value, np.generic):
        return np.array([value])
    raise TypeError(f"{value!r}: neither a device array nor a number of a definite type")


class EmulatedCompiler:
    """`compile_using_nvrtc` by g++: the "binary" is a shared library's path. Of the options only -D is passed on.

    Attributes:
        compiled: the files that it was asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compiled: list[str] = []

    def compile_using_nvrtc(self, source: str, options: tuple[str, ...], filename: str) -> tuple[bytes, None]:
        self.compiled.append(filename)
        defines = [option for option in options if option.startswith("-D")]
        digest = hashlib.sha256(repr((source, defines, HEADER.read_text())).encode()).hexdigest()[:16]
        library = self.folder / f"{Path(filename).stem}-{digest}.so"
        if not library.exists():
            self._compile(source, defines, library)
        return bytes(library), None

    @staticmethod
    def _compile(code: str, defines: list[str], library: Path) -> None:
        # Other processes and threads may compile the same.
        mine = library.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        source, compiled = mine.with_suffix(f"{mine.suffix}.cpp"), mine.with_suffix(f"{mine.suffix}.o")
        source.write_text(code, encoding="utf-8")
        include = ["-include", str(HEADER)]
        preprocessed = _run("g++", "-std=c++17", "-E", "-P", *defines, *include, str(source))
        kernels = re.findall(r'extern "C" EMULATED_KERNEL void\s+(\w+)\(', preprocessed)
        launchers = [
            f'extern "C" int emulate_{name}(unsigned grid, unsigned block, void** arguments, int backwards)'
            f" {{ return emulator::launch({name}, grid, block, arguments, backwards); }}\n"
            for name in kernels
        ]
        source.write_text(code + "".join(launchers), encoding="utf-8")
        _run("g++", *FLAGS, *SANITIZE, *defines, "-DEMULATED_KERNEL=", *include, "-c", str(source), "-o", str(compiled))
        _run("g++", "-shared", str(compiled), "-o", str(mine))
        mine.replace(library)
        source.unlink()
        compiled.unlink()


class EmulatedModule:
    def load(self, binary: bytes) -> None:
        self.library = ctypes.CDLL(os.fsdecode(binary))

    def get_function(self, name: str) -> EmulatedKernel:
        return EmulatedKernel(name, getattr(self.library, f"emulate_{name}"))


class Device:
    """The only GPU."""

    def __init__(self, index: int = 0) -> None:
        if index != 0:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.compute_capability = "00"

    def use(self) -> None:
        pass


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def have_compiler() -> bool:
    return shutil.which("g++") is not None


def _on_device(function: Any) -> Any:
    """NumPy's function with arrays of the device as its results."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        current_stream().synchronize()
        result = function(*arguments, **options)
        return result.view(FakeArray) if isinstance(result, np.ndarray) else result

    return call


def _missing(name: str) -> Any:
    """NumPy's attribute for a name that this module does not define."""
    if name.startswith("_"):
        raise AttributeError(name)
    found = getattr(np, name)
    return _on_device(found) if callable(found) and not isinstance(found, type | np.ufunc) else found


def fake_cupy(folder: Path) -> Any:
    """A stand-in for the module `cupy`; set its `settings.backwards` to run threads and blocks in reverse order."""
    module: Any = types.ModuleType("cupy")
    module.__version__ = "emulated"
    module.__getattr__ = _missing
    module.settings = SETTINGS
    module.ndarray = FakeArray
    module.copyto = lambda target, source: target.__setitem__(Ellipsis, source)
    module.array = lambda values, dtype=None: fake_array(np.array(values, dtype))
    module.asarray = lambda values, dtype=None: (
        values if isinstance(values, FakeArray) and dtype in (None, values.dtype) else module.array(values, dtype)
    )
    module.cuda = types.SimpleNamespace(
        compiler=EmulatedCompiler(folder),
        nvrtc=types.SimpleNamespace(getVersion=lambda: (0, 0)),
        function=types.SimpleNamespace(Module=EmulatedModule),
        runtime=types.SimpleNamespace(
            getDevice=lambda: 0,
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda index: {
                "name": b"emulated GPU",
                "major": 0,
                "minor": 0,
                "totalGlobalMem": MEMORY_BYTES,
            },
            memGetInfo=lambda: (MEMORY_BYTES, MEMORY_BYTES),
            driverGetVersion=lambda: 0,
            runtimeGetVersion=lambda: 0,
        ),
        Device=Device,
        Event=Event,
        get_elapsed_time=get_elapsed_time,
        Stream=Stream,
        get_current_stream=current_stream,
        alloc_pinned_memory=alloc_pinned_memory,
    )
    return module
