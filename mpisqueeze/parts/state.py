"""The state that a part carries from one iteration to the next besides x, as arrays by name.

A part says so by `state`, a dictionary of arrays, or by `memory`, the names of attributes that are arrays, lists of
arrays, numbers or None. What was saved is copied into these arrays; where `state` is a property with a setter, it is
assigned to that instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpisqueeze.problems.base import copy_to

_STATE = "state."


def carried(part: Any) -> dict[str, Any]:
    """Arrays and numbers by name; the arrays are the live ones."""
    found: dict[str, Any] = {}
    for key, name in _memory(part).items():
        value = getattr(part, name)
        if isinstance(value, list):
            found |= {f"{key}.{i}": item for i, item in enumerate(value)}
        elif value is not None:
            found[key] = value
    state = getattr(part, "state", None)
    return found | {f"{_STATE}{key}": value for key, value in (state.items() if isinstance(state, Mapping) else ())}


def copied(part: Any) -> dict[str, np.ndarray]:
    """Copies on the host of what a part carries."""
    return {key: to_host(value).copy() for key, value in carried(part).items()}


def to_host(value: Any) -> np.ndarray:
    """An array, of NumPy or CuPy, or a number as a host array."""
    return value.get() if hasattr(value, "get") else np.asarray(value)


def put_back(part: Any, saved: Mapping[str, np.ndarray]) -> None:
    """Give a part what it carried. Raises ValueError, before any change, if that is of another part."""
    live = carried(part)
    assigned = {key: value for key, value in saved.items() if key.startswith(_STATE)}
    settable = getattr(getattr(type(part), "state", None), "fset", None) is not None
    if settable:
        saved = {key: value for key, value in saved.items() if key not in assigned}
        live = {key: value for key, value in live.items() if not key.startswith(_STATE)}
    check_same(live, saved)
    for key, value in saved.items():
        if hasattr(live[key], "dtype"):
            copy_to(live[key], value)
    for key, name in _memory(part).items():
        if key in saved and not hasattr(live[key], "dtype"):
            setattr(part, name, saved[key].item())
    if settable:
        part.state = {key.removeprefix(_STATE): value for key, value in assigned.items()}


def _memory(part: Any) -> dict[str, str]:
    """The attributes named in `memory` by their names without a leading underscore."""
    names = getattr(part, "memory", ())
    # Whatever else a plug-in may call so is its own.
    named = isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)
    return {name.lstrip("_"): name for name in names} if named else {}


def check_same(live: Mapping[str, Any], saved: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless both have the same names, shapes and types."""
    if set(live) != set(saved):
        raise ValueError(f"it holds {', '.join(sorted(saved)) or 'nothing'} and not {', '.join(sorted(live))}")
    for key, value in saved.items():
        shape, dtype = np.shape(live[key]), getattr(live[key], "dtype", value.dtype)
        if value.shape != shape or value.dtype != dtype:
            raise ValueError(f"its {key} is {value.dtype} {value.shape} and not {dtype} {shape}")
