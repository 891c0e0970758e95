"""The options that both benchmarks have."""

from __future__ import annotations

from typing import Annotated, Any

from mpisqueeze.cli.options import in_run, quantity
from mpisqueeze.errors import UsageError

SizesOption = Annotated[
    str,
    in_run(
        "-m",
        "--sizes",
        help="Elements of a vector: one size, or a range, each 4 times the one before.",
        metavar="MIN:MAX",
    ),
]
IterationsOption = Annotated[
    str | None,
    in_run(
        "-i",
        "--iterations",
        help="Timed repetitions. Default: 20 of large sizes, up to 200 of small ones.",
        metavar="COUNT",
    ),
]
WarmupOption = Annotated[int, in_run("-x", "--warmup", help="Repetitions before them, not timed.", metavar="COUNT")]
CheckOption = Annotated[
    str, in_run("-c", "--check", help="Compare results with the reference, to the bit.", metavar="on|off")
]


def timing(sizes: str, iterations: str | None, warmup: int, check: str) -> dict[str, Any]:
    """These options as the requests of both benchmarks take them. Raises UsageError."""
    from mpisqueeze.bench.timing import Repetitions, parse_sizes

    known = {"on": True, "1": True, "off": False, "0": False}
    if check not in known:
        raise UsageError(f"{check!r} is neither on nor off", "-c")
    repetitions = Repetitions(quantity("-i", iterations), warmup)
    return {"sizes": parse_sizes(sizes), "repetitions": repetitions, "check": known[check]}
