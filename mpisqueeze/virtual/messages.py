"""Messages between virtual workers: each end is a request, and what is started at one end alone waits in a channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpisqueeze.virtual.scheduler import Worker


class Channel:
    """The messages of one kind from one worker to another that have been started at one end alone, in order.

    Attributes:
        first, last: of a chain of ends by their `next`; all of them are sends, or none is.
    """

    __slots__ = ("first", "last")

    def __init__(self) -> None:
        self.first: Any = None
        self.last: Any = None

    def start(self, end: Any) -> bool:
        """Hand a message over if its other end has been started, else keep this end for it; True if it is over.

        Raises ValueError for a message that is longer than the memory to receive it.
        """
        other = self.first
        if other is None or other.sends == end.sends:
            end.next = None
            if other is None:
                self.first = end
            else:
                self.last.next = end
            self.last = end
            return False
        self.first = other.next
        if end.sends:
            _hand_over(end, other)
        else:
            _hand_over(other, end)
        other.complete()
        return True

    def remove(self, request: Any) -> None:
        """Take a request out of the chain, if it is there."""
        before, at = None, self.first
        while at is not None and at is not request:
            before, at = at, at.next
        if at is None:
            return
        if before is None:
            self.first = at.next
        else:
            before.next = at.next
        if self.last is request:
            self.last = before


class Request:
    """A message's end at one worker, persistent: `Start`, then `Wait` or `Test`, any number of times.

    Attributes:
        data: the memory to send or to receive into; an object that is sent or was received, where `boxed`.
        sends: it is a send, and not a receive.
    """

    __slots__ = ("_channel", "_peer", "_sleeps", "_worker", "boxed", "data", "done", "next")

    #: No request of MPI's own stands behind it, see `comm.pieces.requests_of_mpi`.
    request = None
    sends = False

    def __init__(self, worker: Worker, channel: Channel, peer: int, data: Any, boxed: bool = False) -> None:
        self._worker, self._channel, self._peer, self.data, self.boxed = worker, channel, peer, data, boxed
        self.done, self._sleeps = True, False
        self.next: Any = None

    def Wait(self) -> None:
        """Let others go on until the message has been handed over."""
        if not self.done:
            self._sleeps = True
            self._worker.wait(self)
            self._sleeps = False

    def Test(self) -> bool:
        """True if `Wait` returns at once."""
        return self.done

    def complete(self) -> None:
        """The message has been handed over."""
        self.done = True
        if self._sleeps:
            self._worker.wake()

    def Free(self) -> None:
        """Forget the message's memory."""
        self.data = None

    def Start(self) -> None:
        """Hand the message over if its other end is ready, else when that will be."""
        self.done = self._channel.start(self)


class Send(Request):
    """A send."""

    __slots__ = ()

    sends = True

    def __str__(self) -> str:
        return f"its message to rank {self._peer}"


class RemoteSend(Request):
    """A send to a worker of another process; its memory may be used again at once."""

    __slots__ = ("_post",)

    def __init__(self, worker: Worker, post: Callable[[Any], None], peer: int, data: Any, boxed: bool) -> None:
        super().__init__(worker, Channel(), peer, data, boxed)
        self._post = post

    def Start(self) -> None:
        """Send a copy on its way."""
        self._post(self.data if self.boxed else portable(self.data))


class Receive(Request):
    """A receive."""

    __slots__ = ()

    def Cancel(self) -> None:
        """Give up a message that will not come."""
        if not self.done:
            self._channel.remove(self)
            self.done = True

    def __str__(self) -> str:
        return f"a message from rank {self._peer}"


class Arrived:
    """A message from another process that no receive was ready for; it takes a send's place in its channel."""

    __slots__ = ("boxed", "data", "next")

    sends = True

    def __init__(self, data: Any, boxed: bool) -> None:
        self.data, self.boxed, self.next = data, boxed, None

    def complete(self) -> None:
        """Nobody waits for this."""


def _hand_over(send: Any, receive: Request) -> None:
    """Give a receive what was sent."""
    if receive.boxed:
        receive.data = send.data
        return
    source, target = send.data, receive.data
    if len(source) == len(target):
        target[:] = source
    elif len(source) < len(target):
        target[: len(source)] = source
    else:
        raise ValueError(f"a message of {len(source)} bytes for a buffer of {len(target)}")


def portable(value: Any) -> Any:
    """The same in this process's own memory: other processes see no device."""
    return value.get() if hasattr(value, "get") and hasattr(value, "device") else value
