"""Signs of life between hosts, which tell a lost one from a slow gradient within seconds.

Open MPI waits for ever for a peer behind a dead link. A thread cannot tell by MPI whether a peer is lost or computes:
what holds Python's lock for a minute, or is stopped, sends nothing either. So the lowest ranks of the hosts keep plain
TCP connections, in a ring, over which they send a line now and then. The kernels acknowledge it, whatever the ranks do,
and say so (TCP_USER_TIMEOUT, RFC 5482) when nothing has been acknowledged for long.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psutil

from mpisqueeze.comm.launched import tell_launch
from mpisqueeze.comm.world import World
from mpisqueeze.errors import ExitCode
from mpisqueeze.holder import abandon
from mpisqueeze.mpi import MPI
from mpisqueeze.streams import say

#: Lines in the time after which a host is lost; seconds between two looks.
_LINES, _LOOK_S = 6, 0.5
#: Seconds to connect to one address of a host.
_CONNECT_S = 3.0
#: Seconds that the launcher has to end this rank, once a peer is gone; and between ranks that each end all.
_GONE_S, _TURN_S, _TURNS = 5.0, 1.0, 3
#: Bytes of the messages that are tried where an exchange does not end: those of the usual packets, and more.
SIZES = (512, 1024, 1400, 2048, 4096, 8192, 16384, 65536)
_LONGEST = 2 * SIZES[-1]
#: The line by which a rank takes its leave.
_BYE = b"bye"

#: Tells what this rank is doing, and for how long (s) it has been in its iteration.
State = Callable[[], tuple[str, float]]


class _Peer:
    """A connection to the lowest rank of another host.

    Attributes:
        tries: it is this rank that tries sizes here, so that lines come the other way whatever sizes pass.
        heard: when its last line came, and what it said.
        passed, tried: bytes of the largest message that it has confirmed, and of the one that is on its way, or 0.
    """

    def __init__(self, rank: int, host: str, connection: socket.socket, limit_s: float, tries: bool) -> None:
        self.rank, self.host, self.connection, self.tries = rank, host, connection, tries
        self.heard = (time.monotonic(), "")
        self.passed = self.tried = 0
        self._tried_at = 0.0
        self.took_leave = False
        self._in, self._out = b"", b""
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1e3 * limit_s))

    def send(self, line: bytes) -> None:
        self._out += line + b"\n"
        self.push()

    def push(self) -> None:
        """Hand on what the kernel takes. Raises OSError once the connection is lost."""
        with contextlib.suppress(BlockingIOError):
            while self._out:
                self._out = self._out[self.connection.send(self._out) :]

    def listen(self) -> None:
        """Take what has come. Raises OSError once the connection is lost."""
        with contextlib.suppress(BlockingIOError):
            while not self.took_leave:
                data = self.connection.recv(1 << 16)
                if not data:
                    raise ConnectionResetError
                *lines, self._in = (self._in + data).split(b"\n")
                if len(self._in) > _LONGEST:
                    raise ConnectionResetError
                for line in lines:
                    self._take(line)

    def _take(self, line: bytes) -> None:
        if line.startswith(b"#"):
            self.send(b"=%d" % (len(line) + 1))
        elif line.startswith(b"=") and line[1:].isdigit():
            self.passed, self.tried = int(line[1:]), 0
        elif line == _BYE:
            self.took_leave = True
        else:
            self.heard = (time.monotonic(), line.decode(errors="replace"))

    def try_next(self) -> None:
        """Send the next larger message, if the last one is confirmed."""
        size = next((size for size in SIZES if size > self.passed), None)
        if size and not self.tried and self.tries:
            self.tried, self._tried_at = size, time.monotonic()
            self.send(b"#" + b"." * (size - 2))

    def loss(self, limit_s: float) -> str:
        """Words for the loss of this peer."""
        when, said = self.heard
        last = f"; {time.monotonic() - when:.0f} s ago it was {said}" if said else ""
        if self.tried and when - self._tried_at > limit_s / _LINES:
            passed = f"messages of {self.passed} bytes" if self.passed else "short messages"
            return (
                f"rank {self.rank} on {self.host} answers {passed}, and none of {self.tried}: "
                f"the MTU of a link on the way may be smaller than that of its ends{last}"
            )
        return (
            f"rank {self.rank} on {self.host} cannot be reached: nothing was acknowledged for --heartbeat "
            f"{limit_s:g} s{last}"
        )


class Heartbeat:
    """Ends all ranks when a host does not answer any more, and says which. Collective; does nothing on one host.

    Args:
        limit_s: seconds without an acknowledgement after which a host is lost; infinite for never.
        state: of this rank, told to the others.
    """

    def __init__(self, world: World, limit_s: float, state: State) -> None:
        self._ring: _Ring | None = None
        if world.process.hosts == 1 or math.isinf(limit_s):
            return
        if world.virtual:
            # The first worker of each process speaks for it. Once all are here, no other process waits for this one.
            world.comm.Barrier()
            if not world.leads:
                return
            world = world.process
        token = world.comm.bcast(secrets.token_hex(8))
        listener = _listener() if world.host == world.rank else None
        about = (socket.gethostname(), _addresses(), listener.getsockname()[1]) if listener else None
        every = {rank: found for rank, found in enumerate(world.comm.allgather(about)) if found}
        if listener is not None:
            self._ring = _Ring(world.rank, every, listener, token, limit_s, state)

    def close(self) -> None:
        """Take leave of the others."""
        if self._ring is not None:
            self._ring.close()


class _Ring:
    """The connections of a host's lowest rank to those of the next host and of the one before, and their thread.

    Args:
        every: name, addresses and port of each such rank's host.
    """

    def __init__(
        self,
        rank: int,
        every: dict[int, tuple[str, list[str], int]],
        listener: socket.socket,
        token: str,
        limit_s: float,
        state: State,
    ) -> None:
        self._rank, self._every, self._listener, self._limit_s, self._state = rank, every, listener, limit_s, state
        self._token = token.encode()
        ranks = sorted(every)
        at = ranks.index(rank)
        self._after, self._before = ranks[(at + 1) % len(ranks)], ranks[at - 1]
        self._peers: list[_Peer] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._connect, self._beat)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _beat(self) -> None:
        told, pause = -math.inf, min(_LOOK_S, self._limit_s / _LINES)
        with self._listener:
            self._listener.setblocking(False)
            while not self._over.wait(pause):
                self._accept()
                doing, took_s = self._state()
                due = time.monotonic() - told >= self._limit_s / _LINES
                told = time.monotonic() if due else told
                for peer in [*self._peers]:
                    try:
                        if due:
                            peer.send(doing.encode())
                        if took_s > self._limit_s / 2:
                            peer.try_next()
                        peer.push()
                        peer.listen()
                    except OSError as error:
                        self._lost(peer, error)
                    if peer.took_leave:
                        self._peers.remove(peer)
                        peer.connection.close()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.send(_BYE)
            peer.connection.close()

    def _connect(self) -> None:
        """Connect to the next host's lowest rank, by the first of its addresses that leads there.

        They are tried until a host without an answer would be lost, since a network may be slow to begin with.
        """
        name, addresses, port = self._every[self._after]
        deadline = time.monotonic() + self._limit_s
        while time.monotonic() < deadline:
            for address in _nearest(addresses):
                if self._over.is_set():
                    return
                with contextlib.suppress(OSError):
                    connection = socket.create_connection((address, port), _CONNECT_S)
                    connection.sendall(b"%s %d\n" % (self._token, self._rank))
                    # Another host may have the same address, of a container's bridge for one.
                    if connection.recv(len(self._token) + 1) == self._token + b"\n":
                        self._peers.append(_Peer(self._after, name, connection, self._limit_s, tries=True))
                        return
                    connection.close()
            if self._over.wait(_LOOK_S):
                return
        say(
            f"mpisqueeze: rank {self._rank} has no heartbeat with rank {self._after} on {name}, since no TCP "
            "connection leads there: if the link is lost, the run ends by --timeout alone"
        )

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.settimeout(_CONNECT_S)
            if connection.recv(64) == b"%s %d\n" % (self._token, self._before):
                connection.sendall(self._token + b"\n")
                name = self._every[self._before][0]
                self._peers.append(_Peer(self._before, name, connection, self._limit_s, tries=False))
            else:
                connection.close()

    def _lost(self, peer: _Peer, error: OSError) -> None:
        """End all ranks, unless this is how a run ends."""
        turn_s = _TURN_S * min(sorted(self._every).index(self._rank), _TURNS)
        ended = isinstance(error, ConnectionResetError | BrokenPipeError)
        # The launcher of a rank that has ended ends all others, if it can reach them.
        if self._over.wait(turn_s + (_GONE_S if ended else 0)):
            return
        abandon()
        tell_launch(lost=peer.rank)
        say(f"mpisqueeze: {f'rank {peer.rank} on {peer.host} is gone' if ended else peer.loss(self._limit_s)}")
        # Without a way to the launcher, the next call waits for ever.
        killer = threading.Timer(_GONE_S, os._exit, [ExitCode.FAILED])
        killer.daemon = True
        killer.start()
        MPI.COMM_WORLD.Abort(ExitCode.FAILED)


def _listener() -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _networks() -> Iterator[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    """The addresses of this host with their networks, in the order of its interfaces; that of MPISQUEEZE_INTERFACE
    alone where that is set."""
    named = os.environ.get("MPISQUEEZE_INTERFACE")
    for name, found in psutil.net_if_addrs().items():
        for each in found:
            if each.family not in (socket.AF_INET, socket.AF_INET6) or (named and name != named):
                continue
            with contextlib.suppress(ValueError):
                text = f"{each.address}/{each.netmask}" if each.family == socket.AF_INET else each.address
                interface = ipaddress.ip_interface(text)
                if not interface.is_loopback and not interface.is_link_local:
                    yield interface


def _addresses() -> list[str]:
    return [str(interface.ip) for interface in _networks()]


def _nearest(addresses: list[str]) -> list[str]:
    """Addresses of another host, those in this host's networks first."""
    networks = [interface.network for interface in _networks()]
    found = {address: ipaddress.ip_address(address) for address in addresses}
    return sorted(addresses, key=lambda address: not any(found[address] in network for network in networks))
