"""A torch module as a function of one vector x: loss, gradient, outputs."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mpisqueeze.errors import UsageError
from mpisqueeze.problems.base import Array, address_of
from mpisqueeze.problems.neural.parts import Frontier
from mpisqueeze.problems.neural.tensors import Carried, cast, check_ready, converted, slots_of


def seed_generators(key: int) -> None:
    """Seed the generators that a user's code may draw from with 64 bits: torch's on the host, NumPy's and Python's."""
    torch.default_generator.manual_seed(key)
    # NumPy takes 32 bits at once, and six times as long for more.
    np.random.seed(key & 0xFFFFFFFF)  # noqa: NPY002
    random.seed(key)


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Seed the generators with `key` (64 bits), and restore them afterwards."""
    numpys, pythons = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            seed_generators(key)
            yield
    finally:
        np.random.set_state(numpys)  # noqa: NPY002
        random.setstate(pythons)


class TorchNetwork:
    """A module whose parameters are views of x and whose `.grad` are views of `gradient`.

    torch works on x and `gradient` in place: it shares memory with NumPy, and with CuPy by DLPack, on CuPy's current
    stream. The views are remade when x comes at another address. Parameters lie in x in the order of
    `module.parameters()`, complex ones in front, each number as its real and its imaginary part. Parameters that are
    the same view of one memory are one. Buffers and parameters with requires_grad=False are not part of x.

    Args:
        module: the module; it is moved to the device and dtype (complex64 or complex128 where it is complex), and its
            parameters are x₀.
        loss: (outputs, targets) → a scalar tensor, the mean over the batch.
        xp, dtype: array module and dtype of x.
        compiled: whether to train through `torch.compile`.
        bf16: whether to compute in bfloat16 where `torch.autocast` does; x and its gradient stay float32.

    Attributes:
        gradient: (d,), the result of the last `differentiate`.
        tenant: whose turn it is, where several use it.
        shapes: of the parameters in x, in its order, see `problems.base.Problem`.
        carried: what the module and the loss carry from one iteration to the next.
        first_carried: what they carry before the first iteration.
        evaluates_with_gradients: whether the module differentiates by its inputs, also in evaluation.
        doubts: sentences about tensors that are not trained as they came.

    Raises:
        UsageError: the module has no parameters to train, ones that share memory in part, or ones without values
            (`tensors.check_ready`); xp is CuPy and torch sees no GPU; bf16 with float64.
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
        for part in (module, loss):
            if isinstance(part, nn.Module):
                check_ready(part)
        self.device = _device_of(xp)
        self.dtype = torch.float64 if dtype == np.float64 else torch.float32
        self._xp, self._bf16 = xp, bf16
        self.doubts = _doubts(module, loss, self.dtype)
        self._slots = slots_of(module)
        if not self._slots:
            raise UsageError("the module has no parameters to train", "--problem")
        self.module = converted(module, self.device, self.dtype)
        self.loss = converted(loss, self.device, self.dtype) if isinstance(loss, nn.Module) else loss
        self._start = np.concatenate([slot.values() for slot in self._slots])
        self.dimension = self._start.size
        self.shapes = [slot.real_shape for slot in self._slots]
        self.gradient: Array
        self.bind(xp.zeros(self.dimension, dtype))
        self.tenant: Tenant | None = None
        self.carried = Carried({"model": module} | ({"loss": loss} if isinstance(loss, nn.Module) else {}), self._slots)
        self.first_carried = {name: array.copy() for name, array in self.carried.read().items()}
        self.evaluates_with_gradients = False
        self._frontier: Frontier | None = None
        self._address = 0
        self._x: torch.Tensor | None = None
        self._train = torch.compile(self.module) if compiled else self.module

    def initial_point(self) -> Array:
        """A copy of x₀, (d,)."""
        return self._xp.array(self._start)

    def bind(self, gradient: Array) -> None:
        """Leave gradients in this vector, (d,), from now on."""
        self.gradient, self._flat_gradient = gradient, shared(gradient)
        for slot in self._slots:
            view = slot.view(self._flat_gradient)
            for parameter in slot.trained:
                parameter.grad = view

    def differentiate(
        self, x: Array, inputs: Any, targets: Any, key: int, ready: Callable[[Array, int], None] | None = None
    ) -> float:
        """The loss at x of a batch on the device; its gradient is left in `gradient`.

        Args:
            key: seed of the module's own randomness, such as dropout's.
            ready: function of (gradient, start), called when the gradient's elements from `start` on are final.
        """
        self.seed(key)
        self._flat_gradient.zero_()
        with self.at(x):
            loss = self.loss(self._train(inputs), targets)
        if ready is None:
            loss.backward()
            return float(loss.detach())
        if self._frontier is None:
            self._frontier = Frontier(self._slots, self.dimension)
        self._frontier.open(ready, self.gradient)
        try:
            loss.backward()
        finally:
            self._frontier.close()
        return float(loss.detach())

    @contextmanager
    def at(self, x: Array) -> Iterator[None]:
        """A context for forward passes at x in the run's precision."""
        self._move_to(x)
        with self._precision():
            yield

    @contextmanager
    def evaluating(self, x: Array, batches: Iterable[Any]) -> Iterator[nn.Module]:
        """The module at x in evaluation mode, by default without gradients; modes and buffers are restored afterwards.

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
            gradients = torch.enable_grad if self.evaluates_with_gradients else torch.no_grad
            with self.stream(), gradients(), self.at(x), self.carried.kept():
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
        if isinstance(batch, Mapping):
            return {key: self.moved(value) for key, value in batch.items()}
        if isinstance(batch, tuple | list):
            values = [self.moved(value) for value in batch]
            return type(batch)(*values) if hasattr(batch, "_fields") else values
        return cast(torch.as_tensor(batch), self.device, self.dtype)

    def check_places(self) -> None:
        """Raise UsageError, after a gradient, if the module or the loss has moved parameters or their gradients."""
        assert self._x is not None
        for slot in self._slots:
            x, gradient = slot.view(self._x), slot.view(self._flat_gradient)
            for place in slot.places:
                if place.tensor.data_ptr() != x.data_ptr():
                    raise UsageError(
                        f"the forward pass gives {place.path} other memory, so that it is not trained: change it in "
                        "place, as by copy_() under torch.no_grad()",
                        "--problem",
                    )
            for parameter in slot.trained:
                if parameter.grad is None or parameter.grad.data_ptr() != gradient.data_ptr():
                    raise UsageError(
                        f"{slot.places[0].path}.grad was replaced, so that its gradient is lost: leave zero_grad() and "
                        "backward() to the run, and use torch.autograd.grad within a forward pass",
                        "--problem",
                    )

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self._bf16 else nullcontext()

    def _move_to(self, x: Array) -> None:
        address = address_of(x)
        # The tensor keeps x's memory alive, so an equal address means the same memory.
        if address == self._address:
            return
        self._x = shared(x)
        self._address = address
        for slot in self._slots:
            view = slot.view(self._x)
            for place in slot.places:
                place.tensor.data = view

    def seed(self, key: int) -> None:
        """Seed torch's generator on the device."""
        generator = torch.default_generator
        if self.device.type == "cuda":
            generator = torch.cuda.default_generators[self.device.index]
        generator.manual_seed(key)


class Tenant:
    """A worker's part in a network that several workers of a process use by turns: its gradient, and what it carries
    from one iteration to the next."""

    def __init__(self, network: TorchNetwork) -> None:
        self._network = network
        self._gradient = network.gradient * 0
        #: What the network carries when it is not this worker's turn.
        self._carried = network.first_carried

    def move_in(self) -> TorchNetwork:
        """The network, from now on in this worker's state."""
        network, before = self._network, self._network.tenant
        if before is not self:
            if before is not None:
                before._carried = {name: array.copy() for name, array in network.carried.read().items()}
            network.bind(self._gradient)
            network.carried.write(self._carried)
            network.tenant = self
        return network


def _doubts(module: nn.Module, loss: Any, dtype: torch.dtype) -> list[str]:
    """Sentences about parameters that are converted, or that are not trained."""
    found, name = [], str(dtype).removeprefix("torch.")
    kinds = {parameter.dtype for parameter in module.parameters() if parameter.requires_grad}
    other = sorted(
        str(kind) for kind in kinds if kind not in (torch.float32, dtype, torch.complex64, dtype.to_complex())
    )
    if other:
        found.append(f"parameters of {', '.join(other)} are converted: they are trained, exchanged and saved in {name}")
    whole = sorted({str(p.dtype) for p in module.parameters() if not (p.is_floating_point() or p.is_complex())})
    if whole:
        found.append(f"parameters of {', '.join(whole)} are not trained, and stay as they are")
    if isinstance(loss, nn.Module) and any(parameter.requires_grad for parameter in loss.parameters()):
        found.append("the loss has parameters, which are not trained: make them part of the model")
    return found


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


def shared(array: Array) -> torch.Tensor:
    """A tensor that shares an array's memory."""
    if not isinstance(array, np.ndarray):
        return torch.from_dlpack(array)
    with warnings.catch_warnings():
        # x may be read-only, and nothing here writes to it.
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(array)
