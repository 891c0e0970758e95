"""The tensors of a torch module: those that share memory, and those that carry over from one iteration to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mpisqueeze.errors import UsageError

_NUMBERS = (bool, int, float)
#: Types of the same size, for the bits of those that NumPy lacks.
_BITS = {1: torch.uint8, 2: torch.int16}


@dataclass(frozen=True)
class Place:
    """A tensor's place in a module: attribute `name` of its submodule `owner`; `path` is its name for people."""

    owner: nn.Module
    name: str
    path: str

    @property
    def tensor(self) -> torch.Tensor:
        return getattr(self.owner, self.name)


@dataclass(frozen=True)
class Slot:
    """A trained parameter's elements of x, and every place that has them; the parameter's own place is the first.

    Attributes:
        start, size: its elements of x; a complex number is two of them, the real part first.
    """

    places: list[Place]
    shape: torch.Size
    is_complex: bool
    start: int
    size: int

    @property
    def trained(self) -> list[nn.Parameter]:
        tensors = [place.tensor for place in self.places]
        return [tensor for tensor in tensors if isinstance(tensor, nn.Parameter) and tensor.requires_grad]

    @property
    def real_shape(self) -> tuple[int, ...]:
        """The shape of its elements of x: a complex number is two of them in the last dimension."""
        if not self.is_complex:
            return tuple(self.shape)
        *first, last = self.shape or (1,)
        return (*first, 2 * last)

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        """Its part of a vector like x, in the parameter's shape."""
        part = flat[self.start : self.start + self.size]
        return torch.view_as_complex(part.view(*self.shape, 2)) if self.is_complex else part.view(self.shape)

    def values(self) -> np.ndarray:
        """The parameter's elements as a vector, (size,)."""
        tensor = self.places[0].tensor.detach().resolve_conj().resolve_neg()
        return (torch.view_as_real(tensor) if self.is_complex else tensor).cpu().reshape(-1).numpy()


def check_ready(module: nn.Module) -> None:
    """Raise UsageError for a module whose parameters or buffers have no values, or let no gradient through."""
    for path, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise UsageError("the module has uninitialised (lazy) parameters: give it a batch first", "--problem")
        if tensor.is_meta:
            raise UsageError(
                f"{path} is on the meta device and has no values: build the module on the CPU, or initialise it after "
                "module.to_empty(device='cpu')",
                "--problem",
            )
        if tensor.is_inference():
            raise UsageError(
                f"{path} was made under torch.inference_mode() and cannot be trained: build the module outside of it",
                "--problem",
            )


def converted(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module itself, moved to a device, with real parameters and buffers in `dtype` and complex ones in its pair.

    `Module.to` drops imaginary parts.
    """
    return module._apply(lambda tensor: cast(tensor, device, dtype))


def cast(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A tensor on a device: real numbers in `dtype`, complex ones in pairs of it, all others as they are."""
    if tensor.is_complex():
        return tensor.to(device, dtype.to_complex())
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def slots_of(module: nn.Module) -> list[Slot]:
    """The trained parameters' slots in x, complex ones first, else in the order of `module.parameters()`.

    Parameters that are the same view of one memory have one slot, as does one parameter under several names.

    Raises:
        UsageError: parameters share memory in another way.
    """
    places = _places(module)
    parameters = {id(place.tensor): place for place in places if isinstance(place.tensor, nn.Parameter)}
    # A complex number begins at an even element of memory.
    trained = sorted((p for p in module.parameters() if p.requires_grad), key=lambda p: not p.is_complex())
    slots: list[Slot] = []
    taken: set[int] = set()
    start = 0
    for parameter in trained:
        if id(parameter) in taken:
            continue
        own = parameters[id(parameter)]
        if any(step == 0 and length > 1 for step, length in zip(parameter.stride(), parameter.shape, strict=True)):
            raise UsageError(
                f"{own.path} repeats an element in memory (expand): give it its own by clone()", "--problem"
            )
        same = [own]
        for place in places:
            if place is own or not meet(place.tensor, parameter):
                continue
            if not _same_view(place.tensor, parameter):
                raise UsageError(
                    f"{own.path} and {place.path} share memory in part: tie them as one Parameter, or give each its "
                    "own by clone()",
                    "--problem",
                )
            same.append(place)
        taken |= {id(place.tensor) for place in same}
        size = parameter.numel() * (1 + parameter.is_complex())
        slots.append(Slot(same, parameter.shape, parameter.is_complex(), start, size))
        start += size
    return slots


def _places(module: nn.Module) -> list[Place]:
    """Each parameter's first place, and those of all buffers and other attributes that are tensors."""
    found, seen = [], set()
    for prefix, owner in module.named_modules():
        for name, tensor in (*owner.named_parameters(recurse=False), *_other_tensors(owner)):
            if isinstance(tensor, nn.Parameter):
                if id(tensor) in seen:
                    continue
                seen.add(id(tensor))
            found.append(Place(owner, name, f"{prefix}.{name}" if prefix else name))
    return found


def _other_tensors(owner: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The buffers of one module, and its attributes that are tensors but no parameters."""
    found = [*owner.named_buffers(recurse=False, remove_duplicate=False), *vars(owner).items()]
    return [(name, value) for name, value in found if isinstance(value, torch.Tensor)]


def meet(one: torch.Tensor, other: torch.Tensor) -> bool:
    """True if two tensors have an element of memory in common."""
    if not one.numel() or not other.numel() or {one.layout, other.layout} != {torch.strided}:
        return False
    if one.device != other.device or one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
        return False
    if _same_view(one, other):
        return True
    (start, stop), (start_of_other, stop_of_other) = _span_of(one), _span_of(other)
    if stop <= start_of_other or stop_of_other <= start:
        return False
    return bool(np.intersect1d(_bytes_of(one), _bytes_of(other)).size)


def _same_view(one: torch.Tensor, other: torch.Tensor) -> bool:
    return all(getattr(one, name)() == getattr(other, name)() for name in ("type", "storage_offset", "size", "stride"))


def _span_of(tensor: torch.Tensor) -> tuple[int, int]:
    """The position in the storage of a tensor's first byte, and of the one behind its last."""
    start, width = tensor.storage_offset(), tensor.element_size()
    last = start + sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride(), strict=True))
    return start * width, (last + 1) * width


def _bytes_of(tensor: torch.Tensor) -> np.ndarray:
    """The position in the storage of each of a tensor's bytes."""
    width = tensor.element_size()
    elements = torch.arange(tensor.untyped_storage().nbytes() // width)
    first = elements.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset()).reshape(-1, 1) * width
    return (first + torch.arange(width)).numpy()


class Carried:
    """The state of modules besides x: buffers, and other attributes that are tensors.

    Numbers that are attributes of a user's own modules count where they have changed. Tensors in lists and dicts, and
    those of a graph, which a forward pass makes anew, do not.

    Args:
        modules: by their names here.
        slots: what is part of x instead.
    """

    def __init__(self, modules: Mapping[str, nn.Module], slots: list[Slot]) -> None:
        self._owners = {
            f"{prefix}.{name}".rstrip("."): owner
            for prefix, module in modules.items()
            for name, owner in module.named_modules()
        }
        self._in_x = {(id(place.owner), place.name) for slot in slots for place in slot.places}
        self._first = {path: dict(vars(owner)) for path, owner in self._owners.items()}
        self._first_names = self._tensors().keys()

    def read(self) -> dict[str, np.ndarray]:
        """Arrays by name, on the host; not necessarily copies."""
        found = {path: _array_of(place.tensor) for path, place in self._tensors().items()}
        for place, value, first in self._numbers():
            if value != first:
                found[place.path] = np.array(value)
        return found

    def write(self, saved: Mapping[str, np.ndarray]) -> None:
        """Give the modules what `read` found. What they did not have then, they lose.

        Raises:
            ValueError: that is of other modules.
        """
        if self._first_names and not self._first_names & saved.keys():
            raise ValueError(f"it has nothing for {', '.join(sorted(self._first_names))}")
        for place, value, first in self._numbers():
            wanted = saved[place.path].item() if place.path in saved else first
            if value != wanted:
                setattr(place.owner, place.name, wanted)
        tensors = self._tensors()
        with torch.no_grad():
            for path, place in tensors.items():
                if path not in saved:
                    self._forget(place)
                elif not _same_bits(_array_of(place.tensor), saved[path]):
                    self._set(place, saved[path])
            for path in saved.keys() - tensors.keys():
                place = self._place(path)
                if not isinstance(getattr(place.owner, place.name, None), _NUMBERS):
                    setattr(place.owner, place.name, torch.from_numpy(np.array(saved[path])))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A context at whose end the modules have again what they had before."""
        saved = {name: array.copy() for name, array in self.read().items()}
        try:
            yield
        finally:
            self.write(saved)

    def _tensors(self) -> dict[str, Place]:
        places = [
            Place(owner, name, f"{path}.{name}")
            for path, owner in self._owners.items()
            for name, tensor in _other_tensors(owner)
            if not isinstance(tensor, nn.Parameter) and tensor.grad_fn is None and tensor.layout == torch.strided
        ]
        return {place.path: place for place in places if (id(place.owner), place.name) not in self._in_x}

    def _numbers(self) -> Iterator[tuple[Place, Any, Any]]:
        """(place, value, first value) of numbers in modules that are not torch's own."""
        for path, owner in self._owners.items():
            if type(owner).__module__.partition(".")[0] == "torch":
                continue
            for name, first in self._first[path].items():
                value = vars(owner).get(name)
                if name != "training" and type(first) in _NUMBERS and type(value) in _NUMBERS:
                    yield Place(owner, name, f"{path}.{name}"), value, first

    def _place(self, path: str) -> Place:
        """Raises ValueError where there is no such module."""
        owner, _, name = path.rpartition(".")
        if owner not in self._owners:
            raise ValueError(f"it holds {path}, for which the model has no place")
        return Place(self._owners[owner], name, path)

    def _set(self, place: Place, array: np.ndarray) -> None:
        old = place.tensor
        new = torch.from_numpy(np.array(array))
        if new.dtype != old.dtype and old.element_size() in _BITS and new.dtype == _BITS[old.element_size()]:
            new = new.view(old.dtype)
        new = new.to(old.device)
        # Others may hold a buffer; what an attribute holds may be another's, such as a batch.
        if place.name in dict(place.owner.named_buffers(recurse=False)) and (new.shape, new.dtype) == (
            old.shape,
            old.dtype,
        ):
            old.copy_(new)
        else:
            setattr(place.owner, place.name, new)

    def _forget(self, place: Place) -> None:
        first = self._first[place.path.rpartition(".")[0]]
        if place.name in vars(place.owner) and place.name not in first:
            delattr(place.owner, place.name)
        else:
            setattr(place.owner, place.name, first.get(place.name))


def _array_of(tensor: torch.Tensor) -> np.ndarray:
    """A host array of a tensor, or of its bits where NumPy has no such type."""
    host = tensor.detach().resolve_conj().resolve_neg().cpu()
    try:
        return host.numpy()
    except TypeError:
        return host.view(_BITS[host.element_size()]).numpy()


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()
