"""CIFAR-10 from the binary version of its archive (https://www.cs.toronto.edu/~kriz/cifar.html).

A file is 10 000 records, or a part of them, of one label byte and 3 072 pixel bytes: 32×32 red, then green, then blue.
The Python version of the archive is made of pickles, which can run code when they are loaded, so it is never read.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.data.dataset import Dataset, DataSource, standardisation
from mpisqueeze.data.files import bad_file, check_labels, data_folder, find_file, how_to_get, open_data, read_up_to

RECORDS = 10_000  # in a published file
_ARCHIVE = "cifar-10-binary.tar.gz"
_FEATURES = 3 * 32 * 32
_RECORD = 1 + _FEATURES
_CLASSES = 10
_PIXEL_MEAN, _PIXEL_STD = 120.708, 64.150


def read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The images, (n, 3 072), and labels, (n,), of one file, n ≤ 10 000. Raises UsageError where it is damaged."""
    size = RECORDS * _RECORD
    with open_data(path) as stream:
        data = read_up_to(stream, size + 1)
    if not 0 < len(data) <= size or len(data) % _RECORD:
        found = f"{len(data)} bytes" if len(data) <= size else "more"
        raise bad_file(path, f"1 to {RECORDS} records of {_RECORD} bytes, {size} at most", found)
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int32)
    check_labels(path, labels, _CLASSES)
    return records[:, 1:], labels


def load_cifar10(data_dir: Path | None, seed: int) -> Dataset:
    """50 000 training and 10 000 test images of 3 072 features, channel by channel, or as many as the files have.

    `seed` does not matter. The files are looked for in DATA_DIR/cifar10 and DATA_DIR, and in the folder
    cifar-10-batches-bin of either. Raises UsageError.
    """
    root = data_folder(data_dir)
    folders = [root / "cifar10", root, root / "cifar-10-batches-bin", root / "cifar10" / "cifar-10-batches-bin"]
    hint = f"it is part of the binary version, {_ARCHIVE}: {how_to_get('cifar10', data_dir)}"
    for folder in folders[:2]:
        if os.path.isfile(folder / "cifar-10-batches-py" / "data_batch_1") or os.path.isfile(folder / "data_batch_1"):
            hint += f"; {folder.absolute()} has the Python version, whose pickles could run code and are not read"
        if os.path.isfile(folder / _ARCHIVE):
            hint += f"; or unpack {folder.absolute() / _ARCHIVE}"
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    paths = [find_file("cifar10", folders, [name], hint) for name in names]
    *train, (test_inputs, test_labels) = map(read_batch, paths)
    counts = [sum(len(labels) for _, labels in train), len(test_labels)]
    found = f"cifar10's files have {counts[0]} training and {counts[1]} test samples, fewer than published"
    return Dataset(
        name="cifar10",
        train_inputs=np.concatenate([inputs for inputs, _ in train]),
        train_labels=np.concatenate([labels for _, labels in train]),
        test_inputs=np.ascontiguousarray(test_inputs),
        test_labels=test_labels,
        classes=_CLASSES,
        image=(3, 32, 32),
        natural=True,
        note=found if sum(counts) < RECORDS * len(names) else "",
        **standardisation(_PIXEL_MEAN, _PIXEL_STD),
    )


CIFAR10 = DataSource("cifar10", "60 000 photographs, 32×32×3, from the binary batches under --data-dir", load_cifar10)
