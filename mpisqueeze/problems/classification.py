"""Base of the classifiers with hand-written gradients: batches, the loss, the test set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from mpisqueeze.data.dataset import Dataset
from mpisqueeze.data.partition import Partition
from mpisqueeze.problems.base import Array, Problem, copy_to
from mpisqueeze.problems.samples import TrainingShare

_TEST_ROWS = 1024


class SoftmaxCrossEntropy:
    """Mean over rows of −log softmax(z)_y, and its derivative, with buffers for up to `rows` rows."""

    def __init__(self, rows: int, classes: int, xp: Any, dtype: np.dtype[Any]) -> None:
        self._xp = xp
        self._exponentials = xp.empty((rows, classes), dtype)
        self._largest = xp.empty((rows, 1), dtype)
        self._totals = xp.empty((rows, 1), dtype)

    def __call__(self, logits: Array, targets: Array) -> tuple[float, Array]:
        """The loss and its derivative by the logits.

        Args:
            logits: (n, classes); shifted in place so that each row's largest is 0.
            targets: (n, classes), one-hot.

        Returns:
            The mean loss, and the derivative, (n, classes), overwritten by the next call.
        """
        xp, rows = self._xp, len(logits)
        probabilities, largest, totals = self._exponentials[:rows], self._largest[:rows], self._totals[:rows]
        xp.amax(logits, axis=1, keepdims=True, out=largest)
        xp.subtract(logits, largest, out=logits)
        xp.exp(logits, out=probabilities)
        xp.sum(probabilities, axis=1, keepdims=True, out=totals)
        xp.divide(probabilities, totals, out=probabilities)
        xp.log(totals, out=totals)
        loss = float(xp.sum(totals) - xp.vdot(targets, logits)) / rows
        xp.subtract(probabilities, targets, out=probabilities)
        xp.multiply(probabilities, 1 / rows, out=probabilities)
        return loss, probabilities


class ClassificationProblem(Problem):
    """Softmax cross-entropy of a model on this rank's part of a data set, mean over a batch.

    This rank's training samples and the test set are kept in device memory, in the data set's dtype. A model consists
    of three methods, `make_activations`, `forward` and `backward`, which write into buffers made once.

    Args:
        dataset, batch_size, partition: see `samples.TrainingShare`.

    Raises:
        UsageError: as `samples.TrainingShare`.
    """

    needs_data = True

    def __init__(
        self,
        rank: int,
        size: int,
        seed: int,
        xp: Any,
        dtype: DTypeLike,
        *,
        dataset: Dataset,
        batch_size: int,
        partition: Partition,
    ) -> None:
        super().__init__(rank, size, seed, xp, dtype)
        share = TrainingShare(dataset, batch_size, partition, rank, size, seed)
        self.features, self.classes = dataset.features, dataset.classes
        self.iterations_per_epoch = share.iterations_per_epoch
        self._scale, self._offset = dataset.scale, dataset.offset
        self._train_inputs = xp.asarray(share.inputs)
        self._train_labels = xp.asarray(share.labels, dtype=np.int64)
        self._test_inputs = xp.asarray(dataset.test_inputs)
        self._test_labels = xp.asarray(dataset.test_labels, dtype=np.int64)

        self._sampler = share.sampler
        self._indices = xp.empty(batch_size, np.int64)
        self._inputs = xp.empty((batch_size, self.features), self.dtype)
        stored = self._train_inputs.dtype
        self._stored_batch = self._inputs if stored == self.dtype else xp.empty(self._inputs.shape, stored)
        self._labels = xp.empty(batch_size, np.int64)
        self._one_hot = xp.eye(self.classes, dtype=self.dtype)
        self._targets = xp.empty((batch_size, self.classes), self.dtype)
        self._cross_entropy = SoftmaxCrossEntropy(batch_size, self.classes, xp, self.dtype)
        # Without mode="clip" NumPy buffers the output; CuPy knows no mode and buffers nothing.
        self._take_options = {"mode": "clip"} if xp is np else {}

    def _allocate_for_training(self) -> None:
        """Make the buffers of the training loop; a subclass calls this once its `dimension` is known."""
        self._activations = self.make_activations(len(self._indices))
        self._gradient = self.xp.empty(self.dimension, self.dtype)

    @abstractmethod
    def make_activations(self, rows: int) -> list[Array]:
        """Buffers for `forward` on up to `rows` rows: each layer's output, (rows, width), the logits last."""

    @abstractmethod
    def forward(self, x: Array, inputs: Array, activations: Sequence[Array]) -> None:
        """Fill `activations`, each (n, width), with the model's outputs at x for `inputs`, (n, features)."""

    @abstractmethod
    def backward(
        self, x: Array, inputs: Array, activations: Sequence[Array], logits_derivative: Array, gradient: Array
    ) -> None:
        """Fill `gradient`, (d,), from the activations and the derivative by the logits, (n, classes).

        Both may be overwritten.
        """

    def gradient(self, x: Array, iteration: int) -> tuple[float, Array]:
        self._load_batch(iteration)
        with np.errstate(all="ignore"):
            self.forward(x, self._inputs, self._activations)
            loss, derivative = self._cross_entropy(self._activations[-1], self._targets)
            self.backward(x, self._inputs, self._activations, derivative, self._gradient)
        return loss, self._gradient

    def evaluate(self, x: Array) -> dict[str, float]:
        """`test_loss`, the mean cross-entropy, and `test_accuracy`, 0 … 1, over the whole test set."""
        xp, samples = self.xp, len(self._test_labels)
        rows = min(samples, _TEST_ROWS)
        activations = self.make_activations(rows)
        inputs = xp.empty((rows, self.features), self.dtype)
        cross_entropy = SoftmaxCrossEntropy(rows, self.classes, xp, self.dtype)
        loss, correct = 0.0, 0
        for start in range(0, samples, rows):
            labels = self._test_labels[start : start + rows]
            count = len(labels)
            outputs = [activation[:count] for activation in activations]
            self._prepare_inputs(self._test_inputs[start : start + rows], inputs[:count])
            with np.errstate(all="ignore"):
                self.forward(x, inputs[:count], outputs)
                correct += int(xp.sum(xp.argmax(outputs[-1], axis=1) == labels))
                loss += count * cross_entropy(outputs[-1], self._one_hot[labels])[0]
        return {"test_loss": loss / samples, "test_accuracy": correct / samples}

    def _load_batch(self, iteration: int) -> None:
        copy_to(self._indices, self._sampler.batch(iteration))
        self._take(self._train_inputs, self._indices, self._stored_batch)
        self._take(self._train_labels, self._indices, self._labels)
        self._take(self._one_hot, self._labels, self._targets)
        self._prepare_inputs(self._stored_batch, self._inputs)

    def _take(self, source: Array, indices: Array, out: Array) -> None:
        self.xp.take(source, indices, axis=0, out=out, **self._take_options)

    def _prepare_inputs(self, stored: Array, inputs: Array) -> None:
        if stored is not inputs:
            inputs[...] = stored
        if self._scale != 1:
            self.xp.multiply(inputs, self._scale, out=inputs)
        if self._offset != 0:
            self.xp.add(inputs, self._offset, out=inputs)
