"""The model held against finished runs: the times that their logs measured, beside those that it predicts.

A log books more than `predict` models. A run meets at a barrier before each exchange. Where L ranks share a core, the
one that is done first goes on to its next gradient, and the others are booked as waiting for a message that is there:
(L − 1)W more communication, where W is all work of a rank from one exchange to the next, or what it gets done before
the system gives the core to another rank. Where H local steps lie between exchanges, the first one does all of them
meanwhile, and then waits for those of the others: H − 1 gradients and steps more than `predict` has of other ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpisqueeze.comm.emulated import ALIGNMENT_S
from mpisqueeze.comm.estimate import CALL_S, CROWDED_S, EAGER_BYTES, MEMORY_BYTE_S, SLOW_BYTE_S
from mpisqueeze.costs import exchanges
from mpisqueeze.costs.exchanges import Schedule
from mpisqueeze.costs.link import Link, parse_link
from mpisqueeze.costs.sections import Terms
from mpisqueeze.errors import UsageError
from mpisqueeze.lab.shaping import Links
from mpisqueeze.modelling.methods import Method, Traffic
from mpisqueeze.modelling.predict import Prediction, Work, predict, terms_of, work_of
from mpisqueeze.record.calibration import Calibration
from mpisqueeze.record.reading import RunLog

#: Seconds that a rank keeps a core which others wait for: a tick of Linux at 250 Hz.
SLICE_S = 4e-3
#: Bytes of the barrier's agreement.
_AGREEMENT = 16


@dataclass(frozen=True)
class Checked:
    """A run and its prediction.

    Attributes:
        kernels: whether coding is in the prediction.
        alone_s: a rank's work from one exchange to the next, s, up to a time slice.
        ahead_s: the part of it in iterations that do not exchange.
        barrier_s: modelled time of the barrier.
        comm_s, iteration_s: measured, medians over iterations that exchange of the slowest rank's time.
    """

    run: RunLog
    link_text: str
    link: Link
    kernels: bool
    prediction: Prediction
    alone_s: float
    ahead_s: float
    barrier_s: float
    comm_s: float
    iteration_s: float

    @property
    def predicted_comm_s(self) -> float:
        """The time that the log books as communication: on a worker also the coding that its server does meanwhile."""
        inside = self.prediction.inside_s
        if not self.kernels:
            return inside + self.prediction.wire_s
        if self.prediction.traffic.group > 1:
            # The ranks that follow a leader wait for all that it does.
            return inside + self.prediction.exchange_s + self.prediction.link.load * self.prediction.work.update
        return self.prediction.waited_s((self.prediction.link.load - 1) * self.alone_s)

    @property
    def predicted_iteration_s(self) -> float | None:
        """The time of an iteration that exchanges, with its barrier; None where coding is not known."""
        if not self.kernels:
            return None
        return self.prediction.exchanging_s + self.barrier_s + (self.prediction.link.load - 1) * self.ahead_s


def check_runs(
    runs: Sequence[RunLog], given: Link | None, calibration: Calibration | None, inside: Link | None = None
) -> tuple[list[Checked], list[str]]:
    """Predict each run from its own config.json, with its median compute time.

    Args:
        given: the link by the command line or a calibration, for runs on no emulated one.
        inside: the link between ranks of a group. Default: a host's memory, or where groups span hosts, their network.

    Returns:
        the runs that could be predicted, and why each of the others could not.
    """
    checked, skipped = [], []
    for run in runs:
        times = run.summary["times"]
        if run.path is None or times["comm_s"]["median"] is None:
            skipped.append(f"{run.name}: no iteration was measured")
        elif run.summary.get("virtual"):
            skipped.append(f"{run.name}: its workers are virtual, and so are its times")
        elif run.summary["ranks"] == 1:
            skipped.append(f"{run.name}: one rank sends nothing")
        else:
            try:
                checked.append(_check(run, given, calibration, inside))
            except UsageError as error:
                skipped.append(f"{run.name}: {error.message}")
    return checked, skipped


def _check(run: RunLog, given: Link | None, calibration: Calibration | None, inside: Link | None) -> Checked:
    config = run.config
    emulated = config.get("link")
    link = parse_link(emulated) if emulated else given
    lab = run.environment.get("lab")
    if link and lab and not emulated:
        link = replace(link, burst=Links(config["ranks"], lab["rate"], lab["delay"], lab["mtu"]).burst)
    if link is None:
        unknown = f"nothing says what its network was like ({run.network})"
        raise UsageError(f"{unknown}: give --calibration, or --latency and --bandwidth")
    if calibration and calibration.link and calibration.given == emulated:
        link = replace(link, processor=calibration.link.processor)
    method = Method.ran(config)
    traffic = method.traffic(config["ranks"], config["dimension"], config["dtype"], config.get("shapes"))
    usable = calibration is not None and calibration.dtype == config["dtype"]
    work = work_of(method, traffic, calibration) if calibration and usable else None
    if work and emulated:
        # MPI's own all-reduce knows nothing of the emulated link.
        work = replace(work, library=1.0)
    # This is the limit of comm.exchange.
    slow = not emulated and link.byte_s > SLOW_BYTE_S
    terms = terms_of(traffic.ranks, link, config, EAGER_BYTES if slow else None)
    compute, comm, iteration = (_median(run, key) for key in ("compute_s", "comm_s", "iteration_s"))
    # A gradient longer than a slice was measured while others had the core by turns.
    own = compute if compute <= SLICE_S else max(SLICE_S, compute / link.load)
    if method.group == 1:
        inside = None
    elif inside is None:
        crowded = link.load > 1 or bool(emulated)
        memory = Link(0.0, CROWDED_S if crowded else CALL_S, MEMORY_BYTE_S)
        inside = link if _spans_hosts(run, method) else memory
    schedule = _ran(run, traffic, terms)
    prediction = predict(method, traffic, work or Work(), terms, own * link.load, schedule, inside)
    done = prediction.work
    last = min(SLICE_S, own + done.step + done.encode + done.decode + done.update)
    alone = min(SLICE_S, last + (method.every - 1) * (own + done.step))
    meets, barrier = config.get("barrier"), 0.0
    # Gossip has none unless it was asked for.
    if meets or (meets is None and method.route != "neighbours"):
        met = exchanges.allreduce(link, traffic.everyone, _AGREEMENT).seconds
        barrier = ALIGNMENT_S * link.load if emulated else met
    return Checked(
        run, emulated or run.network, link, work is not None, prediction, alone, alone - last, barrier, comm, iteration
    )  # fmt: skip


def _spans_hosts(run: RunLog, method: Method) -> bool:
    """True if ranks of a group, which are neighbours by rank, were on several hosts."""
    on_each = [host.get("ranks") or 0 for host in run.environment.get("hosts") or []]
    return run.config.get("group") != "host" and bool(on_each) and min(on_each) < method.group


def _median(run: RunLog, key: str) -> float:
    """The median of a time over the iterations that exchange, s."""
    every, warmup = run.config.get("local_steps", 1), run.summary["warmup"]
    times = run.columns[key][every - 1 :: every]
    if every == 1 or not times.size:
        return float(run.summary["times"][key]["median"])
    return float(np.median(times[warmup // every :]))


def _ran(run: RunLog, traffic: Traffic, terms: Terms) -> Schedule:
    """The time of the sections and the tree that a run had; of the model's choice where its summary has none."""
    sections, way = run.summary.get("chunks"), run.summary.get("tree") or ""
    if not sections or (traffic.exchange == "root") != bool(way):
        chosen = traffic.schedule(terms)
        sections, way = chosen.sections, chosen.way
    return traffic.cost(terms.link, sections, way)
