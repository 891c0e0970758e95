"""Shared by all exchanges: the barrier before an exchange, the clock, and the byte counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mpisqueeze.comm.checksum import CheckedReceive, CheckedSend
from mpisqueeze.comm.counters import Counter
from mpisqueeze.comm.estimate import EAGER_BYTES, SLOW_BYTE_S, estimate
from mpisqueeze.comm.pieces import in_pieces
from mpisqueeze.comm.world import Signal, World
from mpisqueeze.costs.link import Link
from mpisqueeze.costs.sections import Terms
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.devices.clock import Phase, PhaseClock
from mpisqueeze.devices.device import Device


class HaltError(Exception):
    """All ranks agreed to abandon this iteration, because one of them met a NaN or an error."""


@dataclass(frozen=True)
class Trouble:
    """An error on a rank, with the signal NONFINITE or ERROR, and a message for the user."""

    signal: int
    iteration: int
    message: str
    option: str | None = None  # at fault in a usage error
    details: str = ""  # traceback of an exception


class Gate:
    """The barrier before an exchange, so that `comm_s` does not include waiting for a slow rank.

    The barrier is also an agreement, at no extra cost: a rank with an error reports it there, before another rank waits
    for its payload.

    Args:
        barrier: False to run without a barrier; ranks then agree now and then, by `meet`.
        settle: function that waits for the device and reports its errors, called before ranks meet; None on a host.

    Attributes:
        signal: this rank's signal, reset by the training loop.
        agreed: result of the last agreement.
        met: whether ranks have agreed since the training loop set it to False.
    """

    def __init__(
        self, world: World, clock: PhaseClock, barrier: bool = True, settle: Callable[[], None] | None = None
    ) -> None:
        self.world, self.clock, self.barrier, self._settle = world, clock, barrier, settle
        self.signal: int = Signal.NONE
        self.agreed: int = Signal.NONE
        self.met = False
        self._proposal: Any = None

    def tell(self, signal: int) -> None:
        """Raise this rank's signal for the next agreement to at least `signal`."""
        self.signal = max(self.signal, signal)

    def meet(self) -> int:
        """Agree with all ranks now, and return the result."""
        self.met = True
        self.agreed = self.world.agree(self.signal)
        return self.agreed

    def enter(self) -> None:
        """Wait for all ranks, booked as `wait_s`. Raises HaltError on all ranks if one cannot go on."""
        if self.barrier:
            if self._settle is not None:
                self._settle()
            self._admit(self.meet())

    def _admit(self, agreed: int) -> None:
        self.clock.lap(Phase.WAIT)
        if agreed >= Signal.NONFINITE:
            raise HaltError

    def propose(self) -> Any:
        """Start an agreement without waiting; `confirm` must follow. Returns MPI's request, None without a barrier."""
        if self.barrier:
            self._proposal = self.world.propose(self.signal)
        return self._proposal

    @property
    def all_here(self) -> bool:
        """True if `confirm` need not wait. No other thread may test the request meanwhile."""
        return self._proposal is None or bool(self._proposal.Test())

    def confirm(self) -> None:
        """Complete the proposed agreement, as `enter`. Raises HaltError on all ranks if one cannot go on."""
        if self._proposal is not None:
            self.met = True
            self.agreed = self.world.proposed(self._proposal)
            self._proposal = None
            self._admit(self.agreed)


class HoldingLink(Protocol):
    """A link that holds messages back: `comm.emulated` for real ranks, `virtual.link` for virtual workers.

    Attributes:
        model: the cost of its messages.
        alignment_s: time (s) after the last rank's arrival when all ranks leave an agreement; 0: each when it can.
    """

    @property
    def model(self) -> Link: ...
    @property
    def alignment_s(self) -> float: ...
    def sender(self, request: Any, target: int, tag: int, nbytes: int) -> Any:
        """A persistent send that takes the link's time, around that of MPI."""

    def receiver(self, request: Any, source: int, tag: int) -> Any:
        """A persistent receive, likewise."""


class Network:
    """The resources of an exchange: ranks, a device that owns the buffers, a link, a clock and a counter.

    Args:
        emulated: emulated or simulated link that delays messages, or None.
        chunk_bytes: the user's limit to a message's bytes, or None for the cost model's choice.
        tree: the user's choice of the tree for a root's answers, or None for the cost model's choice.
        checksum: whether a checksum follows each message, see `comm.checksum`.
        known: what an earlier launch of the run took the real link for, or None to estimate it.
        clock: of the phases, in place of the device's.

    Attributes:
        link: cost of messages, for the choice of sections: that link's, or an estimate of the real one's.
        iteration: 1, 2, …, set by the training loop.
        trouble: the first error on this rank, or None.
    """

    def __init__(
        self,
        world: World,
        device: Device,
        barrier: bool = True,
        emulated: HoldingLink | None = None,
        chunk_bytes: int | None = None,
        tree: str | None = None,
        checksum: bool = False,
        known: Link | None = None,
        clock: PhaseClock | None = None,
    ) -> None:
        self.world, self.device = world, device
        if clock is None:
            clock = device.clock()
            clock.now = world.now
        self.clock = clock
        self.counter = Counter()
        self.gate = Gate(world, self.clock, barrier, None if device.kind == "cpu" else self.settle)
        self.emulated, self.chunk_bytes, self.tree = emulated, chunk_bytes, tree
        self.checksum = checksum
        world.leave_together_s = emulated.alignment_s if emulated else 0.0
        self.link = emulated.model if emulated else known or estimate(world)
        self._limit = chunk_bytes
        if chunk_bytes is None and not emulated and self.link.byte_s > SLOW_BYTE_S:
            self._limit = EAGER_BYTES
        self.iteration = 0
        self.trouble: Trouble | None = None

    @property
    def terms(self) -> Terms:
        """The inputs to the choice of sections."""
        return Terms(self.world.size, self.link, self.device.coding, self.chunk_bytes, self._limit, self.tree)

    @property
    def crowded(self) -> bool:
        """True if ranks share cores, so that some have yet to get one; workers take turns when they have to wait."""
        return self.world.load > 1 and not self.world.virtual

    @property
    def shares_memory(self) -> bool:
        """True if all ranks are virtual workers of one process, with nothing between them that is to be seen."""
        local = getattr(self.world.comm, "is_local", False) and self.world.size > 1
        return local and not (self.emulated or self.checksum)

    def settle(self) -> None:
        """Wait for the device, and report elements that were not finite."""
        self.device.synchronize()
        for message in self.device.faults():
            self.complain(Signal.NONFINITE, message)

    def wire(self, nbytes: int, collective: bool = False) -> Wire:
        """A buffer of `nbytes` bytes for MPI; with `collective`, for one of its collectives."""
        return self.device.wire(nbytes, collective)

    def sender(self, buffer: Sequence[Any], target: int, tag: int) -> Any:
        """A persistent send of a buffer specification: `Start`, `Wait`, `Free`."""
        return in_pieces(buffer, lambda piece: self._sender(piece, target, tag))

    def receiver(self, buffer: Sequence[Any], source: int, tag: int) -> Any:
        """A persistent receive into a buffer specification: `Start`, `Wait`, `Cancel`, `Free`."""
        return in_pieces(buffer, lambda piece: self._receiver(piece, source, tag))

    def _sender(self, buffer: Sequence[Any], target: int, tag: int) -> Any:
        start = self.world.comm.Send_init
        request: Any = start(buffer, target, tag)
        if self.emulated:
            request = self.emulated.sender(request, target, tag, int(buffer[0].nbytes))
        return CheckedSend(start, request, buffer[0], target, tag, self.counter) if self.checksum else request

    def _receiver(self, buffer: Sequence[Any], source: int, tag: int) -> Any:
        start = self.world.comm.Recv_init
        request: Any = start(buffer, source, tag)
        if self.emulated:
            request = self.emulated.receiver(request, source, tag)
        return CheckedReceive(start, request, buffer[0], source, tag, self.counter) if self.checksum else request

    def complain(self, signal: int, message: str, option: str | None = None, details: str = "") -> None:
        """Report an error: raise this rank's signal, and keep the first error as `trouble`."""
        self.gate.tell(signal)
        if self.trouble is None:
            self.trouble = Trouble(signal, self.iteration, message, option, details)
