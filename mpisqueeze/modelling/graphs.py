"""Facts about a gossip graph: its mixing matrix W, how fast it mixes, and what an iteration on it sends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mpisqueeze.errors import UsageError
from mpisqueeze.parts import registry
from mpisqueeze.topology import Topology

#: W is in the facts up to this many ranks.
WRITTEN = 64


def topology_facts(
    spec: str, ranks: int, self_weight: float | None, dimension: int | None, compressor: str
) -> dict[str, Any]:
    """Facts about a graph on `ranks` ranks, with bytes for float32 vectors of `dimension`. Raises UsageError."""
    if ranks < 1:
        raise UsageError(f"must be at least 1, got {ranks}", "-n")
    topology = Topology(spec, ranks, self_weight)
    spectrum = topology.spectrum()
    degrees = [topology.degree(i) for i in range(ranks)]
    part = registry.compressors.find(compressor)
    payload = None
    if dimension is not None:
        payload = part.cls(dimension, np, np.float32, 0, **part.options).payload_bytes
    return {
        "topology": spec,
        "ranks": ranks,
        "self_weight": self_weight,
        "note": topology.note or None,
        "spectral_gap": spectrum.gap,
        "rho": spectrum.rho,
        "lambda_min": spectrum.smallest if topology.symmetric else None,
        "mu": spectrum.mu if topology.symmetric else None,
        "rounds": topology.rounds,
        "exact_after": topology.rounds if topology.rounds > 1 and not spectrum.rho else None,
        "mixing_time": spectrum.mixing_time if math.isfinite(spectrum.mixing_time) else None,
        "degree_min": min(degrees),
        "degree_max": max(degrees),
        "payloads_per_iteration": sum(degrees),
        "compressor": part.spec,
        "dimension": dimension,
        "payload_bytes": payload,
        "bytes_per_iteration": None if payload is None else payload * sum(degrees),
        "W": topology.matrix().tolist() if ranks <= WRITTEN else None,
    }
