"""Gossip graphs, their mixing matrices W, and the spectral quantities of the convergence theorems.

W is symmetric and doubly stochastic, with Metropolis–Hastings weights: W_ij = 1/(1 + max(deg i, deg j)) on an edge,
and the rest on the diagonal (Xiao & Boyd, Systems & Control Letters 2004). On a ring of N ≥ 3 all weights are 1/3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpisqueeze.errors import UsageError
from mpisqueeze.files import read_text
from mpisqueeze.language import parse_spec, suggestion

#: Most ranks for which a matrix without structure is diagonalised.
DENSE_LIMIT = 4096

TOPOLOGIES = {
    "ring": "each rank and its two neighbours",
    "torus": "a grid closed in both directions, as square as N allows",
    "complete": "every rank with every other",
    "exponential": "ranks 1, 2, 4, 8, … apart, in both directions",
    "star": "rank 0 with every other",
    "file": "file:EDGES, a text file with an edge `i j` a line; # begins a comment",
}


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues λ_k of W, the largest of which is λ_1 = 1."""

    rho: float  # ρ = max_{k≥2} |λ_k|; 0 for a single rank
    smallest: float  # λ_min
    mu: float  # μ = max_{k≥2} |λ_k − 1|, as in DCD's condition

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

    Args:
        spec: `ring`, `torus`, `complete`, `exponential`, `star` or `file:EDGES`.
        ranks: N ≥ 1.
        self_weight: W_ii for every rank, in [0, 1); the neighbours share the rest. All ranks must then have the same
            number of neighbours, or W would not be symmetric.

    Raises:
        UsageError: `--topology` or `--self-weight` is wrong.
    """

    def __init__(self, spec: str, ranks: int, self_weight: float | None = None) -> None:
        self.spec, self.ranks = spec, ranks
        self._find, self._shape = _graph(spec, ranks)
        self._cache: dict[int, list[int]] = {}
        self._self_weight: float | None = None
        if self_weight is not None:
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

    def neighbours(self, rank: int) -> list[int]:
        """The ranks that `rank` exchanges with, ascending, without itself."""
        if rank not in self._cache:
            self._cache[rank] = sorted(set(self._find(rank)) - {rank})
        return self._cache[rank]

    def degree(self, rank: int) -> int:
        """The number of neighbours, which is rank 0's in a graph that looks the same from each rank."""
        return len(self.neighbours(rank if self._shape is None else 0))

    def weights(self, rank: int) -> tuple[float, list[tuple[int, float]]]:
        """(W_ii, [(j, W_ij) for each neighbour j]) of rank i."""
        around = self.neighbours(rank)
        mine = len(around)
        if self._self_weight is not None:
            return self._self_weight, [(j, (1 - self._self_weight) / mine) for j in around]
        shares = [(j, 1 / (1 + max(mine, self.degree(j)))) for j in around]
        return 1 - math.fsum(weight for _, weight in shares), shares

    def matrix(self) -> np.ndarray:
        """W, (N, N), float64."""
        W = np.zeros((self.ranks, self.ranks))
        for i in range(self.ranks):
            W[i, i], shares = self.weights(i)
            for j, weight in shares:
                W[i, j] = weight
        return W

    def spectrum(self) -> Spectrum:
        """The extreme eigenvalues of W; by FFT where W looks the same from every rank, in closed form on a star."""
        if self.ranks == 1:
            return Spectrum(0.0, 1.0, 0.0)
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


def _graph(spec: str, n: int) -> tuple[Callable[[int], list[int]], tuple[int, int] | None]:
    """(function from a rank to its neighbours, shape of the grid on which W looks the same from every rank or None)."""
    parsed = parse_spec(spec)
    if parsed.name not in TOPOLOGIES:
        raise UsageError(
            f"unknown topology {parsed.name!r}{suggestion(parsed.name, TOPOLOGIES)}; "
            "it is ring, torus, complete, exponential, star or file:EDGES",
            "--topology",
        )
    if parsed.name == "file":
        if parsed.argument is None:
            raise UsageError("file needs a path: write file:EDGES", "--topology")
        around = read_edges(Path(spec.partition(":")[2]), n)
        return around.__getitem__, None
    if parsed.argument is not None or parsed.options:
        raise UsageError(f"{parsed.name} takes no parameters, got {spec!r}", "--topology")
    if parsed.name == "ring":
        return lambda i: [(i - 1) % n, (i + 1) % n], (1, n)
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


def read_edges(path: Path, n: int) -> list[list[int]]:
    """Neighbours of each of n ranks, from a file with one edge `i j` per line; # begins a comment.

    Raises:
        UsageError: a line is something else, has a rank out of range or an edge from a rank to itself, in which case
            the message names the line; or the graph is not connected.
    """
    text = read_text(path, "--topology")
    around: list[list[int]] = [[] for _ in range(n)]
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        if len(words) != 2 or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
            raise UsageError(f"{path}, line {number}: expected two ranks, got {line.strip()[:60]!r}", "--topology")
        i, j = map(int, words)
        if not (i < n and j < n):
            raise UsageError(f"{path}, line {number}: {max(i, j)} is no rank of 0 … {n - 1}", "--topology")
        if i == j:
            raise UsageError(f"{path}, line {number}: an edge from rank {i} to itself", "--topology")
        around[i].append(j)
        around[j].append(i)
    reached, pending = {0}, [0]
    while pending:
        for j in around[pending.pop()]:
            if j not in reached:
                reached.add(j)
                pending.append(j)
    if len(reached) < n:
        alone = min(set(range(n)) - reached)
        raise UsageError(
            f"{path}: rank {alone} cannot be reached from rank 0; the graph must be connected", "--topology"
        )
    return around
