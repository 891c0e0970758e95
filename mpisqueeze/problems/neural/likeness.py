"""Modules that workers of a process may use by turns: those that are the same but for what is swapped at each turn."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Hashable, Iterable, Mapping
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, Enum, torch.dtype, torch.device)
#: The attributes that every module has, of which these three hold its parts.
_OF_MODULES = vars(nn.Module()).keys()
_PARTS = ("_parameters", "_buffers", "_modules")


class _UnlikeError(Exception):
    """A value that is like no other."""


def likeness(owners: Mapping[str, nn.Module], others: Iterable[Any]) -> Hashable | None:
    """A value that is equal for modules of the same types, parameters, buffers and other attributes; None for none.

    There is none where an attribute cannot be compared, or may be changed without notice: an object, hooks, a function
    with a closure, and in a module that is not torch's own a list or a dictionary.

    Args:
        owners: all modules, by their paths.
        others: more that must be equal, such as a loss.
    """
    paths = {id(owner): path for path, owner in owners.items()}
    try:
        found = [
            (path, type(owner), tuple(_attribute(owner, name, value, paths) for name, value in vars(owner).items()))
            for path, owner in owners.items()
        ]
        return (*found, *(_value(other, True) for other in others if not isinstance(other, nn.Module)))
    except _UnlikeError:
        return None


def _attribute(owner: nn.Module, name: str, value: Any, paths: Mapping[int, str]) -> Hashable:
    if name in _PARTS:
        parts = value.items()
        return name, tuple((key, paths[id(p)] if isinstance(p, nn.Module) else _value(p, True)) for key, p in parts)
    if name in _OF_MODULES and isinstance(value, dict):
        if value:
            raise _UnlikeError
        return name
    is_own = name not in _OF_MODULES and type(owner).__module__.partition(".")[0] != "torch"
    return name, _value(value, is_own)


def _value(value: Any, is_own: bool) -> Hashable:
    """A value that is equal for equal values; lists and sets have one unless they are a user's own."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, tuple) or (isinstance(value, list) and not is_own):
        return type(value), tuple(_value(one, is_own) for one in value)
    if isinstance(value, set) and not is_own:
        return frozenset(_value(one, is_own) for one in value)
    if isinstance(value, FunctionType) and not value.__closure__ and not vars(value):
        return value.__code__, id(value.__globals__), _value(value.__defaults__, True), _named(value.__kwdefaults__)
    if isinstance(value, BuiltinFunctionType):
        return value
    if isinstance(value, weakref.ref) and not is_own:
        # Recurrent layers of torch's have some of their own parameters.
        return weakref.ref
    if isinstance(value, partial):
        return partial, _value(value.func, True), _value(value.args, True), _named(value.keywords)
    if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.grad_fn is None:
        return type(value), value.dtype, value.shape, value.requires_grad, _digest(value)
    raise _UnlikeError


def _named(values: Mapping[str, Any] | None) -> Hashable:
    return tuple((name, _value(value, True)) for name, value in (values or {}).items())


def _digest(tensor: torch.Tensor) -> bytes:
    """A digest of a tensor's bits."""
    host = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return hashlib.sha256(host.reshape(-1).view(torch.uint8).numpy()).digest()
