"""`mpisqueeze info --topology` as a list and a table."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.text import Text

from mpisqueeze.quantities import grouped, significant, size
from mpisqueeze.report.tables import make_list, make_table

#: W is shown up to this many ranks.
SHOWN = 12


def topology_report(facts: dict[str, Any]) -> Group:
    """The facts for a terminal."""
    degrees = sorted({facts["degree_min"], facts["degree_max"]})
    mixing, nbytes = facts["mixing_time"], facts["bytes_per_iteration"]
    payloads = f"{grouped(facts['payloads_per_iteration'])} payloads over all ranks"
    if nbytes is not None:
        payloads += f", {size(nbytes)} with {facts['compressor']} at d = {grouped(facts['dimension'])}"
    about = make_list(
        [
            ("graph", f"{facts['topology']} of {grouped(facts['ranks'])} ranks"),
            ("neighbours", " to ".join(map(str, degrees))),
            ("spectral gap 1 − ρ", significant(facts["spectral_gap"], 4)),
            *([] if facts["lambda_min"] is None else [("λ_min", significant(facts["lambda_min"], 4))]),
            *([("rounds", _rounds(facts))] if facts["rounds"] > 1 else []),
            ("mixing time 1/ln(1/ρ)", "never" if mixing is None else f"{significant(mixing)} iterations"),
            ("an iteration", payloads),
            *([("note", facts["note"])] if facts["note"] else []),
        ]
    )
    if facts["ranks"] > SHOWN:
        return Group(about, Text(f"W is shown up to {SHOWN} ranks", style="dim"))
    table = make_table(title="W" if facts["rounds"] == 1 else "W of the first round")
    for title in ("", *map(str, range(facts["ranks"]))):
        table.add_column(title, justify="right")
    for row, values in enumerate(facts["W"]):
        table.add_row(str(row), *(f"{value:.3f}" if value else "·" for value in values))
    return Group(about, table)


def _rounds(facts: dict[str, Any]) -> str:
    """The number of rounds, and the models after them."""
    exact = "all models are equal" if facts["exact_after"] else "not yet, as N is no power of two"
    return f"{facts['rounds']}, an iteration each: then {exact}"
