"""Base of the image classifiers: images on the host, batches on torch's device, the test set."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.data.augmentation import crop_and_flip
from mpisqueeze.data.dataset import Dataset
from mpisqueeze.data.kept import shared
from mpisqueeze.data.partition import Partition
from mpisqueeze.data.seeding import Stream, generator
from mpisqueeze.errors import UsageError
from mpisqueeze.kernels.random import derive_key
from mpisqueeze.language import choice
from mpisqueeze.problems.neural.problem import STATISTICS_SAMPLES, NeuralProblem, batches_of
from mpisqueeze.problems.samples import training_share


class ImageProblem(NeuralProblem):
    """Softmax cross-entropy of a torch module on this rank's images, mean over a batch.

    Images stay on the host in the data set's dtype. A batch is gathered and augmented there, and scaled on the device.
    Augmentation crops and mirrors at random, by a generator keyed by (seed, rank, iteration). Before an evaluation,
    batch norm's statistics are recomputed from STATISTICS_SAMPLES training images without augmentation, the same on
    every rank.

    Args:
        dataset, batch_size, partition: see `samples.training_share`; the samples are images.
        augment: auto (photographs only), on or off.
        compile, bf16: see `network.TorchNetwork`.

    Raises:
        UsageError: the data are not images, or too small ones; torch lacks what is asked for; or as
            `samples.training_share`.
    """

    needs_data = True
    #: The number of times that the model halves an image, rounding up where it has batch norm.
    halvings: ClassVar[int]
    batch_norm: ClassVar[bool] = True

    def __init__(
        self,
        *run: Any,
        dataset: Dataset,
        batch_size: int,
        partition: Partition,
        augment: Annotated[str, choice("auto", "on", "off")] = "auto",
        compile: bool = False,
        bf16: bool = False,
    ) -> None:
        super().__init__(*run)
        self._image = self._checked_image(dataset, batch_size)
        self.check_installed()
        import torch

        from mpisqueeze.problems.neural import architectures
        from mpisqueeze.problems.neural.network import TorchNetwork, seeded

        def make() -> TorchNetwork:
            with seeded(derive_key(self.seed, Stream.INITIAL_POINT)):
                module = getattr(architectures, self.name)(*self._image, dataset.classes)
            loss = torch.nn.functional.cross_entropy
            return TorchNetwork(module, loss, self.xp, self.dtype, compiled=compile, bf16=bf16)

        self._share((self._image, dataset.classes, compile, bf16), make)
        self.dimension, self.shapes = self._network.dimension, self._network.shapes

        mine, self._sampler, self.iterations_per_epoch = training_share(
            dataset, batch_size, partition, self.rank, self.size, self.seed
        )
        self.training_samples = len(mine)
        self._train_inputs, self._train_labels = dataset.train_inputs[mine], dataset.train_labels[mine].astype(np.int64)
        self._scale, self._offset = dataset.scale, dataset.offset
        self._augments = dataset.natural if augment == "auto" else augment == "on"
        self._dataset = dataset
        #: Memory of a batch: as stored, augmented, labels, and the module's input.
        make_buffers = partial(self._buffers, batch_size)
        buffers = shared("batch", self._network, batch_size, make_buffers) or make_buffers()
        self._stored, self._augmented, self._labels, self._inputs = buffers
        if compile:
            self._try_compiled()

    def batch(self, iteration: int) -> tuple[Any, Any]:
        stored, drawn = self._stored, self._sampler.batch(iteration)
        np.take(self._train_inputs, drawn, axis=0, out=stored.reshape(len(stored), -1), mode="clip")
        np.take(self._train_labels, drawn, out=self._labels, mode="clip")
        if self._augments:
            crop_and_flip(stored, self._augmented, generator(self.seed, Stream.AUGMENTATION, self.rank, iteration))
        return self._scaled(self._augmented, self._inputs), self._network.moved(self._labels)

    def _buffers(self, rows: int) -> tuple[Any, ...]:
        stored = np.empty((rows, *self._image), self._train_inputs.dtype)
        augmented = np.empty_like(stored) if self._augments else stored
        return stored, augmented, np.empty(rows, np.int64), self._empty(rows)

    @cached_property
    def _statistics_inputs(self) -> NDArray[Any]:
        images = self._dataset.train_inputs
        return images[generator(self.seed, Stream.STATISTICS).permutation(len(images))[:STATISTICS_SAMPLES]]

    def evaluate(self, x: Any) -> dict[str, float]:
        labels = self._dataset.test_labels.astype(np.int64)
        tests = zip(batches_of(self._dataset.test_inputs), batches_of(labels), strict=True)
        return self._figures(
            x,
            (self._scaled(images) for images in batches_of(self._statistics_inputs)),
            ((len(images), self._scaled(images), self._network.moved(labels)) for images, labels in tests),
        )

    def _scaled(self, images: NDArray[Any], out: Any = None) -> Any:
        """Stored images as the module's input, (n, channels, height, width), on the device."""
        import torch

        stored = torch.from_numpy(images).view(-1, *self._image).to(self._network.device)
        if out is None:
            out = self._empty(len(stored))
        return out.copy_(stored).mul_(self._scale).add_(self._offset)

    def _empty(self, count: int) -> Any:
        import torch

        # Convolutions of a few channels are faster with channels last.
        kind = {"dtype": self._network.dtype, "device": self._network.device, "memory_format": torch.channels_last}
        return torch.empty((count, *self._image), **kind)

    def _checked_image(self, dataset: Dataset, batch_size: int) -> tuple[int, int, int]:
        if dataset.image is None:
            raise UsageError(
                f"{self.name} needs images, and {dataset.name} has {dataset.features} features, neither k² nor 3k²",
                "--data",
            )
        _, height, width = dataset.image
        least = 2**self.halvings
        if min(height, width) < least:
            raise UsageError(f"{self.name} needs images of at least {least}×{least}, not {height}×{width}", "--data")
        if self.batch_norm and batch_size == 1 and max(height, width) == least:
            raise UsageError(
                f"{self.name} leaves one pixel of {height}×{width}, where batch norm needs at least 2 samples",
                "--batch-size",
            )
        return dataset.image
