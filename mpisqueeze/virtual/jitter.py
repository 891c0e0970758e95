"""Delays of virtual workers' gradients, drawn at random (`--jitter`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from mpisqueeze.errors import UsageError
from mpisqueeze.kernels.random import derive_key, splitmix64
from mpisqueeze.language import Kind, integer, parameters_of, parse_spec, real, resolve_parameters, suggestion
from mpisqueeze.quantities import parse_time

#: Apart from the streams of compressors and data.
_STREAM = 0x6A697474
_TIME = Kind(parse_time, "a time, such as 2ms")
_PART = Kind(real(0, 1).read, "a probability from 0 to 1, such as 1%")
_Time = Annotated[float, _TIME]

#: u, uniform in [0, 1) → seconds.
Draw = Callable[[float], float]


def constant(*, time: _Time) -> Draw:
    """Always the same delay."""
    return lambda u: time


def uniform(*, high: _Time, low: _Time = 0.0) -> Draw:
    """Between two times, each as likely."""
    if low > high:
        raise UsageError(f"low is above {high:g} s")
    return lambda u: low + (high - low) * u


def exponential(*, mean: _Time) -> Draw:
    """With this mean, and a long tail."""
    return lambda u: -mean * math.log1p(-u)


def pareto(*, least: _Time, shape: Annotated[float, real(0, open_low=True)] = 2.0) -> Draw:
    """At least so long; longer than t with the probability (least/t)^shape, a heavy tail."""
    return lambda u: least * (1 - u) ** (-1 / shape)


#: The distributions by name.
DISTRIBUTIONS: dict[str, Callable[..., Draw]] = {
    made.__name__: made for made in (constant, uniform, exponential, pareto)
}
_FORMS = "constant:TIME, uniform:HIGH[,low=TIME], exponential:MEAN or pareto:LEAST[,shape=A]"
_ACCEPTED = f"{_FORMS}, each with ,probability=P and ,worker=W"


def _whom(*, probability: Annotated[float, _PART] = 1.0, worker: Annotated[int | None, integer(0)] = None) -> None:
    """Parameters that every distribution takes beside its own."""


@dataclass(frozen=True)
class Jitter:
    """Delays of gradients, by worker and iteration.

    Attributes:
        draw: the distribution.
        probability: of a delay in an iteration; without one there is none.
        worker: the only one that is delayed; None: all of them.
    """

    draw: Draw
    probability: float = 1.0
    worker: int | None = None

    def __call__(self, seed: int, worker: int, iteration: int) -> float:
        """Seconds; a function of the arguments alone."""
        if self.worker not in (None, worker):
            return 0.0
        key = derive_key(seed, _STREAM, worker, iteration)
        if _unit(key) >= self.probability:
            return 0.0
        return self.draw(_unit(splitmix64(key)))


def _unit(state: int) -> float:
    """A number in [0, 1) of a 64-bit state."""
    return (splitmix64(state) >> 11) * 2.0**-53


def parse_jitter(text: str) -> Jitter:
    """`exponential:2ms`, `constant:50ms,probability=1%`, `uniform:5ms,worker=3`. Raises UsageError of `--jitter`."""
    try:
        spec = parse_spec(text)
        if spec.name not in DISTRIBUTIONS:
            raise UsageError(f"no delay {spec.name!r}{suggestion(spec.name, DISTRIBUTIONS)}; it accepts {_ACCEPTED}")
        make = DISTRIBUTIONS[spec.name]
        values = resolve_parameters(spec, (*parameters_of(make), *parameters_of(_whom)))
        whom = {parameter.name: values.pop(parameter.name) for parameter in parameters_of(_whom)}
        return Jitter(make(**values), **whom)
    except UsageError as error:
        raise UsageError(error.message, "--jitter") from None
