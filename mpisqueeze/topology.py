"""Gossip graphs, their mixing matrices W, and the spectral quantities of the convergence theorems.

W is doubly stochastic and, but for `one-peer`, symmetric, with Metropolis–Hastings weights: W_ij = 1/(1 + max(deg i,
deg j)) on an edge, and the rest on the diagonal (Xiao & Boyd, Systems & Control Letters 2004). On a ring of N ≥ 3 all
weights are 1/3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpisqueeze.edges import read_edges
from mpisqueeze.errors import UsageError
from mpisqueeze.files import path_of
from mpisqueeze.language import Spec, parse_spec, suggestion

#: Most ranks for which a matrix without structure is diagonalised.
DENSE_LIMIT = 4096

#: The graph that differs from one iteration to the next, and whose W is not symmetric.
ONE_PEER = "one-peer"

TOPOLOGIES = {
    "ring": "each rank and its two neighbours",
    "torus": "a grid closed in both directions, as square as N allows",
    "complete": "every rank with every other",
    "exponential": "ranks 1, 2, 4, 8, … apart, in both directions",
    "star": "rank 0 with every other",
    "one-peer": "iteration t sends to the rank 2^(t mod τ) behind, τ = ⌈log₂N⌉; for dpsgd",
    "file": "file:EDGES: edges `i j` a line as networkx writes them, an adjacency list (.adjlist), Matrix Market or "
    "METIS (.graph)",
}


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues λ_k of W, the largest of which is λ_1 = 1."""

    rho: float  # ρ = max_{k≥2} |λ_k|; 0 for a single rank
    smallest: float  # λ_min, NaN where W is not symmetric
    mu: float  # μ = max_{k≥2} |λ_k − 1|, as in DCD's condition; likewise

    @property
    def gap(self) -> float:
        """1 − ρ."""
        return 1 - self.rho

    @property
    def mixing_time(self) -> float:
        """1/ln(1/ρ): iterations in which gossip alone divides the distance to consensus by e; ∞ if ρ = 1."""
        if self.rho <= 0:
            return 0.0
        return math.inf if self.rho >= 1 else -1 / math.log(self.rho)


class Topology:
    """A connected graph on N ranks with its W. Edges and weights are found rank by rank, so that N may be large.

    `one-peer` is a graph in τ = ⌈log₂N⌉ rounds, iteration t in round t mod τ: rank i sends to (i + 2^(t mod τ)) mod N
    alone, and takes the mean of its own model and of the one that comes (Ying et al., arXiv 2110.13363, §3.2). Where N
    is a power of two, all ranks have the exact mean after τ rounds.

    Args:
        spec: `ring`, `torus`, `complete`, `exponential`, `star`, `one-peer` or `file:EDGES`.
        ranks: N ≥ 1.
        self_weight: W_ii for every rank, in [0, 1); the neighbours share the rest. All ranks must then have the same
            number of neighbours, or W would not be symmetric.

    Raises:
        UsageError: `--topology` or `--self-weight` is wrong.

    Attributes:
        note: on what a file says and W does not; empty where there is nothing to say.
        rounds: after so many iterations the graph is the same again; 1 for all but `one-peer`.
    """

    _find: Callable[[int], list[int]]
    _shape: tuple[int, int] | None

    def __init__(self, spec: str, ranks: int, self_weight: float | None = None) -> None:
        self.spec, self.ranks, self.note = spec.strip(), ranks, ""
        try:
            parsed = parse_spec(spec)
        except UsageError as error:
            raise UsageError(error.message, "--topology") from None
        self.rounds = 1 if self.symmetric else max(1, (ranks - 1).bit_length())
        if parsed.name == "file" and parsed.argument is not None:
            path = path_of(spec.partition(":")[2])
            around, weighted = read_edges(path, ranks)
            self._find, self._shape = around.__getitem__, None
            if weighted:
                self.note = f"weights in {path} are not used: W has Metropolis–Hastings weights"
        else:
            self._find, self._shape = _graph(parsed, ranks)
        self._cache: dict[int, list[int]] = {}
        self._self_weight: float | None = None
        if self_weight is not None:
            if not self.symmetric:
                raise UsageError(f"{spec} has the weights ½ and ½", "--self-weight")
            if not 0 <= self_weight < 1:
                raise UsageError(f"must be a number in [0, 1), got {self_weight}", "--self-weight")
            degrees = {self.degree(i) for i in (range(ranks) if self._shape is None else (0,))}
            if len(degrees) > 1:
                raise UsageError(
                    f"ranks of {spec} have {min(degrees)} to {max(degrees)} neighbours; "
                    "it takes a graph where all have as many",
                    "--self-weight",
                )
            self._self_weight = self_weight if degrees != {0} else 1.0

    @property
    def symmetric(self) -> bool:
        """W is symmetric, and the same in each iteration."""
        return self.spec != ONE_PEER

    def peers(self, rank: int, round_: int = 0) -> tuple[list[int], list[int]]:
        """(The ranks whose payloads come to `rank` in the order of `weights`, those that its own goes to)."""
        if self.symmetric:
            return self.neighbours(rank), self.neighbours(rank)
        step = 1 << round_
        return ([(rank - step) % self.ranks], [(rank + step) % self.ranks]) if self.ranks > 1 else ([], [])

    def neighbours(self, rank: int) -> list[int]:
        """The ranks that `rank` exchanges with, ascending, without itself; with `one-peer` in the first round."""
        if rank not in self._cache:
            self._cache[rank] = sorted(set(self._find(rank)) - {rank})
        return self._cache[rank]

    def degree(self, rank: int) -> int:
        """The number of neighbours, which is rank 0's in a graph that looks the same from each rank."""
        return len(self.neighbours(rank if self._shape is None else 0))

    def weights(self, rank: int, round_: int = 0) -> tuple[float, list[tuple[int, float]]]:
        """(W_ii, [(j, W_ij) for each neighbour j whose payload comes]) of rank i."""
        if not self.symmetric:
            sources, _ = self.peers(rank, round_)
            return 1 / (1 + len(sources)), [(j, 0.5) for j in sources]
        around = self.neighbours(rank)
        mine = len(around)
        if self._self_weight is not None:
            return self._self_weight, [(j, (1 - self._self_weight) / mine) for j in around]
        shares = [(j, 1 / (1 + max(mine, self.degree(j)))) for j in around]
        return 1 - math.fsum(weight for _, weight in shares), shares

    def matrix(self, round_: int = 0) -> np.ndarray:
        """W, (N, N), float64."""
        W = np.zeros((self.ranks, self.ranks))
        for i in range(self.ranks):
            W[i, i], shares = self.weights(i, round_)
            for j, weight in shares:
                W[i, j] = weight
        return W

    def spectrum(self) -> Spectrum:
        """The extreme eigenvalues of W; by FFT where W looks the same from every rank, in closed form on a star.

        With `one-peer`, ρ^τ is the second largest singular value of the product of all rounds' W.
        """
        if self.ranks == 1:
            return Spectrum(0.0, 1.0, 0.0)
        if not self.symmetric:
            # They are circulant: their eigenvalues are (1 + ω^(k·2^r))/2, and multiply.
            angles = 2 * np.pi * np.arange(1, self.ranks) / self.ranks
            shrunk = np.prod([np.abs(np.cos(angles * (1 << r) / 2)) for r in range(self.rounds)], axis=0).max()
            rho = 0.0 if self.ranks & (self.ranks - 1) == 0 else float(shrunk ** (1 / self.rounds))
            return Spectrum(rho, math.nan, math.nan)
        values = self._eigenvalues()
        others = np.delete(values, np.argmax(values))
        return Spectrum(float(min(1.0, np.abs(others).max())), float(values.min()), float(np.abs(others - 1).max()))

    def _eigenvalues(self) -> np.ndarray:
        if self._shape is not None:
            row = np.zeros(self.ranks)
            row[0], shares = self.weights(0)
            for j, weight in shares:
                row[j] = weight
            return np.fft.fft2(row.reshape(self._shape)).real.ravel()
        if self.spec == "star" and self._self_weight is None:
            # 1, 0, and N − 2 times 1 − 1/N.
            return np.array([1.0, 0.0] + [1 - 1 / self.ranks] * min(1, self.ranks - 2))
        if self.ranks > DENSE_LIMIT:
            raise UsageError(f"{self.spec}: eigenvalues are found up to {DENSE_LIMIT} ranks", "--topology")
        return np.linalg.eigvalsh(self.matrix())


def _graph(parsed: Spec, n: int) -> tuple[Callable[[int], list[int]], tuple[int, int] | None]:
    """(function from a rank to its neighbours, shape of the grid on which W looks the same from every rank or None)."""
    if parsed.name not in TOPOLOGIES:
        raise UsageError(
            f"unknown topology {parsed.name!r}{suggestion(parsed.name, TOPOLOGIES)}; "
            "it is ring, torus, complete, exponential, star, one-peer or file:EDGES",
            "--topology",
        )
    if parsed.name == "file":
        raise UsageError("file needs a path: write file:EDGES", "--topology")
    if parsed.argument is not None or parsed.options:
        raise UsageError(f"{parsed.name} takes no parameters, got {parsed.text!r}", "--topology")
    if parsed.name == "ring":
        return lambda i: [(i - 1) % n, (i + 1) % n], (1, n)
    if parsed.name == ONE_PEER:
        return lambda i: [(i - 1) % n], (1, n)
    if parsed.name == "complete":
        return lambda i: list(range(n)), (1, n)
    if parsed.name == "exponential":
        steps = [1 << k for k in range((n - 1).bit_length()) if 1 << k < n]
        return lambda i: [(i + sign * step) % n for step in steps for sign in (1, -1)], (1, n)
    if parsed.name == "star":
        return lambda i: [0] if i else list(range(n)), None
    rows = max(r for r in range(1, math.isqrt(n) + 1) if n % r == 0)
    columns = n // rows

    def torus(i: int) -> list[int]:
        row, column = divmod(i, columns)
        return [
            (row + 1) % rows * columns + column,
            (row - 1) % rows * columns + column,
            row * columns + (column + 1) % columns,
            row * columns + (column - 1) % columns,
        ]

    return torus, (rows, columns)
