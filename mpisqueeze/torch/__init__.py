"""The exchanges for a training script of one's own on PyTorch, see docs/library.md.

`distribute` is for ranks of MPI; `ddp_hook` is for DistributedDataParallel, and loads no MPI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpisqueeze.torch.hook import HookState, ddp_hook
    from mpisqueeze.torch.optimizer import DistributedOptimizer, distribute

__all__ = ["DistributedOptimizer", "HookState", "ddp_hook", "distribute"]

_HOMES = {"DistributedOptimizer": "optimizer", "distribute": "optimizer", "HookState": "hook", "ddp_hook": "hook"}


def __getattr__(name: str) -> Any:
    """Find a public name on demand."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
