"""The time of an iteration on a network that is described, not there: a model, of which nothing was run.

    iteration = compute + exchange + L·update        exchange = max(wire, L·codec) + min(wire, L·codec)/K

With local steps, of which H make an exchange, and in groups, it is the mean over H iterations:

    iteration = compute + L·step + (inside + exchange + L·update)/H

`wire` is the exchange's time by `costs.exchanges`, in the schedule that the exchange itself would choose. `codec` is
the time of encoding and decoding from the first element to the last: a rank's encoding, what its server adds up and
encodes, and the decoding of the answer. In an exchange of K sections the codec works on one while others travel, so
that all but a K-th of the shorter one is hidden behind the longer. Where L ranks share a core, their work adds up.
Without measured kernel rates codec and update are left out.

An algorithm that sends its model before it has the gradient (`dpsgd:order=awc`) hides a part of `wire` behind
`compute`; the model does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpisqueeze.costs.exchanges import Schedule, inside_group
from mpisqueeze.costs.link import Link
from mpisqueeze.costs.sections import HOST_CODING, Terms
from mpisqueeze.errors import UsageError
from mpisqueeze.modelling.methods import Method, Traffic
from mpisqueeze.parts import registry
from mpisqueeze.parts.registry import Part
from mpisqueeze.record.calibration import Calibration, Kernel
from mpisqueeze.settings import SERVERS


@dataclass(frozen=True)
class Work:
    """The time that a rank works on payloads and on the model in an iteration, s.

    Attributes:
        encode, decode: in all, from the first element to the last.
        server: the part of both that workers wait for while their server does it.
        update: of the model.
        step: of this rank's own model, in each iteration with local steps.
        section: of both, beside what their elements take, in each section of the exchange.
        library: the time of MPI's own all-reduce, where it was measured, over that of the model's.
    """

    encode: float = 0.0
    decode: float = 0.0
    server: float = 0.0
    update: float = 0.0
    step: float = 0.0
    section: float = 0.0
    library: float = 1.0


def work_of(method: Method, traffic: Traffic, calibration: Calibration) -> Work | None:
    """The work of a method by measured rates; None where its compressor was not measured.

    Local steps take a pass in each iteration, and two for an exchange: what is sent, and the model that all go on from.
    A leader weighs its group's sum in a pass.
    """
    found = _exchanging(method, traffic, calibration)
    if found is None or method.every == method.group == 1:
        return found
    passed = calibration.add(traffic.dimension) * traffic.dimension
    more = (method.group > 1) + 2 * (method.every > 1)
    return replace(found, update=found.update + more * passed, step=passed if method.every > 1 else 0.0)


def _exchanging(method: Method, traffic: Traffic, calibration: Calibration) -> Work | None:
    """The work of an exchange.

    Decoding is taken to add. A root adds N payloads of d elements, sharded every rank N of d/N; the sum is divided
    by N, and the answer added to the model as it is decoded, so that there is no further update. A gossip rank adds
    a payload for each neighbour and its own, and its update is two passes over the model. An all-reduce adds its sum
    to the model as it is decoded; full vectors without error feedback are summed where they lie, and not encoded.
    Algorithms with servers say what `passes` they make besides. A pass takes as long as an in-place add. So do products
    of matrices with few columns, as many as the algorithm says, but at the rate of vectors that no cache holds:
    multiplying takes as long where one does.
    """
    fixed = not getattr(method.algorithm.cls, "compresses", True)
    rates = _rates(method.compressor, calibration, fixed)
    full = _rates(registry.compressors.find("identity"), calibration)
    if rates is None or full is None:
        return None
    d, n, add, (compresses, answers) = (
        traffic.dimension,
        traffic.ranks,
        calibration.add(traffic.dimension),
        method.compressed,
    )
    up, down = rates if compresses else full, rates if answers else full
    worker, server = getattr(method.algorithm.cls, "passes", (0, 0))
    encode = _encode(up, method.feedback) * d + worker * add * d
    before = after = 0.0
    if method.by_shapes:
        passes = method.algorithm.cls.products(**method.algorithm.options)
        before, after = (count * calibration.add_s * d for count in passes)
    if traffic.exchange == "allreduce":
        # MPI adds what it receives, (N − 1)/N of a payload; its measured time has that.
        library = calibration.library(max(traffic.sums))
        added = 0.0 if library else add * traffic.up / np.dtype(calibration.dtype).itemsize * (n - 1) / n
        if method.by_shapes:
            # The second sum comes before what is left, which moves the model too.
            return Work(before, added + after, added, library=library or 1.0)
        if method.compressor.name == "identity" and not method.feedback:
            encode = 0.0
        return Work(encode, added, added, up.decode_add * d, library=library or 1.0)
    if traffic.exchange == "neighbours":
        if method.by_shapes:
            return Work(traffic.degree * before, traffic.degree * after, 0.0, 2 * add * d)
        coded = traffic.payloads * (traffic.degree + 1)
        encode += (traffic.payloads - 1) * _encode(up, method.feedback) * d
        return Work(encode, coded * up.decode_add * d, 0.0, 2 * add * d)
    served = d if traffic.exchange == "root" else d / n
    added = (n * up.decode_add + (1 + server) * add) * served
    answered = _encode(down, method.feedback) * served if answers else 0.0
    # Sharded, a rank has one section to serve for N to send and to apply.
    section = calibration.section_s * (1 if traffic.exchange == "root" else (n + 1) / 2)
    return Work(encode + answered, added + down.decode_add * d, added + answered, section=section)


def _encode(kernel: Kernel, feedback: bool) -> float:
    return kernel.encode_feedback if feedback else kernel.encode


def _rates(part: Part, calibration: Calibration, alike: bool = False) -> Kernel | None:
    """The rates of the same parameters, however their spec is written: `qsgd:4` is `qsgd:4,bucket=512`.

    Args:
        alike: those of other parameters will do.
    """
    if part.spec in calibration.kernels or part.is_plugin:
        return calibration.kernels.get(part.spec)
    for spec, kernel in calibration.kernels.items():
        if spec.partition(":")[0].partition(",")[0] == part.name:
            try:
                other = registry.compressors.find(spec)
            except UsageError:
                continue
            if alike or other.options == part.options:
                return kernel
    return None


@dataclass(frozen=True)
class Prediction:
    """The model of an iteration with a method, in seconds unless stated otherwise.

    Attributes:
        link: the network, and the processors that ranks share.
        inside: the link between ranks of a group; None where it is not known, and left out.
        wire_s: `comm_s` of the output: the exchange, without coding.
        exchange_s: with coding, as far as it is not hidden.
        bound_s: what the busiest port needs for its bytes.
    """

    method: Method
    traffic: Traffic
    schedule: Schedule
    work: Work
    compute_s: float
    link: Link
    inside: Link | None = None

    @property
    def inside_s(self) -> float:
        """The time of an exchange inside groups."""
        traffic = self.traffic
        return inside_group(self.inside, traffic.group, traffic.vector).seconds if self.inside else 0.0

    @property
    def bound_s(self) -> float:
        return self.schedule.bound(self.link)

    @property
    def wire_s(self) -> float:
        return self.schedule.seconds * self.work.library

    @property
    def exchange_s(self) -> float:
        return self._exchange(self.link.load)

    def _exchange(self, load: float) -> float:
        # Gossip cuts a payload that is encoded already.
        sections = self.schedule.sections if self.traffic.exchange in SERVERS else 1
        codec = load * (self.work.encode + self.work.decode + sections * self.work.section)
        return max(self.wire_s, codec) + min(self.wire_s, codec) / sections

    def waited_s(self, others_s: float = 0.0) -> float:
        """The time that a worker's log would count as `comm_s`: the exchange without the coding that it does itself.

        Args:
            others_s: work of the ranks that it shares a core with, for which it waits meanwhile.
        """
        # Half of a section's time is its server's.
        own = self.work.encode + self.work.decode - self.work.server + self.schedule.sections * self.work.section / 2
        return max(0.0, self._exchange(1.0) - own + others_s, self.exchange_s - own)

    @property
    def iteration_s(self) -> float:
        return self._iteration(self.traffic.every)

    @property
    def exchanging_s(self) -> float:
        """The time of an iteration that exchanges, which with local steps is one of several."""
        return self._iteration(1)

    def _iteration(self, every: int) -> float:
        work, load = self.work, self.link.load
        return self.compute_s + load * work.step + (self.inside_s + self.exchange_s + load * work.update) / every


def predict(
    method: Method,
    traffic: Traffic,
    work: Work,
    terms: Terms,
    compute_s: float,
    schedule: Schedule | None = None,
    inside: Link | None = None,
) -> Prediction:
    """One iteration on the network that `terms` describes, in the schedule that the exchange chooses unless given."""
    return Prediction(method, traffic, schedule or traffic.schedule(terms), work, compute_s, terms.link, inside)


def terms_of(ranks: int, link: Link, config: Mapping[str, Any] | None = None, limit: int | None = None) -> Terms:
    """The terms on which exchanges over `link` choose their sections.

    Args:
        config: a run's settings, for its `chunk` and `tree`.
        limit: bytes that no message exceeds unless `chunk` says otherwise, or None.
    """
    config = config or {}
    chunk = config.get("chunk")
    return Terms(ranks, link, HOST_CODING, chunk, chunk or limit, config.get("tree"))
