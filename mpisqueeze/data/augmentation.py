"""The usual augmentation of small photographs: random crops and mirror images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PADDING = 4


def crop_and_flip(images: NDArray[Any], out: NDArray[Any], rng: np.random.Generator, padding: int = PADDING) -> None:
    """out ← each image cropped at random from itself with `padding` zeros around, half of them mirrored left to right.

    As He et al. 2016 (arXiv 1512.03385, §4.2) train on CIFAR-10.

    Args:
        images: (n, channels, height, width); height and width ≥ padding.
        out: like images, overwritten.
        rng: shifts and mirrors are drawn from it alone.
    """
    height, width = images.shape[2:]
    shifts = rng.integers(-padding, padding, size=(len(images), 2), endpoint=True).tolist()
    mirrored = rng.integers(2, size=len(images)).tolist()
    out.fill(0)
    for image, target, (down, right), mirror in zip(images, out, shifts, mirrored, strict=True):
        rows, rows_out = _overlap(down, height)
        columns, columns_out = _overlap(right, width)
        if mirror:
            target = target[:, :, ::-1]
        target[:, rows_out, columns_out] = image[:, rows, columns]


def _overlap(shift: int, length: int) -> tuple[slice, slice]:
    """The slices to read from and to write to when an axis of `length` is moved back by `shift`."""
    start, stop = max(0, shift), min(length, length + shift)
    return slice(start, stop), slice(start - shift, stop - shift)
