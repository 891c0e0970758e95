"""The parameters of a torch optimizer as one vector."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from mpisqueeze.comm.world import World
from mpisqueeze.errors import UsageError
from mpisqueeze.problems.base import Array
from mpisqueeze.problems.neural.network import shared
from mpisqueeze.problems.neural.tensors import Place, Slot, meet

#: The name by which errors blame the script's call.
CALL = "distribute"
#: Elements of the vector that travel at once from rank 0 at the start, so that a message stays below 2³¹ bytes.
_PIECE = 1 << 27


@dataclass(frozen=True)
class Described:
    """A parameter as ranks compare it: its name if the optimizer knows one, its shape, and a digest of its values."""

    name: str
    shape: tuple[int, ...]
    digest: bytes

    def __str__(self) -> str:
        return f"{self.name}, {self.shape}" if self.name else f"of shape {self.shape}"


class Parameters:
    """The parameters of an optimizer that require a gradient, in its order, as views of a vector x.

    Complex parameters lie in front, each number as its real and its imaginary part.

    Args:
        optimizer: any of torch's; a parameter that is frozen now stays out.

    Attributes:
        dimension, shapes, dtype: of x, see `problems.base.Problem`.
        device: torch's.
        gradient: (d,), filled by `gather`.

    Raises:
        UsageError: there are none, or they are not all float32 or all float64 on one device with memory of their own.
    """

    gradient: Array

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._all = _named(optimizer)
        found = [(name, p) for name, p in self._all if p.requires_grad]
        self._frozen = [(name, p) for name, p in self._all if not p.requires_grad]
        if not found:
            raise UsageError("the optimizer has no parameters that require a gradient", CALL)
        self.dtype = _dtype_of(found)
        devices = {p.device for _, p in found}
        if len(devices) > 1:
            names = ", ".join(sorted(map(str, devices)))
            raise UsageError(f"the parameters are on several devices ({names}); they have to be on one", CALL)
        (self.device,) = devices
        by_storage: dict[int, list[tuple[str, torch.Tensor]]] = defaultdict(list)
        for name, p in found:
            by_storage[p.untyped_storage().data_ptr()].append((name, p))
        for group in by_storage.values():
            for (one, first), (other, second) in combinations(group, 2):
                if meet(first, second):
                    raise UsageError(f"{one} and {other} share memory: give the optimizer one of them", CALL)
        # A complex number begins at an even element.
        ordered = sorted(found, key=lambda pair: not pair[1].is_complex())
        self.slots: list[Slot] = []
        self.dimension = 0
        for name, p in ordered:
            size = p.numel() * (1 + p.is_complex())
            place = Place(SimpleNamespace(tensor=p), "tensor", name)
            self.slots.append(Slot([place], p.shape, p.is_complex(), self.dimension, size))
            self.dimension += size
        self.tensors = [p for _, p in ordered]
        self.shapes = [slot.real_shape for slot in self.slots]
        self._views: list[torch.Tensor] = []
        self._gradients: list[torch.Tensor] = []

    @property
    def names(self) -> list[str]:
        return [slot.places[0].path for slot in self.slots]

    def values(self) -> np.ndarray:
        """A copy of x as it is now, (d,), on the host."""
        return np.concatenate([slot.values() for slot in self.slots]).astype(self.dtype, copy=False)

    def described(self) -> list[Described]:
        """The parameters as ranks compare them."""
        names = [name if _has_names(self._optimizer) else "" for name in self.names]
        return [
            Described(name, shape, hashlib.sha256(np.ascontiguousarray(slot.values()).tobytes()).digest())
            for name, shape, slot in zip(names, self.shapes, self.slots, strict=True)
        ]

    def bind(self, x: Array, gradient: Array) -> None:
        """Make the parameters views of x from now on, and have `gather` fill `gradient`; both (d,), on the device."""
        self.gradient = gradient
        flat, flat_gradient = shared(x), shared(gradient)
        self._views = [slot.view(flat) for slot in self.slots]
        self._gradients = [slot.view(flat_gradient) for slot in self.slots]
        for tensor, view in zip(self.tensors, self._views, strict=True):
            tensor.data = view

    def accumulate(self) -> None:
        """Make each parameter's `.grad` its view of `gradient`, which is 0 from now on."""
        shared(self.gradient).zero_()
        for tensor, view in zip(self.tensors, self._gradients, strict=True):
            tensor.grad = view

    def views_of(self, vector: Array) -> list[torch.Tensor]:
        """A vector like x as tensors of the parameters' shapes, which share its memory."""
        flat = shared(vector)
        return [slot.view(flat) for slot in self.slots]

    def check(self) -> None:
        """Raise UsageError if a parameter has other memory than before, was frozen then, or there is another one."""
        present = [p for group in self._optimizer.param_groups for p in group["params"]]
        if len(present) != len(self._all):
            what = f"the optimizer had {len(self._all)} parameters, and has {len(present)}: none can be added later"
            raise UsageError(what, CALL)
        for (name, before), now in zip(self._all, present, strict=True):
            if now is not before:
                raise UsageError(f"{name} was replaced by another tensor: none can be added later", CALL)
        for name, tensor in self._frozen:
            if tensor.requires_grad:
                raise UsageError(
                    f"{name} required no gradient at first, and does now: let it require one before {CALL}, and freeze "
                    "it afterwards",
                    CALL,
                )
        for name, tensor, view in zip(self.names, self.tensors, self._views, strict=True):
            if tensor.data_ptr() != view.data_ptr() and tensor.numel():
                raise UsageError(
                    f"{name} has other memory than before: move or replace parameters before {CALL}, and change them "
                    "in place afterwards",
                    CALL,
                )

    def check_grads(self) -> None:
        """Raise UsageError if a parameter's `.grad` is no longer its view of `gradient`."""
        for name, tensor, view in zip(self.names, self.tensors, self._gradients, strict=True):
            if tensor.grad is None or tensor.grad.data_ptr() != view.data_ptr():
                raise UsageError(f"{name}.grad was replaced in the backward pass, so that its gradient is lost", CALL)

    def gather(self) -> None:
        """Copy each parameter's `.grad` into `gradient`; one that has none counts as 0.

        Raises UsageError if one is sparse, or as `check` does.
        """
        self.check()
        here: list[torch.Tensor] = []
        there: list[torch.Tensor] = []
        for name, tensor, place in zip(self.names, self.tensors, self._gradients, strict=True):
            grad = tensor.grad
            if grad is None:
                place.zero_()
            elif grad.layout != torch.strided:
                raise UsageError(
                    f"{name} has a sparse gradient, and the exchanges take dense ones: build its layer with "
                    "sparse=False",
                    CALL,
                )
            else:
                here.append(place)
                there.append(grad)
        if here:
            torch._foreach_copy_(here, there)
        self.settle()

    def settle(self) -> None:
        """On a GPU, wait for torch's stream and for CuPy's, which one of them is about to take over from."""
        if self.device.type == "cuda":
            import cupy

            torch.cuda.current_stream(self.device).synchronize()
            cupy.cuda.get_current_stream().synchronize()


def same_on_all(world: World, parameters: Parameters) -> bool:
    """Check that ranks have the same parameters in the same order; whether their values are equal. Collective.

    Raises:
        UsageError: on all ranks alike.
    """
    everyone: list[list[Described]] = world.comm.allgather(parameters.described())
    first, equal = everyone[0], True
    for rank, other in enumerate(everyone):
        if len(other) != len(first):
            raise UsageError(f"rank {rank} has {len(other)} parameters and rank 0 has {len(first)}", CALL)
        for i, (mine, theirs) in enumerate(zip(first, other, strict=True)):
            if (mine.name, mine.shape) != (theirs.name, theirs.shape):
                raise UsageError(
                    f"rank {rank} has another order of parameters than rank 0: number {i} is {theirs} and not {mine}",
                    CALL,
                )
        values = [[parameter.digest for parameter in each] for each in (first, other)]
        different = [i for i, (one, two) in enumerate(zip(*values, strict=True)) if one != two]
        equal = equal and not different
        if different and sorted(values[0]) == sorted(values[1]):
            # Of one model, only in another order, which the shapes did not show.
            raise UsageError(
                f"rank {rank} has another order of parameters than rank 0, from number {different[0]} on", CALL
            )
    return equal


def start_of_all(world: World, parameters: Parameters) -> np.ndarray:
    """Rank 0's x, (d,), on every rank, as DistributedDataParallel has it; collective. Raises UsageError."""
    x = parameters.values()
    if not same_on_all(world, parameters):
        for start in range(0, x.size, _PIECE):
            world.comm.Bcast(x[start : start + _PIECE])
    return x


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.Tensor]]:
    found: list[tuple[str, torch.Tensor]] = []
    for group in optimizer.param_groups:
        names = group.get("param_names") or [""] * len(group["params"])
        for name, p in zip(names, group["params"], strict=True):
            number = f"parameter {len(found)}"
            found.append((f"{number} ({name})" if name else number, p))
    return found


def _has_names(optimizer: torch.optim.Optimizer) -> bool:
    return all(group.get("param_names") for group in optimizer.param_groups)


def _dtype_of(found: list[tuple[str, torch.Tensor]]) -> np.dtype[Any]:
    """float32 or float64, whichever all have. Raises UsageError."""
    kinds = {p.dtype.to_real(): name for name, p in found}
    for kind, name in kinds.items():
        if kind not in (torch.float32, torch.float64):
            raise UsageError(
                f"{name} is {str(kind).removeprefix('torch.')}; parameters have to be float32 or float64: keep the "
                "model in float32, and compute in less by torch.autocast",
                CALL,
            )
    if len(kinds) > 1:
        raise UsageError(f"{' and '.join(kinds.values())} have different types; all have to be of one", CALL)
    return np.dtype(np.float64 if torch.float64 in kinds else np.float32)
