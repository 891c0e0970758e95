"""Naively compressed SGD: double compression."""

from __future__ import annotations

from mpisqueeze.algorithms.csgd import CSGD


class CSGDDouble(CSGD):
    """x ← x − γ·C(mean C(g_r)): `csgd` whose server compresses its answer too, without memory on either side."""

    name = "csgd-double"
    summary = "naive double compression: C(mean C(g))"
    formula = "2cN"
    compresses_down = True
