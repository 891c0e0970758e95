"""MNIST and Fashion-MNIST from their official IDX files (http://yann.lecun.com/exdb/mnist, arXiv 1708.07747).

An IDX file is big-endian: two zero bytes, a type byte (8: unsigned byte), the number of axes, a 32-bit length
for each axis, then the values with the last axis running fastest.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.data.dataset import Dataset, DataSource, standardisation
from mpisqueeze.data.files import (
    bad_file,
    check_labels,
    data_folder,
    find_file,
    how_to_get,
    open_data,
    read_rest,
    read_up_to,
)  # fmt: skip

_UNSIGNED_BYTE = 8
_CLASSES = 10


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes, gzip-compressed or not.

    Raises:
        UsageError: the file cannot be read, or is not an IDX file of `axes` axes, or its length is not what
            its header says, or it holds nothing.
    """
    magic = _UNSIGNED_BYTE << 8 | axes
    with open_data(path) as stream:
        header = read_up_to(stream, 4 + 4 * axes)
        if len(header) < 4 + 4 * axes:
            raise bad_file(path, f"an IDX header of {4 + 4 * axes} bytes", f"{len(header)} bytes")
        found, *shape = (int(word) for word in np.frombuffer(header, dtype=">u4"))
        if found != magic:
            raise bad_file(path, f"IDX magic number {magic} (unsigned bytes, {axes} axes)", str(found))
        size = math.prod(shape)
        extent = "×".join(map(str, shape))
        if size == 0:
            raise bad_file(path, "at least one value", f"the shape {extent}")
        values = read_rest(path, stream, size, f"{size} bytes behind the header ({extent})")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _read_split(
    name: str, folders: list[Path], split: str, hint: str
) -> tuple[NDArray[np.uint8], NDArray[np.int32], Path]:
    def find(kind: str, axes: int) -> Path:
        stems = (f"{split}-{kind}-idx{axes}-ubyte", f"{split}-{kind}.idx{axes}-ubyte")
        names = [stem + ending for stem in stems for ending in ("", ".gz")]
        # Kaggle's archives have each file in a folder of its name.
        return find_file(name, folders, [*names, f"{stems[0]}/{stems[0]}", f"{stems[0]}/{stems[1]}"], hint)

    images_path, labels_path = find("images", 3), find("labels", 1)
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise bad_file(labels_path, f"{len(images)} labels, as many as {images_path} has images", str(len(labels)))
    check_labels(labels_path, labels, _CLASSES)
    return images, labels.astype(np.int32), images_path


def load_idx(data_dir: Path | None, seed: int, *, name: str, torch: str, mean: float, std: float) -> Dataset:
    """The data set `name` from four IDX files in DATA_DIR/NAME or DATA_DIR, whatever the seed. Raises UsageError.

    Args:
        torch: the folder that torchvision makes for it, whose files are in `raw`.
        mean, std: mean and standard deviation of the training set's pixels, 0…255.
    """
    root = data_folder(data_dir)
    hint = how_to_get(name, data_dir)
    folders = [root / name, root, root / torch / "raw", root / "raw"]
    train, train_labels, train_path = _read_split(name, folders, "train", hint)
    test, test_labels, test_path = _read_split(name, folders, "t10k", hint)
    if train.shape[1:] != test.shape[1:]:
        expected = f"images of {train.shape[1]}×{train.shape[2]} pixels, as in {train_path}"
        raise bad_file(test_path, expected, f"{test.shape[1]}×{test.shape[2]}")

    inputs = [images.reshape(len(images), -1) for images in (train, test)]
    return Dataset(
        *(name, inputs[0], train_labels, inputs[1], test_labels),
        classes=_CLASSES,
        image=(1, *train.shape[1:]),
        **standardisation(mean, std),
    )


MNIST = DataSource(
    "mnist",
    "70 000 handwritten digits, 28×28 pixels, from IDX files under --data-dir",
    partial(load_idx, name="mnist", torch="MNIST", mean=33.318, std=78.567),
)
FASHION_MNIST = DataSource(
    "fashion-mnist",
    "70 000 pictures of clothes, 28×28 pixels, from IDX files under --data-dir",
    partial(load_idx, name="fashion-mnist", torch="FashionMNIST", mean=72.940, std=90.021),
)
