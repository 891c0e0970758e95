"""Settings and environments of runs, told once where several have them in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpisqueeze.quantities import grouped, size
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.html.blocks import Block, Code, Facts, Folded, Paragraph, Table, TableCell

#: Entries of an environment that may differ between two runs on the same machines.
_FLEETING = ("started_utc", "command_line", "link", "link_model", "buffers_reason", "ranks", "devices")
_FLEETING_OF_HOST = ("ranks", "cores")
#: Runs, links and commands named in a list at most.
_NAMED = 6


def link_of(run: RunLog) -> str:
    lab = run.environment.get("lab")
    if run.config.get("link"):
        return f"emulated, {run.config['link']}"
    return f"lab, {lab['rate'] / 1e6:g} Mbit/s" if lab else "real"


def settings(runs: Sequence[RunLog], styles: dict[str, int]) -> list[Block]:
    """The settings that all runs share, below a table of those that differ."""
    known = [run for run in runs if run.config]
    if not known:
        return []
    hidden = ("parts", "out")
    names = list(dict.fromkeys(name for run in known for name in run.config if name not in hidden))
    values = {name: [run.config.get(name) for run in known] for name in names}
    shared = {name: found[0] for name, found in values.items() if all(value == found[0] for value in found)}
    blocks: list[Block] = []
    differing = [name for name in names if name not in shared]
    if differing:
        rows: list[list[TableCell | str]] = [
            [TableCell(run.name, style=styles[run.name]), *(_setting(name, run.config) for name in differing)]
            for run in known
        ]
        every = list(range(len(differing) + 1))
        blocks.append(Table(["", *map(_option, differing)], rows, "What differs between the runs", every))
    unset = [_option(name) for name, value in shared.items() if value is None]
    blocks.append(
        Facts([(_option(name), _setting(name, shared)) for name, value in shared.items() if value is not None])
    )
    if unset:
        blocks.append(Paragraph(f"Not given: {', '.join(unset)}.", "note"))
    return blocks


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


def environment(runs: Sequence[RunLog]) -> list[Block]:
    """The machines and versions; once for all runs that have them in common."""
    groups: list[tuple[dict[str, Any], list[RunLog]]] = []
    for run in runs:
        if run.environment:
            lasting = _lasting(run.environment)
            known = next((members for other, members in groups if other == lasting), None)
            if known is None:
                groups.append((lasting, [run]))
            else:
                known.append(run)
    blocks: list[Block] = []
    for _, members in groups:
        if len(groups) > 1:
            blocks.append(Paragraph(f"Of {_some([run.name for run in members])}:"))
        blocks += _machines(members)
    return blocks


def _lasting(environment: dict[str, Any]) -> dict[str, Any]:
    """The entries that tell machines and versions apart."""
    lasting = {key: value for key, value in environment.items() if key not in _FLEETING}
    hosts = environment.get("hosts") or []
    lasting["hosts"] = [{k: v for k, v in host.items() if k not in _FLEETING_OF_HOST} for host in hosts]
    return lasting


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


def _machines(runs: Sequence[RunLog]) -> list[Block]:
    """The machines of runs that had the same ones; hosts as the run with most ranks has them."""
    environment = max((run.environment for run in runs), key=lambda one: one.get("ranks") or 0)
    ranks = sorted({run.environment.get("ranks") or 0 for run in runs})
    versions = environment.get("versions") or {}
    started = sorted(str(run.environment.get("started_utc")) for run in runs)
    facts = [
        ("started", started[0].replace("T", " ").replace("+00:00", " UTC")),
        ("MPI", str(environment.get("mpi_library") or "unknown").partition(",")[0]),
        ("ranks", ", ".join(map(_text, ranks))),
        ("device", str(environment.get("device"))),
        ("buffers", str(environment.get("buffers"))),
        ("kernels", str(environment.get("kernels"))),
        ("link", _some(sorted({link_of(run) for run in runs}))),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("commit", str(environment.get("git_commit") or "unknown")),
    ]
    hosts = [
        [
            str(host.get("hostname")),
            _text(host.get("ranks")),
            _text(host.get("cores")),
            str(host.get("cpu_model")),
            size(host["memory_bytes"]) if host.get("memory_bytes") else "—",
            str(host.get("system")),
        ]
        for host in environment.get("hosts") or []
    ]
    blocks: list[Block] = [Facts(facts)]
    if hosts:
        titles = ["host", "ranks", "cores", "CPU", "memory", "system"]
        table = Table(titles, hosts, left=(0, 3, 5))
        blocks.append(table if len(hosts) <= 8 else Folded(f"{len(hosts)} hosts", [table]))
    commands = list(dict.fromkeys(str(run.environment.get("command_line")) for run in runs))
    blocks += [Paragraph("Command", "note"), *(Code(command) for command in commands[:_NAMED])]
    if len(commands) > _NAMED:
        blocks.append(Folded(f"{len(commands) - _NAMED} more", [Code(command) for command in commands[_NAMED:]]))
    variables = environment.get("variables") or {}
    if variables:
        text = "\n".join(f"{name}={value}" for name, value in variables.items())
        blocks.append(Folded("Environment variables", [Code(text)]))
    folders = [str(run.path) for run in runs]
    blocks.append(Folded("Run folders", [Code("\n".join(folders))]))
    return blocks
