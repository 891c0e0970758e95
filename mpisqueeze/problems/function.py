"""A problem made from a user's function that returns a torch module, its data and its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mpisqueeze.data.seeding import Stream, generator
from mpisqueeze.errors import UsageError, describe
from mpisqueeze.kernels.random import derive_key
from mpisqueeze.problems.neural.problem import STATISTICS_SAMPLES, NeuralProblem, batches_of
from mpisqueeze.problems.samples import BatchSampler

_RETURNS = "it must return (model, data, loss) or (model, data, loss, test)"


class FunctionProblem(NeuralProblem):
    """`function(rank, size, seed)` → (model, data, loss) or (model, data, loss, test), for one rank.

    - `model`: a `torch.nn.Module`, the same on every rank. torch's generator on the host is seeded alike on every rank
      before the call, so that default initialisations agree. x is its parameters with requires_grad=True.
    - `data`: this rank's samples: a pair (inputs, targets) of tensors or arrays of n rows each, or an object with
      `__len__` and `__getitem__(i)` → (input, target), such as a map-style `torch.utils.data.Dataset`, from which
      `default_collate` makes batches. Where an item is something else, (object, function from an item to (input,
      target)) stands in its place. Of a `DataLoader`, the data set and `collate_fn` are taken. The rank with the
      smallest n sets the length of an epoch.
    - `loss(outputs, targets)`: a scalar tensor, the mean over the batch.
    - `test`: samples in the same form, the same on every rank.

    Batches of `--batch-size` are drawn as from the built-in data sets; model and loss get them on the device, floats in
    the run's dtype. Before each, torch's, NumPy's and Python's generators are seeded with (seed, rank, iteration), so
    that a data set may augment, and a model drop out, by any of them. Evaluation reports `test_loss`, the mean over
    samples, and `test_accuracy` if the outputs are (n, classes) and the targets (n,) integers. Batch norm's statistics
    are first recomputed from STATISTICS_SAMPLES of rank 0's samples, see `network.TorchNetwork.evaluating`; other
    buffers are rank 0's.

    Before training, two batches go forward and backward, and one of `test` through an evaluation.

    Raises:
        UsageError: the function or one of these batches raises, or the function returns something else.
    """

    takes_batch_size = True
    function: ClassVar[Callable[..., Any]]
    origin: ClassVar[str]  # FILE.py:function

    def __init__(self, *run: Any, batch_size: int, compile: bool = False, bf16: bool = False) -> None:
        super().__init__(*run)
        self.check_installed()
        import torch

        from mpisqueeze.problems.neural.network import TorchNetwork, seeded

        self._remarks: list[str] = []
        function = type(self).function
        with seeded(derive_key(self.seed, Stream.INITIAL_POINT)), self._blamed("the call with (rank, size, seed)"):
            made = function(self.rank, self.size, self.seed)
        if not isinstance(made, tuple | list) or len(made) not in (3, 4):
            count = f" of {len(made)}" if isinstance(made, tuple | list) else ""
            raise self._wrong(f"{_RETURNS}, not a {type(made).__name__}{count}")
        module, data, loss, *test = made
        if not isinstance(module, torch.nn.Module):
            raise self._wrong(f"{_RETURNS}; its model is a {type(module).__name__}, not a torch.nn.Module")
        if not callable(loss):
            raise self._wrong(f"{_RETURNS}; its loss is a {type(loss).__name__}, which cannot be called")
        samples, self._data = self._samples("data", data)
        self._test_samples, self._test = self._samples("test", test[0]) if test else (0, self._data)

        try:
            self._network = TorchNetwork(module, loss, self.xp, self.dtype, compiled=compile, bf16=bf16)
        except UsageError as error:
            raise self._wrong(error.message) if error.option == "--problem" else error from None
        self.dimension, self.shapes = self._network.dimension, self._network.shapes
        self.training_samples, self.iterations_per_epoch = samples, max(1, samples // batch_size)
        self._sampler = BatchSampler(samples, batch_size, self.seed, self.rank)
        self._statistics = generator(self.seed, Stream.STATISTICS).permutation(samples)[:STATISTICS_SAMPLES]
        self._try_batches()
        if compile:
            self._try_compiled()

    def batch(self, iteration: int) -> tuple[Any, Any]:
        self._seed(Stream.AUGMENTATION, self.rank, iteration)
        return self._drawn("data", self._data, self._sampler.batch(iteration))

    def evaluate(self, x: Any) -> dict[str, float]:
        if not self._test_samples:
            return {}
        return self._evaluated(x, batches_of(self._statistics), batches_of(np.arange(self._test_samples)))

    def doubts(self) -> list[str]:
        return [*super().doubts(), *self._remarks]

    def _seed(self, stream: Stream, *key: int) -> None:
        from mpisqueeze.problems.neural.network import seed_generators

        derived = derive_key(self.seed, stream, *key)
        seed_generators(derived)
        self._network.seed(derived)

    def _evaluated(self, x: Any, statistics: list[Any], tests: list[Any]) -> dict[str, float]:
        """Figures at x from batches of samples, by their indices."""
        self._seed(Stream.STATISTICS)
        return self._figures(
            x,
            (self._drawn("data", self._data, drawn)[0] for drawn in statistics),
            ((len(drawn), *self._drawn("test", self._test, drawn)) for drawn in tests),
        )

    def _drawn(self, what: str, batch: Callable[[np.ndarray], Any], indices: np.ndarray) -> tuple[Any, Any]:
        pair = self._network.moved(batch(indices))
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise self._wrong(_no_pair(what, pair))
        inputs, targets = pair
        return inputs, targets

    def _samples(self, what: str, data: Any) -> tuple[int, Callable[[np.ndarray], Any]]:
        """The number of samples in `data`, and a function from their indices to a batch."""
        import torch
        from torch.utils.data import DataLoader, default_collate

        pair, pick, collate = isinstance(data, tuple | list) and len(data) == 2, None, default_collate
        if pair and all(hasattr(part, "shape") for part in data):
            with self._blamed(f"the conversion of its {what} to tensors"):
                tensors = [
                    part if isinstance(part, torch.Tensor) else torch.as_tensor(np.asarray(part)) for part in data
                ]
            lengths = [len(tensor) if tensor.ndim else 0 for tensor in tensors]
            if lengths[0] != lengths[1] or not lengths[0]:
                raise self._wrong(f"the inputs and targets of its {what} have {lengths[0]} and {lengths[1]} rows")
            return lengths[0], lambda drawn: [t.index_select(0, torch.from_numpy(drawn).to(t.device)) for t in tensors]
        if pair and callable(data[1]):
            data, pick = data
        if isinstance(data, DataLoader):
            data, collate = data.dataset, data.collate_fn
            self._remarks.append(
                f"of the DataLoader of {what}, data set and collate_fn are used; batches are drawn by --batch-size"
            )
        indexed = hasattr(data, "__len__") and hasattr(data, "__getitem__")
        if isinstance(data, tuple | list | torch.Tensor | np.ndarray) or not indexed:
            raise self._wrong(
                f"its {what} is a {type(data).__name__}, neither a pair of tensors nor a data set with __len__ and "
                "__getitem__"
            )
        if not len(data):
            raise self._wrong(f"its {what} is empty")
        return len(data), lambda drawn: collate([pick(data[int(i)]) if pick else data[int(i)] for i in drawn])

    def _try_batches(self) -> None:
        """Pass batches through model, loss, backward pass and evaluation, so that errors show before training."""
        from mpisqueeze.problems.neural.network import seeded

        with seeded(0), self._network.stream(), self._network.carried.kept():
            x = self.initial_point()
            # A graph that is kept from one iteration to the next fails in the second.
            for iteration in (1, 2):
                self._try_gradient(x, iteration)
            if self._test_samples:
                self._try_evaluation(x)

    def _try_gradient(self, x: Any, iteration: int) -> None:
        import torch

        network = self._network
        with self._blamed("data: a batch of (input, target) pairs"):
            inputs, targets = self.batch(iteration)
        with network.at(x):
            with self._blamed("model(inputs)"):
                outputs = network.module(inputs)
            with self._blamed("loss(outputs, targets)"):
                value = network.loss(outputs, targets)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:80]
            raise self._wrong(f"its loss must give a tensor of one number, not {found}")
        if value.is_complex():
            raise self._wrong("its loss is a complex number: give a real one, such as abs() of it squared")
        if not value.requires_grad:
            raise self._wrong("its loss does not depend on the model's parameters")
        with self._blamed("the backward pass" if iteration == 1 else "the backward pass of a second batch"):
            value.backward()
        with self._blamed("a look at the parameters"):
            network.check_places()

    def _try_evaluation(self, x: Any) -> None:
        """Evaluate one batch: with gradients by the inputs if it does not work without."""
        network = self._network
        statistics, tests = batches_of(self._statistics)[:1], batches_of(np.arange(self._test_samples))[:1]
        with self._blamed("test: a batch of (input, target) pairs"):
            self._drawn("test", self._test, tests[0])
        with self._blamed("the evaluation of a batch of test"):
            try:
                self._evaluated(x, statistics, tests)
            except RuntimeError:
                network.evaluates_with_gradients = True
                try:
                    self._evaluated(x, statistics, tests)
                    return
                except RuntimeError:
                    network.evaluates_with_gradients = False
                raise

    @contextmanager
    def _blamed(self, what: str) -> Iterator[None]:
        try:
            yield
        except UsageError as error:
            raise (error if error.message.startswith(self.origin) else self._wrong(error.message)) from error
        except Exception as error:
            raise self._wrong(f"{what} raised {describe(error)[:300]}") from error

    def _wrong(self, what: str) -> UsageError:
        return UsageError(f"{self.origin}: {what}", "--problem")


def _no_pair(what: str, found: Any) -> str:
    """A sentence about a batch that is no (inputs, targets), with what to do."""
    if isinstance(found, Mapping):
        keys = [repr(key) for key in found]
        kind = f"dicts with the keys {', '.join(keys)}"
        example = ", ".join(f"item[{key}]" for key in keys[:2])
    elif isinstance(found, tuple | list):
        kind, example = f"tuples of {len(found)}", "item[0], item[1]"
    else:
        kind, example = f"{type(found).__name__}s", "item, item"
    return (
        f"its {what} gives {kind}, not (input, target): return ({what}, function) in its place, such as "
        f"({what}, lambda item: ({example}))"
    )


def problem_of(function: Callable[..., Any]) -> type[FunctionProblem]:
    """The problem class of a function."""
    name = getattr(function, "__name__", "function")
    file = Path(function.__code__.co_filename).name if hasattr(function, "__code__") else function.__module__
    origin = f"{file}:{name}"
    return type(name, (FunctionProblem,), {"function": staticmethod(function), "origin": origin})
