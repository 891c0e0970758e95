"""The spread of the training samples over the ranks (`--partition`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.data.seeding import Stream, generator
from mpisqueeze.errors import UsageError
from mpisqueeze.language import Parameter, flag, parse_spec, real, resolve_parameters, suggestion

Indices = NDArray[np.int64]

# Beyond these a Dirichlet draw can overflow to NaN, and has long since stopped to differ from its limit.
_ALPHA_LOW, _ALPHA_HIGH = 1e-3, 1e6


#: The schemes by name, with a summary.
PARTITIONS = {
    "iid": "a random split, equal shares up to one sample",
    "label": "sorted by label and cut into equal parts: each rank sees one or a few classes",
    "dirichlet": "dirichlet:ALPHA[,balanced], each class in random shares, uneven for small ALPHA; ranks weigh as "
    "their samples do, or have as many (balanced)",
}
_DIRICHLET = (Parameter("alpha", real(_ALPHA_LOW, _ALPHA_HIGH), required=True), Parameter("balanced", flag, False))


@dataclass(frozen=True)
class Partition:
    """A validated value of `--partition`; `str()` gives it back as text."""

    name: str = "iid"
    alpha: float | None = None
    balanced: bool = False

    def __str__(self) -> str:
        return self.name if self.alpha is None else f"{self.name}:{self.alpha:g}{',balanced' if self.balanced else ''}"


def parse_partition(text: str) -> Partition:
    """`iid`, `label` or `dirichlet:ALPHA[,balanced]`. Raises UsageError of `--partition` otherwise."""
    try:
        spec = parse_spec(text)
        if spec.name not in PARTITIONS:
            known = "iid, label, dirichlet:ALPHA[,balanced]"
            raise UsageError(f"no partition {spec.name!r}{suggestion(spec.name, PARTITIONS)}; known: {known}")
        values: dict[str, Any] = resolve_parameters(spec, _DIRICHLET if spec.name == "dirichlet" else ())
    except UsageError as error:
        raise UsageError(error.message, "--partition") from None
    return Partition(spec.name, **values)


def partition_indices(labels: NDArray[np.int32], size: int, partition: Partition, seed: int) -> list[Indices]:
    """The training samples of each rank: disjoint, together all of them, at least one a rank. Raises UsageError.

    Args:
        labels: (samples,), of the training set.
        size: number of ranks.
        seed: the run's; the result is a function of the arguments alone, so every rank computes the same.
    """
    if len(labels) < size:
        raise UsageError(f"{len(labels)} training samples cannot be spread over {size} ranks", "--data")
    rng = generator(seed, Stream.PARTITION)
    if partition.name == "iid":
        return np.array_split(rng.permutation(len(labels)), size)
    if partition.name == "label":
        return np.array_split(np.argsort(labels, kind="stable"), size)
    if partition.alpha is None:
        raise ValueError(f"{partition!r} is not a partition")
    if partition.balanced:
        return _balanced_dirichlet(labels, size, partition.alpha, rng)
    return _fill_empty(_dirichlet(labels, size, partition.alpha, rng))


def _dirichlet(labels: NDArray[np.int32], size: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Each class cut by proportions of its own, Dirichlet(alpha) over ranks (Yurochkin et al., arXiv 1905.12022)."""
    shares: list[list[Indices]] = [[] for _ in range(size)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        proportions = rng.dirichlet(np.full(size, alpha))
        cuts = np.rint(np.cumsum(proportions[:-1]) * len(members)).astype(np.int64)
        for share, part in zip(shares, np.split(members, cuts), strict=True):
            share.append(part)
    return [np.concatenate(share) for share in shares]


def _balanced_dirichlet(labels: NDArray[np.int32], size: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Shares equal up to one sample; each rank draws its classes by proportions of its own, Dirichlet(alpha).

    Source: Hsu et al., arXiv 1909.06335.

    All ranks draw at once. A class that more samples are wanted of than are left goes to those who want it at random,
    and what they miss they draw from the other classes: in each round a class is used up, or all ranks are served.
    """
    classes, class_of, left = np.unique(labels, return_inverse=True, return_counts=True)
    room = np.full(size, len(labels) // size)
    room[: len(labels) % size] += 1
    proportions = rng.dirichlet(np.full(len(classes), alpha), size)
    counts = np.zeros((size, len(classes)), np.int64)
    while room.any():
        chances = np.where(left > 0, proportions, 0)
        # A rank whose own classes are used up takes what there is.
        chances[chances.sum(axis=1) == 0] = left
        wanted = rng.multinomial(room, chances / chances.sum(axis=1, keepdims=True))
        for label in np.flatnonzero(wanted.sum(axis=0) > left).tolist():
            wanted[:, label] = rng.multivariate_hypergeometric(wanted[:, label], left[label])
        counts += wanted
        room -= wanted.sum(axis=1)
        left -= wanted.sum(axis=0)
    shares: list[list[Indices]] = [[] for _ in range(size)]
    for label, _ in enumerate(classes):
        members = rng.permutation(np.flatnonzero(class_of == label))
        for share, part in zip(shares, np.split(members, np.cumsum(counts[:-1, label])), strict=True):
            share.append(part)
    return [np.concatenate(share) for share in shares]


def _fill_empty(parts: list[Indices]) -> list[Indices]:
    """Give each empty rank, in order, the last sample of the fullest rank (of these the lowest)."""
    for rank, part in enumerate(parts):
        if len(part) == 0:
            giver = max(range(len(parts)), key=lambda r: (len(parts[r]), -r))
            parts[giver], parts[rank] = parts[giver][:-1], parts[giver][-1:]
    return parts
