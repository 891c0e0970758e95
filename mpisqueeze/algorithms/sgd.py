"""Centralized SGD through a server."""

from __future__ import annotations

from mpisqueeze.algorithms.centralized import ServerAlgorithm


class SGD(ServerAlgorithm):
    """x ← x − γ·mean g_r, with full vectors in both directions."""

    name = "sgd"
    summary = "centralized SGD, gather and broadcast of full vectors"
    formula = "2N"
    compresses = False
    compresses_up = False
    compresses_down = False
    linear = True
