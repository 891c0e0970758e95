"""Start ranks of mpisqueeze on this machine or in this batch job: find a launcher, plan its command line, run it.

Each MPI wants its own settings to run on a laptop, in a container or as root, and each treats Ctrl-C in its own way:
Open MPI's `mpirun` kills its ranks half a second later, too soon for a checkpoint. So the launcher gets a session of
its own, and this process passes the first signal to the ranks, which then end by themselves after their iteration.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.files import write_text
from mpisqueeze.launch.finding import Flavour, Launcher, find_launcher, identify
from mpisqueeze.launch.planning import (
    AS_ROOT,
    HERE,
    THREADS,
    LaunchPlan,
    Where,
    make_plan,
    own_terminal,
    program,
    script,
)
from mpisqueeze.launch.running import GRACE_S, KILL_S, Supervisor, session_folder

__all__ = [
    "AS_ROOT",
    "THREADS",
    "Flavour",
    "LaunchPlan",
    "Launcher",
    "Supervisor",
    "Where",
    "find_launcher",
    "identify",
    "launch",
    "make_plan",
    "own_terminal",
    "program",
    "script",
    "session_folder",
]


def launch(
    n: int,
    command: Sequence[str],
    launcher: str | None = None,
    dry_run: bool = False,
    where: Where = HERE,
    *,
    target: Sequence[str] | None = None,
    tells: bool = False,
    grace_s: float = GRACE_S,
    kill_s: float = KILL_S,
) -> int:
    """Run `mpisqueeze COMMAND…` on `n` ranks and return the exit code of the launcher.

    Signals are passed on as `Supervisor` has it. Must be called from the main thread.

    Args:
        n: number of ranks, at least 1.
        launcher: `auto` or None, a launcher's name, or a path to one.
        where: the hosts, and further words for the launcher.
        dry_run: print the launcher's command line, with its settings in front, and run nothing.
        target: a program to start in place of the mpisqueeze script.
        tells: rank 0 of the target tells how it ended, as that of mpisqueeze does.

    Raises:
        UsageError: n < 1, an empty command, or no such launcher.
    """
    if n < 1:
        raise UsageError(f"the number of ranks must be at least 1, got {n}", "-n")
    if not command:
        raise UsageError("name the command to launch, such as: mpisqueeze launch -n 4 train")
    started = [*(target or program()), *command]
    plan = make_plan(find_launcher(launcher), n, started, os.environ, where)
    if dry_run:
        write_text(f"{plan.shell()}\n", "-")
        return ExitCode.OK
    return Supervisor(plan, started, grace_s, kill_s, tells=tells or target is None, ours=target is None).run()
