"""Where results go besides the screen: a file, or stdout alone."""

from __future__ import annotations

import os

from mpisqueeze.errors import UsageError

COLORS = ("auto", "always", "never")


def check_color(color: str) -> None:
    """Raise UsageError for a --color that cannot be."""
    if color not in COLORS:
        raise UsageError(f"{color!r} is not one of {', '.join(COLORS)}", "--color")


def check_targets(targets: dict[str, str | None]) -> bool:
    """Check where results are to be written, before there are any.

    Args:
        targets: FILE, `-` for stdout or None, by option.

    Returns:
        Whether one of them takes stdout, where nothing else may then be written.

    Raises:
        UsageError: a file cannot be written, or two results want stdout.
    """
    alone = [option for option, target in targets.items() if target == "-"]
    if len(alone) > 1:
        raise UsageError(f"{alone[0]} takes stdout already; write one of them to a file", alone[1])
    for option, target in targets.items():
        if target is not None and target != "-":
            folder = os.path.dirname(os.path.realpath(target))
            if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or not _is_name(target):
                raise UsageError(f"{target or repr(target)} cannot be written", option)
    return bool(alone)


def _is_name(target: str) -> bool:
    """Whether there is a file of this name that can be written, or can be one."""
    if not target:
        return False
    try:
        os.stat(target)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return not os.path.isdir(target) and os.access(target, os.W_OK)
