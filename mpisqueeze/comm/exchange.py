"""What every exchange shares: its door, which is the barrier and the agreement, and its books."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mpisqueeze.comm.checksum import CheckedReceive, CheckedSend
from mpisqueeze.comm.counters import Counter
from mpisqueeze.comm.emulated import ALIGNMENT_S, EmulatedLink
from mpisqueeze.comm.estimate import EAGER_BYTES, SLOW_BYTE_S, estimate
from mpisqueeze.comm.world import Signal, World
from mpisqueeze.costs.sections import Terms
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.devices.clock import Phase, PhaseClock
from mpisqueeze.devices.device import Device


class HaltError(Exception):
    """All ranks agreed to give this iteration up, because one of them met a NaN or an error."""


@dataclass(frozen=True)
class Trouble:
    """What went wrong on a rank.

    Attributes:
        signal: NONFINITE or ERROR.
        iteration: where.
        message: for people.
        option: of a usage error, the option to blame.
        details: of an exception, its traceback.
    """

    signal: int
    iteration: int
    message: str
    option: str | None = None
    details: str = ""


class Gate:
    """The door to an iteration's exchange: ranks meet there, so that `comm_s` is no waiting for a slow neighbour.

    The barrier is an agreement at the same price: a rank with bad news tells it there, before anybody waits for its
    payload.

    Attributes:
        signal: what this rank has to say, reset by the training loop.
        agreed: what the last agreement said.
        met: whether there was one since the training loop set it to False.
        barrier: False to run without; ranks then agree now and then, by `meet`.

    Args:
        settle: called before ranks meet, for a device to be done and to tell what is wrong; None for a host.
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
        """Have this rank say `signal` at the next meeting, unless it has worse to say."""
        self.signal = max(self.signal, signal)

    def meet(self) -> int:
        """Agree now."""
        self.met = True
        self.agreed = self.world.agree(self.signal)
        return self.agreed

    def enter(self) -> None:
        """Wait for all ranks, booked as `wait_s`. Raises HaltError on all of them if one cannot go on."""
        if self.barrier:
            if self._settle is not None:
                self._settle()
            agreed = self.meet()
            self.clock.lap(Phase.WAIT)
            if agreed >= Signal.NONFINITE:
                raise HaltError

    def propose(self) -> Any:
        """Begin to meet, without waiting; `confirm` must follow. MPI's request, or None where there is no barrier."""
        if self.barrier:
            self._proposal = self.world.propose(self.signal)
        return self._proposal

    @property
    def all_here(self) -> bool:
        """Whether `confirm` has nothing to wait for. Nobody else may be testing the request."""
        return self._proposal is None or bool(self._proposal.Test())

    def confirm(self) -> None:
        """Have met, as `enter`, what was proposed. Raises HaltError on all ranks if one of them cannot go on."""
        if self._proposal is not None:
            self.met = True
            self.agreed = self.world.proposed(self._proposal)
            self._proposal = None
            self.clock.lap(Phase.WAIT)
            if self.agreed >= Signal.NONFINITE:
                raise HaltError


class Network:
    """What an exchange is built from: ranks, a device that owns the buffers, a link, the clock and the counter.

    Args:
        emulated: what holds messages back, if anything does.
        chunk_bytes: the user's limit to the messages of a pipeline; None: the cost model's choice.
        checksum: follow each message by its checksum, see `comm.checksum`.
        tree: the user's choice of the tree that a root's answers go down; None: the cost model's choice.

    Attributes:
        link: what messages cost, for choosing how to exchange: the emulated link, or an estimate of the real one.
        message_bytes: what a message of a pipeline may take, or None for no limit.
        iteration: 1, 2, …, kept by the training loop.
        trouble: the first thing that went wrong on this rank.
    """

    def __init__(
        self,
        world: World,
        device: Device,
        barrier: bool = True,
        emulated: EmulatedLink | None = None,
        chunk_bytes: int | None = None,
        tree: str | None = None,
        checksum: bool = False,
    ) -> None:
        self.world, self.device = world, device
        self.clock = device.clock()
        self.counter = Counter()
        self.gate = Gate(world, self.clock, barrier, None if device.kind == "cpu" else self.settle)
        self.emulated, self.chunk_bytes, self.tree = emulated, chunk_bytes, tree
        self.checksum = checksum
        # Ranks that leave the gate one by one would book each other's lateness as the link's.
        world.leave_together_s = ALIGNMENT_S * max(1.0, world.load) if emulated else 0.0
        self.link = emulated.model if emulated else estimate(world)
        self.message_bytes = chunk_bytes
        if chunk_bytes is None and not emulated and self.link.byte_s > SLOW_BYTE_S:
            self.message_bytes = EAGER_BYTES
        self.iteration = 0
        self.trouble: Trouble | None = None

    @property
    def terms(self) -> Terms:
        """The terms on which its exchanges choose their sections."""
        return Terms(self.world.size, self.link, self.device.coding, self.chunk_bytes, self.message_bytes, self.tree)

    @property
    def crowded(self) -> bool:
        """Ranks share cores."""
        return self.world.load > 1

    def settle(self) -> None:
        """Wait for the device, and complain of numbers that were not finite."""
        self.device.synchronize()
        for complaint in self.device.faults():
            self.complain(Signal.NONFINITE, complaint)

    def wire(self, nbytes: int, collective: bool = False) -> Wire:
        """A buffer that MPI can be handed; with `collective`, in one of its collectives."""
        return self.device.wire(nbytes, collective)

    def sender(self, buffer: Sequence[Any], target: int, tag: int) -> Any:
        """A persistent send of a buffer specification: `Start`, `Wait`, `Free`."""
        request: Any = self.world.comm.Send_init(buffer, target, tag)
        if self.emulated:
            request = self.emulated.sender(request, target, tag, int(buffer[0].nbytes))
        if self.checksum:
            return CheckedSend(request, self.world.comm, buffer[0], target, tag, self.counter)
        return request

    def receiver(self, buffer: Sequence[Any], source: int, tag: int) -> Any:
        """A persistent receive into a buffer specification: `Start`, `Wait`, `Cancel`, `Free`."""
        request: Any = self.world.comm.Recv_init(buffer, source, tag)
        if self.emulated:
            request = self.emulated.receiver(request, source, tag)
        if self.checksum:
            return CheckedReceive(request, self.world.comm, buffer[0], source, tag, self.counter)
        return request

    def complain(self, signal: int, message: str, option: str | None = None, details: str = "") -> None:
        """Have this rank say `signal` at the next meeting; the first complaint is kept as `trouble`."""
        self.gate.tell(signal)
        if self.trouble is None:
            self.trouble = Trouble(signal, self.iteration, message, option, details)
