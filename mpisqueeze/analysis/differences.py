"""The differences between runs that leave figures of theirs without a common measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mpisqueeze.quantities import grouped
from mpisqueeze.record.reading import RunLog
from mpisqueeze.record.summary import workers_of

#: At most so many values of a difference are named.
_NAMED = 4


def _of(key: str, show: Callable[[Any], str] = str) -> Callable[[RunLog], str | None]:
    """Reads an entry of a run's settings, which a run of another kind may lack."""

    def read(run: RunLog) -> str | None:
        value = run.config.get(key)
        return None if value is None else show(value)

    return read


def _ranks(run: RunLog) -> str | None:
    return str(workers_of(run.config)) if run.config else None


def _samples(run: RunLog) -> str | None:
    return grouped(run.config["samples"]) if run.config.get("samples") else "all" if run.config else None


def _network(run: RunLog) -> str | None:
    return run.network if run.environment else None


def _cpus(run: RunLog) -> str | None:
    models = {host.get("cpu_model") for host in run.environment.get("hosts", ())} - {None}
    return ", ".join(sorted(models)) or None


#: Measures that are no longer common, and the differences that end them: (name, value of a run).
_MEASURES: tuple[tuple[str, tuple[tuple[str, Callable[[RunLog], str | None]], ...]], ...] = (
    (
        "their losses and costs are of different problems",
        (("problem", _of("problem")), ("data", _of("data")), ("d", _of("dimension", grouped)), ("samples", _samples)),
    ),
    ("their bytes and times are not of the same exchange", (("ranks", _ranks), ("dtype", _of("dtype")))),
    (
        "their times are of different networks or machines",
        (("link", _network), ("device", lambda run: run.environment.get("device")), ("CPU", _cpus)),
    ),
)


def differences(runs: Sequence[RunLog]) -> list[str]:
    """A sentence for each measure that these runs do not have in common, with the values of what differs."""
    sentences = []
    for without, facts in _MEASURES:
        found = []
        for name, read in facts:
            names: dict[str, dict[str, None]] = {}
            for run in runs:
                if (value := read(run)) is not None:
                    names.setdefault(value, {})[run.name] = None
            if len(names) > 1:
                values = [f"{value} of {_first([*of])}" for value, of in names.items()]
                more = [f"{len(values) - _NAMED} more"] if len(values) > _NAMED else []
                found.append(f"{name} ({'; '.join(values[:_NAMED] + more)})")
        if found:
            sentences.append(f"These runs differ in {', '.join(found)}: {without}.")
    return sentences


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def emulated(runs: Sequence[RunLog]) -> str:
    """The emulated or virtual network that all runs share; empty where it is a real one, or where it differs."""
    networks = {run.network for run in runs if run.environment}
    kinds = {run.environment.get("link", "real") for run in runs if run.environment}
    return networks.pop() if len(networks) == 1 and "real" not in kinds else ""
