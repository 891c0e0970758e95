"""Results as a LaTeX table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mpisqueeze.files import write_text
from mpisqueeze.report.tables import TableColumn
from mpisqueeze.streams import harmless

#: Characters that LaTeX takes for commands, and those of our tables that its usual fonts lack.
_ESCAPED = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u00a0": "~",
        "—": "---", "–": "--", "…": r"\ldots{}", "†": r"$\dagger$", "×": r"$\times$", "−": "$-$", "²": "$^2$",
        "≤": r"$\leq$", "≥": r"$\geq$", "√": r"$\surd$", "‖": r"$\|$", "⌈": r"$\lceil$",
        "⌉": r"$\rceil$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "η": r"$\eta$",
        "λ": r"$\lambda$", "µ": r"$\mu$", "μ": r"$\mu$", "ρ": r"$\rho$", "Σ": r"$\Sigma$", "Ω": r"$\Omega$",
    }
)  # fmt: skip


def write_latex(columns: Sequence[TableColumn], rows: Sequence[Any], notes: Sequence[str], target: str) -> None:
    """Write a `tabular` with the rules of the package booktabs, and notes above it as comments.

    Args:
        target: a file, or `-` for stdout.
    """
    comments = [r"needs \usepackage{booktabs}", *(line for note in notes for line in note.splitlines())]
    lines = [
        *(f"% {harmless(comment)}" for comment in comments),
        rf"\begin{{tabular}}{{{''.join('l' if column.left else 'r' for column in columns)}}}",
        r"\toprule",
        _line(column.title for column in columns),
        r"\midrule",
        *(_line(str(column.cell(row)) for column in columns) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    write_text("\n".join(lines) + "\n", target)


def _line(cells: Iterable[str]) -> str:
    return rf"{' & '.join(harmless(' '.join(cell.splitlines())).translate(_ESCAPED) for cell in cells)} \\"
