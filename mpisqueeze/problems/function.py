"""A problem made from a user's function that returns a torch module, its data and its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

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

    def __init__(
        self,
        rank: int,
        size: int,
        seed: int,
        xp: Any,
        dtype: DTypeLike,
        *,
        batch_size: int,
        compile: bool = False,
        bf16: bool = False,
    ) -> None:
        super().__init__(rank, size, seed, xp, dtype)
        self.check_installed()
        import torch

        from mpisqueeze.problems.neural.network import TorchNetwork, seeded

        function = type(self).function
        with seeded(derive_key(seed, Stream.INITIAL_POINT)), self._blamed("the call with (rank, size, seed)"):
            made = function(rank, size, seed)
        if not isinstance(made, tuple | list) or len(made) not in (3, 4):
            count = f" of {len(made)}" if isinstance(made, tuple | list) else ""
            raise self._wrong(f"{_RETURNS}, not a {type(made).__name__}{count}")
        module, data, loss, *test = made
        if not isinstance(module, torch.nn.Module):
            raise self._wrong(f"{_RETURNS}; its model is a {type(module).__name__}, not a torch.nn.Module")
        if not callable(loss):
            raise self._wrong(f"{_RETURNS}; its loss is a {type(loss).__name__}, which cannot be called")
        self._data = self._samples("data", data)
        self._test = self._samples("test", test[0]) if test else None

        try:
            self._network = TorchNetwork(module, loss, xp, self.dtype, compiled=compile, bf16=bf16)
        except UsageError as error:
            raise self._wrong(error.message) if error.option == "--problem" else error from None
        self._loss = loss
        self.dimension = self._network.dimension
        self.iterations_per_epoch = max(1, len(self._data) // batch_size)
        self._sampler = BatchSampler(len(self._data), batch_size, seed, rank)
        drawn = generator(seed, Stream.STATISTICS).permutation(len(self._data))[:STATISTICS_SAMPLES]
        self._statistics = drawn
        self._try_batch()
        if compile:
            self._try_compiled()

    def batch(self, iteration: int) -> tuple[Any, Any]:
        return self._drawn(self._data, self._sampler.batch(iteration))

    def evaluate(self, x: Any) -> dict[str, float]:
        if self._test is None:
            return {}
        losses, hits = [], []
        statistics = (self._drawn(self._data, indices)[0] for indices in batches_of(self._statistics))
        with self._network.evaluating(x, statistics) as module:
            for indices in batches_of(np.arange(len(self._test))):
                inputs, targets = self._drawn(self._test, indices)
                outputs = module(inputs)
                losses.append(len(indices) * float(self._loss(outputs, targets)))
                if _are_classes(outputs, targets):
                    hits.append(int((outputs.argmax(1) == targets).sum()))
        found = {"test_loss": sum(losses) / len(self._test)}
        return found | {"test_accuracy": sum(hits) / len(self._test)} if hits else found

    def _drawn(self, samples: Any, indices: np.ndarray) -> tuple[Any, Any]:
        inputs, targets = self._network.moved(samples.batch(indices))
        return inputs, targets

    def _samples(self, what: str, data: Any) -> Any:
        if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "shape") for part in data):
            lengths = [part.shape[0] if part.shape else 0 for part in data]
            if lengths[0] != lengths[1] or not lengths[0]:
                raise self._wrong(f"the inputs and targets of its {what} have {lengths[0]} and {lengths[1]} rows")
            return _Pair(*data)
        indexed = hasattr(data, "__len__") and hasattr(data, "__getitem__")
        if isinstance(data, tuple | list) or hasattr(data, "shape") or not indexed:
            raise self._wrong(
                f"its {what} is a {type(data).__name__}, neither a pair of tensors nor a data set with __len__ and "
                "__getitem__"
            )
        if not len(data):
            raise self._wrong(f"its {what} is empty")
        return _Collated(data)

    def _try_batch(self) -> None:
        """Pass a first batch through model and loss, so that errors show before training."""
        import torch

        from mpisqueeze.problems.neural.network import seeded

        network = self._network
        with seeded(0), network.stream():
            with self._blamed("data: a batch of (input, target) pairs"):
                inputs, targets = self.batch(1)
            with self._blamed("model(inputs)"):
                outputs = network.module(inputs)
            with self._blamed("loss(outputs, targets)"):
                value = self._loss(outputs, targets)
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


def _are_classes(outputs: Any, targets: Any) -> bool:
    shapes = getattr(outputs, "ndim", 0), getattr(targets, "ndim", 0)
    return shapes == (2, 1) and not targets.is_floating_point() and len(outputs) == len(targets)


class _Pair:
    def __init__(self, inputs: Any, targets: Any) -> None:
        import torch

        self._parts = [torch.as_tensor(part) for part in (inputs, targets)]

    def __len__(self) -> int:
        return len(self._parts[0])

    def batch(self, indices: np.ndarray) -> list[Any]:
        import torch

        rows = torch.from_numpy(indices)
        return [part.index_select(0, rows.to(part.device)) for part in self._parts]


class _Collated:
    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def batch(self, indices: np.ndarray) -> Any:
        from torch.utils.data import default_collate

        return default_collate([self._data[int(i)] for i in indices])


def problem_of(function: Callable[..., Any]) -> type[FunctionProblem]:
    """The problem class of a function."""
    name = getattr(function, "__name__", "function")
    file = Path(function.__code__.co_filename).name if hasattr(function, "__code__") else function.__module__
    origin = f"{file}:{name}"
    return type(name, (FunctionProblem,), {"function": staticmethod(function), "origin": origin})
