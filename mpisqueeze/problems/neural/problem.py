"""Base of a problem on a torch module; torch is loaded when an instance is made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisqueeze.data.kept import shared
from mpisqueeze.data.seeding import Stream
from mpisqueeze.errors import UsageError, describe
from mpisqueeze.kernels.random import derive_key
from mpisqueeze.problems.base import Array, Problem

if TYPE_CHECKING:
    from mpisqueeze.problems.neural.network import Tenant, TorchNetwork

#: Number of samples from which batch norm's statistics are computed before an evaluation.
STATISTICS_SAMPLES = 1024
#: Most samples in a batch of an evaluation; --batch-size does not count there.
EVALUATION_ROWS = 256


def batches_of(samples: Any) -> list[Any]:
    """An array split for evaluation into batches of about the same length, EVALUATION_ROWS at most."""
    return np.array_split(samples, -(-len(samples) // EVALUATION_ROWS))


class NeuralProblem(Problem):
    """The loss of a torch module on batches, and its gradient by backpropagation.

    A subclass makes `_network` and sets `dimension` and `shapes` in its constructor, and implements `batch`.

    Workers of one process that have the same module take turns in it, see `_share`.
    """

    #: He et al.'s 0.1 for batches of 128 (arXiv 1512.03385, §4.2), scaled to 4 ranks of 16 samples.
    default_lr = 0.05
    _own: TorchNetwork | Tenant

    @property
    def _network(self) -> TorchNetwork:
        """The network, in this rank's state."""
        found = self._own
        return found.move_in() if hasattr(found, "move_in") else found

    @_network.setter
    def _network(self, network: TorchNetwork) -> None:
        self._own = network

    def _share(self, key: Any, make: Callable[[], TorchNetwork]) -> None:
        """Have the network that `make` gives, or the one that it gave another worker of this process.

        Args:
            key: what it depends on, besides the class, the seed, the array module and the dtype.
        """
        from mpisqueeze.problems.neural.network import Tenant

        found = shared("network", type(self), (key, self.seed, self.xp.__name__, self.dtype), make)
        self._own = make() if found is None else Tenant(found)

    @classmethod
    def check_installed(cls) -> None:
        try:
            import torch  # noqa: F401
        except ImportError as error:
            why = "" if isinstance(error, ModuleNotFoundError) else f" ({' '.join(str(error).split())})"
            name = getattr(cls, "name", cls.__name__)
            raise UsageError(f"{name} needs PyTorch{why}: pip install 'mpisqueeze[torch]'", "--problem") from None

    @classmethod
    def limit_threads(cls, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def initial_point(self) -> Array:
        return self._network.initial_point()

    def gradient(self, x: Array, iteration: int) -> tuple[float, Array]:
        return self.gradient_in_parts(x, iteration)

    def gradient_in_parts(
        self, x: Array, iteration: int, ready: Callable[[Array, int], None] | None = None
    ) -> tuple[float, Array]:
        """Compute `gradient`, and report its tail while backpropagation goes on."""
        network = self._network
        with network.stream():
            inputs, targets = self.batch(iteration)
            key = derive_key(self.seed, Stream.LAYERS, self.rank, iteration)
            return network.differentiate(x, inputs, targets, key, ready), network.gradient

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Buffers of the model and the loss, and what else `tensors.Carried` finds there."""
        return self._network.carried.read()

    @state.setter
    def state(self, saved: dict[str, np.ndarray]) -> None:
        self._network.carried.write(saved)

    def doubts(self) -> list[str]:
        return self._network.doubts

    @classmethod
    def check_parts(cls, options: dict[str, Any]) -> None:
        if options.get("compile"):
            raise UsageError("torch.compile gives the gradient in one piece: leave out compile=true", "--overlap")

    def _try_compiled(self) -> None:
        """Compute a first gradient, so that compiling is not part of an iteration. Raises UsageError."""
        try:
            with self._network.carried.kept():
                self.gradient(self.initial_point(), 1)
        except Exception as error:
            raise UsageError(f"torch.compile fails here: {describe(error)[:300]}", "--problem") from error

    @abstractmethod
    def batch(self, iteration: int) -> tuple[Any, Any]:
        """The inputs and targets of this rank's batch, on the device; overwritten by the next call."""

    def _figures(self, x: Array, statistics: Iterable[Any], tests: Iterable[tuple[int, Any, Any]]) -> dict[str, float]:
        """`test_loss`, the mean over samples, and for classes `test_accuracy`, 0 … 1.

        Args:
            x: the parameters, (d,).
            statistics: batches of inputs for batch norm's statistics.
            tests: (number of samples, inputs, targets) of each batch of the test set.
        """
        import torch

        losses, samples, hits, classes = 0.0, 0, 0, True
        with self._network.evaluating(x, statistics) as module:
            for count, inputs, targets in tests:
                outputs = module(inputs)
                losses += count * float(torch.as_tensor(self._network.loss(outputs, targets)).detach())
                samples += count
                shapes = getattr(outputs, "ndim", 0), getattr(targets, "ndim", 0)
                labels = shapes == (2, 1) and not (targets.is_floating_point() or targets.is_complex())
                if labels and len(outputs) == len(targets):
                    hits += int((outputs.argmax(1) == targets).sum())
                else:
                    classes = False
        found = {"test_loss": losses / samples}
        return found | {"test_accuracy": hits / samples} if classes else found
