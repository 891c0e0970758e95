"""The embedded data set: 1 797 handwritten digits of 8×8 pixels (UCI data set 80; see digits.LICENSE)."""

from __future__ import annotations

import gzip
from importlib import resources
from pathlib import Path

import numpy as np

from mpisqueeze.data.dataset import Dataset, DataSource, standardisation, stratified

_PIXEL_MEAN, _PIXEL_STD = 4.887, 6.018


def load_digits(data_dir: Path | None, seed: int) -> Dataset:
    """1 437 training and 360 test images of 64 features 0…16, uint8; neither argument matters.

    The split is `stratified`.
    """
    file = resources.files("mpisqueeze.data").joinpath("digits.csv.gz")
    with file.open("rb") as packed, gzip.open(packed, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    order, is_test = stratified(table[:, -1])
    train, test = table[order[~is_test]], table[order[is_test]]
    return Dataset(
        name="digits",
        train_inputs=np.ascontiguousarray(train[:, :-1]),
        train_labels=train[:, -1].astype(np.int32),
        test_inputs=np.ascontiguousarray(test[:, :-1]),
        test_labels=test[:, -1].astype(np.int32),
        classes=10,
        image=(1, 8, 8),
        **standardisation(_PIXEL_MEAN, _PIXEL_STD),
    )


DIGITS = DataSource("digits", "1 797 handwritten digits, 8×8 pixels, part of this package", load_digits)
