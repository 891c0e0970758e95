"""mpisqueeze: does compressed or decentralized SGD pay off on this cluster, which variant, and by how much?

The library is the commands and their results in Python, see docs/library.md. Everything is imported when it is first
used, so that `import mpisqueeze` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpisqueeze import torch
    from mpisqueeze.errors import RankFailureError, UsageError
    from mpisqueeze.library.commands import advise, compare, train
    from mpisqueeze.library.results import ComparisonResult, RunResult, load

    __version__: str

__all__ = [
    "ComparisonResult",
    "RankFailureError",
    "RunResult",
    "UsageError",
    "__version__",
    "advise",
    "compare",
    "load",
    "torch",
    "train",
]

#: Modules of the public names; `torch` is a package itself.
_HOMES = {
    **dict.fromkeys(("UsageError", "RankFailureError"), "errors"),
    **dict.fromkeys(("advise", "compare", "train"), "library.commands"),
    **dict.fromkeys(("ComparisonResult", "RunResult", "load"), "library.results"),
}


def __getattr__(name: str) -> Any:
    """Find a public name on demand; the version, too: importlib.metadata loads slowly."""
    from importlib import import_module

    if name == "__version__":
        found: Any = _version()
    elif name == "torch":
        return import_module(f"{__name__}.torch")
    elif name in _HOMES:
        found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mpisqueeze")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
