"""Graphs in files: lists of edges or neighbours as networkx writes them, Matrix Market, and METIS.

Matrix Market: Boisvert, Pozo & Remington, NISTIR 5935 (1996). METIS: the manual of METIS 5.1.0, section 4.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mpisqueeze.errors import UsageError
from mpisqueeze.files import disguise, read_text

#: An edge, and what networkx writes behind it: a weight, or data as a dictionary.
_EDGE = re.compile(
    r"\s*(\d{1,9})(?:\s*,\s*|\s+)(\d{1,9})(?:[\s,]+\{.*\}|[\s,]+([-+]?[\d.]+(?:[eE][-+]?\d+)?))?\s*([#%].*)?", re.ASCII
)
_WEIGHT = re.compile(r"['\"]weight['\"]\s*:\s*([-+\d.eE]+)")
#: `source,target`, as pandas writes a list.
_HEADINGS = re.compile(r"\s*[^\W\d]\w*[\s,]+[^\W\d]\w*")
_MATRIX = re.compile(r"%%MatrixMarket\s+matrix\s+coordinate\s+(\w+)\s+(\w+)\s*", re.IGNORECASE)
_COMMENT = ("#", "%")
READ = "lists of edges `i j`, adjacency lists (.adjlist), Matrix Market and METIS (.graph, .metis) are read"


class Edge(NamedTuple):
    """An edge of a file, with the number of its line; ranks count from 0."""

    line: int
    i: int
    j: int
    weight: str | None = None


class _WrongError(Exception):
    """A line is not what it should be; the message says what was expected."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_edges(path: Path, n: int) -> tuple[list[list[int]], bool]:
    """(neighbours of each of n ranks, whether the file has weights that differ, of which nothing is made).

    Raises:
        UsageError: a line is something else, has a rank out of range or an edge from a rank to itself, in which case
            the message names the line; or the graph is not connected.
    """
    text = read_text(path, "--topology")
    lines = text.splitlines()
    around: list[list[int]] = [[] for _ in range(n)]
    weights: set[str | None] = set()
    try:
        for line, i, j, weight in _reader(path, lines, n):
            if not (0 <= i < n and 0 <= j < n):
                raise _WrongError(line, f"{max(i, j) if min(i, j) >= 0 else min(i, j)} is no rank of 0 … {n - 1}")
            if i == j:
                raise _WrongError(line, f"an edge from rank {i} to itself")
            around[i].append(j)
            around[j].append(i)
            weights.add(weight)
    except _WrongError as error:
        what = disguise(path)
        message = f"{path} is {what}" if what else f"{path}, line {error.line}: {error}"
        raise UsageError(message, "--topology") from None
    _check_connected(path, around)
    return around, len(weights) > 1


def _reader(path: Path, lines: list[str], n: int) -> Iterator[Edge]:
    """The edges of a file, by the form that its beginning or its name tells."""
    if lines and lines[0].startswith("%%MatrixMarket"):
        return _matrix(lines, n)
    if path.suffix in (".graph", ".metis"):
        return _metis(lines, n)
    return _adjacency(lines) if path.suffix == ".adjlist" else _list(lines)


def _list(lines: list[str]) -> Iterator[Edge]:
    begun = False
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith(_COMMENT):
            continue
        match = _EDGE.fullmatch(line)
        first, begun = not begun, True
        if match is None and first and _HEADINGS.match(line):
            continue
        if match is None:
            raise _WrongError(number, f"expected two ranks, got {line.strip()[:60]!r}; {READ}")
        named = _WEIGHT.search(line)
        yield Edge(number, int(match[1]), int(match[2]), named[1] if named else match[3])


def _adjacency(lines: list[str]) -> Iterator[Edge]:
    """A rank and its neighbours a line."""
    for number, line in enumerate(lines, 1):
        head, *others = _integers(number, re.split("[#%]", line)[0]) or [0]
        yield from (Edge(number, head, other) for other in others)


def _matrix(lines: list[str], n: int) -> Iterator[Edge]:
    """The entries of a sparse matrix, without its diagonal; ranks count from 1."""
    match = _MATRIX.fullmatch(lines[0])
    if match is None:
        raise _WrongError(1, f"expected `%%MatrixMarket matrix coordinate …`, got {lines[0][:60]!r}")
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("%")]
    number, size = rows[0] if rows else (len(lines), "")
    height, width, count = (*_integers(number, size), 0, 0, 0)[:3]
    if (height, width) != (n, n):
        raise _WrongError(number, f"the matrix is {height}×{width}, and there are {n} ranks")
    if len(rows) - 1 != count:
        raise _WrongError(number, f"expected {count} entries, got {len(rows) - 1}")
    for number, line in rows[1:]:
        words = line.split()
        i, j = (*_integers(number, " ".join(words[:2])), 0, 0)[:2]
        # A stored 0 is no edge.
        if i != j and not (len(words) == 3 and re.fullmatch(r"[-+]?0*\.?0*([eE].*)?", words[2])):
            yield Edge(number, i - 1, j - 1, words[2] if words[2:] else None)


def _metis(lines: list[str], n: int) -> Iterator[Edge]:
    """A header, and a line for each vertex with its neighbours, which count from 1."""
    rows = [(number, line) for number, line in enumerate(lines, 1) if not line.startswith("%")]
    number, first = rows[0] if rows else (1, "")
    size, edges, form, constraints = (*_integers(number, first), 0, 0, 0, 0)[:4]
    if size != n:
        raise _WrongError(number, f"the graph has {size} vertices, and there are {n} ranks")
    has_size, has_weight, has_edge_weights = (digit == "1" for digit in f"{form:03}"[-3:])
    before = has_size + (constraints or 1) * has_weight
    seen = 0
    for vertex, (number, line) in enumerate(rows[1:]):
        words = _integers(number, line)[before:]
        if vertex >= n and words:
            raise _WrongError(number, f"expected {n} lines behind the header")
        others = words[:: 1 + has_edge_weights]
        weights = [str(weight) for weight in words[1::2]] if has_edge_weights else [None] * len(others)
        seen += len(others)
        yield from (Edge(number, vertex, j - 1, weight) for j, weight in zip(others, weights, strict=False))
    if seen != 2 * edges:
        raise _WrongError(rows[0][0], f"expected {edges} edges, each in the lines of both ends, got {seen} ends")


def _integers(number: int, line: str) -> list[int]:
    words = line.split()
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise _WrongError(number, f"expected whole numbers, got {line.strip()[:60]!r}")
    return list(map(int, words))


def _check_connected(path: Path, around: list[list[int]]) -> None:
    reached, pending = {0}, [0]
    while pending:
        for j in around[pending.pop()]:
            if j not in reached:
                reached.add(j)
                pending.append(j)
    if len(reached) < len(around):
        alone = min(set(range(len(around))) - reached)
        raise UsageError(
            f"{path}: rank {alone} cannot be reached from rank 0; the graph must be connected", "--topology"
        )
