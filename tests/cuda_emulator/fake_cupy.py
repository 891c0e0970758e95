"""The part of CuPy that mpisqueeze uses, on NumPy memory, with kernels that run in the emulator.

`fake_cupy(folder)` makes a module object to stand in `sys.modules["cupy"]`; compiled sources go to `folder`. A program
gets it by `import cupy` with the folder `site` beside this file on PYTHONPATH.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import threading
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cuda_emulator.arrays import FakeArray, device_function
from cuda_emulator.streams import (
    KERNEL,
    SETTINGS,
    Event,
    PinnedMemory,
    PinnedMemoryPointer,
    Stream,
    current_stream,
    get_elapsed_time,
)

FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-fPIC")
#: By $CUDA_EMULATOR_SANITIZER: what is checked, and what is linked for it. Alignment alone is reported to emulator.h,
#: so that no sanitizer's library is needed; the others' must be preloaded.
SANITIZERS = {
    "": (("-fsanitize=alignment", "-fsanitize-recover=alignment"), ()),
    "address": (
        (
            "-g",
            "-fno-omit-frame-pointer",
            "-fsanitize=alignment,address,undefined,float-cast-overflow,bounds-strict",
            "-fno-sanitize=vptr,object-size",  # the latter would be reported as alignment is
            "-fsanitize-recover=all",
            # Fibers have stacks that AddressSanitizer does not know.
            "--param=asan-stack=0",
        ),
        ("-fsanitize=address,undefined",),
    ),
    "thread": (("-g", "-fno-omit-frame-pointer", "-fsanitize=thread"), ("-fsanitize=thread",)),
}
MEMORY_BYTES = 512 << 20
#: Few, so that thread blocks take several turns on vectors of a test.
MULTIPROCESSORS = 2
HEADER = Path(__file__).with_name("emulator.h")
SITE = Path(__file__).with_name("site")
SANITIZER = os.environ.get("CUDA_EMULATOR_SANITIZER", "")
#: The compiler's version, which kernels that are kept on disk depend on.
COMPILER = (0, zlib.crc32(HEADER.read_bytes() + SANITIZER.encode()))
#: What Python calls of a kernel.
LAUNCHERS = """
extern "C" UNSEEN int emulate_NAME(unsigned grid, unsigned block, void** arguments, int backwards) {
    return emulator::launch(NAME, grid, block, arguments, backwards);
}
extern "C" const char* parameters_of_NAME() { return emulator::parameters(NAME); }
"""
_FAILURES = {1: "threads wait at a barrier that others never reach", 2: "an access is not aligned to its size"}


class EmulatedKernel:
    """A kernel, whose arguments must be as many and as wide as its parameters: CUDA reads them by address alone.

    Args:
        parameters: for each its kind, that of NumPy's dtype or `p` for a pointer, and its bytes: "p8 i8 f4".
    """

    def __init__(self, name: str, function: Any, parameters: str) -> None:
        self.name, self.function, self.parameters = name, function, parameters.split()

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        values = [_argument(value) for value in arguments]
        given = [_described(value, wanted) for value, wanted in zip(arguments, self.parameters, strict=False)]
        if len(values) != len(self.parameters) or given != self.parameters:
            raise TypeError(f"{self.name} takes {self.parameters}, and was given {len(values)} arguments: {given}")
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        backwards, kept = int(SETTINGS.backwards), [values, arguments]
        # CuPy launches a thread block where it is asked for none.
        blocks, threads = max(1, grid[0]), max(1, block[0])

        def run() -> None:
            outcome = self.function(blocks, threads, pointers, backwards)
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


def _described(value: Any, wanted: str) -> str:
    """An argument as a kernel describes its parameters; an address may be given as a number of 8 bytes."""
    if isinstance(value, FakeArray) or (wanted == "p8" and value.dtype == np.uint64):
        return "p8"
    return f"{value.dtype.kind}{value.dtype.itemsize}"


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
        facts = (source, defines, HEADER.read_text(), LAUNCHERS, SANITIZER)
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
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
        launchers = [LAUNCHERS.replace("NAME", name) for name in kernels]
        checks, libraries = SANITIZERS[SANITIZER]
        source.write_text(code + "".join(launchers), encoding="utf-8")
        _run("g++", *FLAGS, *checks, *defines, "-DEMULATED_KERNEL=", *include, "-c", str(source), "-o", str(compiled))
        _run("g++", "-shared", *libraries, str(compiled), "-o", str(mine))
        mine.replace(library)
        source.unlink()
        compiled.unlink()


class EmulatedModule:
    def load(self, binary: bytes) -> None:
        self.library = ctypes.CDLL(os.fsdecode(binary))

    def get_function(self, name: str) -> EmulatedKernel:
        parameters = getattr(self.library, f"parameters_of_{name}")
        parameters.restype = ctypes.c_char_p
        return EmulatedKernel(name, getattr(self.library, f"emulate_{name}"), parameters().decode())


class Device:
    """The only GPU."""

    def __init__(self, index: int = 0) -> None:
        if index != 0:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.compute_capability = "00"

    def use(self) -> None:
        pass


def _run(*command: str) -> str:
    # A sanitizer that is preloaded is not for the compiler.
    variables = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def have_compiler() -> bool:
    return shutil.which("g++") is not None


def _missing(name: str) -> Any:
    """NumPy's attribute for a name that this module does not define."""
    if name.startswith("_"):
        raise AttributeError(name)
    found = getattr(np, name)
    return device_function(found) if callable(found) and not isinstance(found, type | np.ufunc) else found


def _new(values: Any, dtype: Any = None) -> FakeArray:
    """A new array of the device, of values of the host or of the device."""
    return FakeArray(np.array(values.get() if isinstance(values, FakeArray) else values, dtype))


def fake_cupy(folder: Path) -> Any:
    """A stand-in for the module `cupy`; set its `settings.backwards` to run threads and blocks in reverse order."""
    module: Any = types.ModuleType("cupy")
    module.__version__ = "emulated"
    module.__getattr__ = _missing
    module.settings = SETTINGS
    module.ndarray = FakeArray
    module.copyto = lambda target, source: target.__setitem__(Ellipsis, source)
    module.array = _new
    module.asarray = lambda values, dtype=None: (
        values if isinstance(values, FakeArray) and dtype in (None, values.dtype) else _new(values, dtype)
    )
    module.asnumpy = lambda values: values.get()
    module.cuda = types.SimpleNamespace(
        compiler=EmulatedCompiler(folder),
        nvrtc=types.SimpleNamespace(getVersion=lambda: COMPILER),
        function=types.SimpleNamespace(Module=EmulatedModule),
        runtime=types.SimpleNamespace(
            getDevice=lambda: 0,
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda index: {
                "name": b"emulated GPU",
                "major": 0,
                "minor": 0,
                "multiProcessorCount": MULTIPROCESSORS,
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
        set_allocator=lambda allocator=None: None,
        PinnedMemory=PinnedMemory,
        PinnedMemoryPointer=PinnedMemoryPointer,
    )
    return module
