"""Finding and reading data files so that a missing or damaged one ends in a sentence, not in a traceback."""

from __future__ import annotations

import gzip
import io
import os
import shlex
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mpisqueeze.errors import UsageError
from mpisqueeze.files import disguise, path_of

DATA_VARIABLE = "MPISQUEEZE_DATA"
_GZIP_MAGIC = b"\x1f\x8b"
_PART = 1 << 20


def data_folder(data_dir: Path | None) -> Path:
    """`data_dir`, else $MPISQUEEZE_DATA, else `data` in the current folder."""
    return path_of(data_dir or os.environ.get(DATA_VARIABLE) or "data")


def how_to_get(name: str, data_dir: Path | None) -> str:
    """The command that downloads a data set to where it is looked for."""
    where = f" --data-dir {shlex.quote(str(data_dir))}" if data_dir is not None else ""
    return f"`mpisqueeze data get {name}{where}` downloads it"


def find_file(what: str, folders: Sequence[Path], names: Sequence[str], hint: str = "") -> Path:
    """The first of `folders` × `names` that is a file. Raises UsageError with every place that was looked at.

    Args:
        names: spellings of the file's name, in order of preference.
        hint: what else to say when there is none.
    """
    for folder in folders:
        for name in names:
            path = folder / name
            # os.path.isfile, since Path.is_file raises where a parent folder may not be read.
            if os.path.isfile(path):
                return path
    spellings = f" ({', '.join(names[1:])})" if names[1:] else ""
    places = ", ".join(dict.fromkeys(str(folder.absolute()) for folder in folders))
    raise UsageError(
        f"{what}: no file {names[0]}{spellings} in {places}; "
        f"say where it is with --data-dir or ${DATA_VARIABLE}{'; ' + hint if hint else ''}",
        "--data-dir",
    )


def find_data(path: Path, data_dir: Path | None) -> Path:
    """A user's file by its own path, or in the data folder. Raises UsageError."""
    places = [path, data_folder(data_dir) / path]
    for place in places:
        if os.path.isfile(place):
            return place
    raise UsageError(f"no file {' or '.join(dict.fromkeys(str(place.absolute()) for place in places))}", "--data")


@contextmanager
def open_data(path: Path) -> Iterator[io.BufferedIOBase]:
    """`path` for reading, decompressed where its first bytes say gzip; failing to read it is a UsageError."""
    try:
        with open(path, "rb") as plain:
            compressed = plain.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            plain.seek(0)
            if compressed:
                with gzip.GzipFile(fileobj=plain) as unpacked:
                    yield unpacked
            else:
                yield plain
    except (gzip.BadGzipFile, zlib.error) as error:
        raise bad_file(path, "a gzip file whose checksums hold", f"a damaged one ({error})") from None
    except EOFError:
        raise bad_file(path, "a whole gzip file", "one that ends too early") from None
    except MemoryError:
        raise bad_file(path, "a file that fits in memory", "a larger one") from None
    except OSError as error:
        raise bad_file(path, "a readable file", error.strerror or str(error)) from None


def read_up_to(stream: io.BufferedIOBase, count: int) -> bytearray:
    """At most `count` bytes; takes memory for what is there, since `count` may come from a damaged header."""
    data = bytearray()
    while part := stream.read(min(_PART, count - len(data))):
        data += part
    return data


def read_rest(path: Path, stream: io.BufferedIOBase, count: int, expected: str) -> bytearray:
    """The `count` bytes with which the file ends. Raises UsageError where there are fewer or more."""
    data = read_up_to(stream, count + 1)
    if len(data) != count:
        raise bad_file(path, expected, f"{len(data)} bytes" if len(data) < count else "more")
    return data


def check_labels(path: Path, labels: np.ndarray, classes: int) -> None:
    """Raise UsageError for a label that is none of 0 … classes − 1."""
    if labels.max() >= classes:
        raise bad_file(path, f"labels 0…{classes - 1}", f"the label {labels.max()}")


def bad_file(path: Path, expected: str, found: str) -> UsageError:
    """The error for a file that is there and is not what it should be."""
    return UsageError(f"{path}: expected {expected}, found {disguise(path) or found}", "--data-dir")
