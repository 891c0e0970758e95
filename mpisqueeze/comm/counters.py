"""Counters of the bytes and messages that a rank hands to MPI for other ranks."""

from __future__ import annotations

from typing import Literal

BytesAre = Literal["counted", "by definition"]
"""Bytes are counted where MPI is handed a message; by definition where a collective of its library moves them."""


class Counter:
    """Payload bytes and messages of one rank since the last `reset`: no self-delivery, no envelope, no metrics.

    Attributes:
        bytes_are: `by definition` once an exchange was built that leaves payloads to a collective of the MPI library.
        bytes_local: bytes for ranks of the same group, where `--group` forms some; they are not in `bytes_sent`.
    """

    __slots__ = ("bytes_are", "bytes_local", "bytes_received", "bytes_sent", "messages")

    def __init__(self) -> None:
        self.bytes_are: BytesAre = "counted"
        self.reset()

    def reset(self) -> None:
        self.bytes_sent = 0
        self.bytes_received = 0
        self.bytes_local = 0
        self.messages = 0
