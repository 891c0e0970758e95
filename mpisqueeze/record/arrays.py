"""Arrays on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]], durable: bool = True) -> None:
    """Write a .npz file and, with `durable`, have it on the disk. Raises OSError where that is full."""
    try:
        with open(path, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
    except ValueError as error:
        # A zip file that could not be written cannot be closed either, and says only that.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
