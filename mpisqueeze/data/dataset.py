"""A data set in memory, and the declaration of a named one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.data.kept import once
from mpisqueeze.data.seeding import Stream, generator
from mpisqueeze.errors import UsageError
from mpisqueeze.language import Parameter, parameters_of

Labels = NDArray[np.int32]
_TEST_EVERY = 5
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Dataset:
    """A data set in host memory, for classification or, where it is `text`, for the prediction of its next bytes.

    A model reads `inputs * scale + offset`, computed a batch at a time in the run's dtype, so that images
    stay one byte a pixel in memory. One scale and offset serve all features: 1/std and −mean/std of the
    training set's pixels.
    """

    name: str
    train_inputs: NDArray[Any]  # (train samples, features), uint8 or float32
    train_labels: Labels  # (train samples,), 0 … classes − 1
    test_inputs: NDArray[Any]  # (test samples, features), the dtype of train_inputs
    test_labels: Labels  # (test samples,)
    classes: int  # 0 for text
    scale: float = 1.0
    offset: float = 0.0
    image: tuple[int, int, int] | None = None  # channels, height, width; the features in this order
    natural: bool = False  # photographs: shifted by some pixels or mirrored, they are of the same class
    text: bool = False  # an input is a window of bytes with the next one; its label is its place in the text
    floor: float | None = None  # no model's expected loss is lower (nats a byte); None where that is not known
    note: str = ""  # a sentence about the files that a user should know before training

    @property
    def features(self) -> int:
        return self.train_inputs.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of its inputs."""
        return self.train_inputs.nbytes + self.test_inputs.nbytes

    def subset(self, samples: int | None, test_samples: int | None, seed: int) -> Dataset:
        """The first of a seeded permutation of the training set, and of the test set; None leaves a set as it is.

        Raises UsageError where more are asked for than there are.
        """
        if samples is None and test_samples is None:
            return self
        return once(
            "subset", self, (samples, test_samples, seed), lambda: self._subset(samples, test_samples, seed),
        )  # fmt: skip

    def _subset(self, samples: int | None, test_samples: int | None, seed: int) -> Dataset:
        parts: dict[str, Any] = {}
        for key, (option, count, kind) in enumerate(
            (("--samples", samples, "train"), ("--test-samples", test_samples, "test"))
        ):
            if count is None:
                continue
            inputs, labels = getattr(self, f"{kind}_inputs"), getattr(self, f"{kind}_labels")
            if count > len(labels):
                raise UsageError(f"{self.name} has {len(labels)} {kind} samples, got {count}", option)
            chosen = generator(seed, Stream.SUBSET, key).permutation(len(labels))[:count]
            parts |= {f"{kind}_inputs": inputs[chosen], f"{kind}_labels": labels[chosen]}
        return replace(self, **parts)


@dataclass(frozen=True)
class DataSource:
    """A data set that `--data` knows by name.

    `load(data_dir, seed, **parameters)` takes the folder of `--data-dir` (None where the option is absent),
    the run's seed and its own parameters by keyword, see `language`, and returns a `Dataset` or raises `UsageError`.
    """

    name: str
    summary: str
    load: Callable[..., Dataset]
    seeded: bool = False  # it depends on the seed

    @property
    def parameters(self) -> Sequence[Parameter]:
        """The parameters that its name takes: the keyword-only arguments of `load`."""
        return parameters_of(self.load)


def image_of(features: int) -> tuple[int, int, int] | None:
    """Channels, height and width of k² features, a k×k image, or of 3k², one in colour; else None."""
    for channels in (1, 3):
        side = math.isqrt(features // channels)
        if channels * side * side == features:
            return channels, side, side
    return None


def stratified(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(order (samples,), test samples of it (samples,)) of a split that is the same in every run.

    After a shuffle of fixed seed, every fifth of the samples sorted by label is a test sample.
    """
    order = np.random.Generator(np.random.PCG64(_SPLIT_SEED)).permutation(len(labels))
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[np.argsort(labels[order], kind="stable")[::_TEST_EVERY]] = True
    return order, is_test


def standardisation(mean: float, std: float) -> dict[str, Any]:
    """The `scale` and `offset` that turn inputs of this mean and deviation into mean 0 and deviation 1."""
    return {"scale": 1.0 / std, "offset": -mean / std}
