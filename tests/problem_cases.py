"""Small data sets, and problems on them by their specs, for the tests of problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mpisqueeze.data import Dataset
from mpisqueeze.data.partition import parse_partition
from mpisqueeze.parts import registry
from mpisqueeze.problems.gpt import GPT
from mpisqueeze.problems.images import ImageProblem


def small_dataset(
    samples: int = 37, features: int = 5, classes: int = 3, most: int = 16, scale: float = 0.2, offset: float = -1.5,
    **more: Any,
) -> Dataset:  # fmt: skip
    rng = np.random.default_rng(0)
    return Dataset(
        name="small",
        train_inputs=rng.integers(0, most + 1, (samples, features)).astype(np.uint8),
        train_labels=rng.integers(0, classes, samples).astype(np.int32),
        test_inputs=rng.integers(0, most + 1, (23, features)).astype(np.uint8),
        test_labels=rng.integers(0, classes, 23).astype(np.int32),
        classes=classes,
        scale=scale,
        offset=offset,
        **more,
    )


def images(channels: int = 3, side: int = 8, samples: int = 60, natural: bool = True) -> Dataset:
    image = (channels, side, side)
    return small_dataset(samples, channels * side * side, 10, 255, 1 / 64, -2.0, image=image, natural=natural)


def windows(context: int = 8) -> Dataset:
    """Windows of 60 and 23 times `context` random bytes."""
    return replace(small_dataset(60, context + 1, 5, 255), classes=0, text=True)


def make(
    text: str,
    rank: int = 0,
    size: int = 1,
    seed: int = 0,
    xp: Any = np,
    dtype: Any = np.float64,
    dataset: Dataset | None = None,
    batch_size: int = 4,
    partition: str = "iid",
) -> Any:
    """One rank's problem; by default on images or text where it needs them."""
    part = registry.problems.find(text)
    options = dict(part.options)
    if part.cls.needs_data:
        kinds: dict[type, Callable[[], Dataset]] = {GPT: windows, ImageProblem: images, object: small_dataset}
        default = next(maker for kind, maker in kinds.items() if issubclass(part.cls, kind))
        options |= {"dataset": dataset or default(), "partition": parse_partition(partition)}
    if part.cls.needs_data or part.cls.takes_batch_size:
        options["batch_size"] = batch_size
    return part.cls(rank, size, seed, xp, np.dtype(dtype), **options)


def some_point(problem: Any) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(problem.dimension).astype(problem.dtype)
