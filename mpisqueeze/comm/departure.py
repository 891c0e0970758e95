"""Sending payloads while the gradient is still computed (`--overlap`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.pipeline import Moves, Outbox, Payload
from mpisqueeze.comm.progress import ProgressThread
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.devices.clock import Phase

#: Bytes that a socket holds: as long as they take, nobody need look at what is on its way.
HELD_BYTES = 64 << 10
#: Seconds between two looks, at the least and at the most: one takes 50 µs of a core that the gradient may need.
SHORTEST_S, LONGEST_S = 500e-6, 4e-3
#: Each look's turns, since one brings no more than a message or so from each peer.
TURNS = 4


class Departure:
    """Sends payloads in a fixed order, the same on every rank, each as soon as the caller says that it may go.

    Nothing is waited for on the way: a send that finds no receive posted yet rests in MPI, and a thread keeps messages
    moving meanwhile. An exchange is `leave` any number of times, `finish`, and `close_books` once all has arrived.

    Sending starts once every rank has its first payload ready; no rank pauses its gradient for this. An error on a rank
    after that is told by a second agreement, which travels beside the payloads: the others wait for these, so that they
    are sent in any case.

    Args:
        items: (section, wire, send) of each payload in the order of leaving: where MPI reads it, None where that is the
            payload itself, and what is called to send it, None where it stays on this rank.
        post: posts the exchange's receives and gives those that are filled last, until when messages are kept moving;
            called once ranks have met.
        advance: (moves, left): deals with what has arrived, without waiting, `left` payloads of this rank having left.

    Attributes:
        order: the sections in the order of leaving.
    """

    def __init__(
        self,
        network: Network,
        items: Sequence[tuple[Payload, Wire | None, Callable[[], None] | None]],
        post: Callable[[], list[Any]],
        advance: Callable[[Moves, int], None],
    ) -> None:
        self.network = network
        self.order: list[Any] = [section for section, _, _ in items]
        self._outbox = Outbox(network, [(section, wire) for section, wire, _ in items])
        self._sends = [send for _, _, send in items]
        self._post, self._advance = post, advance
        pause = min(max(HELD_BYTES * network.link.byte_s, SHORTEST_S), LONGEST_S)
        self._progress = ProgressThread(network.device.make_current, pause, TURNS)
        self._ready = self._left = 0
        self._met = False

    def watch(
        self, moves: Moves, x: Any, gradient: Callable[..., Any], take: Callable[[Any], None], begins: Sequence[int]
    ) -> None:
        """Compute the gradient at x, whose payloads leave meanwhile; `finish` must follow. Raises HaltError.

        Args:
            take: given the gradient when elements of it are final.
            begins: where in the vector each payload begins, in the order of leaving.
        """
        count, failure = 0, None

        def ready(g: Any, start: int) -> None:
            nonlocal count, failure
            # Code that computes the gradient must not meet our errors: they would look like its own.
            if failure is not None:
                return
            try:
                take(g)
                while count < len(begins) and begins[count] >= start:
                    count += 1
                self.leave(moves, count)
            except Exception as error:
                failure = error

        g = gradient(x, ready)
        ready(g, 0)
        if failure is not None:
            raise failure

    def leave(self, moves: Moves, count: int) -> None:
        """Have the first `count` payloads of the order on their way. Raises HaltError once ranks have met."""
        if not count:
            return
        self._encode(moves, count)
        gate = self.network.gate
        if not self._met and not self._progress.holds and gate.all_here:
            self._meet()
        if self._met:
            self._send()
            self._advance(moves, count)
        self.network.clock.lap(Phase.COMM)

    def finish(self, moves: Moves) -> None:
        """The gradient is there: have the rest on their way, and the requests back. Raises HaltError."""
        network = self.network
        self._encode(moves, len(self.order))
        if not self._met:
            self._meet()
        self._send()
        self._progress.take_back()
        self._ready = self._left = 0
        self._met = False
        network.gate.propose()
        network.clock.lap(Phase.COMM)

    def close_books(self) -> None:
        """The exchange is over. Raises HaltError on all ranks if one of them met something bad on the way."""
        self.network.gate.confirm()

    def close(self) -> None:
        """End the thread."""
        self._progress.close()

    def _encode(self, moves: Moves, count: int) -> None:
        """Have the first `count` payloads ready to be sent, and tell the others with the first one."""
        if not self._ready:
            self._outbox.open(moves, 1)
            proposal = self.network.gate.propose()
            if proposal is not None:
                # An agreement takes several rounds, which need MPI's attention.
                self._progress.give([proposal])
        for i in range(self._ready, count):
            self._outbox.ready(i)
        self._ready = max(self._ready, count)

    def _meet(self) -> None:
        self._progress.take_back()
        self.network.gate.confirm()
        self._met = True
        self._progress.give(self._post())

    def _send(self) -> None:
        for send in self._sends[self._left : self._ready]:
            if send is not None:
                send()
        self._left = self._ready
