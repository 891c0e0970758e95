"""Names beside a chart: how wide they are, where they are broken, and where they stand."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

#: Pixels that most letters of a chart take at most.
LETTER = 7.6
#: A break that shows nothing, put behind slashes and commas.
_BREAK = "\v"


def fold(text: str, letters: int) -> list[str]:
    """A name in lines of at most so many letters, broken at blanks, behind slashes and commas, or else anywhere."""
    parts = re.sub("([/,])", rf"\1{_BREAK}", " ".join(text.split()))
    lines = textwrap.wrap(parts, letters, replace_whitespace=False, expand_tabs=False, break_on_hyphens=False)
    return [line.replace(_BREAK, "") for line in lines] or [""]


def spread(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Middles for labels that do not overlap, in their order, each as near as may be to where it is wanted.

    Labels that get in each other's way form a block around the mean of their wishes (pool adjacent violators).

    Args:
        wanted: ascending.
        low, high: between which all labels lie; those that are too many hang out at the end.
    """
    # A block: its first label, its height, the sum of the tops that its labels want for it, and how many they are.
    blocks: list[list[float]] = []
    for index, (middle, height) in enumerate(zip(wanted, heights, strict=True)):
        blocks.append([index, height, middle - height / 2, 1])
        while len(blocks) > 1 and _top(blocks[-2], low, high) + blocks[-2][1] > _top(blocks[-1], low, high):
            _, height_2, sum_2, count_2 = blocks.pop()
            block = blocks[-1]
            block[2] += sum_2 - count_2 * block[1]
            block[1] += height_2
            block[3] += count_2
    middles: list[float] = []
    bottom = low
    ends = [*(int(block[0]) for block in blocks[1:]), len(heights)]
    for block, end in zip(blocks, ends, strict=True):
        bottom = max(_top(block, low, high), bottom)
        for height in heights[int(block[0]) : end]:
            middles.append(bottom + height / 2)
            bottom += height
    return middles


def _top(block: Sequence[float], low: float, high: float) -> float:
    return max(low, min(block[2] / block[3], high - block[1]))
