"""Checkpoints on disk, from which a run continues bit for bit.

`checkpoint/00000120/` holds `rank-0003.npz` for each rank, its arrays, and `manifest.json`, which is written last and
has each file's SHA-256. A folder without a manifest, or with a file that does not match, is no checkpoint. The last
KEPT stay. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpisqueeze.errors import UsageError
from mpisqueeze.files import sha256_of
from mpisqueeze.record.arrays import write_npz
from mpisqueeze.record.decoding import Count, Positive, Seconds, as_type, read_object
from mpisqueeze.record.folder import write_json

FOLDER = "checkpoint"
MANIFEST = "manifest.json"
_DRAFT = "draft.json"
KEPT = 2
SCHEMA_VERSION = 1

Arrays = Mapping[str, NDArray[Any]]


class DamagedError(Exception):
    """A checkpoint that is not what was written; says which file, and how."""


class Past(msgspec.Struct, frozen=True):
    """Sums over the iterations before: wall time, and the bytes that each rank sent and received."""

    wall_s: Seconds = 0.0
    resumed_after: list[Count] = []
    bytes_by_rank: list[tuple[Count, Count]] = []


class Manifest(msgspec.Struct, frozen=True):
    """A checkpoint's own description, manifest.json.

    Attributes:
        path: its folder.
        iteration: the last one that is in it.
        ranks: how many wrote it.
        settings: those of the run that must not change.
        log: bytes of each log file at that iteration.
        record: of the iterations before.
        files: SHA-256 of each rank's file, by its name.
    """

    path: Path
    iteration: Positive
    ranks: Positive
    settings: dict[str, Any]
    log: dict[str, Count]
    record: Past
    files: dict[str, str]


_THREAD = ThreadPoolExecutor(1, "mpisqueeze checkpoint")
#: The fields that are in the file, besides its version and its own SHA-256.
_BODY = Manifest.__struct_fields__[1:]


def file_of(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank-{rank:04}.npz"


def checkpoints(run: Path) -> list[Path]:
    """The folders of a run's checkpoints, the latest first, whether they are sound or not."""
    folder = run / FOLDER
    if not os.path.isdir(folder):
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda p: int(p.name), reverse=True)


def read_manifest(path: Path) -> Manifest:
    """Raises DamagedError."""
    file = path / MANIFEST
    try:
        facts = read_object(file, "--resume", dict[str, Any])
        manifest = as_type({**facts, "path": path}, Manifest, f"{file}", "--resume")
    except UsageError as error:
        raise DamagedError(error.message) from None
    if facts.get("schema_version") != SCHEMA_VERSION:
        raise DamagedError(f"{file} is of another version of mpisqueeze")
    if facts.get("sha256") != _digest_of({key: facts[key] for key in _BODY}):
        raise DamagedError(f"{file} was altered")
    if len(manifest.record.bytes_by_rank) != manifest.ranks:
        raise DamagedError(f"{file} is damaged: it counts the bytes of other ranks")
    return manifest


def read_arrays(manifest: Manifest, rank: int) -> dict[str, NDArray[Any]]:
    """A rank's arrays, checked against the manifest. Raises DamagedError."""
    path = manifest.path / file_of(rank)
    try:
        if sha256_of(path) != manifest.files[path.name]:
            raise DamagedError(f"{path} is truncated or was altered")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except DamagedError:
        raise
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:
        # For bytes that they did not write, zipfile, zlib and NumPy raise errors of a dozen kinds.
        raise DamagedError(f"{path} is damaged ({type(error).__name__})") from None


def _digest_of(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Writer:
    """Writes a rank's arrays from the process's thread, so that a run waits for a copy of them alone.

    Args:
        run: the run folder; every rank sees it.

    Attributes:
        pending: the iteration that is being written or waits to be made valid; None if there is none.
    """

    _ending = ".part"
    _durable = True

    def __init__(self, run: Path, rank: int) -> None:
        self._folder, self._rank = run / FOLDER, rank
        self._copies: dict[str, NDArray[Any]] = {}
        self._written: Future[str] = Future()
        self.pending: int | None = None

    def copy(self, iteration: int, arrays: Arrays) -> None:
        """Copy the arrays; what was begun before must have been made valid."""
        for name, array in arrays.items():
            copy = self._copies.get(name)
            if copy is None or copy.shape != array.shape or copy.dtype != array.dtype:
                copy = self._copies[name] = np.empty_like(array)
            copy[...] = array
        self.pending = iteration

    def begin(self, iteration: int, arrays: Arrays) -> None:
        """Copy the arrays and start to write them."""
        self.copy(iteration, arrays)
        self._written = _THREAD.submit(self._write, self._part)

    @property
    def busy(self) -> bool:
        """The thread is still at it."""
        return not self._written.done()

    def finish(self) -> str:
        """Wait for the thread; the SHA-256 of the file. Raises the error that kept it from being written."""
        return self._written.result()

    @property
    def _part(self) -> Path:
        """The folder that is written to before the checkpoint is valid."""
        return self._folder / f"{self.pending:08}{self._ending}"

    def _write(self, folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / file_of(self._rank)
        write_npz(path, dict(sorted(self._copies.items())), self._durable)
        return sha256_of(path)

    def publish(self, settings: dict[str, Any], log: dict[str, int], record: Past, digests: list[str]) -> None:
        """On rank 0: make the checkpoint valid that all ranks have written, and drop all but the last ones."""
        assert self.pending is not None
        _make_valid(Manifest(self._part, self.pending, len(digests), settings, log, record, {}), digests)


def _make_valid(manifest: Manifest, digests: Sequence[str], durable: bool = True) -> None:
    """Give the folder of a checkpoint that all ranks have written its manifest and its name; drop all but the last."""
    part, folder = manifest.path, manifest.path.parent
    files = {file_of(rank): digest for rank, digest in enumerate(digests)}
    body = {**_body(manifest), "files": files}
    write_json(part / MANIFEST, {"schema_version": SCHEMA_VERSION, **body, "sha256": _digest_of(body)}, durable)
    final = folder / f"{manifest.iteration:08}"
    if os.path.exists(final):
        shutil.rmtree(final)
    os.replace(part, final)
    # The new name is to survive a crash of the machine.
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    for old in checkpoints(folder.parent)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _body(manifest: Manifest) -> dict[str, Any]:
    return {key: msgspec.to_builtins(getattr(manifest, key)) for key in _BODY}


class EarlyWriter(Writer):
    """Writes a checkpoint from a thread and without MPI, by a process that may be killed at any moment.

    Each rank leaves its digest in a file beside its arrays, and rank 0 a draft of the manifest, so that whoever finds
    them all can make the checkpoint valid: rank 0, if it lives to see the last one, or the run that goes on.
    """

    _ending = ".early.part"
    # What the system has been given outlives the process.
    _durable = False

    def write(self, settings: dict[str, Any], log: dict[str, int], record: Past, ranks: int) -> Path | None:
        """Write the arrays that were copied last; the folder, or None if there is a checkpoint of theirs.

        Raises OSError.
        """
        if self.pending is None or os.path.exists(self._folder / f"{self.pending:08}"):
            return None
        digest, path = self._write(self._part), self._part / _digest_file(self._rank)
        if self._rank == 0:
            body = _body(Manifest(self._part, self.pending, ranks, settings, log, record, {}))
            write_json(self._part / _DRAFT, body, durable=False)
        path.with_suffix(".new").write_text(digest)
        os.replace(path.with_suffix(".new"), path)
        return self._part


def complete(part: Path) -> bool:
    """Make an early checkpoint valid if all ranks have written it.

    Raises OSError, and UsageError where its draft is damaged.
    """
    if not os.path.exists(part / _DRAFT):
        return False
    facts = read_object(part / _DRAFT, "--resume", dict[str, Any])
    manifest = as_type({**facts, "path": part}, Manifest, f"{part / _DRAFT}", "--resume")
    paths = [part / _digest_file(rank) for rank in range(manifest.ranks)]
    if not all(os.path.exists(path) for path in paths):
        return False
    _make_valid(manifest, [path.read_text() for path in paths], durable=False)
    return True


def complete_early(run: Path) -> None:
    """Make the early checkpoints of a killed run valid that all of its ranks have written."""
    for part in (run / FOLDER).glob(f"*{EarlyWriter._ending}"):
        with contextlib.suppress(OSError, UsageError):
            complete(part)


def _digest_file(rank: int) -> str:
    return f"{file_of(rank)}.sha256"


def discard_unfinished(run: Path) -> None:
    """Remove the checkpoint that a killed run had begun to write."""
    for path in (run / FOLDER).glob("*.part"):
        shutil.rmtree(path, ignore_errors=True)
