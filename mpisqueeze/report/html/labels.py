"""Names beside a plot: how wide they are, where they are broken, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence

#: What letters of a size of 13 take, as part of it; wider than most fonts' so that no label is cut off.
_WIDTHS = {**dict.fromkeys("ijlI.,:;|'!()[]", 0.34), **dict.fromkeys("ftr-/ ", 0.4), **dict.fromkeys("mwMW%@", 0.95)}
_FONT = 13.0


def text_width(text: str) -> float:
    """Roughly what a label takes, in pixels."""
    return sum(_WIDTHS.get(c, 0.72 if c.isupper() else 0.62) for c in text) * _FONT


def fold(text: str, width: float) -> list[str]:
    """A name in lines of at most `width` pixels, broken at spaces, else behind commas and slashes, else anywhere."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if text_width(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for piece in _pieces(word):
            # A line's first piece may have to be broken itself.
            for unit in [piece] if text_width(piece) <= width else piece:
                if lines[-1] and text_width(lines[-1] + unit) > width:
                    lines.append("")
                lines[-1] += unit
    return lines


def _pieces(word: str) -> list[str]:
    pieces = [""]
    for character in word:
        pieces[-1] += character
        if character in ",/":
            pieces.append("")
    return pieces


def spread(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Middles for labels that do not overlap, in their order, each as near as may be to where it is wanted.

    Labels that get in each other's way form a block around the mean of what they want (pool adjacent violators).

    Args:
        wanted: ascending.
        low, high: between which all labels lie; those that are too many hang out at the end.
    """
    # Of each: its first label, its height, the sum of the tops that its labels want for it, and how many they are.
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
