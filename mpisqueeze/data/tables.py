"""A user's own samples: `csv:FILE`, a line of features and a label each, and `libsvm:FILE`, sparse.

The classes are the different labels, sorted as numbers where all are, else as text. Without a file of test samples,
every fifth sample is one, the same in each run, each class in proportion.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.control_groups import total_memory
from mpisqueeze.data.dataset import Dataset, DataSource, image_of, stratified
from mpisqueeze.data.files import bad_file, find_data, open_data
from mpisqueeze.errors import UsageError
from mpisqueeze.files import path_of
from mpisqueeze.language import Kind

_FILE = Kind(path_of, "a file")
#: Headings of a column of labels, in any case; without any of them it is the last column.
LABELS = ("label", "class", "target", "y")
_SEPARATORS = ",;\t"
#: Headings of the column that pandas writes its index into.
_UNNAMED = ("", "unnamed: 0", "Unnamed: 0")
_NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
#: A line of a LIBSVM file, without its comment.
_SPARSE = re.compile(rb"%b(\s+\d{1,9}:%b)*" % (_NUMBER, _NUMBER))
#: Part of this machine's memory that features may take.
_SHARE = 0.5

Samples = tuple[NDArray[np.float32], NDArray[Any]]


def load_csv(
    data_dir: Path | None,
    seed: int,
    *,
    file: Annotated[Path, _FILE],
    label: str | None = None,
    test: Annotated[Path | None, _FILE] = None,
    standardize: bool = True,
) -> Dataset:
    """Samples from a CSV file, gzip-compressed or not, with or without a line of headings. Raises UsageError.

    Args:
        label: heading, or number from 1, of the column of labels. A first column without a heading is left out.
        test: file of the test samples.
        standardize: move and scale each feature to mean 0 and deviation 1 on the training set.
    """
    paths = [find_data(path, data_dir) for path in (file, test) if path is not None]
    return _dataset("csv", paths, [_read_csv(path, label) for path in paths], standardize)


def load_libsvm(
    data_dir: Path | None,
    seed: int,
    *,
    file: Annotated[Path, _FILE],
    test: Annotated[Path | None, _FILE] = None,
    standardize: bool = False,
) -> Dataset:
    """Samples from a LIBSVM file, `label index:value …` a line, gzip-compressed or not. Raises UsageError.

    Args:
        test, standardize: as of `load_csv`. Features are stored in full, those that a line does not name as 0.
    """
    paths = [find_data(path, data_dir) for path in (file, test) if path is not None]
    return _dataset("libsvm", paths, _dense(paths, [_read_libsvm(path) for path in paths]), standardize)


def _dataset(name: str, paths: Sequence[Path], parts: Sequence[Samples], standardize: bool) -> Dataset:
    inputs, labels = zip(*parts, strict=True)
    known, numbers = _classes(paths, labels)
    if len(paths) == 1:
        order, is_test = stratified(numbers[0])
        inputs = tuple(inputs[0][order[chosen]] for chosen in (~is_test, is_test))
        numbers = [numbers[0][order[chosen]] for chosen in (~is_test, is_test)]
    if inputs[0].shape[1] != inputs[1].shape[1]:
        raise bad_file(paths[1], f"{inputs[0].shape[1]} features, as in {paths[0]}", str(inputs[1].shape[1]))
    if standardize:
        mean, deviation = inputs[0].mean(axis=0, dtype=np.float64), inputs[0].std(axis=0, dtype=np.float64)
        deviation[deviation == 0] = 1
        for part in inputs:
            part -= mean.astype(np.float32)
            part /= deviation.astype(np.float32)
    return Dataset(
        *(name, inputs[0], numbers[0], inputs[1], numbers[1]), classes=known, image=image_of(inputs[0].shape[1])
    )


def _classes(paths: Sequence[Path], labels: Sequence[NDArray[Any]]) -> tuple[int, list[NDArray[np.int32]]]:
    """(number of classes of the first file, each file's labels as 0 … classes − 1). Raises UsageError."""
    try:
        texts = [part.astype(np.float64) for part in labels]
    except ValueError:
        texts = [np.char.strip(part.astype(str)) for part in labels]
    known, first = np.unique(texts[0], return_inverse=True)
    if len(known) < 2:
        raise bad_file(paths[0], "labels of two classes or more", f"the label {known[0]} alone")
    if len(known) > max(2, len(first) // 2):
        raise bad_file(
            paths[0], "a class as each sample's label", f"{len(known)} different labels of {len(first)} samples"
        )
    numbers = [first.astype(np.int32)]
    for path, part in zip(paths[1:], texts[1:], strict=True):
        unknown = ~np.isin(part, known)
        if unknown.any():
            raise bad_file(path, f"labels as in {paths[0]}", f"the label {part[unknown][0]}")
        numbers.append(np.searchsorted(known, part).astype(np.int32))
    return len(known), numbers


def _read_csv(path: Path, label: str | None) -> Samples:
    """The features (samples, features) and labels (samples,) as text. Raises UsageError, which names a line."""
    with open_data(path) as stream:
        packed = stream.read()
    try:
        content = packed.decode("utf-8-sig").lstrip()
    except UnicodeDecodeError as error:
        raise bad_file(path, "text in UTF-8", f"the byte {packed[error.start]:#04x}") from None
    first = content.partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    row = [cell.strip() for cell in next(csv.reader([first], delimiter=separator), [])]
    if len(row) < 2:
        raise bad_file(path, "features and a label in a line, parted by commas, semicolons or tabs", "one column")
    headings = row if _is_heading(row, label) else []
    column = _label_column(path, label, headings, len(row))
    left_out = {column, 0} if headings and headings[0] in _UNNAMED else {column}
    form: dict[str, Any] = {"delimiter": separator, "skiprows": int(bool(headings)), "quotechar": '"', "comments": None}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file without lines
            others = [index for index in range(len(row)) if index not in left_out]
            features = np.loadtxt(io.StringIO(content), np.float32, usecols=others, ndmin=2, **form)
            labels = np.loadtxt(io.StringIO(content), str, usecols=[column], ndmin=1, **form)
    except ValueError:
        raise _blamed(path, content, separator, len(row), headings, left_out) from None
    if not features.size:
        raise bad_file(path, "a sample a line", "none")
    if not np.isfinite(features).all() or (labels == "").any():
        raise _blamed(path, content, separator, len(row), headings, left_out)
    return features, labels


def _blamed(
    path: Path, content: str, separator: str, width: int, headings: Sequence[str], words: Collection[int]
) -> UsageError:
    """The error for the first line that is not `width` cells, all of them filled, and numbers outside `words`."""
    reader = csv.reader(io.StringIO(content), delimiter=separator)
    for index, row in enumerate(row for row in reader if row):
        if index == 0 and headings:
            continue
        if len(row) != width:
            return bad_file(path, f"{width} cells in line {reader.line_num}", str(len(row)))
        for place, cell in enumerate(row):
            if not (_is_number(cell) or (place in words and cell.strip())):
                what = "a label" if place in words else "a number"
                return bad_file(path, f"{what} in line {reader.line_num}, column {place + 1}", repr(cell[:40]))
    return bad_file(path, "numbers and a label in each line", "a line that is neither")


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _is_heading(row: Sequence[str], label: str | None) -> bool:
    """The first line has words, more than the label of a sample."""
    words = [cell for cell in row if not _is_number(cell)]
    return len(words) > 1 or any(word.lower() in (*LABELS, *_UNNAMED, label) for word in words)


def _label_column(path: Path, label: str | None, headings: Sequence[str], width: int) -> int:
    """The place, from 0, of the labels. Raises UsageError."""
    if label is None:
        lower = [heading.lower() for heading in headings]
        return next((lower.index(name) for name in LABELS if name in lower), width - 1)
    if label in headings:
        return headings.index(label)
    if label.isdigit() and 1 <= int(label) <= width:
        return int(label) - 1
    named = f" or {', '.join(headings[:20])}" if headings else ""
    raise UsageError(f"{path} has no column {label!r}: label is a number from 1 to {width}{named}", "--data")


def _read_libsvm(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """(labels (samples,), entries of each sample (samples,), indices and values (entries, 2)). Raises UsageError."""
    with open_data(path) as stream:
        lines = [line.partition(b"#")[0].strip() for line in stream.read().split(b"\n")]
    samples = [line for line in lines if line]
    if not samples:
        raise bad_file(path, "a sample a line", "none")
    if not all(map(_SPARSE.fullmatch, samples)):
        number = next(number for number, line in enumerate(lines, 1) if line and not _SPARSE.fullmatch(line))
        found = lines[number - 1][:60].decode("latin-1")
        raise bad_file(path, f"`label index:value …` in line {number}", repr(found))
    counts = np.array([line.count(b":") for line in samples], np.int64)
    numbers = np.fromstring(b" ".join(samples).replace(b":", b" ").decode("ascii"), np.float64, sep=" ")
    starts = np.cumsum(1 + 2 * counts) - (1 + 2 * counts)
    entries = np.delete(numbers, starts).reshape(-1, 2)
    if not np.isfinite(numbers).all():
        raise bad_file(path, "finite numbers", "one that overflows")
    return numbers[starts], counts, entries


def _dense(paths: Sequence[Path], parts: Sequence[Any]) -> list[Samples]:
    """Samples with as many features as the largest index of any file; indices begin with 1, or with 0 if one is 0."""
    indices = np.concatenate([entries[:, 0] for _, _, entries in parts])
    if not indices.size:
        raise bad_file(paths[0], "a feature, index:value", "none")
    base = 0 if indices.min() == 0 else 1
    features = int(indices.max()) + 1 - base
    needed = sum(len(labels) for labels, *_ in parts) * features * 4
    memory = total_memory()
    if needed > _SHARE * memory:
        raise UsageError(
            f"{paths[0]} has {features} features, which take {needed / 1e9:.1f} GB of this machine's "
            f"{memory / 1e9:.1f} GB, as they are stored in full",
            "--data",
        )
    found: list[Samples] = []
    for labels, counts, entries in parts:
        inputs = np.zeros((len(labels), features), np.float32)
        inputs[np.repeat(np.arange(len(labels)), counts), entries[:, 0].astype(np.int64) - base] = entries[:, 1]
        found.append((inputs, labels))
    return found


CSV = DataSource("csv", "a CSV file of features and a label, csv:FILE[,label=COLUMN][,test=FILE]", load_csv)
LIBSVM = DataSource("libsvm", "a LIBSVM file, libsvm:FILE[,test=FILE]", load_libsvm)
