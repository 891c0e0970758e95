"""A fuzzer without coverage, for where atheris is not installed: inputs that were fine, changed a little."""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable, Sequence

_LONGEST = 4096


def mutated(data: bytes, others: Sequence[bytes], dice: random.Random) -> bytes:
    """`data` with bytes changed, taken out, put in or taken from another input."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 8))):
        at = dice.randrange(len(changed) + 1)
        kind = dice.randrange(6)
        if kind == 0 and changed:
            changed[at % len(changed)] = dice.randrange(256)
        elif kind == 1 and changed:
            changed[at % len(changed)] ^= 1 << dice.randrange(8)
        elif kind == 2:
            del changed[at : at + dice.choice((1, 2, 8, 64))]
        elif kind == 3:
            changed[at:at] = dice.randbytes(dice.choice((1, 2, 4, 16)))
        elif kind == 4:
            other = dice.choice(others)
            start = dice.randrange(len(other) + 1)
            changed[at : at + dice.choice((0, 8, 64))] = other[start : start + dice.choice((1, 8, 64))]
        else:
            changed[at:at] = changed[at : at + dice.choice((1, 4, 32))]
    return bytes(changed[:_LONGEST])


def fuzz(
    function: Callable[[bytes], None], seeds: Sequence[bytes], seconds: float, seed: int
) -> tuple[int, list[tuple[bytes, BaseException]]]:
    """How many inputs were tried, and those that failed, once for each place that they failed at."""
    dice, pool = random.Random(seed), list(seeds) or [b""]
    found: dict[tuple[str, int], tuple[bytes, BaseException]] = {}
    tried, end = 0, time.monotonic() + seconds
    queue = list(pool)
    while time.monotonic() < end:
        data = queue.pop() if queue else mutated(dice.choice(pool), pool, dice)
        tried += 1
        try:
            function(data)
        except (Exception, SystemExit) as error:
            found.setdefault(_place(error), (data, error))
    return tried, list(found.values())


def _place(error: BaseException) -> tuple[str, int]:
    """The innermost line of the package that the error passed through."""
    place, trace = (type(error).__name__, 0), error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "mpisqueeze" in file or "fuzz" in file:
            place = (f"{type(error).__name__} {file}", trace.tb_lineno)
        trace = trace.tb_next
    # A traceback that a command has printed says where it came from.
    printed = re.findall(r'File "(.*?)", line (\d+)', str(error))
    return (f"{type(error).__name__} {printed[-1][0]}", int(printed[-1][1])) if printed else place


def say(found: Sequence[tuple[bytes, BaseException]]) -> None:
    """What failed, shortly."""
    for data, error in found:
        print(f"  {type(error).__name__}: {str(error)[-600:]}\n    input: {data!r:.400}", file=sys.stderr)
