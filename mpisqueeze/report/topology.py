"""`mpisqueeze info --topology`: a gossip graph's mixing matrix, how fast it mixes, what it sends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mpisqueeze.errors import UsageError
from mpisqueeze.parts import registry
from mpisqueeze.quantities import grouped, significant, size
from mpisqueeze.topology import Topology

#: W is shown up to this many ranks, and written to JSON up to 64.
SHOWN = 12
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
        "spectral_gap": spectrum.gap,
        "rho": spectrum.rho,
        "lambda_min": spectrum.smallest,
        "mu": spectrum.mu,
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


def topology_report(facts: dict[str, Any]) -> Group:
    """The facts for a terminal."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    degrees = sorted({facts["degree_min"], facts["degree_max"]})
    mixing = facts["mixing_time"]
    grid.add_row("graph", f"{facts['topology']} of {grouped(facts['ranks'])} ranks")
    grid.add_row("neighbours", " to ".join(map(str, degrees)))
    grid.add_row("spectral gap 1 − ρ", significant(facts["spectral_gap"], 4))
    grid.add_row("λ_min", significant(facts["lambda_min"], 4))
    grid.add_row("mixing time 1/ln(1/ρ)", "never" if mixing is None else f"{significant(mixing)} iterations")
    payloads = f"{grouped(facts['payloads_per_iteration'])} payloads over all ranks"
    if facts["bytes_per_iteration"] is not None:
        payloads += (
            f", {size(facts['bytes_per_iteration'])} with {facts['compressor']} at d = {grouped(facts['dimension'])}"
        )
    grid.add_row("an iteration", payloads)
    if facts["ranks"] > SHOWN:
        return Group(grid, Text(f"W is shown up to {SHOWN} ranks", style="dim"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="W", title_justify="left")
    for column in range(-1, facts["ranks"]):
        table.add_column("" if column < 0 else str(column), justify="right")
    for row, values in enumerate(facts["W"]):
        table.add_row(str(row), *(f"{value:.3f}" if value else "·" for value in values))
    return Group(grid, table)
