"""Topologies: neighbours, weights and spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpisqueeze.errors import UsageError
from mpisqueeze.modelling.graphs import topology_facts
from mpisqueeze.topology import Topology

GRAPHS = ["ring", "torus", "complete", "exponential", "star"]


@pytest.mark.parametrize("spec", GRAPHS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 8, 9, 12, 16])
def test_w_is_symmetric_and_doubly_stochastic_on_a_connected_graph(spec: str, n: int) -> None:
    W = Topology(spec, n).matrix()
    assert np.array_equal(W, W.T)
    assert W.sum(axis=0) == pytest.approx(np.ones(n), abs=1e-15)
    assert (W >= -1e-16).all()
    assert (np.linalg.matrix_power(W + np.eye(n), n) > 0).all()


def graph(spec: str, n: int, folder: Path) -> str:
    """`spec` itself, or for `file` one with a wheel: a cycle of ranks 1 … n − 1, and rank 0 beside each."""
    if spec != "file":
        return spec
    path = folder / "edges.txt"
    path.write_text("".join(f"0 {i}\n" for i in range(1, n)) + "".join(f"{i} {i + 1}\n" for i in range(1, n - 1)))
    return f"file:{path}"


@pytest.mark.parametrize("spec", [*GRAPHS, "file"])
@pytest.mark.parametrize("n", [*range(1, 10), 12, 25, 64])
@pytest.mark.parametrize("self_weight", [None, 0.0, 0.1, 0.5, 0.9])
def test_spectrum_is_that_of_the_matrix(spec: str, n: int, self_weight: float | None, tmp_path: Path) -> None:
    """Whichever way eigenvalues are found, and whatever `info` prints of them: those of W, by its definition."""
    name = graph(spec, n, tmp_path)
    if self_weight is not None and len({Topology(name, n).degree(i) for i in range(n)}) > 1:
        with pytest.raises(UsageError, match="--self-weight"):
            Topology(name, n, self_weight)
        return
    topology = Topology(name, n, self_weight)
    W = topology.matrix()
    if self_weight is not None and n > 1:
        assert np.diag(W) == pytest.approx(np.full(n, self_weight))
    *others, first = np.linalg.eigvalsh(W)
    spectrum = topology.spectrum()
    assert first == pytest.approx(1, abs=1e-12)
    assert spectrum.rho == pytest.approx(max(np.abs(others), default=0), abs=1e-12)
    assert spectrum.smallest == pytest.approx(min([*others, first]), abs=1e-12)
    assert spectrum.mu == pytest.approx(max(np.abs(np.subtract(others, 1)), default=0), abs=1e-12)
    facts = topology_facts(name, n, self_weight, None, "identity")
    assert facts["spectral_gap"] == pytest.approx(1 - spectrum.rho, abs=1e-12)
    assert facts["lambda_min"] == pytest.approx(spectrum.smallest, abs=1e-12)


def test_rings_have_the_weights_of_the_talk() -> None:
    assert Topology("ring", 1).weights(0) == (1.0, [])
    assert Topology("ring", 2).weights(1) == (0.5, [(0, 0.5)])
    own, shares = Topology("ring", 5).weights(0)
    assert own == pytest.approx(1 / 3)
    assert shares == [(1, pytest.approx(1 / 3)), (4, pytest.approx(1 / 3))]
    gap = 1 - (1 + 2 * np.cos(2 * np.pi / 100)) / 3
    assert Topology("ring", 100).spectrum().gap == pytest.approx(gap, rel=1e-9)


def test_large_graphs_need_no_matrix() -> None:
    for spec in GRAPHS:
        spectrum = Topology(spec, 100_000).spectrum()
        assert 0 <= spectrum.rho < 1


def test_self_weight_is_on_every_diagonal_entry() -> None:
    W = Topology("torus", 12, 0.4).matrix()
    assert np.diag(W) == pytest.approx(np.full(12, 0.4))
    with pytest.raises(UsageError, match="--self-weight"):
        Topology("star", 5, 0.4)
    with pytest.raises(UsageError, match="--self-weight"):
        Topology("ring", 5, 1.0)
    assert Topology("ring", 1, 0.5).weights(0)[0] == 1.0


def test_edges_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "edges.txt"
    path.write_text("# a path\n0 1\n1,2  # comma\n\n1 0\n")
    topology = Topology(f"file:{path}", 3)
    assert [topology.neighbours(i) for i in range(3)] == [[1], [0, 2], [1]]
    assert topology.weights(0) == (pytest.approx(2 / 3), [(1, pytest.approx(1 / 3))])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("0 1\n1 x\n", "line 2"),
        ("0 1 2\n", "line 1"),
        ("0 7\n", "7 is no rank"),
        ("1 1\n", "itself"),
        ("0 1\n", "rank 2 cannot be reached"),
        ("", "cannot be reached"),
        ("0 99999999999999999999\n", "line 1"),
    ],
)
def test_wrong_edges_are_named(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "edges.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match=says) as caught:
        Topology(f"file:{path}", 3)
    assert caught.value.option == "--topology"


def test_unknown_graphs_are_refused(tmp_path: Path) -> None:
    for spec, says in (
        ("rnig", "did you mean 'ring'"),
        ("ring:3", "no parameters"),
        ("file", "path"),
        ("file:no/such", "read"),
    ):
        with pytest.raises(UsageError, match=says):
            Topology(spec, 3)
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    with pytest.raises(UsageError, match="not text"):
        Topology(f"file:{tmp_path / 'binary'}", 3)
