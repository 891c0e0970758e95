"""The part of CuPy that `mpisqueeze.kernels.cuda` uses, on NumPy memory, with kernels that run in the emulator.

`fake_cupy(folder)` makes a module object to stand in `sys.modules["cupy"]`; compiled sources go to `folder`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import types
from pathlib import Path
from typing import Any

import numpy as np

FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-fPIC", "-shared")
HEADER = Path(__file__).with_name("emulator.h")


class FakeArray(np.ndarray):
    """NumPy memory with the attributes of a device array that the kernels' host code reads."""

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self.__array_interface__["data"][0])

    def get(self) -> np.ndarray:
        return np.array(self)


def fake_array(values: np.ndarray) -> FakeArray:
    """`values` as a device array, without a copy."""
    return values.view(FakeArray)


class EmulatedKernel:
    def __init__(self, name: str, function: Any, settings: types.SimpleNamespace) -> None:
        self.name, self.function, self.settings = name, function, settings

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        if grid[0] < 1:
            raise ValueError(f"{self.name}: a grid of {grid[0]} blocks cannot be launched")
        values = [_argument(value) for value in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        if self.function(grid[0], block[0], pointers, int(self.settings.backwards)):
            raise RuntimeError(f"{self.name}: threads wait at a barrier that others never reach")


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
    """`compile_using_nvrtc` by g++: the "binary" is a shared library's path. Of the options only -D is passed on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def compile_using_nvrtc(self, source: str, options: tuple[str, ...], filename: str) -> tuple[bytes, None]:
        defines = [option for option in options if option.startswith("-D")]
        digest = hashlib.sha256(repr((source, defines)).encode()).hexdigest()[:16]
        library = self.folder / f"{Path(filename).stem}-{digest}.so"
        if not library.exists():
            self._compile(source, defines, library)
        return bytes(library), None

    @staticmethod
    def _compile(code: str, defines: list[str], library: Path) -> None:
        source = library.with_suffix(".cpp")
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
        _run("g++", *FLAGS, *defines, "-DEMULATED_KERNEL=", *include, str(source), "-o", str(library))


class EmulatedModule:
    def __init__(self, settings: types.SimpleNamespace) -> None:
        self.settings = settings

    def load(self, binary: bytes) -> None:
        self.library = ctypes.CDLL(os.fsdecode(binary))

    def get_function(self, name: str) -> EmulatedKernel:
        return EmulatedKernel(name, getattr(self.library, f"emulate_{name}"), self.settings)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def have_compiler() -> bool:
    return shutil.which("g++") is not None


def fake_cupy(folder: Path) -> Any:
    """A stand-in for the module `cupy`; set its `settings.backwards` to run threads and blocks in reverse order."""
    module: Any = types.ModuleType("cupy")
    module.settings = types.SimpleNamespace(backwards=False)
    module.ndarray = FakeArray
    module.asarray = lambda values: fake_array(np.array(values))
    module.zeros = lambda size, dtype: fake_array(np.zeros(size, dtype))
    module.cuda = types.SimpleNamespace(
        compiler=EmulatedCompiler(folder),
        function=types.SimpleNamespace(Module=lambda: EmulatedModule(module.settings)),
        runtime=types.SimpleNamespace(getDevice=lambda: 0),
    )
    return module
