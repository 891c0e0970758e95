"""The connections of the heartbeat, between threads of one process; test_lab_faults has hosts and links that fail."""

from __future__ import annotations

import socket

import pytest
from conftest import wait_for

from mpisqueeze.comm import heartbeat


def ring(
    rank: int, every: dict[int, tuple[str, list[str], int]], listener: socket.socket, limit_s: float
) -> heartbeat._Ring:
    return heartbeat._Ring(rank, every, listener, "token", limit_s, lambda: ("exchanging", 0.0))


def test_a_host_that_nothing_leads_to_is_told_of(capfd: pytest.CaptureFixture[str]) -> None:
    listener, nobody = socket.create_server(("127.0.0.1", 0)), socket.socket()
    nobody.bind(("127.0.0.1", 0))
    every = {rank: (f"n{rank}", ["127.0.0.1"], each.getsockname()[1]) for rank, each in enumerate([listener, nobody])}
    mine = ring(0, every, listener, 0.6)
    says = "rank 0 has no heartbeat with rank 1 on n1, since no TCP connection leads there"
    wait_for(lambda: says in capfd.readouterr().err, "the line", 20)
    mine.close()
    nobody.close()


def test_a_host_that_answers_late_is_no_lost_one(capfd: pytest.CaptureFixture[str]) -> None:
    listeners = [socket.socket() for _ in range(2)]
    for each in listeners:
        each.bind(("127.0.0.1", 0))
    listeners[0].listen()
    every = {rank: (f"n{rank}", ["127.0.0.1"], each.getsockname()[1]) for rank, each in enumerate(listeners)}
    first = ring(0, every, listeners[0], 30.0)
    # The first attempt is refused by now.
    first._over.wait(0.2)
    listeners[1].listen()
    second = ring(1, every, listeners[1], 30.0)
    wait_for(lambda: len(first._peers) == len(second._peers) == 2, "both connections of each", 20)
    for each in (first, second):
        each.close()
    assert capfd.readouterr().err == ""
