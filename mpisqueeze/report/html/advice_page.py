"""The page of an advice: the verdict, the methods that were raced, and then those over their seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpisqueeze.analysis.seeds import Pooled
from mpisqueeze.quantities import counted, duration, significant
from mpisqueeze.record.calibration import Calibration
from mpisqueeze.report.advice_view import commands, notes, raced
from mpisqueeze.report.html.blocks import Chapter, Page, Table, TableCell
from mpisqueeze.report.html.seeds_page import seeds_page

_BADGES = {True: "pays off", False: "nothing pays off", None: "not told apart"}


def advice_page(facts: Mapping[str, Any], pooled: Pooled | None, calibration: Calibration | None) -> Page:
    """The page of an advice.

    Args:
        facts: advice.json's object.
        pooled: the runs that count; None where none has ended.
        calibration: of the network, where there is one.
    """
    first, *others = facts["sentences"]
    about = {
        "answer": first,
        "said": others,
        "methods": _table(facts),
        "notes": notes(facts),
        "commands": commands(facts),
    }
    spent = f"{duration(facts['spent_s'])} of {duration(facts['budget_s'])}"
    lead = f"{counted(facts['ranks'], 'virtual worker' if facts['virtual'] else 'rank')}; {facts['network']}; {spent}"
    below = seeds_page(pooled, calibration).sections if pooled else []
    return Page(
        "Does it pay off here?", lead, [Chapter("Verdict", "advice", about), *below], _BADGES[facts["pays_off"]]
    )


def _table(facts: Mapping[str, Any]) -> Table:
    shown = raced(facts)
    metrics = list(dict.fromkeys(name for row in shown for name in row["final"]))
    titles = ["method", "rate", "seeds", "× time", "95 % interval", *(name.replace("_", " ") for name in metrics)]
    rows: list[list[TableCell | str]] = []
    for row in shown:
        relative = row["relative"]
        ends = [relative["low"], relative["high"]]
        interval = "—" if None in ends else " to ".join(significant(end) for end in ends)
        rate = row["settings"].get("lr")
        rows.append([
            TableCell(row["label"], best=row["state"] == "best", badge="" if row["state"] == "raced" else row["state"]),
            "—" if rate is None else f"{rate:g}",
            str(len(row["seeds"])),
            _shown(relative["ratio"]),
            interval,
            *(_shown(row["final"].get(name)) for name in metrics),
        ])  # fmt: skip
    return Table(titles, rows)


def _shown(value: float | None) -> str:
    return "—" if value is None else significant(value, 4)
