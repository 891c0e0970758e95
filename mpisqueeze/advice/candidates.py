"""The methods that a race begins with, and what the cost model says of them beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpisqueeze.compressors.base import adapt, gaussian_error
from mpisqueeze.errors import UsageError
from mpisqueeze.modelling.forecast import Forecast
from mpisqueeze.modelling.methods import BASELINE, Method, methods_for
from mpisqueeze.parts.registry import Part
from mpisqueeze.quantities import significant
from mpisqueeze.record.calibration import Calibration
from mpisqueeze.runs.pairs import Pair, expand, parse_pair
from mpisqueeze.runs.plan import Plan
from mpisqueeze.settings import SERVERS, Settings

#: A method whose modelled iteration takes so many times the baseline's is hopeless; the nearest ones are kept anyway.
HOPELESS, NEAREST = 2.0, 3
#: Elements of a vector on which a compressor's error is taken.
_ELEMENTS = 1 << 14


@dataclass(frozen=True)
class Candidate:
    """A method of the race.

    Attributes:
        name: `doublesqueeze/onebit`.
        settings: what its runs have that others have not: algorithm, compressor, server, overlap.
        lr: its usual learning rate.
        servers: those that it may have; its runs have the one that the model has as the fastest.
        named: a user asked for it.
        error: ‖C(v) − v‖²/‖v‖² of its compressor on normal numbers.
        modelled: its modelled time of an iteration over the baseline's; None where the model does not know it.
        dropped_because: why it takes no part; None: it does.
    """

    name: str
    settings: Mapping[str, Any]
    lr: float
    servers: tuple[str, ...] = ()
    named: bool = False
    error: float = 0.0
    modelled: float | None = None
    dropped_because: str | None = None

    @property
    def label(self) -> str:
        """The name, with what sets its exchange apart."""
        about = [self.settings["server"]] if self.settings.get("server") == "sharded" else []
        about += ["overlapped"] if self.settings.get("overlap") else []
        return f"{self.name} ({', '.join(about)})" if about else self.name


def baseline(base: Settings, overlap: bool = False) -> Candidate:
    """The candidate that the others are held against. Raises UsageError."""
    return _candidate(Pair(BASELINE, BASELINE, None), base, None, False, overlap)


def candidates(pairs: Sequence[str], also: Sequence[str], base: Settings, server: str | None) -> list[Candidate]:
    """The methods that might beat the baseline.

    They are `pairs` or, without any, every built-in algorithm with the usual compressors that it converges with; with
    `also`, which a user adds to either. What is shown to fail is dropped unless a user names it.

    Args:
        server: the one that a user asked for; None: whichever is faster.

    Raises:
        UsageError: blaming the pair.
    """
    named = [parse_pair(text) for text in (*pairs, *also)]
    found = [_candidate(pair, base, server, True) for pair in named]
    if not pairs:
        methods, failing = methods_for([], [], SERVERS[:1], base.topology)
        for method in methods:
            if method.algorithm.name != BASELINE:
                takes = getattr(method.algorithm.cls, "compresses", True)
                pair = Pair(method.name, method.algorithm.spec, method.compressor.spec if takes else None)
                found.append(_candidate(pair, base, server, False))
        found += [
            Candidate(name, {}, 0.0, dropped_because="it is shown to fail; name it to have it raced")
            for name in failing
        ]
    unlike: dict[tuple[str, str], Candidate] = {}
    for candidate in found:
        key = (candidate.name, str(candidate.settings.get("algorithm")))
        if candidate.settings.get("algorithm") != BASELINE:
            unlike.setdefault(key, candidate)
    return list(unlike.values())


def _candidate(pair: Pair, base: Settings, server: str | None, named: bool, overlap: bool = False) -> Candidate:
    (entry,) = expand([pair], [], base)
    made: Plan = entry.plan
    method = Method.of(made.algorithm, made.compressor, SERVERS[0], base.topology)
    settings: dict[str, Any] = {"algorithm": made.config.algorithm, "compressor": made.config.compressor}
    servers: tuple[str, ...] = ()
    if method.route == "servers":
        servers = SERVERS if server is None else (server,)
        settings["server"] = servers[0]
    if overlap:
        settings["overlap"] = True
    return Candidate(entry.name, settings, made.lr, servers, named, _error(made.compressor))


def _error(part: Part) -> float:
    """The error of a compressor, which tells how much slower its method may train; 1 where it cannot be built alone."""
    try:
        made = adapt(
            part.cls(_ELEMENTS, np, np.dtype(np.float32), 0, **part.options), _ELEMENTS, np, np.dtype(np.float32)
        )
        return min(1.0, gaussian_error(made))
    except Exception:
        return 1.0


def overlapping(candidate: Candidate, base: Settings) -> Candidate:
    """The candidate with its gradient's sections sent while the rest is computed, where it can do that."""
    try:
        expand(
            [_pair(candidate)], [], replace(base, overlap=True, server=candidate.settings.get("server", base.server))
        )
    except UsageError:
        return candidate
    return replace(candidate, settings={**candidate.settings, "overlap": True})


def _pair(candidate: Candidate) -> Pair:
    return Pair(candidate.name, candidate.settings["algorithm"], candidate.settings["compressor"])


def modelled(
    found: Sequence[Candidate],
    base: Settings,
    ranks: int,
    dimension: int,
    compute_s: float,
    calibration: Calibration,
) -> list[Candidate]:
    """The candidates with the server that the model has as faster, the most promising first; hopeless ones are dropped.

    Of two with the same time, the one whose compressor loses less comes first.

    Methods that the model does not know come first, as nothing else can tell.
    """
    if calibration.link is None:
        return list(found)
    known: list[Candidate] = []
    unknown: list[Candidate] = []
    for candidate in found:
        if candidate.dropped_because is not None:
            continue
        try:
            known.append(_faster(candidate, base, ranks, dimension, compute_s, calibration))
        except UsageError:
            unknown.append(candidate)
    known.sort(key=lambda candidate: (candidate.modelled or 0.0) * (1 + candidate.error))
    nearest = [*unknown, *known][:NEAREST]
    kept = [
        replace(candidate, dropped_because=_hopeless(candidate))
        if candidate not in nearest and not candidate.named and (candidate.modelled or 0.0) >= HOPELESS
        else candidate
        for candidate in known
    ]
    return [*unknown, *kept, *(candidate for candidate in found if candidate.dropped_because is not None)]


def _hopeless(candidate: Candidate) -> str:
    return f"by the model, an iteration takes {significant(candidate.modelled or 0.0)} × the baseline's time"


def _faster(
    candidate: Candidate, base: Settings, ranks: int, dimension: int, compute_s: float, calibration: Calibration
) -> Candidate:
    """The candidate with the faster of its servers. Raises UsageError where the model does not know the method."""
    first = method_of(baseline(base), base)
    options = [
        replace(candidate, settings={**candidate.settings, "server": server}) for server in candidate.servers
    ] or [candidate]
    methods = [first, *(method_of(option, base) for option in options)]
    made = Forecast(methods, ranks, dimension, base.dtype, calibration.link, compute_s, calibration)  # type: ignore[arg-type]
    times = [result.iteration_s for result in made.results]
    fastest = min(range(len(options)), key=lambda index: times[index + 1])
    return replace(options[fastest], modelled=times[fastest + 1] / times[0] if times[0] else 1.0)


def method_of(candidate: Candidate, base: Settings) -> Method:
    """The candidate as the model has it. Raises UsageError."""
    (entry,) = expand([_pair(candidate)], [], base)
    return Method.of(
        entry.plan.algorithm, entry.plan.compressor, candidate.settings.get("server", SERVERS[0]), base.topology
    )
