"""Centralized SGD through a server."""

from __future__ import annotations

from mpisqueeze.algorithms.csgd import CSGD


class SGD(CSGD):
    """x ← x − γ·mean g_r: `csgd` with full vectors in both directions."""

    name = "sgd"
    summary = "centralized SGD, gather and broadcast of full vectors"
    formula = "2N"
    compresses = False
    compresses_up = False
