"""A small causal transformer on bytes."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.data.dataset import Dataset
from mpisqueeze.data.partition import Partition
from mpisqueeze.data.seeding import Stream
from mpisqueeze.errors import UsageError
from mpisqueeze.kernels.random import derive_key
from mpisqueeze.language import Kind
from mpisqueeze.problems.neural.problem import NeuralProblem, batches_of
from mpisqueeze.problems.samples import training_share
from mpisqueeze.quantities import parse_size

#: The width of an attention head; narrower networks have one.
HEAD = 32


def shape_of(text: str) -> tuple[int, int]:
    """`2x64`: layers and width. Raises ValueError."""
    layers, width = (parse_size(part) for part in text.split("x"))
    if layers < 1 or width < 1 or (width > HEAD and width % HEAD):
        raise ValueError(f"{text!r} has no layer, or a width that {HEAD} does not divide")
    return layers, width


_SHAPE = Kind(shape_of, f"LAYERSxWIDTH such as 2x64, {HEAD} dividing WIDTH")


class GPT(NeuralProblem):
    """Cross-entropy of the next byte, in nats, at every place of a window: the mean over a batch of windows.

    LAYERS blocks of WIDTH channels in front of which norms stand, learned places, heads of 32 channels (Radford et al.
    2019, "Language models are unsupervised multitask learners", §2.3); no dropout, no weights in common.

    Args:
        dataset, batch_size, partition: see `samples.training_share`; a sample is a window.
        compile, bf16: see `network.TorchNetwork`.

    Attributes:
        floor: no model's expected loss is below it; None where that is not known.

    Raises:
        UsageError: the data are no text; torch lacks what is asked for; or as `samples.training_share`.
    """

    name = "gpt"
    summary = "causal transformer on bytes, next-byte loss: gpt[:LAYERSxWIDTH][,compile][,bf16], needs torch"
    needs_data = True
    default_data = "synthetic-text"
    #: Three times as much goes further without momentum, and diverges with 0.9 of it (results/field).
    default_lr = 0.1

    def __init__(
        self,
        *run: Any,
        shape: Annotated[tuple[int, int], _SHAPE] = (2, 64),
        dataset: Dataset,
        batch_size: int,
        partition: Partition,
        compile: bool = False,
        bf16: bool = False,
    ) -> None:
        super().__init__(*run)
        if not dataset.text:
            raise UsageError(f"gpt needs text, and {dataset.name} is none: text:FILE or synthetic-text", "--data")
        self.check_installed()
        import torch

        from mpisqueeze.problems.neural.architectures import gpt
        from mpisqueeze.problems.neural.network import TorchNetwork, seeded

        (layers, width), self._context = shape, dataset.features - 1

        def make() -> TorchNetwork:
            with seeded(derive_key(self.seed, Stream.INITIAL_POINT)):
                module = gpt(layers, width, max(1, width // HEAD), self._context)
            loss = torch.nn.functional.cross_entropy
            return TorchNetwork(module, loss, self.xp, self.dtype, compiled=compile, bf16=bf16)

        self._share((shape, self._context, compile, bf16), make)
        self.dimension, self.shapes, self.floor = self._network.dimension, self._network.shapes, dataset.floor

        mine, self._sampler, self.iterations_per_epoch = training_share(
            dataset, batch_size, partition, self.rank, self.size, self.seed
        )
        self.training_samples = len(mine)
        self._train, self._tests = dataset.train_inputs[mine], dataset.test_inputs
        self._drawn = np.empty((batch_size, dataset.features), np.uint8)
        if compile:
            self._try_compiled()

    def batch(self, iteration: int) -> tuple[Any, Any]:
        np.take(self._train, self._sampler.batch(iteration), axis=0, out=self._drawn, mode="clip")
        return self._split(self._drawn)

    def evaluate(self, x: Any) -> dict[str, float]:
        batches = (np.ascontiguousarray(windows) for windows in batches_of(self._tests))
        return self._figures(x, (), ((len(w) * self._context, *self._split(w)) for w in batches))

    def _split(self, windows: NDArray[np.uint8]) -> tuple[Any, Any]:
        """The bytes (n, context) of windows and those that follow them (n·context), on the device."""
        import torch

        moved = torch.from_numpy(windows).to(self._network.device).long()
        return moved[:, :-1], moved[:, 1:].flatten()
