"""An iteration's time over the network's bandwidth: modelled from what runs measured on theirs, and measured where that
was an emulated link or a lab's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisqueeze.costs.link import Link, parse_link
from mpisqueeze.errors import UsageError
from mpisqueeze.quantities import counted, duration
from mpisqueeze.record.calibration import Calibration
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.charts import Axis, LineChart, Series
from mpisqueeze.report.palette import style_of
from mpisqueeze.report.scales import Unit

if TYPE_CHECKING:
    from mpisqueeze.modelling.predict import Method

#: Bits a second between which times are modelled, and points a decade.
SLOWEST, FASTEST = 1e7, 1e11
_POINTS = 16
#: A message's latency on a network of which no run tells: that of TCP over Ethernet.
ASSUMED_S = 50e-6


@dataclass(frozen=True)
class ByBandwidth:
    """The plot, and why runs are not in it."""

    chart: LineChart
    left_out: list[str]


@dataclass(frozen=True)
class _Ran:
    """A run.

    Attributes:
        key: the same for runs of one line.
        link: its network where somebody set the bandwidth, else None.
        latency: the same for links of the same latency.
    """

    run: RunLog
    style: int
    key: tuple[Any, ...]
    method: Method
    link: Link | None
    latency: tuple[Any, ...]


def time_by_bandwidth(runs: Sequence[RunLog], calibration: Calibration | None = None) -> ByBandwidth:
    """A line for each method: gradient, coding and update as the runs measured them, the messages by the cost model.

    The gradient's time is the median over all runs of the same work, since it does not depend on the method. The
    algorithms' modules load the MPI library, but it is not started; where there is none, nothing is modelled.

    Args:
        calibration: whose latency is taken.
    """
    ran, left_out = _usable(runs)
    link, latency, source = _latency(ran, calibration)
    compute: dict[tuple[Any, ...], list[float]] = {}
    for item in ran:
        compute.setdefault(_work(item.run), []).append(_time(item.run, "compute_s"))
    groups: dict[tuple[Any, ...], list[_Ran]] = {}
    for item in ran:
        groups.setdefault(item.key, []).append(item)
    names = _names(groups)
    series, other_latency = [], 0
    for key, members in groups.items():
        first = members[0]
        x = np.geomspace(SLOWEST, FASTEST, round(_POINTS * np.log10(FASTEST / SLOWEST)) + 1)
        gradient = median(compute[_work(first.run)])
        y = np.array([_modelled(members, replace(link, byte_s=8 / bandwidth), gradient) for bandwidth in x])
        series.append(Series(names[key], x, y, first.style))
        measured = [item for item in members if item.link and item.link.byte_s and latency in (None, item.latency)]
        other_latency += sum(bool(item.link) for item in members) - len(measured)
        if measured:
            points = sorted((8 / item.link.byte_s, _time(item.run, "iteration_s")) for item in measured if item.link)
            at, seconds = np.array(points).T
            series.append(Series(names[key], at, seconds, first.style, "points"))
    caption = f"Lines are modelled, not measured, for messages of {source}: compute, coding and update as the runs "
    caption += "measured them, without waiting for a core or a slow neighbour."
    if other_latency:
        caption += f" Not shown: {counted(other_latency, 'run')} on links of another latency."
    chart = LineChart(
        "Time of an iteration by bandwidth",
        Axis("bandwidth of every rank’s link", Unit.RATE, True),
        Axis("time of an iteration (modelled)", Unit.SECONDS, True),
        series,
        caption=caption,
        measured="whole iterations on links of that bandwidth" if any(s.kind == "points" for s in series) else "",
    )
    return ByBandwidth(chart, left_out)


def _usable(runs: Sequence[RunLog]) -> tuple[list[_Ran], list[str]]:
    ran, left_out = [], []
    for index, run in enumerate(runs):
        style = style_of(index, len(runs))
        why = _refusal(run)
        if not why:
            try:
                method, (link, latency) = _method(run), _link(run)
                method.traffic(run.summary["ranks"], run.summary["dimension"], run.summary["dtype"])
            except UsageError as error:
                why = error.message
            except (ImportError, RuntimeError) as error:
                why = f"the MPI library that mpi4py needs does not load here ({error})"
        if why:
            left_out.append(f"{run.name}: {why}")
        else:
            config = run.config
            key = (
                method.algorithm.spec, method.compressor_name, method.server, method.topology,
                config["ranks"], config["dimension"], config["dtype"], _work(run),
            )  # fmt: skip
            ran.append(_Ran(run, style, key, method, link, latency))
    return ran, left_out


def _refusal(run: RunLog) -> str:
    """Why a run's method cannot be modelled, empty where it can."""
    if run.summary["times"]["iteration_s"]["median"] is None or not run.config:
        return "no iteration was measured"
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
    from mpisqueeze.modelling.predict import Method
    from mpisqueeze.parts import registry

    config = run.config
    return Method.of(
        registry.algorithms.find(config["algorithm"]),
        registry.compressors.find(config["compressor"]),
        config.get("server", "root"),
        config.get("topology", "ring"),
    )


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
    """The link that is modelled but for its bandwidth, the `latency` of runs on such links (None: all), and where it is
    from, in words."""
    if calibration and calibration.link:
        return calibration.link, None, _said(calibration.link, str(calibration.path))
    known = [item for item in ran if item.link]
    if known:
        latencies = [item.latency for item in known]
        # That of most runs; of equals the first.
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
    from mpisqueeze.modelling.predict import Coding, Told, predict

    run, method = members[0].run, members[0].method
    encode, decode, update = (
        median(_time(item.run, phase) for item in members) for phase in ("encode_s", "decode_s", "update_s")
    )
    traffic = method.traffic(run.summary["ranks"], run.summary["dimension"], run.summary["dtype"])
    told = Told(run.config.get("chunk"), run.config.get("tree"))
    return predict(method, traffic, Coding(encode, decode, 0.0, update), link, compute_s, told).iteration_s


def _time(run: RunLog, phase: str) -> float:
    return float(run.summary["times"][phase]["median"] or 0.0)


def _work(run: RunLog) -> tuple[Any, ...]:
    """What a gradient's time depends on."""
    names = ("problem", "data", "batch_size", "dtype", "ranks", "dimension", "device")
    return tuple(run.config.get(name) for name in names)


def _names(groups: dict[tuple[Any, ...], list[_Ran]]) -> dict[tuple[Any, ...], str]:
    """A name for each method: that of its run, or of the method where there are several."""
    names = {}
    for key, members in groups.items():
        method = members[0].method
        label = method.algorithm.label
        label += "" if method.compressor_name == "identity" else f"/{method.compressor_name}"
        label += " sharded" if method.server == "sharded" else ""
        names[key] = members[0].run.name if len(members) == 1 else label
    for key, name in list(names.items()):
        if list(names.values()).count(name) > 1:
            names[key] = groups[key][0].run.name
    return names
