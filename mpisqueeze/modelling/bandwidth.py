"""An iteration's time over the network's bandwidth, for the methods of finished runs.

Times are modelled from what the runs measured, and given as measured where a run's bandwidth was set: on an emulated
link or in a lab.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from mpisqueeze.costs.link import Link, parse_link
from mpisqueeze.errors import UsageError
from mpisqueeze.quantities import duration
from mpisqueeze.record.calibration import Calibration
from mpisqueeze.record.reading import RunLog

if TYPE_CHECKING:
    from mpisqueeze.modelling.methods import Method, Traffic

#: Bits a second between which times are modelled, and points a decade.
SLOWEST, FASTEST = 1e7, 1e11
_POINTS = 16
#: A message's latency on a network of which no run tells: that of TCP over Ethernet.
ASSUMED_S = 50e-6


@dataclass(frozen=True)
class MethodTimes:
    """A method's time of an iteration, in seconds, at bandwidths in bits a second.

    Attributes:
        name: of its run, or of the method where it has several.
        first: the index of its first run.
        modelled: (bandwidth, time) pairs, ascending.
        measured: the same of runs whose bandwidth was set.
    """

    name: str
    first: int
    modelled: list[tuple[float, float]]
    measured: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class ByBandwidth:
    """Times by bandwidth.

    Attributes:
        methods: in the order of their first runs.
        latency: of a message in the model, in words, with its source.
        elsewhere: runs on links of another latency, whose measured times are not among them.
        left_out: runs that cannot be modelled, each with the reason.
    """

    methods: list[MethodTimes]
    latency: str
    elsewhere: int
    left_out: list[str]


@dataclass(frozen=True)
class _Ran:
    """A run.

    Attributes:
        index: among all runs.
        key: the same for runs of one method.
        link: its network where somebody set the bandwidth, else None.
        latency: the same for links of the same latency.
    """

    run: RunLog
    index: int
    key: tuple[Any, ...]
    method: Method
    link: Link | None
    latency: tuple[Any, ...]


def times_by_bandwidth(runs: Sequence[RunLog], calibration: Calibration | None = None) -> ByBandwidth:
    """Model each method: gradient, coding and update as the runs measured them, the messages by the cost model.

    The gradient's time is the median over all runs of the same work, since it does not depend on the method. The
    algorithms' modules load the MPI library, but it is not started.

    Args:
        calibration: whose latency is taken.
    """
    ran, left_out = _usable(runs)
    link, latency, source = _latency(ran, calibration)
    compute: dict[tuple[Any, ...], list[float]] = {}
    groups: dict[tuple[Any, ...], list[_Ran]] = {}
    for item in ran:
        compute.setdefault(_work(item.run), []).append(_time(item.run, "compute_s"))
        groups.setdefault(item.key, []).append(item)
    names = _names(groups)
    points = round(_POINTS * math.log10(FASTEST / SLOWEST))
    bandwidths = [SLOWEST * 10 ** (k / _POINTS) for k in range(points + 1)]
    methods, elsewhere = [], 0
    for key, members in groups.items():
        gradient = median(compute[_work(members[0].run)])
        modelled = [(rate, _modelled(members, replace(link, byte_s=8 / rate), gradient)) for rate in bandwidths]
        measured = sorted(
            (8 / item.link.byte_s, float(item.run.summary["elapsed_s_per_iteration"] or 0.0))
            for item in members
            if item.link and item.link.byte_s and latency in (None, item.latency)
        )
        elsewhere += sum(bool(item.link) for item in members) - len(measured)
        methods.append(MethodTimes(names[key], members[0].index, modelled, measured))
    return ByBandwidth(methods, source, elsewhere, left_out)


def _usable(runs: Sequence[RunLog]) -> tuple[list[_Ran], list[str]]:
    ran, left_out = [], []
    for index, run in enumerate(runs):
        why = _refusal(run)
        if not why:
            try:
                method, (link, latency) = _method(run), _link(run)
                _traffic(method, run)
            except UsageError as error:
                why = error.message
        if why:
            left_out.append(f"{run.name}: {why}")
        else:
            config = run.config
            key = (
                method.algorithm.spec, method.compressor_name, method.server, method.topology,
                config["ranks"], config["dimension"], config["dtype"], _work(run),
            )  # fmt: skip
            ran.append(_Ran(run, index, key, method, link, latency))
    return ran, left_out


def _traffic(method: Method, run: RunLog) -> Traffic:
    """Raises UsageError."""
    found = run.summary
    return method.traffic(found["ranks"], found["dimension"], found["dtype"], run.config.get("shapes"))


def _refusal(run: RunLog) -> str:
    """Why a run's method cannot be modelled, empty where it can."""
    if run.summary["times"]["iteration_s"]["median"] is None or not run.config:
        return "no iteration was measured"
    if run.summary.get("virtual"):
        return "its workers are virtual, and so are its times"
    if run.summary["ranks"] == 1:
        return "one rank sends nothing"
    # A report loads no program of a user's own.
    parts = run.config.get("parts", {})
    foreign = [kind for kind in ("algorithm", "compressor") if parts.get(kind, {}).get("origin") != "built-in"]
    return f"its {' and '.join(foreign)} is not built in" if foreign else ""


def _method(run: RunLog) -> Method:
    import sys

    if "mpi4py.MPI" not in sys.modules:
        import mpi4py

        # Nothing here sends.
        mpi4py.rc.initialize = False
    from mpisqueeze.modelling.methods import Method

    return Method.ran(run.config)


def _link(run: RunLog) -> tuple[Link | None, tuple[Any, ...]]:
    """The network of the run where somebody set it, and what is the same for all of that latency."""
    if run.config.get("link"):
        link = parse_link(run.config["link"])
        return link, ("emulated", link.latency, link.gap)
    lab = run.environment.get("lab")
    if not lab:
        return None, ()
    # A lab's delay is told; the rest of a message's latency was probed, and a little differently each time.
    told = run.environment.get("link_model") or {}
    return Link(told.get("latency", 0.0), told.get("gap", 0.0), 8 / lab["rate"]), ("lab", lab.get("delay"))


def _latency(ran: Sequence[_Ran], calibration: Calibration | None) -> tuple[Link, tuple[Any, ...] | None, str]:
    """The link to model but for its bandwidth, the `latency` of runs on such links (None: all), and both in words."""
    if calibration and calibration.link:
        return calibration.link, None, _said(calibration.link, str(calibration.path))
    known = [item for item in ran if item.link]
    if known:
        latencies = [item.latency for item in known]
        # Most runs decide, and among equals the first.
        usual = next(item for item in known if item.latency == max(latencies, key=latencies.count))
        assert usual.link is not None
        return usual.link, usual.latency, _said(usual.link, str(usual.latency[0]))
    for item in ran:
        told = item.run.environment.get("link_model")
        if told and (item.run.summary["hosts"] or 1) > 1:
            link = Link(told["latency"], told["gap"], told["byte_s"])
            return link, (), _said(link, "probed as the run began")
    return Link(0.0, ASSUMED_S, 0.0), (), _said(Link(0.0, ASSUMED_S, 0.0), "assumed")


def _said(link: Link, source: str) -> str:
    return f"{duration(link.latency + link.gap)} latency ({source})"


def _modelled(members: Sequence[_Ran], link: Link, compute_s: float) -> float:
    from mpisqueeze.modelling.predict import Work, predict, terms_of

    run, method = members[0].run, members[0].method
    encode, decode, update = (
        median(_time(item.run, phase) for item in members) for phase in ("encode_s", "decode_s", "update_s")
    )
    traffic = _traffic(method, run)
    work = Work(encode, decode, 0.0, update)
    return predict(method, traffic, work, terms_of(traffic.ranks, link, run.config), compute_s).iteration_s


def _time(run: RunLog, phase: str) -> float:
    return float(run.summary["times"][phase]["median"] or 0.0)


def _work(run: RunLog) -> tuple[Any, ...]:
    """The settings that a gradient's time depends on."""
    names = ("problem", "data", "batch_size", "dtype", "ranks", "dimension", "device")
    return tuple(run.config.get(name) for name in names)


def _names(groups: dict[tuple[Any, ...], list[_Ran]]) -> dict[tuple[Any, ...], str]:
    """A name for each method: its own where it has several runs and no other method's is the same, else a run's."""
    labels = {key: _label(members[0].method) for key, members in groups.items()}
    own = [label for key, label in labels.items() if len(groups[key]) > 1]
    return {
        key: labels[key] if len(members) > 1 and own.count(labels[key]) == 1 else members[0].run.name
        for key, members in groups.items()
    }


def _label(method: Method) -> str:
    return f"{method.name}{'' if method.server in (None, 'root') else f' {method.server}'}"
