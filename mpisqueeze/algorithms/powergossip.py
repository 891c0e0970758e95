"""PowerGossip: gossip of low-rank products of the differences between neighbours' models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import numpy as np

from mpisqueeze.algorithms.base import Algorithm, Gradient, Setup
from mpisqueeze.algorithms.powersgd import BLOCK, Bases, Shapes, Split, multiply
from mpisqueeze.comm.neighbours import NeighbourExchange
from mpisqueeze.comm.world import Signal
from mpisqueeze.compressors.base import is_finite
from mpisqueeze.devices.clock import Phase
from mpisqueeze.kernels.random import derive_key
from mpisqueeze.language import integer


class PowerGossip(Algorithm):
    """x_i ← x_i − γ g_i; then for each neighbour j and each matrix X of x, x_i ← x_i + W_ij·P Qᵀ ≈ W_ij (X_j − X_i).

    In odd iterations Q is orthonormalised, both ends of an edge send their X Q, and P is the difference of what they
    sent; in even ones P is, they send XᵀP, and Q is the difference. So P Qᵀ is the difference of the models projected
    on what Q, or P, spans: a power iteration on it, half a step an iteration, that goes on from what it had before.

    Source: Vogels, Karimireddy & Jaggi, arXiv 2008.01425, Algorithm 2, with warm start, and one multiplication an
    iteration as in the authors' code. There is no gossip step to tune. As with `powersgd` there is a matrix for each
    parameter, its first dimension by all others; parameters of one dimension, and those that would not get shorter,
    are mixed in full as `dpsgd` mixes them. The mean of the models moves by −γ mean g, to rounding.

    Both ends of an edge have the same P and Q as long as their BLAS rounds alike: between CPUs of different kinds the
    mean of the models drifts by roundings.

    Args:
        rank: r, the number of columns of P and Q.

    State: P and Q of each edge, all matrices' side by side, transposed, (r, Σn) and (r, Σm).
    """

    name = "powergossip"
    summary = "gossip of low-rank differences, no step to tune: powergossip[:RANK], 1 by default (arXiv 2008.01425)"
    route = "neighbours"
    centralized = False
    compresses = False
    formula = "2cN on a ring"
    memory: ClassVar[tuple[str, ...]] = ("p", "q")

    def __init__(self, setup: Setup, *, rank: Annotated[int, integer(1)] = 1) -> None:
        super().__init__(setup)
        self.rank, network, xp = rank, setup.network, setup.network.device.xp
        self._split = Split.of(setup.shapes or [(setup.dimension,)], rank)
        own, edges = setup.topology.weights(setup.rank)
        self._w, neighbours = setup.dtype.type(own), [j for j, _ in edges]
        #: W_ij, negative where this rank's X is the minuend of the edge's difference: the larger rank's.
        self._shares = [setup.dtype.type(weight if j > setup.rank else -weight) for j, weight in edges]
        rows, columns = self._split.sides
        self.p = [setup.zeros(rank * rows).reshape(rank, rows) for _ in neighbours]
        self.q = [self._drawn(j, rank, columns) for j in neighbours]
        lengths = [rank * side + self._split.whole for side in (columns, rows)]
        #: The exchanges of even iterations, and of odd ones.
        self._exchanges = [
            NeighbourExchange(network, neighbours, max(length, 1) * setup.dtype.itemsize, apart=True)
            for length in lengths
        ]
        self._bases = Bases(xp, rank, [max(n, m) for _, n, m in self._split.matrices], setup.dtype)
        most = BLOCK if network.device.kind == "cpu" else setup.dimension
        longest = max((max(min(most, n * m), m) for _, n, m in self._split.matrices), default=0)
        self._room = xp.empty(longest, setup.dtype)

    def _drawn(self, neighbour: int, rank: int, columns: int) -> Any:
        """The first Q of an edge, normal, the same on both of its ends."""
        ends = sorted((self.setup.rank, neighbour))
        draws = np.random.default_rng(derive_key(self.setup.seed, 4, *ends)).standard_normal((rank, columns))
        return self.setup.network.device.xp.asarray(draws.astype(self.setup.dtype))

    @classmethod
    def gossiped(cls, shapes: Shapes, *, rank: int) -> tuple[int, int]:
        """The elements that go to each neighbour in an even iteration and in an odd one."""
        split = Split.of(shapes, rank)
        rows, columns = split.sides
        return rank * columns + split.whole, rank * rows + split.whole

    @classmethod
    def products(cls, *, rank: int) -> tuple[float, float]:
        """Estimates of its time for each neighbour, before and after the exchange, in passes as `PowerSGD` has them."""
        return 0.5 + 0.15 * rank, 1.5 + 0.06 * rank

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        network = self.setup.network
        odd = network.iteration % 2
        exchange = self._exchanges[odd]
        exchange.expect()
        g = gradient(x)
        g *= x.dtype.type(lr)
        x -= g
        network.clock.lap(Phase.UPDATE)
        with np.errstate(all="ignore"):
            for index, out in enumerate(exchange.outs):
                self._encode(x, index, bool(odd), out.view(x.dtype))
            network.clock.lap(Phase.ENCODE)
            exchange.send()
            for span in self._split.rest:
                x[span] *= self._w
            for index, payload in exchange.receive():
                self._decode(x, index, bool(odd), exchange.outs[index].view(x.dtype), payload.view(x.dtype))
                network.clock.lap(Phase.DECODE)

    def _encode(self, x: Any, index: int, odd: bool, out: Any) -> None:
        """out ← the products of this rank's matrices with an edge's Q, or P, orthonormalised; and the rest of x."""
        xp = self.setup.network.device.xp
        basis = self.q[index] if odd else self.p[index]
        self._bases.orthonormalise(basis, [q if odd else p for _, p, q in self._views(index)])
        start = self._split.sides[not odd] * self.rank
        products, at = out[:start].reshape(self.rank, -1), 0
        for (first, p, q), (_, n, m) in zip(self._views(index), self._split.matrices, strict=True):
            matrix = x[first : first + n * m].reshape(n, m)
            length = n if odd else m
            multiply(xp, q if odd else p, matrix.T if odd else matrix, products[:, at : at + length])
            at += length
        for span in self._split.rest:
            stop = start + span.stop - span.start
            out[start:stop] = x[span]
            start = stop
        if not is_finite(out, xp):
            self.setup.network.complain(Signal.NONFINITE, "an element of the model was NaN or infinite")

    def _decode(self, x: Any, index: int, odd: bool, mine: Any, theirs: Any) -> None:
        """x ← x + W_ij·(the edge's difference as P Qᵀ), and the rest in full."""
        xp, share = self.setup.network.device.xp, self._shares[index]
        # NumPy's matmul leaves an outer product of two vectors to a loop of its own.
        outer = xp.dot if self.rank == 1 else xp.matmul
        found = self.p[index] if odd else self.q[index]
        start = found.size
        more, less = (mine, theirs) if share < 0 else (theirs, mine)
        xp.subtract(more[:start].reshape(found.shape), less[:start].reshape(found.shape), out=found)
        for (first, p, q), (_, n, m) in zip(self._views(index), self._split.matrices, strict=True):
            rows = max(1, self._room.size // m)
            for low in range(0, n, rows):
                high = min(low + rows, n)
                product = self._room[: (high - low) * m].reshape(high - low, m)
                outer(p[:, low:high].T, q, out=product)
                product *= share
                x[first + low * m : first + high * m] += product.reshape(-1)
        for span in self._split.rest:
            stop = start + span.stop - span.start
            theirs[start:stop] *= abs(share)
            x[span] += theirs[start:stop]
            start = stop

    def _views(self, index: int) -> Iterator[tuple[int, Any, Any]]:
        """(first element of x, its columns of P, of Q) for each matrix, transposed."""
        row = column = 0
        for first, n, m in self._split.matrices:
            yield first, self.p[index][:, row : row + n], self.q[index][:, column : column + m]
            row, column = row + n, column + m

    @property
    def payload_bytes(self) -> int:
        """The mean over even and odd iterations."""
        return sum(self.gossiped(self.setup.shapes or [(self.setup.dimension,)], rank=self.rank)) * self._size // 2

    def bytes_per_iteration(self) -> int:
        """The mean over even and odd iterations."""
        topology = self.setup.topology
        return sum(topology.degree(i) for i in range(self.setup.size)) * self.payload_bytes

    @property
    def _size(self) -> int:
        return self.setup.dtype.itemsize

    def doubts(self) -> list[str]:
        found = self._split.doubts(f"{self.name}:{self.rank}", bool(self.setup.shapes))
        return [f"{doubt}, as dpsgd does" for doubt in found]

    def close(self) -> None:
        for exchange in self._exchanges:
            exchange.close()
