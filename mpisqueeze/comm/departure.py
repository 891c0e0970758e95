"""Payloads that leave while the gradient is still computed (`--overlap`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mpisqueeze.comm.counters import Phase
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.pipeline import Outbox, Work
from mpisqueeze.comm.progress import Progress
from mpisqueeze.comm.wire import Wire

#: Seconds between two looks at what is on its way: 60 kB at 1 Gbit/s, which a socket holds, and some 2 % of a core.
PAUSE = 500e-6


class Departure:
    """Sends payloads in a fixed order, the same on every rank, each as soon as the caller says that it may go.

    Nothing is waited for on the way: a send that finds no receive posted yet rests in MPI, and a thread keeps messages
    moving meanwhile. An exchange is `leave` any number of times, `finish`, and `close_books` once all has arrived.

    Ranks meet before the first payload is sent. What goes wrong on a rank after that is told by a second agreement,
    which travels beside the payloads: the others wait for them, so that they are sent in any case.

    Args:
        items: (part, section, wire, send) of each payload in the order of leaving; neither wire nor send where it stays
            on this rank.
        post: posts the exchange's receives and gives those that are filled last, until when messages are kept moving;
            called once ranks have met.

    Attributes:
        order: (part, section) of each payload.
    """

    def __init__(
        self,
        network: Network,
        items: Sequence[tuple[int, int, Wire | None, Any]],
        post: Callable[[], list[Any]],
    ) -> None:
        self.network = network
        self.order = [(part, section) for part, section, _, _ in items]
        self._outbox = Outbox(network, [(part, section, wire) for part, section, wire, _ in items])
        self._payloads = [(wire, send) for _, _, wire, send in items]
        self._post = post
        self._progress = Progress(PAUSE)
        self._left = 0

    def leave(self, work: Work, count: int) -> None:
        """Have the first `count` payloads of the order on their way. Raises HaltError where ranks meet."""
        if count <= self._left:
            return
        network = self.network
        counter, clock = network.counter, network.clock
        if not self._left:
            self._outbox.open(work, 1)
            network.gate.enter()
            self._progress.give(self._post())
        for i in range(self._left, count):
            self._outbox.ready(i)
            wire, send = self._payloads[i]
            if wire is not None:
                send.Start()
                counter.bytes_sent += wire.nbytes
                counter.messages += 1
            clock.lap(Phase.COMM)
        self._left = count

    def finish(self, work: Work) -> None:
        """The gradient is there: have the rest on their way, and the requests back. Raises HaltError."""
        self.leave(work, len(self.order))
        self._progress.take_back()
        self._left = 0
        self.network.gate.propose()
        self.network.clock.lap(Phase.COMM)

    def close_books(self) -> None:
        """The exchange is over. Raises HaltError on all ranks if one of them met something bad on the way."""
        self.network.gate.confirm()

    def close(self) -> None:
        """End the thread."""
        self._progress.close()
