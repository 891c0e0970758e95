"""What the commands do once their options are parsed; imported by the command that runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.text import Text

from mpisqueeze.comm.world import World
from mpisqueeze.config import TrainConfig, plan
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.report.terminal import choose_terminal, make_console
from mpisqueeze.report.view import View
from mpisqueeze.training import train

STATUS_CODES = {"ok": ExitCode.OK, "diverged": ExitCode.DIVERGED}
COLORS = ("auto", "always", "never")


def run_train(config: TrainConfig, json_to: str | None, color: str) -> int:
    """`mpisqueeze train`, on every rank; the exit code."""
    world = World()
    check_launch(world)
    planned = world.collectively(lambda: plan(config))
    world.on_root(lambda: check_output(json_to, color))
    view = View()
    if world.is_root:
        from mpisqueeze.report.training_view import TrainingView

        choice = choose_terminal(color, stdout_is_json=json_to == "-")  # type: ignore[arg-type]
        view = TrainingView(make_console(choice, stderr=json_to == "-"), choice.live)
    summary = train(planned, world, view)
    if world.is_root and json_to:
        write_json(summary, json_to)
    if summary["status"] == "interrupted":
        return ExitCode.INTERRUPTED if summary["signal"] == "SIGINT" else ExitCode.TERMINATED
    return STATUS_CODES[summary["status"]]


def check_launch(world: World) -> None:
    """Raise UsageError where `mpisqueeze launch` started ranks that MPI takes for so many worlds of one."""
    wanted = os.environ.get("MPISQUEEZE_LAUNCHED_RANKS", "")
    if wanted.isdigit() and int(wanted) != world.size:
        raise UsageError(
            f"launch started {wanted} ranks, but the MPI that mpi4py loads sees {world.size}: they do not match; name "
            "the launcher that belongs to this MPI (under SLURM, srun may need --mpi=pmix)",
            "--launcher",
        )


def check_output(json_to: str | None, color: str) -> None:
    """Raise UsageError for a --json or --color that cannot be."""
    if color not in COLORS:
        raise UsageError(f"{color!r} is not one of {', '.join(COLORS)}", "--color")
    if json_to and json_to != "-":
        folder = Path(json_to).resolve().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or Path(json_to).is_dir():
            raise UsageError(f"{json_to} cannot be written", "--json")


def write_json(value: Any, target: str) -> None:
    """Write `value` as JSON to a file, or alone to stdout for `-`."""
    text = json.dumps(value, indent=2, allow_nan=False)
    if target == "-":
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    else:
        Path(target).write_text(f"{text}\n", encoding="utf-8")


def run_check(text: str, color: str) -> int:
    """`mpisqueeze check`: the conformance tests of a part; exit code 2 if one fails."""
    from mpisqueeze.conformance import examine, find_part

    check_output(None, color)
    kind, part = find_part(text)
    console = make_console(choose_terminal(color))  # type: ignore[arg-type]
    console.print(f"{kind} [bold]{part.spec}[/]", soft_wrap=True)
    marks = {"passed": "[green]passed[/]  ", "failed": "[bold red]FAILED[/]  ", "doubtful": "[yellow]doubtful[/]"}
    counts = dict.fromkeys(marks, 0)
    for finding in examine(kind, part):
        counts[finding.outcome] += 1
        detail = Text(f": {finding.detail}" if finding.detail else "")
        console.print(Text.from_markup(f"  {marks[finding.outcome]} {finding.check}") + detail, soft_wrap=True)
    console.print(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    return ExitCode.USAGE if counts["failed"] else ExitCode.OK


def run_info(json_to: str | None, color: str) -> int:
    """`mpisqueeze info`."""
    from mpisqueeze.report.info import collect_info, info_report

    world = World()
    world.on_root(lambda: check_output(json_to, color))
    facts = collect_info(world)
    if world.is_root:
        if json_to != "-":
            make_console(choose_terminal(color)).print(info_report(facts))  # type: ignore[arg-type]
        if json_to:
            write_json(facts, json_to)
    return ExitCode.OK
