"""Topologies: neighbours, weights and spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpisqueeze.errors import UsageError
from mpisqueeze.modelling.graphs import topology_facts
from mpisqueeze.settings import Settings
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


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 8, 12, 16])
def test_one_peer_is_exact_after_its_rounds_for_powers_of_two_alone(n: int) -> None:
    topology = Topology("one-peer", n)
    product = np.eye(n)
    for r in range(topology.rounds):
        W = topology.matrix(r)
        assert (W.sum(axis=0) == 1).all()
        assert (W.sum(axis=1) == 1).all()
        for i in range(n):
            sources, targets = topology.peers(i, r)
            assert all(topology.peers(j, r)[0] == [i] for j in targets)
            assert [j for j in range(n) if j != i and W[i, j]] == sources
        product = W @ product
    exact = bool(np.abs(product - 1 / n).max() < 1e-15)
    assert exact == (n in (1, 2, 4, 8, 16))
    facts = topology_facts("one-peer", n, None, 10, "identity")
    assert facts["exact_after"] == (topology.rounds if exact and n > 2 else None)
    assert facts["bytes_per_iteration"] == (40 * n if n > 1 else 0)
    left = np.linalg.norm(product - 1 / n, 2)
    assert 1 - facts["spectral_gap"] == pytest.approx(0 if exact else left ** (1 / topology.rounds), abs=1e-12)


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


def test_blanks_around_a_name_are_no_part_of_it() -> None:
    for spec in ("one-peer", "star", "ring"):
        blanks, bare = Topology(f" {spec} ", 4), Topology(spec, 4)
        assert blanks.spectrum().rho == bare.spectrum().rho
        assert blanks.peers(1) == bare.peers(1)
    assert Settings.of({"topology": " one-peer "}).topology == "one-peer"


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
        ("0 1 2 3\n", "line 1.*expected two ranks.*METIS"),
        ("0 b\n", "adjacency lists"),
        ("a b\nb c\n", "line 2: expected two ranks, got 'b c'"),
        ("<!DOCTYPE html><html><title>404 Not Found</title>", r"is a web page \('404 Not Found'\)"),
        ("graph [\n  node [ id 0 ]\n", "line 1.*Matrix Market"),
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


#: A cycle of four ranks with a chord, 0–2, in every form that is read.
CYCLE = [[1, 2, 3], [0, 2], [0, 1, 3], [0, 2]]
FORMS = {
    "nx.edges": "0 1 {}\n1 2 {}\n2 3 {}\n0 3 {}\n0 2 {}\n",
    "data.edgelist": "#comment\n0 1 {'color': '#fff'}\n1 2 {'a': {}}\n2 3 {}  # x\n3 0 {}\n0 2 {}\n",
    "weighted": "0 1 1.0\n1 2 1.0\n2 3 1.0\n0 3 1.0\n2 0 1.0\n",
    "commas.csv": "0,1\n1, 2\n2 ,3\n0,3\n0,2\n",
    "pandas.csv": "source,target,weight\n0,1,1\n1,2,1\n2,3,1\n0,3,1\n0,2,1\n",
    "dicts.csv": "0,1,{'a': 1, 'b': 2}\n1,2,{}\n2,3,{}\n0,3,{}\n0,2,{}\n",
    "tabs.tsv": "% konect\n0\t1\n1\t2\n2\t3\n0\t3\n0\t2",
    "nx.adjlist": "#nx.py\n# GMT\n#\n0 1 3 2\n1 2\n2 3\n3\n",
    "pattern.mtx": "%%MatrixMarket matrix coordinate pattern symmetric\n% x\n4 4 5\n2 1\n3 2\n4 3\n4 1\n3 1\n",
    "scipy.mtx": "%%MatrixMarket matrix coordinate real general\n%\n4 4 7\n1 1 0.5\n1 2 1\n2 3 1\n3 4 1\n4 1 1\n"
    "3 1 1\n2 4 0.0\n",
    "plain.graph": "% a comment\n4 5\n2 3 4\n1 3\n1 2 4\n1 3\n",
    "weights.graph": "4 5 111 2\n9 7 7 2 1 3 1 4 1\n9 7 7 1 1 3 1\n9 7 7 1 1 2 1 4 1\n9 7 7 1 1 3 1\n\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_a_graph_is_the_same_in_every_form(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMS[name])
    topology = Topology(f"file:{tmp_path / name}", 4)
    assert [topology.neighbours(i) for i in range(4)] == CYCLE
    assert not topology.note


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("edges", "0 1 0.5\n1 2 0.25\n"),
        ("edges", "0 1 {'weight': 2}\n1 2 {'weight': 3}\n"),
        ("w.mtx", "%%MatrixMarket matrix coordinate real symmetric\n3 3 2\n2 1 0.5\n3 2 1e-1\n"),
        ("w.graph", "3 2 1\n2 5\n1 5 3 6\n2 6\n"),
    ],
)
def test_weights_that_w_does_not_have_are_told_of(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    facts = topology_facts(f"file:{tmp_path / name}", 3, None, None, "identity")
    assert facts["W"][1] == pytest.approx([1 / 3] * 3)
    assert "Metropolis" in facts["note"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.mtx", "%%MatrixMarket matrix array real general\n3 3\n", "line 1: expected `%%MatrixMarket matrix coord"),
        ("a.mtx", "%%MatrixMarket matrix coordinate real general\n4 4 1\n1 2 1\n", "line 2: the matrix is 4×4, and"),
        ("a.mtx", "%%MatrixMarket matrix coordinate real general\n3 3 2\n1 2 1\n", "expected 2 entries, got 1"),
        ("a.mtx", "%%MatrixMarket matrix coordinate real general\n3 3 1\n0 2 1\n", "line 3: -1 is no rank"),
        ("a.graph", "4 2\n", "line 1: the graph has 4 vertices"),
        ("a.graph", "3 2\n2\n1 3\n", "line 1: expected 2 edges"),
        ("a.graph", "3 2\n2\n1 x\n2\n", "line 3: expected whole numbers"),
        ("a.graph", "3 2\n2\n1 3\n2\n1\n", "line 5: expected 3 lines"),
        ("a.adjlist", "0 1 b\n", "line 1: expected whole numbers"),
    ],
)
def test_wrong_graphs_are_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=f"{tmp_path / name}, .*{says}"):
        Topology(f"file:{tmp_path / name}", 3)


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
