"""A torch module as a function of one vector x: loss, gradient, outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mpisqueeze.errors import UsageError
from mpisqueeze.problems.base import Array, address_of
from mpisqueeze.problems.neural.parts import Frontier


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Seed torch's generator on the host with `key` (64 bits), and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key)
        yield


class TorchNetwork:
    """A module whose parameters are views of x and whose `.grad` are views of `gradient`.

    torch works on x and `gradient` in place: it shares memory with NumPy, and with CuPy by DLPack, on CuPy's current
    stream. The views are remade when x comes at another address. Parameters lie in x in the order of
    `module.parameters()`; buffers and parameters with requires_grad=False are not part of it.

    Args:
        module: the module; it is moved to the device and dtype, and its parameters are x₀.
        loss: (outputs, targets) → a scalar tensor, the mean over the batch.
        xp, dtype: array module and dtype of x.
        compiled: whether to train through `torch.compile`.
        bf16: whether to compute in bfloat16 where `torch.autocast` does; x and its gradient stay float32.

    Attributes:
        gradient: (d,), the result of the last `differentiate`.

    Raises:
        UsageError: the module has no parameters to train, or uninitialised ones; xp is CuPy and torch sees no GPU; bf16
            with float64.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Any, Any], torch.Tensor],
        xp: Any,
        dtype: np.dtype[Any],
        *,
        compiled: bool = False,
        bf16: bool = False,
    ) -> None:
        if bf16 and dtype != np.float32:
            raise UsageError(f"bf16 is a way to compute with float32, not {dtype}", "--dtype")
        if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters()):
            raise UsageError("the module has uninitialised (lazy) parameters: give it a batch first", "--problem")
        self.device = _device_of(xp)
        self.dtype = torch.float64 if dtype == np.float64 else torch.float32
        self._xp, self._bf16 = xp, bf16
        self.module = module.to(device=self.device, dtype=self.dtype)
        self.loss = loss.to(device=self.device, dtype=self.dtype) if isinstance(loss, nn.Module) else loss
        self._parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise UsageError("the module has no parameters to train", "--problem")
        self._start = np.concatenate([parameter.detach().cpu().reshape(-1).numpy() for parameter in self._parameters])
        self.dimension = self._start.size
        self.gradient: Array = xp.zeros(self.dimension, dtype)
        self._flat_gradient = _shared(self.gradient)
        for parameter, view in zip(self._parameters, self._views(self._flat_gradient), strict=True):
            parameter.grad = view
        self._frontier: Frontier | None = None
        self._address = 0
        self._x: torch.Tensor | None = None
        self._train = torch.compile(self.module) if compiled else self.module

    def initial_point(self) -> Array:
        """A copy of x₀, (d,)."""
        return self._xp.array(self._start)

    def differentiate(
        self, x: Array, inputs: Any, targets: Any, key: int, ready: Callable[[Array, int], None] | None = None
    ) -> float:
        """The loss at x of a batch on the device; its gradient is left in `gradient`.

        Args:
            key: seed of the module's own randomness, such as dropout's.
            ready: function of (gradient, start), called when the gradient's elements from `start` on are final.
        """
        self._move_to(x)
        self._seed(key)
        self._flat_gradient.zero_()
        with self._precision():
            loss = self.loss(self._train(inputs), targets)
        if ready is None:
            loss.backward()
            return float(loss.detach())
        if self._frontier is None:
            self._frontier = Frontier(self._parameters, self.gradient)
        self._frontier.open(ready)
        try:
            loss.backward()
        finally:
            self._frontier.close()
        return float(loss.detach())

    @contextmanager
    def evaluating(self, x: Array, batches: Iterable[Any]) -> Iterator[nn.Module]:
        """The module at x in evaluation mode, without gradients; its modes are restored afterwards.

        Batch norm's running statistics are not parameters, and differ by rank after training. They are not used:
        here they are recomputed as the mean over `batches` (inputs on the device) at x ("precise BN", Wu & Johnson
        2021, arXiv 2105.07576, §3), so that an evaluation is a function of x alone.
        """
        modes = [(module, module.training) for module in self.module.modules()]
        norms = [
            module
            for module, training in modes
            if isinstance(module, _BatchNorm) and training and module.track_running_stats
        ]
        momenta = [norm.momentum for norm in norms]
        try:
            with self.stream(), torch.no_grad(), self._precision():
                self._move_to(x)
                self.module.eval()
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # a plain mean over the batches
                    norm.train()
                for inputs in batches if norms else ():
                    self.module(inputs)
                self.module.eval()
                yield self.module
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            for module, training in modes:
                module.training = training

    def stream(self) -> AbstractContextManager[Any]:
        """A context in which torch uses CuPy's current stream; no context on a host."""
        if self.device.type == "cpu":
            return nullcontext()
        pointer = self._xp.cuda.get_current_stream().ptr
        return torch.cuda.stream(torch.cuda.ExternalStream(pointer) if pointer else torch.cuda.default_stream())

    def moved(self, batch: Any) -> Any:
        """A batch on the device, floats in x's dtype: tensors and arrays, also within tuples, lists and dicts."""
        if isinstance(batch, dict):
            return {key: self.moved(value) for key, value in batch.items()}
        if isinstance(batch, tuple | list):
            return [self.moved(value) for value in batch]
        tensor = torch.as_tensor(batch)
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self._bf16 else nullcontext()

    def _move_to(self, x: Array) -> None:
        address = address_of(x)
        # The tensor keeps x's memory alive, so an equal address means the same memory.
        if address == self._address:
            return
        self._x = _shared(x)
        self._address = address
        for parameter, view in zip(self._parameters, self._views(self._x), strict=True):
            parameter.data = view

    def _views(self, flat: torch.Tensor) -> Iterator[torch.Tensor]:
        start = 0
        for parameter in self._parameters:
            yield flat[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()

    def _seed(self, key: int) -> None:
        generator = torch.default_generator
        if self.device.type == "cuda":
            generator = torch.cuda.default_generators[self.device.index]
        generator.manual_seed(key)


def _device_of(xp: Any) -> torch.device:
    """torch's device of xp's arrays. Raises UsageError."""
    if isinstance(xp.empty(0), np.ndarray):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(
            f"PyTorch {torch.__version__} sees no GPU, though CuPy does: install torch with CUDA, or use cpu",
            "--device",
        )
    # A repeated run must give the same bits.
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda", xp.cuda.runtime.getDevice())


def _shared(array: Array) -> torch.Tensor:
    """A tensor that shares an array's memory."""
    if not isinstance(array, np.ndarray):
        return torch.from_dlpack(array)
    with warnings.catch_warnings():
        # x may be read-only, and nothing here writes to it.
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(array)
