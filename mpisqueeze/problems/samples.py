"""A rank's training samples, and its batches of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.data.dataset import Dataset
from mpisqueeze.data.kept import once
from mpisqueeze.data.partition import Partition, partition_indices
from mpisqueeze.data.seeding import Stream, generator
from mpisqueeze.errors import UsageError


class BatchSampler:
    """Batches of a rank's samples, read from one random permutation after another.

    Permutation p is drawn from a generator keyed by (seed, rank, p), and iteration t reads positions (t − 1)b … tb − 1
    of the permutations laid end to end. So a batch is a function of (seed, rank, t), each sample comes once an epoch,
    and b may exceed the number of samples.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, rank: int) -> None:
        self._seed, self._rank = seed, rank
        self._sorted = np.arange(samples)
        self._order = np.empty_like(self._sorted)
        self._permutation = -1
        self._batch = np.empty(batch_size, dtype=self._sorted.dtype)

    def batch(self, iteration: int) -> NDArray[np.int64]:
        """Indices, (b,), into the rank's samples for iteration 1, 2, …; overwritten by the next call."""
        samples, size = len(self._order), len(self._batch)
        start, filled = (iteration - 1) * size, 0
        while filled < size:
            permutation, first = divmod(start + filled, samples)
            count = min(size - filled, samples - first)
            if permutation != self._permutation:
                self._order[:] = self._sorted
                generator(self._seed, Stream.SAMPLING, self._rank, permutation).shuffle(self._order)
                self._permutation = permutation
            self._batch[filled : filled + count] = self._order[first : first + count]
            filled += count
        return self._batch


def training_share(
    dataset: Dataset, batch_size: int, partition: Partition, rank: int, size: int, seed: int
) -> tuple[NDArray[np.int64], BatchSampler, int]:
    """(indices of this rank's training samples, sampler of batches of them, iterations in an epoch).

    An epoch has at least one iteration, and as many on every rank.

    Args:
        dataset: the whole data set.
        batch_size: samples per rank and iteration, ≥ 1.
        partition: assignment of training samples to ranks.
        rank, size, seed: those of the run.

    Raises:
        UsageError: fewer training samples than ranks, or a batch size below 1.
    """
    if batch_size < 1:
        raise UsageError(f"must be at least 1, got {batch_size}", "--batch-size")
    labels = dataset.train_labels
    shares = once("shares", labels, (size, partition, seed), lambda: partition_indices(labels, size, partition, seed))
    mine = shares[rank]
    sampler = BatchSampler(len(mine), batch_size, seed, rank)
    return mine, sampler, max(1, len(labels) // (size * batch_size))
