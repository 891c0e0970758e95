"""The interface of a view of claims that are put to the test; importing it starts no MPI."""

from __future__ import annotations

from typing import Any

from mpisqueeze.runs.view import Watcher


class ClaimsWatcher(Watcher):
    """A silent view of claims and their runs, on rank 0, and the interface of the others."""

    def claim_begins(self, number: int, name: str, runs: int) -> None:
        """Claim `number`, counted from 0, is about to be tested with so many runs."""

    def claim_ended(self, verdict: dict[str, Any]) -> None:
        """The verdict of a claim is known: an object of claims.json."""
