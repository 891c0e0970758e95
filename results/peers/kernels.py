"""This program's compiled kernels beside what NumPy and torch offer for the same, on the same vectors, in turns.

    python results/peers/kernels.py [--rounds COUNT] [SIZE…]

Needs torch. *encode+δ* is v = g + δ, payload ← C(v), δ ← v − D(payload), and *decode+=* is x ← x + D(payload), for all
alike. NumPy's and torch's write into buffers that are there wherever a call takes one. What they keep and send is
compared with this program's: the same signs, the same indices, the same halves.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from table import Others, header, show

from mpisqueeze.bench.kernels import Variant
from mpisqueeze.bench.timing import TimeStatistics, no_garbage_collection, rotated
from mpisqueeze.devices.device import Device
from mpisqueeze.parts import registry
from mpisqueeze.quantities import parse_size
from mpisqueeze.report.bench_view import numbers

RATIO = 0.01
WARMUP = 2
FLOAT32 = np.dtype(np.float32)
#: Of the vector: by which scales of other sums differ, and a few numbers near 0 whose sign that decides.
TOLERANCE = 5e-3


class Kernel:
    """One compressor by one maker, on vectors of `size` numbers.

    Attributes:
        delta, x: what encoding and decoding change.
    """

    def __init__(self, g: np.ndarray) -> None:
        self.g, self.size = g, g.size
        self.delta, self.x = np.zeros_like(g), np.zeros_like(g)

    def reset(self) -> None:
        self.delta.fill(0)
        self.x.fill(0)

    def encode(self) -> None:
        raise NotImplementedError

    def decode(self) -> None:
        raise NotImplementedError


class Ours(Kernel):
    def __init__(self, g: np.ndarray, spec: str, kernels: str = "native") -> None:
        super().__init__(g)
        part = registry.compressors.find(spec)
        self._compressor = Variant(Device(), kernels).compressor(part, g.size, FLOAT32)
        self._payload = np.zeros(self._compressor.payload_bytes, np.uint8)
        self._compressor.iteration = 1

    def encode(self) -> None:
        self._compressor.encode_feedback(self.g, self.delta, self._payload)

    def decode(self) -> None:
        self._compressor.decode_add(self._payload, self.x)


class NumpyOneBit(Kernel):
    """Signs by packbits, one scale: the mean magnitude."""

    def __init__(self, g: np.ndarray) -> None:
        super().__init__(g)
        self._v, self._work, self._signs = np.empty_like(g), np.empty_like(g), np.empty(g.size, bool)

    def encode(self) -> None:
        v, work = self._v, self._work
        np.add(self.g, self.delta, out=v)
        self._scale = np.abs(v, out=work).mean()
        np.greater_equal(v, 0, out=self._signs)
        self._payload = np.packbits(self._signs)
        work.fill(-self._scale)
        np.copyto(work, self._scale, where=self._signs)
        np.subtract(v, work, out=self.delta)

    def decode(self) -> None:
        work = self._work
        np.multiply(np.unpackbits(self._payload, count=self.size), 2 * self._scale, out=work, dtype=np.float32)
        work -= self._scale
        self.x += work


class TorchOneBit(Kernel):
    """torch packs no bits; the fastest way that was found with its operations, one scale.

    Eight truth values are read as one integer, whose product with `GATHER` has them as the bits of its highest byte; a
    table has what each byte stands for.
    """

    GATHER = 0x0102040810204080

    def __init__(self, g: np.ndarray) -> None:
        super().__init__(g)
        self._signs = ((torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1).float() * 2 - 1
        self._g, self._delta, self._x = map(torch.from_numpy, (self.g, self.delta, self.x))
        self._v, self._work = torch.empty_like(self._g), torch.empty_like(self._g)

    def encode(self) -> None:
        v, work = self._v, self._work
        torch.add(self._g, self._delta, out=v)
        self._scale = torch.abs(v, out=work).mean()
        self._payload = (((v >= 0).view(torch.int64) * self.GATHER) >> 56).to(torch.uint8)
        torch.copysign(self._scale, v, out=work)
        torch.sub(v, work, out=self._delta)

    def decode(self) -> None:
        signs = torch.index_select(self._signs, 0, self._payload.int())
        self._x.add_(signs.view(-1), alpha=float(self._scale))


class NumpyTopK(Kernel):
    """argpartition of the magnitudes."""

    def __init__(self, g: np.ndarray) -> None:
        super().__init__(g)
        self.k, self._work = int(np.ceil(RATIO * g.size)), np.empty_like(g)

    def encode(self) -> None:
        delta = self.delta
        delta += self.g
        magnitudes = np.abs(delta, out=self._work)
        self._indices = np.argpartition(magnitudes, self.size - self.k)[self.size - self.k :].astype(np.int32)
        self._values = delta[self._indices]
        delta[self._indices] = 0

    def decode(self) -> None:
        self.x[self._indices] += self._values


class TorchTopK(Kernel):
    """torch.topk of the magnitudes, unsorted."""

    def __init__(self, g: np.ndarray) -> None:
        super().__init__(g)
        self.k, self._work = int(np.ceil(RATIO * g.size)), torch.empty(g.size)
        self._g, self._delta, self._x = map(torch.from_numpy, (self.g, self.delta, self.x))

    def encode(self) -> None:
        delta = self._delta
        delta += self._g
        magnitudes = torch.abs(delta, out=self._work)
        self._indices = torch.topk(magnitudes, self.k, sorted=False).indices
        self._values = delta[self._indices]
        delta[self._indices] = 0

    def decode(self) -> None:
        self._x.index_add_(0, self._indices, self._values)


class NumpyHalf(Kernel):
    def __init__(self, g: np.ndarray) -> None:
        super().__init__(g)
        self._v, self._work, self._payload = np.empty_like(g), np.empty_like(g), np.empty(g.size, np.float16)

    def encode(self) -> None:
        np.add(self.g, self.delta, out=self._v)
        np.copyto(self._payload, self._v, casting="same_kind")
        np.copyto(self._work, self._payload)
        np.subtract(self._v, self._work, out=self.delta)

    def decode(self) -> None:
        np.copyto(self._work, self._payload)
        self.x += self._work


class TorchHalf(Kernel):
    """torch's casts, to float16 or bfloat16."""

    def __init__(self, g: np.ndarray, dtype: torch.dtype) -> None:
        super().__init__(g)
        self._g, self._delta, self._x = map(torch.from_numpy, (self.g, self.delta, self.x))
        self._v, self._payload = torch.empty_like(self._g), torch.empty(g.size, dtype=dtype)

    def encode(self) -> None:
        torch.add(self._g, self._delta, out=self._v)
        self._payload.copy_(self._v)
        torch.sub(self._v, self._payload, out=self._delta)

    def decode(self) -> None:
        self._x.add_(self._payload)


#: By what they compute; the first of each is what the others are compared with, and must equal it.
GROUPS: dict[str, dict[str, Callable[[np.ndarray], Kernel]]] = {
    "1 bit, one scale": {
        "onebit:0": lambda g: Ours(g, "onebit:0"),
        "onebit:0, NumPy fallback": lambda g: Ours(g, "onebit:0", "numpy"),
        "numpy.packbits": NumpyOneBit,
        "torch ops": TorchOneBit,
    },
    "1 bit, scales by 1024": {"onebit": lambda g: Ours(g, "onebit")},
    "top 1 %": {
        f"topk:{RATIO}": lambda g: Ours(g, f"topk:{RATIO}"),
        "numpy.argpartition": NumpyTopK,
        "torch.topk": TorchTopK,
    },
    "float16": {
        "fp16": lambda g: Ours(g, "fp16"),
        "NumPy cast": NumpyHalf,
        "torch cast": lambda g: TorchHalf(g, torch.float16),
    },
    "bfloat16": {"bf16": lambda g: Ours(g, "bf16"), "torch cast": lambda g: TorchHalf(g, torch.bfloat16)},
}


def check(group: str, kernels: dict[str, Kernel]) -> None:
    """From the same g and δ all must send and keep the same; exits with 4 where one does not."""
    first, *others = kernels.values()
    residual = np.random.default_rng(2).standard_normal(first.size, np.float32)
    for kernel in kernels.values():
        np.copyto(kernel.delta, residual)
        kernel.encode()
        kernel.decode()
    for name, kernel in zip(list(kernels)[1:], others, strict=True):
        for mine, theirs in ((first.x, kernel.x), (first.delta, kernel.delta)):
            off = np.linalg.norm(mine - theirs) / np.linalg.norm(mine)
            if not off < TOLERANCE:
                print(f"{group}: {name} differs from ours by {off:.2g} of the norm", file=sys.stderr)
                sys.exit(4)


def in_turns(works: list[tuple[Callable[[], None], Callable[[], None]]], rounds: int) -> list[float]:
    """Median seconds of each (what to do before, untimed; what to time)."""
    seconds: list[list[float]] = [[] for _ in works]
    with no_garbage_collection():
        for number in range(-WARMUP, rounds):
            for i in rotated(range(len(works)), number):
                before, work = works[i]
                before()
                began = perf_counter()
                work()
                if number >= 0:
                    seconds[i].append(perf_counter() - began)
    return [TimeStatistics.of(times).median for times in seconds]


def measure(size: int, rounds: int) -> list[list[str]]:
    """The table's lines of one size."""
    g = np.random.default_rng(1).standard_normal(size, np.float32)
    lines = []
    for group, makers in GROUPS.items():
        kernels = {name: make(g) for name, make in makers.items()}
        check(group, kernels)
        total = np.zeros_like(g)
        works = [(lambda: total.fill(0), lambda: np.add(total, g, out=total))]  # noqa: B023
        for kernel in kernels.values():
            works += [(kernel.reset, kernel.encode), (kernel.reset, kernel.decode)]
        add, *times = in_turns(works, rounds)
        encode, decode = times[::2], times[1::2]
        for i, name in enumerate(kernels):
            cells = []
            for found in (encode, decode):
                cells += [f"{1e3 * found[i]:.2f}", f"{found[i] / add:.2f}", f"{found[i] / found[0]:.2f}"]
            lines.append([group, name, numbers(size), *cells])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "sizes", nargs="*", type=parse_size, default=[4 << 20, 16 << 20], help="numbers, multiples of 8"
    )
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        *header(),
        f"# {arguments.rounds} rounds in turns after {WARMUP}; ms: medians; ×add: over an in-place add in the",
        "# same rounds; ×ours: over the first line of the group, which computes the same",
    ]
    print("\n".join(lines))
    titles = ["what", "by", "size", "encode+δ ms", "×add", "×ours", "decode+= ms", "×add", "×ours"]
    others = Others()
    show(titles, [line for size in arguments.sizes for line in measure(size, arguments.rounds)], left=2)
    print(others.line(others.mine()))


if __name__ == "__main__":
    main()
