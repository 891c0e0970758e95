"""The spread of the training samples over the ranks (`--partition`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.data.seeding import Stream, generator
from mpisqueeze.errors import UsageError
from mpisqueeze.language import Parameter, parse_spec, real, resolve_parameters, suggestion

Indices = NDArray[np.int64]

# Beyond these a Dirichlet draw can overflow to NaN, and has long since stopped to differ from its limit.
_ALPHA_LOW, _ALPHA_HIGH = 1e-3, 1e6


#: The schemes by name, with a summary.
PARTITIONS = {
    "iid": "a random split, equal shares up to one sample",
    "label": "sorted by label and cut into equal parts: each rank sees one or a few classes",
    "dirichlet": "dirichlet:ALPHA, each class in random shares; small ALPHA: few classes a rank, large: even",
}
_ALPHA = Parameter("alpha", real(_ALPHA_LOW, _ALPHA_HIGH), required=True)


@dataclass(frozen=True)
class Partition:
    """A validated value of `--partition`; `str()` gives it back as text."""

    name: str = "iid"
    alpha: float | None = None

    def __str__(self) -> str:
        return self.name if self.alpha is None else f"{self.name}:{self.alpha:g}"


def parse_partition(text: str) -> Partition:
    """`iid`, `label` or `dirichlet:ALPHA`. Raises UsageError of `--partition` otherwise."""
    try:
        spec = parse_spec(text)
        if spec.name not in PARTITIONS:
            known = "iid, label, dirichlet:ALPHA"
            raise UsageError(f"no partition {spec.name!r}{suggestion(spec.name, PARTITIONS)}; known: {known}")
        values: dict[str, Any] = resolve_parameters(spec, [_ALPHA] if spec.name == "dirichlet" else [])
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
    return _fill_empty(_dirichlet(labels, size, partition.alpha, rng))


def _dirichlet(labels: NDArray[np.int32], size: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    shares: list[list[Indices]] = [[] for _ in range(size)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        proportions = rng.dirichlet(np.full(size, alpha))
        cuts = np.rint(np.cumsum(proportions[:-1]) * len(members)).astype(np.int64)
        for share, part in zip(shares, np.split(members, cuts), strict=True):
            share.append(part)
    return [np.concatenate(share) for share in shares]


def _fill_empty(parts: list[Indices]) -> list[Indices]:
    """Give each empty rank, in order, the last sample of the fullest rank (of these the lowest)."""
    for rank, part in enumerate(parts):
        if len(part) == 0:
            giver = max(range(len(parts)), key=lambda r: (len(parts[r]), -r))
            parts[giver], parts[rank] = parts[giver][:-1], parts[giver][-1:]
    return parts
