"""Links between ranks in the cost model, and the parser of `--link`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mpisqueeze.errors import UsageError
from mpisqueeze.language import parse_spec, suggestion
from mpisqueeze.quantities import duration, format_rate, parse_rate, parse_time

_ACCEPTED = "latency=TIME,bandwidth=RATE[,gap=TIME], such as latency=5ms,bandwidth=1gbit"
_KEYS = {"latency": parse_time, "bandwidth": parse_rate, "gap": parse_time}


@dataclass(frozen=True)
class Processor:
    """The work of messages for processors, and the ranks that share them.

    A message of m bytes costs o + mO of a core: its sender's, its receiver's and the kernel's share together. o is the
    overhead of LogGP (Alexandrov et al., SPAA 1995), O its part per byte in LogGOPSim (Hoefler, Schneider &
    Lumsdaine, HPDC 2010).

    Attributes:
        message_s: o, s.
        byte_s: O, seconds per byte.
        wake_s: time (s) by which a rank that waits for a message notices it later when all ranks are at work.
        ranks, cores: number of ranks on a host, and of the cores that they share. The hosts of a lab are one machine.
    """

    message_s: float = 0.0
    byte_s: float = 0.0
    wake_s: float = 0.0
    ranks: int = 1
    cores: int = 1

    @property
    def load(self) -> float:
        """Number of ranks per core, at least 1."""
        return max(1.0, self.ranks / self.cores)

    def seconds(self, messages: float, nbytes: float, ranks: int) -> float:
        """Time (s) of a host for its part of the messages among `ranks` ranks, and of their bytes in all."""
        here = min(self.ranks, ranks)
        work = (messages * self.message_s + nbytes * self.byte_s) * here / ranks
        return work / min(here, self.cores)


@dataclass(frozen=True)
class Link:
    """The cost of a message.

    Attributes:
        latency: l, time (s) from a message's end at the sender to its end at the receiver; ports are free meanwhile.
        gap: g, time (s) that an empty message occupies a port.
        byte_s: β, seconds per byte.
        burst: bytes that an idle port passes in no time, as a shaper's token bucket does.
        processor: the work of messages for processors; None where it is not known, and counts as none.
    """

    latency: float
    gap: float
    byte_s: float
    burst: float = 0.0
    processor: Processor | None = None

    @property
    def hop(self) -> float:
        """Latency (s) until the rank that waits for a message goes on."""
        return self.latency + (self.processor.wake_s if self.processor else 0.0)

    @property
    def load(self) -> float:
        """Number of ranks per core, at least 1."""
        return self.processor.load if self.processor else 1.0

    @staticmethod
    def hockney(alpha: float, bits_per_second: float) -> Link:
        """Hockney's model: each message costs α + Bβ at both ends; `alpha` is in seconds."""
        return Link(0.0, alpha, 8 / bits_per_second)

    def message(self, nbytes: float) -> float:
        """τ: time (s) that a message occupies a port."""
        return self.gap + nbytes * self.byte_s


def network_name(kind: str, hosts: int | None, lab: Mapping[str, Any] | None = None, given: str | None = None) -> str:
    """A network for people.

    Args:
        kind: `real`, `lab`, `emulated` or `virtual`, as environment.json has it.
        hosts: that ranks were on; None where that is not known.
        lab: the links of a virtual cluster, with `rate` and perhaps `delay`.
        given: the emulated or simulated link.
    """
    if kind == "virtual":
        return f"virtual workers, {given or 'no network'}"
    if kind == "real":
        if hosts is None:
            return "real network"
        return "shared memory of one host" if hosts == 1 else f"network between {hosts} hosts"
    if kind == "lab" and lab:
        delay = f", {duration(lab['delay'])} delay" if lab.get("delay") else ""
        return f"lab, {format_rate(lab['rate'])}{delay}"
    return f"{kind}, {given}" if given else kind


def parse_link(text: str) -> Link:
    """Parse `latency=5ms,bandwidth=100mbit`: each message costs α + Bβ at both ends (Hockney).

    With `gap=20us` as well, a message occupies a port for g + Bβ and arrives a latency later (LogGP). The default
    latency is 0, the default bandwidth unlimited. Raises UsageError.
    """
    for item in text.split(","):
        for key, parse in _KEYS.items():
            with suppress(ValueError):
                parse(item)
                raise UsageError(f"{text!r}: write {key}={item.strip()}; it accepts {_ACCEPTED}", "--link")
    try:
        options = parse_spec(f"link,{text}").options
    except UsageError:
        raise UsageError(f"{text!r} is not a link; it accepts {_ACCEPTED}", "--link") from None
    values: dict[str, float] = {}
    for key, value in options.items():
        if key not in _KEYS:
            raise UsageError(f"{text!r}: there is no {key!r}{suggestion(key, _KEYS)}; it accepts {_ACCEPTED}", "--link")
        try:
            values[key] = _KEYS[key](value)
        except ValueError as error:
            raise UsageError(f"{key}: {error}; it accepts {_ACCEPTED}", "--link") from None
    byte_s = 8 / values["bandwidth"] if "bandwidth" in values else 0.0
    latency = values.get("latency", 0.0)
    if "gap" in values:
        return Link(latency, values["gap"], byte_s)
    return Link(0.0, latency, byte_s)
