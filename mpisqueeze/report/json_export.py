"""Results as JSON."""

from __future__ import annotations

import json
from typing import Any

from mpisqueeze.files import write_text


def write_json(value: Any, target: str) -> None:
    """Write `value` as JSON to a file, or alone to stdout for `-`."""
    write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", target)
