"""A problem made from a user's function that returns a torch module, its data and its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
      `default_collate` makes batches. The rank with the smallest n sets the length of an epoch.
    - `loss(outputs, targets)`: a scalar tensor, the mean over the batch.
    - `test`: samples in the same form, the same on every rank.

    Batches of `--batch-size` are drawn as from the built-in data sets; model and loss get them on the device, floats in
    the run's dtype. Evaluation reports `test_loss`, the mean over samples, and `test_accuracy` if the outputs are
    (n, classes) and the targets (n,) integers. Batch norm's statistics are first recomputed from STATISTICS_SAMPLES of
    rank 0's samples, see `network.TorchNetwork.evaluating`. Other buffers that training changes are not part of x, and
    a run that has them is not a function of its seed.

    Raises:
        UsageError: the function or a first batch raises, or the function returns something else.
    """

    takes_batch_size = True
    function: ClassVar[Callable[..., Any]]
    origin: ClassVar[str]  # FILE.py:function

    def __init__(self, *run: Any, batch_size: int, compile: bool = False, bf16: bool = False) -> None:
        super().__init__(*run)
        self.check_installed()
        import torch

        from mpisqueeze.problems.neural.network import TorchNetwork, seeded

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
        self.dimension = self._network.dimension
        self.training_samples, self.iterations_per_epoch = samples, max(1, samples // batch_size)
        self._sampler = BatchSampler(samples, batch_size, self.seed, self.rank)
        self._statistics = generator(self.seed, Stream.STATISTICS).permutation(samples)[:STATISTICS_SAMPLES]
        self._try_batch()
        if compile:
            self._try_compiled()

    def batch(self, iteration: int) -> tuple[Any, Any]:
        return self._drawn(self._data, self._sampler.batch(iteration))

    def evaluate(self, x: Any) -> dict[str, float]:
        if not self._test_samples:
            return {}
        return self._figures(
            x,
            (self._drawn(self._data, indices)[0] for indices in batches_of(self._statistics)),
            ((len(drawn), *self._drawn(self._test, drawn)) for drawn in batches_of(np.arange(self._test_samples))),
        )

    def _drawn(self, batch: Callable[[np.ndarray], Any], indices: np.ndarray) -> tuple[Any, Any]:
        inputs, targets = self._network.moved(batch(indices))
        return inputs, targets

    def _samples(self, what: str, data: Any) -> tuple[int, Callable[[np.ndarray], Any]]:
        """The number of samples in `data`, and a function from their indices to a batch."""
        import torch
        from torch.utils.data import default_collate

        if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "shape") for part in data):
            lengths = [part.shape[0] if part.shape else 0 for part in data]
            if lengths[0] != lengths[1] or not lengths[0]:
                raise self._wrong(f"the inputs and targets of its {what} have {lengths[0]} and {lengths[1]} rows")
            tensors = [torch.as_tensor(part) for part in data]
            return lengths[0], lambda drawn: [t.index_select(0, torch.from_numpy(drawn).to(t.device)) for t in tensors]
        indexed = hasattr(data, "__len__") and hasattr(data, "__getitem__")
        if isinstance(data, tuple | list) or hasattr(data, "shape") or not indexed:
            raise self._wrong(
                f"its {what} is a {type(data).__name__}, neither a pair of tensors nor a data set with __len__ and "
                "__getitem__"
            )
        if not len(data):
            raise self._wrong(f"its {what} is empty")
        return len(data), lambda drawn: default_collate([data[int(i)] for i in drawn])

    def _try_batch(self) -> None:
        """Pass a first batch through model and loss, so that errors show before training."""
        import torch

        from mpisqueeze.problems.neural.network import seeded

        with seeded(0), self._network.stream():
            with self._blamed("data: a batch of (input, target) pairs"):
                inputs, targets = self.batch(1)
            with self._blamed("model(inputs)"):
                outputs = self._network.module(inputs)
            with self._blamed("loss(outputs, targets)"):
                value = self._network.loss(outputs, targets)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:80]
            raise self._wrong(f"its loss must give a tensor of one number, not {found}")
        if not value.requires_grad:
            raise self._wrong("its loss does not depend on the model's parameters")

    @contextmanager
    def _blamed(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._wrong(f"{what} raised {describe(error)[:300]}") from error

    def _wrong(self, what: str) -> UsageError:
        return UsageError(f"{self.origin}: {what}", "--problem")


def problem_of(function: Callable[..., Any]) -> type[FunctionProblem]:
    """The problem class of a function."""
    name = getattr(function, "__name__", "function")
    file = Path(function.__code__.co_filename).name if hasattr(function, "__code__") else function.__module__
    origin = f"{file}:{name}"
    return type(name, (FunctionProblem,), {"function": staticmethod(function), "origin": origin})
