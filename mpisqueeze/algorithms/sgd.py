"""Centralized SGD through a root."""

from __future__ import annotations

from mpisqueeze.algorithms.base import Setup
from mpisqueeze.algorithms.csgd import CSGD


class SGD(CSGD):
    """x ← x − γ·mean g_r: `csgd` with full vectors in both directions."""

    name = "sgd"
    summary = "centralized SGD, gather and broadcast of full vectors through rank 0"
    compresses = False
    formula = "2N"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, up=setup.identity_codec())
