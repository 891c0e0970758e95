"""`mpisqueeze check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mpisqueeze.cli.options import arguments, command
from mpisqueeze.cli.output import Output
from mpisqueeze.comm.launched import told_rank
from mpisqueeze.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World
    from mpisqueeze.parts.registry import Part

#: Ranks that an algorithm is checked on unless a launcher has started others: a ring of them has neighbours on two
#: sides, and no smaller number has.
RANKS = 3
_MARKS = {
    "passed": ("passed  ", "green"),
    "failed": ("FAILED  ", "bold red"),
    "doubtful": ("doubtful", "yellow"),
    "untried": ("untried ", "dim"),
}


@command(to=())
def check(
    output: Output,
    parts: Annotated[list[str], arguments("FILE.py:Class…", "Problems, compressors or algorithms.")],
) -> int:
    """Run the conformance tests that the built-in parts pass on parts of your own; exit code 2 if one fails.

    An algorithm is tried on 3 ranks, which are started here unless `mpirun` has started this command.
    """
    from mpisqueeze.parts.conformance import find_part

    output.check()
    found = [find_part(text) for text in parts]
    world = None
    if any(kind == "algorithm" for kind, _ in found):
        if told_rank() is None and (code := _launched(parts, output.color)) is not None:
            return code
        from mpisqueeze.cli.ranks import join

        world = join()
    failed = [_check(output, kind, part, world) for kind, part in found]
    return ExitCode.USAGE if any(failed) else ExitCode.OK


def _launched(parts: list[str], color: str) -> int | None:
    """Start this command on RANKS ranks; its exit code, or None where there is no launcher."""
    from mpisqueeze.launch import find_launcher, launch

    try:
        launcher = find_launcher()
    except UsageError:
        return None
    return launch(RANKS, ["check", *parts, "--color", color], launcher.path)


def _check(output: Output, kind: str, part: Part, world: World | None) -> bool:
    """Check one part, collectively where there is a world; True, on all ranks, if it failed."""
    from rich.text import Text

    from mpisqueeze.parts.conformance import examine

    output.print(Text.assemble(f"{kind} ", (part.spec, "bold")), soft_wrap=True)
    counts = dict.fromkeys(_MARKS, 0)
    if kind == "algorithm" or world is None or world.is_root:
        for finding in examine(kind, part, world):
            counts[finding.outcome] += 1
            if finding.outcome != "untried":
                detail = f": {finding.detail}" if finding.detail else ""
                line = Text.assemble("  ", _MARKS[finding.outcome], f" {finding.check}{detail}")
                output.print(line, soft_wrap=True)
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    output.print(said + " for the same errors" * bool(counts["untried"]))
    failed = bool(counts["failed"])
    return failed if world is None else bool(world.comm.bcast(failed))
