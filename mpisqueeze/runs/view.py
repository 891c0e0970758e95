"""The interface of what is shown on rank 0 while runs go on, and a view that shows nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpisqueeze.record.iterations import Progress
    from mpisqueeze.record.reading import RunLog
    from mpisqueeze.runs.pairs import Entry
    from mpisqueeze.runs.preparation import Run


class View:
    """A silent view, and the interface of the others: of a run, of a comparison's runs in turn, of claims in turn."""

    @property
    def enough(self) -> bool:
        """The run is to end after this iteration, as its time is over; asked on rank 0."""
        return False

    def claim_begins(self, number: int, name: str, runs: int, workers: int | None) -> None:
        """Claim `number`, counted from 0, is about to be tested with so many runs."""

    def runs_to_come(self, entries: Sequence[Entry]) -> None:
        """These runs are to come, in place of those that were said to come before."""

    def run_begins(self, index: int) -> None:
        """Run `index` is about to be set up."""

    def start(self, run: Run, environment: dict[str, Any]) -> None:
        """Before the first iteration."""

    def remark(self, text: str) -> None:
        """A remark for the user, before the first iteration."""

    def progress(self, progress: Progress) -> None:
        """A few times a second."""

    def evaluation(self, line: dict[str, Any]) -> None:
        """After each evaluation, with its line of evaluations.jsonl."""

    def finish(self, summary: dict[str, Any]) -> None:
        """After the last iteration, whatever the status."""

    def run_ended(self, index: int, run: RunLog) -> None:
        """Run `index` has ended, or was skipped."""

    def claim_ended(self, verdict: dict[str, Any]) -> None:
        """The verdict of a claim is known: an object of claims.json."""

    def close(self) -> None:
        """Nothing more is to be shown."""
