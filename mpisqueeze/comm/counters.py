"""Counters of the bytes and messages that a rank hands to MPI for other ranks."""

from __future__ import annotations


class Counter:
    """Payload bytes and messages of one rank since the last `reset`: no self-delivery, no envelope, no metrics."""

    __slots__ = ("bytes_received", "bytes_sent", "messages")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.bytes_sent = 0
        self.bytes_received = 0
        self.messages = 0
