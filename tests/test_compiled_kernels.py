"""The cache of compiled CUDA kernels: each is compiled once, and compiled again if its file is not right."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_cases import copy

from mpisqueeze.kernels import compiled

only_emulated = pytest.mark.parametrize("cuda", ["emulator"], indirect=True)


@pytest.fixture
def compile_copy(cuda: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], int]:
    """Load `copy.cu` as a new process does, and return the number of compilations. The cache is in `tmp_path`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run() -> int:
        from mpisqueeze.kernels.cuda import CudaKernels, _module

        _module.cache_clear()
        before = len(cuda.cuda.compiler.compiled)
        v, payload = cuda.asarray(np.arange(5, dtype=np.float32)), cuda.zeros(20, np.uint8)
        copy().encode(CudaKernels(np.dtype(np.float32)), v, None, payload)
        assert payload.get().view(np.float32).tolist() == [0, 1, 2, 3, 4]
        return len(cuda.cuda.compiler.compiled) - before

    return run


def kept(folder: Path) -> Path:
    (file,) = (folder / "mpisqueeze" / "kernels").iterdir()
    return file


@only_emulated
def test_a_kernel_is_compiled_once(compile_copy: Callable[[], int], tmp_path: Path) -> None:
    assert [compile_copy() for _ in range(3)] == [1, 0, 0]
    assert kept(tmp_path).parent.stat().st_mode & 0o777 == 0o700


@only_emulated
def test_what_a_kernel_depends_on_is_in_its_key(
    compile_copy: Callable[[], int], cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpisqueeze.kernels import cuda as kernels

    assert compile_copy() == 1
    with monkeypatch.context() as patch:
        patch.setattr(cuda.cuda.nvrtc, "getVersion", lambda: (0, 1))
        assert compile_copy() == 1
    with monkeypatch.context() as patch:
        patch.setattr(cuda.cuda.Device, "__init__", lambda self: setattr(self, "compute_capability", "99"))
        assert compile_copy() == 1
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "OPTIONS", (*kernels.OPTIONS, "-DMORE"))
        assert compile_copy() == 1
    with monkeypatch.context() as patch:
        changed = {name: f"// changed\n{source}" for name, source in kernels.cuda_sources().items()}
        patch.setattr(kernels, "cuda_sources", lambda: changed)
        assert compile_copy() == 1
    assert compile_copy() == 0


@only_emulated
@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "no code"])
def test_a_damaged_file_is_compiled_again(compile_copy: Callable[[], int], tmp_path: Path, damage: str) -> None:
    assert compile_copy() == 1
    file = kept(tmp_path)
    content = file.read_bytes()
    if damage == "no code":  # as it was written, and not to be loaded
        file.unlink()
        compiled._write(file.name, b"/no/such/library.so")
    else:
        file.write_bytes({"cut": content[:-1], "changed": content[:-1] + b"?", "empty": b""}[damage])
    assert [compile_copy(), compile_copy()] == [1, 0]


@only_emulated
def test_without_a_folder_kernels_are_compiled(
    compile_copy: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mpisqueeze").write_text("a file in its place")
    assert [compile_copy(), compile_copy()] == [1, 1]
    (tmp_path / "mpisqueeze").unlink()
    folder = tmp_path / "mpisqueeze" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert [compile_copy(), compile_copy()] == [1, 1], "others may write there"
    assert list(folder.iterdir()) == []
    folder.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert [compile_copy(), compile_copy()] == [1, 1], "it is somebody else's"
    monkeypatch.undo()


def test_readers_see_whole_files_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Threads write the same file at once, as ranks that start together do."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, wrong, done = os.urandom(1 << 20), [], threading.Event()

    def write() -> None:
        for _ in range(20):
            compiled._write("a.bin", code)

    def read() -> None:
        while not done.is_set():
            found = compiled._read("a.bin")
            if found is not None and found != code:
                wrong.append(found)

    compiled._write("a.bin", code)
    writers, reader = [threading.Thread(target=write) for _ in range(4)], threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert wrong == []
    assert kept(tmp_path).read_bytes()[32:] == code, "nothing else is left behind"
