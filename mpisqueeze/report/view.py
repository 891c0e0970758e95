"""What a run tells whoever watches it, on rank 0; this one tells nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpisqueeze.preparation import Run
    from mpisqueeze.record.iterations import Progress


class View:
    """A silent view, and the interface of the others."""

    def start(self, run: Run, environment: dict[str, Any]) -> None:
        """Before the first iteration."""

    def progress(self, progress: Progress) -> None:
        """A few times a second."""

    def evaluation(self, line: dict[str, Any]) -> None:
        """After each evaluation, with its line of evaluations.jsonl."""

    def finish(self, summary: dict[str, Any]) -> None:
        """After the last iteration, whatever the status."""
