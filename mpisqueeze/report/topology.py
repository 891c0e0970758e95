"""`mpisqueeze info --topology` as tables."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mpisqueeze.quantities import grouped, significant, size

#: W is shown up to this many ranks.
SHOWN = 12


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
