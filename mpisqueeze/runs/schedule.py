"""Learning-rate schedules: `constant`, `step:EPOCHS:FACTOR`, `cosine`."""

from __future__ import annotations

import math
from collections.abc import Callable

from mpisqueeze.errors import UsageError
from mpisqueeze.language import Spec, parse_spec, real, suggestion

#: (iteration 1, 2, …; iterations in the run; iterations in an epoch) → factor on the base learning rate.
LrSchedule = Callable[[int, int, int], float]

SCHEDULES = {
    "constant": "the same learning rate throughout",
    "step": "times FACTOR after every EPOCHS epochs: step:EPOCHS:FACTOR",
    "cosine": "half a cosine from the learning rate down to 0 (Loshchilov & Hutter, arXiv 1608.03983)",
}


def parse_schedule(text: str) -> LrSchedule:
    """The schedule for `--lr-schedule`. Raises UsageError."""
    spec = parse_spec(text)
    if spec.name not in SCHEDULES:
        raise UsageError(
            f"unknown schedule {spec.name!r}{suggestion(spec.name, SCHEDULES)}; "
            "it is constant, step:EPOCHS:FACTOR or cosine",
            "--lr-schedule",
        )
    if spec.name == "step":
        return _step(spec)
    if spec.argument is not None or spec.options:
        raise UsageError(f"{spec.name} takes no parameters, got {text!r}", "--lr-schedule")
    if spec.name == "cosine":
        return lambda iteration, iterations, per_epoch: 0.5 * (1 + math.cos(math.pi * (iteration - 1) / iterations))
    return lambda iteration, iterations, per_epoch: 1.0


def _step(spec: Spec) -> LrSchedule:
    try:
        epochs_text, factor_text = (spec.argument or "").split(":")
        epochs, factor = real(0, open_low=True)(epochs_text), real(0, open_low=True)(factor_text)
        if spec.options:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"{spec.text!r}: write step:EPOCHS:FACTOR, both positive numbers, for example step:30:0.1",
            "--lr-schedule",
        ) from None
    return lambda iteration, iterations, per_epoch: factor ** ((iteration - 1) // max(1, round(epochs * per_epoch)))
