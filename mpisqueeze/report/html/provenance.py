"""Settings and environments of runs, told once where several have them in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpisqueeze.quantities import grouped, size
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.html.blocks import Table, TableCell

#: Entries of an environment that may differ between two runs on the same machines.
_FLEETING = ("started_utc", "command_line", "link", "link_model", "buffers_reason", "ranks", "devices")
_FLEETING_OF_HOST = ("ranks", "cores", "cpu_quota")
#: Runs, links and commands named in a list at most.
NAMED = 6


def settings(runs: Sequence[RunLog], styles: dict[str, int]) -> dict[str, Any]:
    """The settings that all runs share, a table of those that differ, and the names of those that are not given."""
    known = [run for run in runs if run.config]
    if not known:
        return {}
    names = dict.fromkeys(name for run in known for name in run.config if name not in ("parts", "out"))
    values = {name: [run.config.get(name) for run in known] for name in names}
    shared = {name: found[0] for name, found in values.items() if all(value == found[0] for value in found)}
    differing = [name for name in names if name not in shared]
    rows: list[list[TableCell | str]] = [
        [TableCell(run.name, style=styles[run.name]), *(_setting(name, run.config) for name in differing)]
        for run in known
    ]
    titles = ["", *map(_option, differing)]
    table = Table(titles, rows, "What differs between the runs", left=range(len(titles)))
    return {
        "differing": table if differing else None,
        "shared": [(_option(name), _setting(name, shared)) for name, value in shared.items() if value is not None],
        "unset": [_option(name) for name, value in shared.items() if value is None],
    }


def _option(name: str) -> str:
    return name.replace("_", "-")


def _setting(name: str, config: dict[str, Any]) -> str:
    # A seed is a name rather than a count.
    return str(config["seed"]) if name == "seed" and "seed" in config else _text(config.get(name))


def _text(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return grouped(value) if isinstance(value, int) and value >= 1000 else str(value)


def environment(runs: Sequence[RunLog]) -> dict[str, Any]:
    """The machines and versions, once for all runs that have them in common."""
    groups: list[tuple[dict[str, Any], list[RunLog]]] = []
    for run in runs:
        if run.environment:
            lasting = _lasting(run.environment)
            known = next((members for other, members in groups if other == lasting), None)
            if known is None:
                groups.append((lasting, [run]))
            else:
                known.append(run)
    return {"groups": [_machines(members) for _, members in groups]} if groups else {}


def _lasting(environment: dict[str, Any]) -> dict[str, Any]:
    """The entries that tell machines and versions apart."""
    lasting = {key: value for key, value in environment.items() if key not in _FLEETING}
    hosts = environment.get("hosts") or []
    lasting["hosts"] = [{k: v for k, v in host.items() if k not in _FLEETING_OF_HOST} for host in hosts]
    return lasting


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def _machines(runs: Sequence[RunLog]) -> dict[str, Any]:
    """The machines of runs that had the same ones; hosts as the run with most ranks has them."""
    environment = max((run.environment for run in runs), key=lambda one: one.get("ranks") or 0)
    ranks = sorted({run.environment.get("ranks") or 0 for run in runs})
    versions, variables = environment.get("versions") or {}, environment.get("variables") or {}
    started = min(str(run.environment.get("started_utc")) for run in runs)
    facts = [
        ("started", started.replace("T", " ").replace("+00:00", " UTC")),
        ("MPI", str(environment.get("mpi_library") or "unknown").partition(",")[0]),
        ("ranks", ", ".join(map(_text, ranks))),
        *((name, environment.get(name)) for name in ("device", "buffers", "kernels")),
        ("link", _some(sorted({run.network for run in runs}))),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("commit", environment.get("git_commit") or "unknown"),
    ]
    keys = {"hostname": "host", "ranks": "ranks", "cores": "cores", "cpu_quota": "CPU quota", "cpu_model": "CPU"}
    hosts = [
        [
            *(_text(host.get(key)) for key in keys),
            size(host["memory_bytes"]) if host.get("memory_bytes") else "—",
            _text(host.get("system")),
        ]
        for host in environment.get("hosts") or []
    ]
    return {
        "names": _some([run.name for run in runs]),
        "facts": facts,
        "hosts": Table([*keys.values(), "memory", "system"], hosts, left=(0, 4, 6)),
        "commands": list(dict.fromkeys(str(run.environment.get("command_line")) for run in runs)),
        "variables": "\n".join(f"{name}={value}" for name, value in variables.items()),
        "folders": "\n".join(str(run.path) for run in runs),
    }
