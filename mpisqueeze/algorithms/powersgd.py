"""PowerSGD: a matrix of gradients travels as two thin ones, which MPI_Allreduce adds up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from mpisqueeze.algorithms.base import Algorithm, Gradient, Setup
from mpisqueeze.comm.allreduce import AllreduceExchange
from mpisqueeze.devices.clock import Phase
from mpisqueeze.kernels.random import derive_key
from mpisqueeze.language import integer

#: Elements of a matrix that a host works on at a time, so that they stay in its cache. A GPU gets matrices whole.
BLOCK = 1 << 17
#: Rows up to which a host's BLAS is faster with one at a time.
_FEW = 2
#: Part of a vector's length, in roundings, below which what is left of it is nothing but rounding.
_ROUNDINGS = 64

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Split:
    """The parameters of x by the way in which they travel.

    Attributes:
        matrices: (first element of x, n, m) of each one that travels as P, (n, r), and Q, (m, r).
        rest: the elements of x that travel in full, neighbours together.
    """

    matrices: list[tuple[int, int, int]]
    rest: list[slice]

    @staticmethod
    def of(shapes: Shapes, rank: int) -> Split:
        """Make a matrix of each parameter, its first dimension by all others; those that are no shorter so stay whole.

        With r(n + m) < nm the rank r is less than n and m.
        """
        matrices: list[tuple[int, int, int]] = []
        rest: list[slice] = []
        start = 0
        for shape in shapes:
            n, m = shape[0] if shape else 1, math.prod(shape[1:])
            stop = start + n * m
            if rank * (n + m) < n * m:
                matrices.append((start, n, m))
            elif rest and rest[-1].stop == start:
                rest[-1] = slice(rest[-1].start, stop)
            else:
                rest.append(slice(start, stop))
            start = stop
        return Split(matrices, rest)

    @property
    def sides(self) -> tuple[int, int]:
        """Σ n and Σ m."""
        return sum(n for _, n, _ in self.matrices), sum(m for _, _, m in self.matrices)

    @property
    def whole(self) -> int:
        """The number of elements that travel in full."""
        return sum(span.stop - span.start for span in self.rest)

    def doubts(self, name: str, told: bool) -> list[str]:
        """The doubt where nothing travels as a matrix; `told`: the problem tells its parameters' shapes."""
        if self.matrices:
            return []
        why = "no parameter gets shorter as a product" if told else "the problem tells no shapes"
        return [f"{why}, so that {name} sends everything in full"]


def multiply(xp: Any, rows: Any, matrix: Any, out: Any) -> None:
    """out (r, l) ← rows (r, k) · matrix (k, l)."""
    if xp is np and len(rows) <= _FEW:
        for row, product in zip(rows, out, strict=True):
            xp.matmul(row, matrix, out=product)
    else:
        xp.matmul(rows, matrix, out=out)


class PowerSGD(Algorithm):
    """M_i = g_i + e_i; P = Σ M_i Q, orthonormalised; Q = mean M_iᵀP; ĝ = PQᵀ; e_i ← M_i − ĝ; x ← x − γĝ.

    Source: Vogels, Karimireddy & Jaggi, arXiv 1905.13727, Algorithms 1 and 2. There is a matrix for each parameter, its
    first dimension by all others. Parameters of one dimension, and those that would not get shorter, are averaged in
    full, together, and have no e. Q stays for the next iteration (warm start); the first is normal, by the seed. Both
    sums are by MPI_Allreduce, the first with what travels in full.

    Q is orthonormalised before it is used, as in the hook of torch's DDP. That changes ĝ by rounding alone, but
    keeps small columns, and replaces those that a gradient of lower rank has left without a direction.

    All ranks have the same x as long as MPI_Allreduce gives them the same bits, as all algorithms of Open MPI and
    MPICH do, though the MPI standard does not promise it, and as long as their BLAS rounds alike: on CPUs of different
    kinds ranks drift apart by roundings. No bits are promised between CPU and GPU, or between two versions of a BLAS.

    Args:
        rank: r, the number of columns of P and Q.

    State: e_i (d) on each rank, 0 where x travels in full; Q, all matrices' side by side, transposed, (r, Σm).
    """

    name = "powersgd"
    summary = "matrices as products of thin ones, by MPI_Allreduce: powersgd[:RANK], 2 by default (arXiv 1905.13727)"
    route = "allreduce"
    compresses = False
    formula = "2(N−1)c, no server"
    memory: ClassVar[Sequence[str]] = ("e", "q")

    def __init__(self, setup: Setup, *, rank: Annotated[int, integer(1)] = 2) -> None:
        super().__init__(setup)
        self.rank, device = rank, setup.network.device
        self._split = Split.of(setup.shapes or [(setup.dimension,)], rank)
        rows, columns = self._split.sides
        self.e = setup.zeros()
        # P, transposed, and what travels in full.
        self._first = setup.zeros(rank * rows + self._split.whole)
        self.p, self._rest = self._first[: rank * rows].reshape(rank, rows), self._first[rank * rows :]
        draws = np.random.default_rng(derive_key(setup.seed, 3))
        self._second = device.xp.asarray(draws.standard_normal(rank * columns).astype(setup.dtype))
        self.q = self._second.reshape(rank, columns)
        self._bases = Bases(device.xp, rank, [max(n, m) for _, n, m in self._split.matrices], setup.dtype)
        self._matrices = list(self._matrices_of(device.xp, BLOCK if device.kind == "cpu" else setup.dimension))
        self._exchanges = [AllreduceExchange(setup.network, len(v), setup.dtype) for v in self._vectors]
        self._descent = setup.descent("the answer to all ranks' gradients holds a NaN or an infinity")
        self._x = self._g = None
        self._spans: list[tuple[Any, Any, Any]] = []

    @classmethod
    def summed(cls, shapes: Shapes, *, rank: int) -> tuple[int, ...]:
        """The elements of each vector that is summed over ranks in an iteration: r·Σn and those in full; r·Σm."""
        split = Split.of(shapes, rank)
        rows, columns = split.sides
        return (rank * rows + split.whole, *[rank * columns] * bool(columns))

    @classmethod
    def products(cls, *, rank: int) -> tuple[float, float]:
        """Estimates of its time until the last sum and after it, in passes over x, as an in-place add is one."""
        return 1.6 + 0.2 * rank, 1.8 + 0.06 * rank

    @property
    def _vectors(self) -> list[Any]:
        """The vectors that are summed over ranks."""
        return [self._first, *[self._second] * bool(self._split.matrices)]

    def _matrices_of(self, xp: Any, most: int) -> Iterator[_Matrix]:
        longest = max((max(min(most, n * m), m) for _, n, m in self._split.matrices), default=0)
        room = xp.empty(longest, self.setup.dtype)
        row = column = 0
        for start, n, m in self._split.matrices:
            p, q = self.p[:, row : row + n], self.q[:, column : column + m]
            yield _Matrix(start, self.e[start : start + n * m].reshape(n, m), p, q, room, max(1, most // m))
            row, column = row + n, column + m

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self._bind(x, gradient(x))
        xp, size, clock = self.setup.network.device.xp, self.setup.size, self.setup.network.clock
        # NumPy's matmul leaves an outer product of two vectors to a loop of its own.
        outer = xp.dot if self.rank == 1 else xp.matmul
        with np.errstate(all="ignore"):
            self._bases.orthonormalise(self.q, [matrix.q for matrix in self._matrices])
            for matrix in self._matrices:
                for block in matrix.blocks:
                    # From here to ĝ, e is M.
                    xp.add(block.e, block.g, out=block.e)
                    multiply(xp, matrix.q, block.e.T, block.p)
            for g, kept, _ in self._spans:
                xp.copyto(kept, g)
            clock.lap(Phase.ENCODE)
            self._exchanges[0].sum(self._first)
            if self._matrices:
                self._bases.orthonormalise(self.p, [matrix.p for matrix in self._matrices])
                for matrix in self._matrices:
                    multiply(xp, matrix.p, matrix.e, matrix.q)
                clock.lap(Phase.ENCODE)
                self._exchanges[1].sum(self._second)
                xp.multiply(self._second, self.setup.dtype.type(1 / size), out=self._second)
            for matrix in self._matrices:
                for block in matrix.blocks:
                    outer(block.p.T, matrix.q, out=block.product)
                    xp.subtract(block.e, block.product, out=block.e)
                    clock.lap(Phase.DECODE)
                    self._descent.move(block.x, block.flat, lr, block.span.start)
            for span, (_, kept, moved) in zip(self._split.rest, self._spans, strict=True):
                self._descent.move(moved, kept, lr, span.start, size)

    def _bind(self, x: Any, g: Any) -> None:
        """Have the matrices' views of x and of this rank's gradient."""
        if x is self._x and g is self._g:
            return
        self._x, self._g, self._spans, start = x, g, [], 0
        for matrix in self._matrices:
            for block in matrix.blocks:
                block.x, block.g = x[block.span], g[block.span].reshape(block.e.shape)
        for span in self._split.rest:
            stop = start + span.stop - span.start
            self._spans.append((g[span], self._rest[start:stop], x[span]))
            start = stop

    def residual(self) -> Any:
        return self.e

    @property
    def payload_bytes(self) -> int:
        return sum(int(vector.nbytes) for vector in self._vectors)

    def bytes_per_iteration(self) -> int:
        return sum(exchange.total_bytes for exchange in self._exchanges)

    def doubts(self) -> list[str]:
        found = self._split.doubts(f"{self.name}:{self.rank}", bool(self.setup.shapes))
        return [f"{doubt}, as allreduce does" for doubt in found]

    def close(self) -> None:
        for exchange in self._exchanges:
            exchange.close()


class _Block:
    """Some rows of a matrix.

    Attributes:
        span: its elements of x.
        e, g: the memory and the gradient, (rows, m).
        p: its columns of the transposed P, (r, rows).
        product: room for its rows of PQᵀ, (rows, m); `flat`: the same, (rows · m,).
        x: the parameters, (rows · m,).
    """

    g: Any
    x: Any

    def __init__(self, span: slice, e: Any, p: Any, room: Any) -> None:
        self.span, self.e, self.p = span, e, p
        flat = room[: span.stop - span.start]
        self.product, self.flat = flat.reshape(e.shape), flat


class _Matrix:
    """A matrix of gradients: e (n, m), P and Q, transposed, (r, n) and (r, m), and its blocks of rows."""

    def __init__(self, start: int, e: Any, p: Any, q: Any, room: Any, rows: int) -> None:
        self.e, self.p, self.q = e, p, q
        n, m = e.shape
        self.blocks = [
            _Block(slice(start + low * m, start + high * m), e[low:high], p[:, low:high], room)
            for low, high in ((low, min(low + rows, n)) for low in range(0, n, rows))
        ]


class Bases:
    """Orthonormalises the rows of matrices, (r, length), in place, with the same bits for the same numbers.

    It is Gram and Schmidt's way, with each projection done twice, which leaves the products of rows at a few roundings
    (Giraud, Langou & Rozložník 2005). A row that depends on those above it gives way to a fixed one.
    """

    def __init__(self, xp: Any, rank: int, lengths: Sequence[int], dtype: np.dtype[Any]) -> None:
        longest, rank = max(lengths, default=0), rank if lengths else 0
        self._xp = xp
        self._others = xp.asarray(np.random.default_rng(1).standard_normal((rank, longest)).astype(dtype))
        self._products, self._room = xp.empty(rank, dtype), xp.empty(longest, dtype)
        limits = np.finfo(dtype)
        self._rounding, self._tiny = dtype.type(_ROUNDINGS * limits.eps), limits.tiny

    def orthonormalise(self, together: Any, matrices: Sequence[Any]) -> None:
        """Orthonormalise the rows of `matrices`, views of `together`."""
        xp = self._xp
        if not matrices:
            return
        # No square overflows then, and none that matters vanishes.
        largest = xp.maximum(xp.amax(together), -xp.amin(together))
        xp.divide(together, xp.maximum(largest, self._tiny), out=together)
        for rows in matrices:
            for j, row in enumerate(rows):
                self._orthonormalise(row, rows[:j], self._others[j, : row.size])

    def _orthonormalise(self, row: Any, above: Any, other: Any) -> None:
        xp, room = self._xp, self._room[: row.size]
        before = xp.dot(row, row)
        self._project(row, above)
        lost = xp.dot(row, row) <= self._rounding**2 * before
        xp.multiply(other, lost, out=room)
        xp.add(row, room, out=row)
        self._project(row, above)
        xp.divide(row, xp.sqrt(xp.dot(row, row)), out=row)

    def _project(self, row: Any, above: Any) -> None:
        """Take from a row its part in the span of those above."""
        if len(above):
            products, room = self._products[: len(above)], self._room[: row.size]
            self._xp.matmul(above, row, out=products)
            self._xp.matmul(products, above, out=room)
            self._xp.subtract(row, room, out=row)
