"""Names that a shell completes: of parts, choices and presets, found without importing any part."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from mpisqueeze.runs.presets import PRESETS
from mpisqueeze.settings import SETTINGS, Setting

Completer = Callable[[str], list[str]]

_NAME = re.compile(r'^    name = "(.+)"$', re.MULTILINE)
_PACKAGE = Path(__file__).parent.parent


def part_names(folder: str) -> list[str]:
    """The built-in parts in a package, by the `name` that each class states; sorted."""
    sources = (path.read_text(encoding="utf-8") for path in (_PACKAGE / folder).glob("*.py"))
    return sorted(name for source in sources for name in _NAME.findall(source))


def offering(names: Iterable[str]) -> Completer:
    """A completer that offers fixed names."""
    found = list(names)
    return lambda incomplete: [name for name in found if name.startswith(incomplete)]


def parts(folder: str) -> Completer:
    """A completer that offers the parts of a package."""
    return lambda incomplete: offering(part_names(folder))(incomplete)


def pairs(incomplete: str) -> list[str]:
    """Complete ALGORITHM/COMPRESSOR."""
    algorithm, slash, _ = incomplete.partition("/")
    if not slash:
        return offering(part_names("algorithms"))(incomplete)
    return offering(f"{algorithm}/{name}" for name in part_names("compressors"))(incomplete)


def sorts(incomplete: str) -> list[str]:
    """Complete what runs are ranked by."""
    from mpisqueeze.analysis.columns import SORTS

    return offering(SORTS)(incomplete)


def numbers(incomplete: str) -> list[str]:
    """Complete the options that `--tune` takes, up to their equals sign."""
    return offering(f"{s.option[2:]}=" for s in SETTINGS.values() if s.type in (int, float))(incomplete)


def names_for(setting: Setting) -> Completer | None:
    """A completer for a setting's values; None for numbers and paths."""
    if setting.name in ("algorithm", "compressor", "problem"):
        return parts(f"{setting.name}s")
    names = setting.kind.choices or setting.names
    return offering(names) if names else None


presets: Completer = offering(PRESETS)
