"""What plain TCP sockets reach on the links of `mpisqueeze lab`, as a share of their rate.

mpisqueeze lab -n 4 --rate 100mbit --exec -- python results/lab/tcp.py
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterable

PORT = 5000
SECONDS = 0.7  # of the busiest link
SHORT_S = 1.6e-3  # likewise, in a message after a pause
REPEATS = 5

LAB = json.loads(os.environ["MPISQUEEZE_LAB"])
RANK, RATE = int(os.environ["OMPI_COMM_WORLD_RANK"]), LAB["rate"]
HOSTS = len(LAB["hosts"])
OTHERS = [rank for rank in range(HOSTS) if rank != RANK]
NEIGHBOURS = sorted({(RANK - 1) % HOSTS, (RANK + 1) % HOSTS} - {RANK})

#: Whom this rank sends to and receives from, and how many flows share the busiest link.
PATTERNS: dict[str, tuple[list[int], list[int], int]] = {
    "pair": ([0] if RANK == 1 else [], [1] if RANK == 0 else [], 1),
    "incast": ([] if RANK == 0 else [0], OTHERS if RANK == 0 else [], HOSTS - 1),
    "broadcast": (OTHERS if RANK == 0 else [], [] if RANK == 0 else [0], HOSTS - 1),
    "ring": (NEIGHBOURS, NEIGHBOURS, len(NEIGHBOURS)),
    "all to all": (OTHERS, OTHERS, HOSTS - 1),
}


def connect() -> dict[int, socket.socket]:
    """A connection to every other rank."""
    server = socket.create_server(("", PORT), backlog=HOSTS)
    links: dict[int, socket.socket] = {}
    for rank in range(RANK):
        while rank not in links:
            try:
                links[rank] = socket.create_connection((LAB["hosts"][rank], PORT))
            except ConnectionRefusedError:
                time.sleep(0.05)
        links[rank].sendall(RANK.to_bytes(2, "little"))
    while len(links) < HOSTS - 1:
        link = server.accept()[0]
        links[int.from_bytes(receive(link, 2), "little")] = link
    for link in links.values():
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return links


def receive(link: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes; the last few of them."""
    buffer = bytearray(1 << 18)
    while True:
        got = link.recv_into(buffer, min(count, len(buffer)))
        if not got:
            raise ConnectionError("the other rank left")
        count -= got
        if not count:
            return bytes(buffer[:got])


def together(jobs: Iterable[Callable[[], object]]) -> None:
    """Run jobs at the same time."""
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def barrier(links: dict[int, socket.socket]) -> None:
    """Leave when every rank has come."""
    for rank in OTHERS if RANK == 0 else []:
        receive(links[rank], 1)
    for rank in OTHERS if RANK == 0 else [0]:
        links[rank].sendall(b".")
    if RANK:
        receive(links[0], 1)


def timed(links: dict[int, socket.socket], pattern: str, seconds: float) -> float:
    """Payload through the busiest link as a share of its rate."""
    targets, sources, flows = PATTERNS[pattern]
    count = int(RATE * seconds / 8 / flows)
    data = bytes(count)
    jobs = [lambda r=rank: links[r].sendall(data) for rank in targets]
    jobs += [lambda r=rank: receive(links[r], count) for rank in sources]
    barrier(links)
    time.sleep(0.05)  # the links come to rest
    begin = time.perf_counter()
    together(jobs)
    barrier(links)
    return 8 * flows * count / (time.perf_counter() - begin) / RATE


def main() -> None:
    links = connect()
    for pattern, seconds in [*((pattern, SECONDS) for pattern in PATTERNS), ("pair", SHORT_S)]:
        shares = [timed(links, pattern, seconds) for _ in range(REPEATS)]
        if RANK == 0:
            middle = statistics.median(shares)
            print(f"{pattern:10} {seconds * 1e3:6.1f} ms: {middle:6.1%} of {RATE / 1e6:g} Mbit/s", end="  ")
            print(" ".join(f"{share:.1%}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
