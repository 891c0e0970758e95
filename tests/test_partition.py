"""Partitions of the training samples: they cover them without overlap, agree on all ranks, and are skewed as asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisqueeze.data.partition import PARTITIONS, Partition, parse_partition, partition_indices
from mpisqueeze.errors import UsageError

BALANCED = ["iid", "label", *(f"dirichlet:{alpha},balanced" for alpha in ("0.001", "0.5", "1000000"))]
ALL = [*BALANCED, "dirichlet:0.001", "dirichlet:0.5", "dirichlet:1000000"]


def labels_of(samples: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, samples).astype(np.int32)


@pytest.mark.parametrize("text", ALL)
@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 40), extra=st.integers(0, 200), classes=st.integers(1, 12), seed=st.integers(0, 2**64))
def test_every_sample_goes_to_exactly_one_rank(text: str, size: int, extra: int, classes: int, seed: int) -> None:
    labels = labels_of(size + extra, classes)
    parts = partition_indices(labels, size, parse_partition(text), seed)
    assert len(parts) == size
    assert min(len(part) for part in parts) >= 1
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))


@pytest.mark.parametrize("text", ALL)
def test_is_a_function_of_the_seed(text: str) -> None:
    labels = labels_of(500, 10)
    first, second, other = (partition_indices(labels, 7, parse_partition(text), seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    same_as_other = all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert same_as_other == (text == "label")


@pytest.mark.parametrize("text", BALANCED)
def test_equal_shares_up_to_one_sample(text: str) -> None:
    for size in (8, 100, 1003):
        counts = [len(part) for part in partition_indices(labels_of(1003, 10), size, parse_partition(text), 0)]
        assert max(counts) - min(counts) == (1 if 1003 % size else 0)


def test_balanced_shares_have_classes_as_dirichlet_has() -> None:
    """A rank's proportion of one of K classes has the variance (1/K)(1 − 1/K)/(Kα + 1), where many ranks share them."""
    classes, alpha, size = 10, 0.3, 2000
    labels = labels_of(200 * size, classes)
    parts = partition_indices(labels, size, parse_partition(f"dirichlet:{alpha},balanced"), 0)
    proportions = np.array([np.bincount(labels[part], minlength=classes) for part in parts]) / 200
    assert proportions.var() == pytest.approx((1 / classes) * (1 - 1 / classes) / (classes * alpha + 1), rel=0.05)


def test_label_partition_is_sorted_and_contiguous() -> None:
    labels = labels_of(1000, 10)
    parts = partition_indices(labels, 10, parse_partition("label"), 0)
    assert np.all(np.diff(labels[np.concatenate(parts)]) >= 0)
    assert max(len(np.unique(labels[part])) for part in parts) <= 3


def test_alpha_sets_the_skew() -> None:
    labels = labels_of(10_000, 10)

    def largest_class_share(text: str) -> float:
        parts = partition_indices(labels, 8, parse_partition(text), 0)
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))

    for more in ("", ",balanced"):
        skewed, mild, even = (largest_class_share(f"dirichlet:{alpha}{more}") for alpha in (0.05, 1, 1000))
        assert skewed > 0.4 > mild > even
        assert even < 0.15
    assert largest_class_share("iid") < 0.15


def test_fewer_samples_than_ranks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"3 training samples .* 4 ranks"):
        partition_indices(labels_of(3, 2), 4, Partition("iid"), 0)


@pytest.mark.parametrize("text", ["iid", "label", "dirichlet:0.3", "dirichlet:0.3,balanced"])
def test_text_round_trip(text: str) -> None:
    partition = parse_partition(text)
    assert str(partition) == text
    assert partition.name in PARTITIONS
    assert parse_partition(str(partition)) == partition


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("iidd", "did you mean 'iid'"),
        ("shards", "known: iid, label, dirichlet:ALPHA"),
        ("iid:3", "takes no argument"),
        ("dirichlet", "needs alpha"),
        ("dirichlet:0", "alpha must be a number"),
        ("dirichlet:nan", "alpha must be a number"),
        ("dirichlet:1e-300", "alpha must be a number"),
        ("dirichlet:x", "alpha must be a number"),
        ("dirichlet:1,balance", "did you mean 'balanced'"),
        ("iid,balanced", "no parameter 'balanced'"),
        ("", "names nothing"),
    ],
)
def test_a_wrong_partition_blames_its_option(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_partition(text)
    assert caught.value.option == "--partition"
