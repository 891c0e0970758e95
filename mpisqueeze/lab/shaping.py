"""The links of a virtual cluster: what `ip`, `tc` and TCP are told so that a message takes what the link's rate says.

Every host has two interfaces. `eth0`, shaped both ways, leads to a switch and carries what the ranks send each other;
`ctl0`, as fast as the machine, carries the launcher's own traffic, so that `eth0`'s byte counters hold MPI's alone.

A rate is shaped by two token buckets (`tc tbf`): one where `eth0` leaves its host, one at the switch's port towards it.
Four numbers decide how faithful that is. With these, TCP between four hosts on two cores brings so much payload through
the busiest link, where Ethernet, IP and TCP headers leave 95.6 % at an MTU of 1500, and acknowledgements of traffic the
other way a little less (`results/lab/tcp.py` measures it):

| rate | pair, incast, broadcast | ring | all to all |
|---|---|---|---|
| 10mbit | 95.7 % | 91.1 % | 91.5 % |
| 100mbit | 95.6 % | 94.5 % | 94.2 % |
| 1gbit | 95.6 % | 94.8 % | 94.9 % |

- `burst`: the bucket's depth, sent at memory's speed once the link was idle. The usual 64 kB would let a message of
  20 kB pass three times faster than a link of 100mbit can. So it is one frame and 0.2 ms: what a late timer may make
  up for.
- `segments`: packets in TCP's largest frame, 0.65 ms of the link. A frame costs two timers and two trips through a
  virtual wire, ~30 µs of a core; spent on every packet, that would take more cores than there are.
- `window`: bytes in flight between two hosts, 5 ms of the link more than its delay. Bounded windows, and a queue that
  holds all of them, are what credits are to a lossless fabric: nothing is dropped, no flow starves another, and no
  exchange waits for a retransmission.
- `queue`: bytes that a port holds: twice every other host's window.

Bytes that fit into the burst take no time after a pause: at 100mbit the first 10 kB of a message. Below that size it is
latency that is measured, and the bound of an exchange is its bytes beyond the burst.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

LINK, CONTROL = "eth0", "ctl0"
HEAD = "head"
MAX_HOSTS = 1000  # a Linux bridge has 1023 ports
MTUS = range(576, 65001)
RATES = (1e4, 1e11)  # least and most, bits per second

_FRAME_S = 0.65e-3
_SLACK_S = 0.2e-3
_WINDOW_S = 5e-3
_ETHERNET = 14
_IP_TCP = 52  # headers with timestamps
_LONGEST_FRAME = 65_000
_FIRST_LINK, _FIRST_CONTROL = IPv4Address("10.0.0.1"), IPv4Address("10.1.0.2")


@dataclass(frozen=True)
class Links:
    """The link of every host to the switch.

    Attributes:
        rate: bits per second, of whole Ethernet frames as a network card sends them, each way.
        delay: seconds that a packet takes from host to host, besides.
        mtu: bytes of the largest IP packet.
    """

    hosts: int
    rate: float
    delay: float = 0.0
    mtu: int = 1500

    @property
    def packet(self) -> int:
        """Bytes of the largest packet with its Ethernet header."""
        return self.mtu + _ETHERNET

    @property
    def segments(self) -> int:
        """Packets that TCP may hand over as one frame."""
        return max(1, min(int(self._bytes(_FRAME_S) // self.packet), _LONGEST_FRAME // (self.mtu - _IP_TCP)))

    @property
    def burst(self) -> int:
        """Bytes that an idle link takes at once."""
        return self.segments * self.packet + max(512, int(self._bytes(_SLACK_S)))

    @property
    def window(self) -> int:
        """Bytes in flight from one host to another, at most."""
        return int(max(16 * (self.mtu - _IP_TCP), self._bytes(2 * self.delay + _WINDOW_S)))

    @property
    def queue(self) -> int:
        """Bytes that wait at a port, at most."""
        return min(2 * max(1, self.hosts - 1) * (self.window + self.segments * self.packet) + 65_536, 2**31)

    def _bytes(self, seconds: float) -> float:
        return self.rate * seconds / 8


def host_name(rank: int) -> str:
    """The host of a rank."""
    return f"host{rank}"


def address(rank: int) -> IPv4Address:
    """The address at which the others reach a rank's host, over the shaped links."""
    return _FIRST_LINK + rank


def control_port(rank: int) -> str:
    """The head node's end of the cable by which the launcher reaches a rank's host."""
    return f"control{rank}"


def names_file(hosts: int) -> str:
    """/etc/hosts of every machine in the cluster."""
    lines = ["127.0.0.1 localhost", f"127.0.1.1 {HEAD}", *(f"{address(r)} {host_name(r)}" for r in range(hosts))]
    return "".join(f"{line}\n" for line in lines)


def switch_commands(links: Links, pids: list[int]) -> list[str]:
    """Lines for `ip -batch` on the head node: two switches, and a cable from each to every host.

    Args:
        pids: a process in each host's network namespace, by rank.
    """
    lines = [
        "link set lo up",
        "link add switch type bridge mcast_snooping 0",
        f"link add {CONTROL} type bridge",
        f"address add {_FIRST_CONTROL - 1}/16 dev {CONTROL}",
    ]
    limits = f"mtu {links.mtu} gso_max_segs {links.segments}"
    for rank, pid in enumerate(pids):
        lines += [
            f"link add port{rank} {limits} type veth peer name {LINK} {limits} netns {pid}",
            f"link add {control_port(rank)} type veth peer name {CONTROL} netns {pid}",
            f"link set port{rank} master switch addrgenmode none up",
            f"link set {control_port(rank)} master {CONTROL} addrgenmode none up",
        ]
    return [*lines, "link set switch addrgenmode none up", f"link set {CONTROL} addrgenmode none up"]


def port_commands(links: Links) -> list[str]:
    """Lines for `tc -batch` on the head node: what goes to each host is shaped at the switch's port."""
    return [f"qdisc add dev port{rank} root {_bucket(links)}" for rank in range(links.hosts)]


def host_commands(links: Links, rank: int) -> list[str]:
    """Lines for `ip -batch` on a host: its addresses, and how TCP behaves towards the others."""
    segment = links.mtu - _IP_TCP
    started = max(1, links.window // segment)
    # A queue that fills up must not look like a loss.
    patience_ms = max(200, int(1e3 * (8 * links.queue / links.rate + 2 * links.delay)))
    return [
        "link set lo up",
        f"address add {_FIRST_CONTROL + rank}/16 dev {CONTROL}",
        f"address add {address(rank)}/16 dev {LINK} noprefixroute",
        f"link set {CONTROL} addrgenmode none up",
        f"link set {LINK} addrgenmode none up",
        f"route add 10.0.0.0/16 dev {LINK} src {address(rank)} congctl reno window {links.window} "
        f"initcwnd {started} initrwnd {started} rto_min {patience_ms}ms",
    ]


def uplink_commands(links: Links) -> list[str]:
    """Lines for `tc -batch` on a host: what it sends is shaped, and late if the links have a delay."""
    if not links.delay:
        return [f"qdisc add dev {LINK} root {_bucket(links)}"]
    return [
        f"qdisc add dev {LINK} root handle 1: {delay_queue(links)}",
        f"qdisc add dev {LINK} parent 1:1 handle 10: {_bucket(links)}",
    ]


def delay_queue(links: Links) -> str:
    """The queue that holds every packet for the links' delay."""
    return f"netem delay {links.delay * 1e6:.3f}us limit 1000000"


def _bucket(links: Links) -> str:
    return f"tbf rate {links.rate:.0f}bit burst {links.burst} limit {links.queue}"
