"""Learning-rate schedules, each with a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from mpisqueeze.errors import UsageError
from mpisqueeze.language import Kind, Spec, parse_spec, real, suggestion

#: (iteration 1, 2, …; iterations in the run; iterations in an epoch) → factor.
Factor = Callable[[int, int, int], float]

SCHEDULES = {
    "constant": "the same learning rate throughout",
    "step": "times FACTOR after every EPOCHS epochs: step:EPOCHS:FACTOR",
    "milestones": "times FACTOR after each of these epochs: milestones:E1,E2,…:FACTOR",
    "cosine": "half a cosine from the learning rate down to 0 (Loshchilov & Hutter, arXiv 1608.03983)",
}
#: How each is written.
_FORMS = {"constant": "constant", "step": "step:EPOCHS:FACTOR", "milestones": "milestones:E1,E2,…:FACTOR",
          "cosine": "cosine"}  # fmt: skip

_ABOVE_ZERO = real(0, open_low=True)


@dataclass(frozen=True)
class LrSchedule:
    """The factor on the learning rate by iteration.

    Over the first `warmup` epochs it grows linearly, up to 1 at their end; the schedule's own factor comes on top.
    Epochs are counted from the start of the run. A cosine begins when warm-up ends.
    """

    factor: Factor
    warmup: float = 0.0

    def warmup_iterations(self, per_epoch: int) -> int:
        """The number of iterations before the learning rate is whole."""
        return round(self.warmup * per_epoch)

    def __call__(self, iteration: int, iterations: int, per_epoch: int) -> float:
        """The factor of iteration 1, 2, … of a run of `iterations`."""
        rising = self.warmup_iterations(per_epoch)
        found = self.factor(iteration, iterations, per_epoch)
        return found * iteration / rising if iteration < rising else found


def parse_schedule(text: str) -> LrSchedule:
    """The schedule for `--lr-schedule`. Raises UsageError."""
    try:
        spec = parse_spec(text)
        if spec.name not in SCHEDULES:
            raise UsageError(
                f"unknown schedule {spec.name!r}{suggestion(spec.name, SCHEDULES)}; it is one of "
                f"{', '.join(_FORMS.values())}, each with ,warmup=EPOCHS"
            )
        if unknown := spec.options.keys() - {"warmup"}:
            raise UsageError(f"{spec.name} has no parameter {min(unknown)!r}; it accepts: warmup")
        warmup = _number(spec.options.get("warmup", "0"), real(0), "warmup")
        return LrSchedule(_factor(spec, warmup), warmup)
    except UsageError as error:
        raise UsageError(error.message, "--lr-schedule") from None


def _number(text: str, kind: Kind, what: str) -> float:
    try:
        return float(kind(text))
    except ValueError:
        raise UsageError(f"{what} must be {kind.accepts}, got {text!r}") from None


def _factor(spec: Spec, warmup: float) -> Factor:
    if spec.name in ("constant", "cosine"):
        if spec.argument is not None:
            raise UsageError(f"{spec.name} takes no parameter but warmup, got {spec.text!r}")
        return _cosine(warmup) if spec.name == "cosine" else lambda iteration, iterations, per_epoch: 1.0
    epochs_text, colon, factor_text = (spec.argument or "").partition(":")
    if not colon:
        raise UsageError(f"{spec.text!r}: write {_FORMS[spec.name]}, for example {spec.name}:30:0.1")
    factor = _number(factor_text, _ABOVE_ZERO, "FACTOR")
    if spec.name == "step":
        every = _number(epochs_text, _ABOVE_ZERO, "EPOCHS")
        return lambda iteration, iterations, per_epoch: factor ** ((iteration - 1) // max(1, round(every * per_epoch)))
    marks = [_number(mark, _ABOVE_ZERO, "an epoch") for mark in epochs_text.split(",")]
    if any(later <= mark for mark, later in pairwise(marks)):
        raise UsageError(f"{spec.text!r}: epochs must rise, as in milestones:150,250:{factor_text}")
    return lambda iteration, iterations, per_epoch: factor ** sum(iteration > round(mark * per_epoch) for mark in marks)


def _cosine(warmup: float) -> Factor:
    def factor(iteration: int, iterations: int, per_epoch: int) -> float:
        first = round(warmup * per_epoch)
        done = max(0, iteration - 1 - first) / max(1, iterations - first)
        return 0.5 * (1 + math.cos(math.pi * done))

    return factor
