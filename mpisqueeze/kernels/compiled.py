"""Cache of compiled CUDA kernels in the user's home, so that only the first process compiles them.

A file holds the code behind its SHA-256 digest; its name is a digest of everything that the code depends on. Files are
written under another name and renamed, so that ranks that start together at worst compile the same code twice. Where
the folder cannot be used, kernels are compiled in each process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

_DIGEST_BYTES = 32


def compiled(cupy: Any, source: str, options: tuple[str, ...], file: str) -> Any:
    """The loaded module of a CUDA source for the current device; `file` is the source's name."""
    facts = (source, options, cupy.cuda.Device().compute_capability, cupy.cuda.nvrtc.getVersion(), cupy.__version__)
    name = f"{Path(file).stem}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.bin"
    kept = _read(name)
    if kept is not None:
        # Another driver's code does not load.
        with contextlib.suppress(Exception):
            return _loaded(cupy, kept)
    code, _ = cupy.cuda.compiler.compile_using_nvrtc(source, options, filename=file)
    module = _loaded(cupy, code)
    _write(name, code)
    return module


def _loaded(cupy: Any, code: bytes) -> Any:
    module = cupy.cuda.function.Module()
    module.load(code)
    return module


def _read(name: str) -> bytes | None:
    folder = cache_folder()
    if folder is None:
        return None
    try:
        content = (folder / name).read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(name: str, code: bytes) -> None:
    folder = cache_folder()
    if folder is None:
        return
    with contextlib.suppress(OSError):
        handle, path = tempfile.mkstemp(dir=folder, prefix=f"{name}.")
        try:
            with open(handle, "wb") as stream:
                stream.write(hashlib.sha256(code).digest() + code)
            os.replace(path, folder / name)
        except OSError:
            os.unlink(path)


def cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/mpisqueeze/kernels, by default below ~/.cache; it is made if it is missing.

    None where it cannot be made, or where another user could write to it, since its content is executed.
    """
    caches = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(caches) if os.path.isabs(caches) else Path.home() / ".cache"
        folder = base / "mpisqueeze" / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if status.st_uid == os.getuid() and not others else None
