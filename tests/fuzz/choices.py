"""Turning bytes into choices, so that a fuzzer that knows bytes alone builds options and programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

#: Texts that options are made of, and near misses.
WORDS: tuple[str, ...] = (
    "", " ", "-", "--", "0", "1", "-1", "2", "3", "10", "1.5", "1e3", "1e400", "nan", "inf", "-inf", "true", "false",
    "4Ki", "1k", "9" * 30, "9" * 400, "9" * 400 + ".5", "1G", "9999999999G", "5ms", "0s", "1h", "1ns", "10us",
    "9" * 400 + "s", "1mbit", "2.5gbit/s", "0bit", "9" * 400 + "bit", "٣", "½", "é", "\ud800", "\x00", "\n", "x" * 300,
    "identity", "onebit", "onebit:0", "onebit:7,scale=l2", "onebit:8,scale=two", "qsgd:2", "qsgd:8,bucket=0",
    "qsgd:4,bucket=1T", "uniform:1", "ternary", "ternary,bucket=3", "topk:0.5", "topk:1e-9", "randomk:0.1,unbiased",
    "clip:9", "fp16", "bf16",
    "sgd", "csgd", "csgd-double", "memsgd", "doublesqueeze", "allreduce", "powersgd:3", "dpsgd", "dpsgd-naive", "dcd",
    "ecd", "ef21", "ef21-bc", "dgc", "dgc:warmup=1", "signum", "onebit-adam", "onebit-adam:freeze=2",
    "onebit:scale=none", "deepsqueeze", "choco", "d2", "choco:eta=0.3", "dpsgd:order=awc", "memsgd:lr=inside",
    "choco:x=1", "choco:eta=", "root", "sharded", "both", "ring", "torus",
    "complete", "exponential", "star", "file:edges", "file:", "file:nowhere", "flat", "chain", "binary", "binomial",
    "quadratic:10", "quadratic:3,noise=1", "quadratic:10,condition=1e300", "quadratic:2,spread=1e300", "mlp:3",
    "mlp:0", "mlp:2x2", "logistic", "resnet18", "digits", "synthetic:5x20", "synthetic:4x20,classes=3",
    "synthetic:0x1", "mnist", "cifar10", "csv:edges", "libsvm:edges,test=run",
    "iid", "label", "dirichlet:0.5", "dirichlet:1,balanced",
    "dirichlet:0", "constant", "cosine",
    "step:1:0.5", "step:1e-300:1e300", "step::", "float32", "float64", "float16", "auto", "cpu", "cuda", "device",
    "staged", "latency=1us", "latency=1us,bandwidth=1gbit", "gap=1us", "latency=", "bandwidth=0bit", "always", "never",
    "terminal", "loss", "phases", "time-by-bandwidth", "test-by-bytes", "lr=0.1,0.2", "lr=0.1;0.2", "compressor=fp16",
    "seed=1,2", "topology=ring,star", "barrier=true,false", "talks", "centralized", "sgd/identity", "dcd/qsgd:8",
    "/", "a/b/c", "plug.py:Thing", "./plug.py:Thing,a=1", "nowhere.py:X", "run", "run/config.json", "empty", "edges",
    ".", "..", "/dev/null", "/dev/null/x", "/proc/self/mem", "new", "new/er", "file.json", "a.png", "a.svg", "a.pdf",
    "=", ",", ":", ";", "a=b", "a=", "=b", ":::", ",,,", "on", "off", "64:256", "256:64", "1:", "1.5:2",
    "[/]", "a[/b].py:X", "[bold]run", ":smile:",
)  # fmt: skip


class Choices:
    """Choices that bytes make; zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def number(self, below: int) -> int:
        """0 … below − 1, of a byte, or of two."""
        width = 1 if below <= 256 else 2
        part = self._data[self._at : self._at + width]
        self._at += len(part)
        return int.from_bytes(part, "big") % below

    def pick(self, items: Sequence[T]) -> T:
        return items[self.number(len(items))]

    def rest(self) -> bytes:
        part, self._at = self._data[self._at :], len(self._data)
        return part

    def text(self) -> str:
        """A word, two of them with something between them, or the bytes themselves."""
        kind = self.number(4)
        if kind < 2:
            return self.pick(WORDS)
        if kind == 2:
            return f"{self.pick(WORDS)}{self.pick((':', ',', '=', '/', 'x', ' ', ''))}{self.pick(WORDS)}"
        size = self.number(24)
        part = self._data[self._at : self._at + size]
        self._at += len(part)
        return part.decode(errors="surrogateescape")
