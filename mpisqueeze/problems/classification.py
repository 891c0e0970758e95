"""Base of the classifiers with hand-written gradients: dense layers, batches, the loss, the test set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from mpisqueeze.data.dataset import Dataset
from mpisqueeze.data.partition import Partition
from mpisqueeze.errors import UsageError
from mpisqueeze.problems.base import Array, Problem, copy_to
from mpisqueeze.problems.samples import training_share

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
    """Softmax cross-entropy of dense layers on this rank's part of a data set, mean over a batch.

    A_l = relu(A_{l−1} W_l + b_l) from the batch A₀, (n, features), to the logits, which have no relu. x is W₁
    (inputs × outputs, row by row), b₁, W₂, b₂, …. This rank's training samples are kept in device memory, and
    so is the test set where it is evaluated, in the data set's dtype.

    Args:
        hidden: the widths of the hidden layers.
        dataset, batch_size, partition: see `samples.training_share`.

    Raises:
        UsageError: the data are text; or as `samples.training_share`.
    """

    needs_data = True

    def __init__(
        self, *run: Any, hidden: tuple[int, ...], dataset: Dataset, batch_size: int, partition: Partition
    ) -> None:
        super().__init__(*run)
        xp = self.xp
        if dataset.text:
            raise UsageError(f"{dataset.name} has no classes to tell apart; it is for --problem gpt", "--data")
        mine, self._sampler, self.iterations_per_epoch = training_share(
            dataset, batch_size, partition, self.rank, self.size, self.seed
        )
        self.training_samples = len(mine)
        self._widths = (dataset.features, *hidden, dataset.classes)
        self.shapes = [shape for inputs, outputs in pairwise(self._widths) for shape in ((inputs, outputs), (outputs,))]
        self.dimension = sum(math.prod(shape) for shape in self.shapes)
        self._scale, self._offset = dataset.scale, dataset.offset
        self._train_inputs = xp.asarray(dataset.train_inputs[mine])
        self._train_labels = xp.asarray(dataset.train_labels[mine], dtype=np.int64)
        self._dataset = dataset

        self._indices = xp.empty(batch_size, np.int64)
        self._inputs = xp.empty((batch_size, dataset.features), self.dtype)
        stored = self._train_inputs.dtype
        self._stored_batch = self._inputs if stored == self.dtype else xp.empty(self._inputs.shape, stored)
        self._labels = xp.empty(batch_size, np.int64)
        self._one_hot = xp.eye(dataset.classes, dtype=self.dtype)
        self._targets = xp.empty((batch_size, dataset.classes), self.dtype)
        self._cross_entropy = SoftmaxCrossEntropy(batch_size, dataset.classes, xp, self.dtype)
        self._activations = self.make_activations(batch_size)
        # The derivatives by the hidden layers' outputs.
        self._deltas = self.make_activations(batch_size)[:-1]
        self._gradient = xp.empty(self.dimension, self.dtype)
        # Without mode="clip" NumPy buffers the output; CuPy knows no mode and buffers nothing.
        self._take_options = {"mode": "clip"} if xp is np else {}

    def layers(self, x: Array) -> list[tuple[Array, Array]]:
        """Views of each layer's weights, (inputs, outputs), and biases, (outputs,), in a vector like x."""
        layers, start = [], 0
        for inputs, outputs in pairwise(self._widths):
            middle = start + inputs * outputs
            layers.append((x[start:middle].reshape(inputs, outputs), x[middle : middle + outputs]))
            start = middle + outputs
        return layers

    def make_activations(self, rows: int) -> list[Array]:
        """Buffers for `forward` on up to `rows` rows: each layer's output, (rows, width), the logits last."""
        return [self.xp.empty((rows, width), self.dtype) for width in self._widths[1:]]

    def forward(self, x: Array, inputs: Array, activations: Sequence[Array]) -> None:
        """Fill `activations`, each (n, width), with the layers' outputs at x for `inputs`, (n, features)."""
        xp, below = self.xp, inputs
        for (weights, biases), output in zip(self.layers(x), activations, strict=True):
            xp.dot(below, weights, out=output)
            xp.add(output, biases, out=output)
            if output is not activations[-1]:
                xp.maximum(output, 0, out=output)
            below = output

    def gradient(self, x: Array, iteration: int) -> tuple[float, Array]:
        return self.differentiate(x, iteration)

    def differentiate(
        self, x: Array, iteration: int, ready: Callable[[Array, int], None] | None = None
    ) -> tuple[float, Array]:
        """The loss and its gradient, which is reported to `ready` layer by layer."""
        self._load_batch(iteration)
        with np.errstate(all="ignore"):
            self.forward(x, self._inputs, self._activations)
            loss, derivative = self._cross_entropy(self._activations[-1], self._targets)
            self._backward(x, derivative, ready)
        return loss, self._gradient

    def _backward(self, x: Array, delta: Array, ready: Callable[[Array, int], None] | None) -> None:
        """Fill the gradient from the activations and the derivative by the logits, `delta`, (n, classes)."""
        xp, layers, gradients, start = self.xp, self.layers(x), self.layers(self._gradient), self.dimension
        for layer in reversed(range(len(layers))):
            below = self._activations[layer - 1] if layer else self._inputs
            weights_gradient, biases_gradient = gradients[layer]
            xp.dot(below.T, delta, out=weights_gradient)
            xp.sum(delta, axis=0, out=biases_gradient)
            start -= weights_gradient.size + biases_gradient.size
            if ready is not None:
                ready(self._gradient, start)
            if layer:
                weights, _ = layers[layer]
                xp.dot(delta, weights.T, out=self._deltas[layer - 1])
                delta = self._deltas[layer - 1]
                # relu's outputs are ≥ 0, so their sign is its derivative.
                xp.sign(below, out=below)
                xp.multiply(delta, below, out=delta)

    def evaluate(self, x: Array) -> dict[str, float]:
        """`test_loss`, the mean cross-entropy, and `test_accuracy`, 0 … 1, over the whole test set."""
        xp, (test_inputs, test_labels) = self.xp, self._test_set
        samples = len(test_labels)
        rows = min(samples, _TEST_ROWS)
        activations = self.make_activations(rows)
        inputs = xp.empty((rows, self._widths[0]), self.dtype)
        cross_entropy = SoftmaxCrossEntropy(rows, self._widths[-1], xp, self.dtype)
        loss, correct = 0.0, 0
        for start in range(0, samples, rows):
            labels = test_labels[start : start + rows]
            count = len(labels)
            outputs = [activation[:count] for activation in activations]
            self._prepare_inputs(test_inputs[start : start + rows], inputs[:count])
            with np.errstate(all="ignore"):
                self.forward(x, inputs[:count], outputs)
                correct += int(xp.sum(xp.argmax(outputs[-1], axis=1) == labels))
                loss += count * cross_entropy(outputs[-1], self._one_hot[labels])[0]
        return {"test_loss": loss / samples, "test_accuracy": correct / samples}

    @cached_property
    def _test_set(self) -> tuple[Array, Array]:
        """Inputs and labels, for the one rank that evaluates."""
        inputs, labels = self._dataset.test_inputs, self._dataset.test_labels
        return self.xp.asarray(inputs), self.xp.asarray(labels, dtype=np.int64)

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
