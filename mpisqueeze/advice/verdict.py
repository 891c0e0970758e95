"""The verdict: does a method pay off, which, and by how much, as far as a few seeds can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpisqueeze.analysis.intervals import Difference, Ratio

#: A gain of less than this part of the time is none that a user would change a method for.
GAIN = 0.05


@dataclass(frozen=True)
class Findings:
    """The evidence that runs give of a method beside the baseline, paired by seed.

    Attributes:
        time, bytes: to the target, over the baseline's.
        iterations: to the target, medians of the baseline and of the method; None where the median run misses it.
        final: medians of the baseline and of the method after the last iteration, by metric; an empty name is the
            smoothed training loss.
        loss: of the target's metric after the last iteration, in the direction in which it is worse.
        margin: a loss of less is none.
        broken: runs that diverged or failed.
    """

    name: str
    seeds: int
    time: Ratio
    bytes: Ratio
    iterations: tuple[float | None, float | None]
    final: Mapping[str, tuple[float | None, float | None]]
    loss: Difference
    margin: float = 0.0
    broken: int = 0

    @property
    def worse(self) -> bool:
        """Its final metric is worse than the baseline's, by more than chance between seeds explains."""
        low, middle = self.loss.low, self.loss.difference
        return low is not None and middle is not None and low > 0 and middle > self.margin

    @property
    def missed(self) -> bool:
        """A run of it did not get to the target, so that it cannot win."""
        return self.time.missed > 0

    @property
    def faster(self) -> bool:
        """It gets to the target in less time, as well as its seeds can tell."""
        return self.time.high is not None and self.time.high < 1

    @property
    def able(self) -> bool:
        """It reaches the target on every seed, and loses nothing."""
        return not self.missed and not self.worse and self.time.ratio is not None

    @property
    def no_gain(self) -> bool:
        """Its seeds exclude a gain of GAIN or more, or it has lost otherwise."""
        return self.missed or self.worse or (self.time.low is not None and self.time.low > 1 - GAIN)


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        pays_off: None: not told apart.
        best: the index of the best method that reaches the target and loses nothing; None without one.
        evidence: by the method's index.
    """

    pays_off: bool | None
    best: int | None
    evidence: Mapping[int, Findings]


def decide(evidence: Mapping[int, Findings], finalists: Sequence[int]) -> Verdict:
    """The verdict on these methods.

    True: a finalist's interval of the ratio of times, over seeds that had no part in choosing it, lies below 1, each
    of its runs reaches the target, and its final metric is not worse than the baseline's as far as the seeds can tell.
    False: no method has such an interval, and those of all exclude a gain of GAIN or more, or they miss the target or
    end worse. None: neither.

    Args:
        finalists: the methods whose evidence is of seeds of their own.
    """
    able = [index for index, found in evidence.items() if found.able]
    among = [index for index in able if index in finalists] or able
    best = min(among, key=lambda index: evidence[index].time.ratio or 0.0, default=None)
    if best is not None and best in finalists and evidence[best].faster:
        return Verdict(True, best, evidence)
    if evidence and all(found.no_gain for found in evidence.values()):
        return Verdict(False, best, evidence)
    return Verdict(None, best, evidence)
