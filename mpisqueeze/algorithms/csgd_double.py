"""Naively compressed SGD: double compression."""

from __future__ import annotations

from mpisqueeze.algorithms.base import Setup
from mpisqueeze.algorithms.csgd import CSGD


class CSGDDouble(CSGD):
    """x ← x − γ·C(mean C(g_r)): `csgd` whose server compresses its answer too, without memory on either side."""

    name = "csgd-double"
    summary = "naive double compression: C(mean C(g))"
    formula = "2cN"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, down=setup.server_codec())
