"""A link between ranks, as the cost model sees it, and as `--link` describes it."""

from __future__ import annotations

from dataclasses import dataclass

from mpisqueeze.errors import UsageError
from mpisqueeze.language import parse_spec, suggestion
from mpisqueeze.quantities import parse_rate, parse_time

_ACCEPTED = "latency=TIME,bandwidth=RATE[,gap=TIME], such as latency=5ms,bandwidth=1gbit"


@dataclass(frozen=True)
class Link:
    """What a message costs.

    Attributes:
        latency: l, seconds from a message's end at the sender to its end at the receiver, ports free meanwhile.
        gap: g, seconds that a message of no bytes keeps a port busy.
        byte_s: β, seconds a byte.
    """

    latency: float
    gap: float
    byte_s: float

    @staticmethod
    def hockney(alpha: float, bits_per_second: float) -> Link:
        """Each message costs α + Bβ at both ends."""
        return Link(0.0, alpha, 8 / bits_per_second)

    def message(self, nbytes: float) -> float:
        """τ: seconds that a message keeps a port busy."""
        return self.gap + nbytes * self.byte_s


def parse_link(text: str) -> Link:
    """`latency=5ms,bandwidth=100mbit` → each message costs α + Bβ at both ends (Hockney).

    With `gap=20us`, too, a message keeps a port busy for the gap only, and is a latency on its way (LogGP). Latency is
    0 and bandwidth unlimited where they are left out. Raises UsageError.
    """
    try:
        options = parse_spec(f"link,{text}").options
    except UsageError:
        raise UsageError(f"{text!r} is not a link; it accepts {_ACCEPTED}", "--link") from None
    known = {"latency": parse_time, "bandwidth": parse_rate, "gap": parse_time}
    values: dict[str, float] = {}
    for key, value in options.items():
        if key not in known:
            raise UsageError(f"{text!r}: there is no {key!r}{suggestion(key, known)}; it accepts {_ACCEPTED}", "--link")
        try:
            values[key] = known[key](value)
        except ValueError as error:
            raise UsageError(f"{key}: {error}; it accepts {_ACCEPTED}", "--link") from None
    byte_s = 8 / values["bandwidth"] if "bandwidth" in values else 0.0
    latency = values.get("latency", 0.0)
    if "gap" in values:
        return Link(latency, values["gap"], byte_s)
    return Link(0.0, latency, byte_s)
