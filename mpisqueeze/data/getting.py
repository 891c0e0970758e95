"""A published data set in the data folder: what is there stays, what is missing is downloaded, checked, unpacked."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from mpisqueeze.data.published import PUBLISHED, DownloadError, DownloadWatcher, File, Published
from mpisqueeze.errors import UsageError
from mpisqueeze.files import sha256_of
from mpisqueeze.language import suggestion

MIRROR_VARIABLE = "MPISQUEEZE_MIRROR"
_LOCK = ".lock"


def find_published(name: str) -> Published:
    """The data set of this name. Raises UsageError."""
    if name not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise UsageError(f"no data set {name!r} to download{suggestion(name, PUBLISHED)}; known: {known}", "NAME")
    return PUBLISHED[name]


def choose_mirror(option: str | None) -> str | None:
    """The address that `--mirror`, else $MPISQUEEZE_MIRROR gives; None for the built-in ones. Raises UsageError."""
    given = option or os.environ.get(MIRROR_VARIABLE) or None
    if given:
        blamed = "--mirror" if option else f"${MIRROR_VARIABLE}"
        try:
            parts = urlsplit(given)
            fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            fits = False
        if not fits or any(character.isspace() for character in given):
            raise UsageError(f"{given!r} is no http:// or https:// address", blamed)
    return given


def get(source: Published, root: Path, mirror: str | None, force: bool, watcher: DownloadWatcher) -> int:
    """Complete the folder of a data set below `root`; the bytes that were downloaded, 0 where nothing was missing.

    Of several processes that do this at once, one does and the others wait for it.

    Args:
        mirror: an address below which NAME/FILE are; the only place to ask. None: the data set's own mirrors.
        force: replace files of the same name that are not the published ones.

    Raises:
        UsageError: of `--data-dir`; the folder cannot be used, is too full, or holds other files of these names.
        DownloadError: the files could not be had.
    """
    folder = root / source.name
    try:
        # Without a lock, which a folder that may only be read would refuse.
        if not _missing(source, folder, force):
            return 0
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, watcher) as locked:
            missing = _missing(source, folder, force)
            if not missing:
                return 0
            wanted = source.downloads if source.archive else missing
            _check_room(source, folder, wanted)
            for file in wanted:
                _get_file(source, file, folder, mirror, locked, watcher)
            if source.archive:
                _unpack(source, missing, folder)
                (folder / source.archive.name).unlink()
    except OSError as error:
        where = error.filename or folder
        raise UsageError(f"{where} cannot be used: {error.strerror or error}", "--data-dir") from None
    return sum(file.size for file in wanted)


def present(source: Published, root: Path) -> int:
    """The number of a data set's files that are in its folder, by their length."""
    paths = {root / source.name / file.name: file.size for file in source.files}
    return sum(os.path.isfile(path) and os.path.getsize(path) == size for path, size in paths.items())


@contextmanager
def _alone(folder: Path, watcher: DownloadWatcher) -> Iterator[bool]:
    """Keep other processes out of `folder`; False where its file system knows no locks. Raises OSError."""
    with open(folder / _LOCK, "ab") as lock:
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                watcher.note(f"another process is at work in {folder}: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            locked = True
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            locked = False
        yield locked


def _missing(source: Published, folder: Path, force: bool) -> list[File]:
    """The files that are not there. Raises UsageError where others of their names are, OSError."""
    missing = []
    for file in source.files:
        path = folder / file.name
        if os.path.lexists(path):
            if path.is_file() and path.stat().st_size == file.size and sha256_of(path) == file.sha256:
                continue
            if not force:
                raise UsageError(
                    f"{path} is there and is not the published file: move it away, or replace it with --force",
                    "--data-dir",
                )
        missing.append(file)
    return missing


def _check_room(source: Published, folder: Path, wanted: Sequence[File]) -> None:
    needed = sum(file.size for file in {*wanted, *(source.files if source.archive else ())})
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(f"{source.name} takes {needed / 1e6:.0f} MB, and {folder} has {free / 1e6:.0f} MB free",
                         "--data-dir")  # fmt: skip


def _get_file(
    source: Published, file: File, folder: Path, mirror: str | None, locked: bool, watcher: DownloadWatcher
) -> None:
    """Download a file of `source` into `folder`. Raises DownloadError."""
    # Imported here because it loads requests, which looking at a folder does not need.
    from mpisqueeze.data.download import download

    # A part that nobody else writes to has a name of its own where there are no locks, and is not resumed.
    unique = "" if locked else f".{socket.gethostname()}-{os.getpid()}"
    part = folder / f"{file.name}{unique}.part"
    mirrors = (f"{mirror.rstrip('/')}/{source.name}/",) if mirror else source.mirrors
    try:
        download(file, mirrors, folder, part, watcher)
    except DownloadError as error:
        raise DownloadError(f"{source.name}: {error}; its files may also be copied to {folder}") from None
    finally:
        if unique:
            part.unlink(missing_ok=True)


def _unpack(source: Published, files: Sequence[File], folder: Path) -> None:
    """Take `files` out of the archive in `folder`, whose SHA-256 is right. Raises DownloadError, OSError."""
    assert source.archive
    wanted = {f"{source.archive_folder}/{file.name}": file.name for file in files}
    part = folder / f"{source.archive.name}.{socket.gethostname()}-{os.getpid()}.part"
    try:
        with tarfile.open(folder / source.archive.name, "r:gz") as archive:
            for member in archive:
                name = wanted.pop(member.name, None) if member.isreg() else None
                stream = archive.extractfile(member)
                if name and stream:
                    with open(part, "wb") as out:
                        shutil.copyfileobj(stream, out)
                        out.flush()
                        os.fsync(out.fileno())
                    os.replace(part, folder / name)
    finally:
        part.unlink(missing_ok=True)
    if wanted:
        raise DownloadError(f"{folder / source.archive.name} lacks {', '.join(wanted)}")
