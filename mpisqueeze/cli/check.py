"""`mpisqueeze check`."""

from __future__ import annotations

from typing import Annotated

from mpisqueeze.cli.options import arguments, command
from mpisqueeze.cli.output import Output
from mpisqueeze.errors import ExitCode

_MARKS = {"passed": ("passed  ", "green"), "failed": ("FAILED  ", "bold red"), "doubtful": ("doubtful", "yellow")}


@command(to=())
def check(
    output: Output,
    part: Annotated[str, arguments("FILE.py:Class", "A problem, a compressor or an algorithm.")],
) -> int:
    """Run the conformance tests that the built-in parts pass on a part of your own; exit code 2 if one fails."""
    from rich.text import Text

    from mpisqueeze.parts.conformance import examine, find_part

    output.check()
    kind, found = find_part(part)
    output.print(Text.assemble(f"{kind} ", (found.spec, "bold")), soft_wrap=True)
    counts = dict.fromkeys(_MARKS, 0)
    for finding in examine(kind, found):
        counts[finding.outcome] += 1
        detail = f": {finding.detail}" if finding.detail else ""
        output.print(Text.assemble("  ", _MARKS[finding.outcome], f" {finding.check}{detail}"), soft_wrap=True)
    output.print(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    return ExitCode.USAGE if counts["failed"] else ExitCode.OK
