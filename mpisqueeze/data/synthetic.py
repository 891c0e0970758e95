"""Gaussian clusters of any size, for scaling runs that should not depend on files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.data.dataset import Dataset, DataSource, image_of
from mpisqueeze.data.seeding import Stream, generator
from mpisqueeze.errors import UsageError
from mpisqueeze.language import Kind, integer
from mpisqueeze.quantities import parse_size

_SEPARATION = 4.0


def _shape(text: str) -> tuple[int, int]:
    features, _, samples = text.partition("x")
    shape = parse_size(features), parse_size(samples)
    if min(shape) < 1:
        raise ValueError(f"{text!r} holds nothing")
    return shape


def load_synthetic(
    data_dir: Path | None,
    seed: int,
    *,
    shape: Annotated[tuple[int, int], Kind(_shape, "FEATURESxSAMPLES, two sizes ≥ 1 such as 64x10k")],
    classes: Annotated[int, integer(2, 1_000_000, "a whole number ≥ 2")] = 10,
) -> Dataset:
    """Clusters of unit variance whose centres lie about 4√2 apart at any number of features. Raises UsageError.

    Args:
        shape: features, training samples; k² features are a k×k image, 3k² one in colour. The test set has a
            fifth as many samples, and at least one of each class.
        classes: number of clusters; the classes are equally frequent up to one sample.
    """
    features, samples = shape
    if samples < classes:
        raise UsageError(f"synthetic needs at least one training sample a class, got {samples} for {classes} classes")
    rng = generator(seed, Stream.SYNTHETIC_DATA)

    def draw(count: int, centres: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
        labels = (np.arange(count) % classes).astype(np.int32)
        inputs = rng.standard_normal((count, features), dtype=np.float32)
        for label in range(classes):
            inputs[label::classes] += centres[label]
        return inputs, labels

    try:
        centres = rng.standard_normal((classes, features), dtype=np.float32) * np.float32(_SEPARATION / features**0.5)
        train_inputs, train_labels = draw(samples, centres)
        test_inputs, test_labels = draw(max(classes, samples // 5), centres)
    except (MemoryError, ValueError):
        raise UsageError(f"synthetic:{features}x{samples} does not fit in this machine's memory") from None
    image = image_of(features)
    return Dataset("synthetic", train_inputs, train_labels, test_inputs, test_labels, classes, image=image)


SYNTHETIC = DataSource("synthetic", "Gaussian clusters, synthetic:FEATURESxSAMPLES", load_synthetic, seeded=True)
