"""An iteration allocates nothing of a vector's size, for any algorithm and compressor; `check` says so of plug-ins."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from parts import CENTRALIZED, COMPRESSORS, EXAMPLES, FIELD, GOSSIP, make_algorithm, stepping

from mpisqueeze.comm.world import World
from mpisqueeze.kernels import kernels_for
from mpisqueeze.parts.allocation import DIMENSION, excess, peak_allocation
from mpisqueeze.parts.conformance import CHECKS, examine, find_part

ALLOCATES = "an iteration allocates no vector"
PLUGINS = """
import numpy as np
from mpisqueeze.algorithms.csgd import CSGD


class Doubles:
    unbiased = False

    def __init__(self, dimension, xp, dtype, seed):
        self.payload_bytes = dtype.itemsize * dimension
        self.dtype = dtype

    def encode(self, vector, payload):
        payload.view(self.dtype)[:] = vector * 1

    def decode(self, payload, out):
        out[:] = payload.view(self.dtype)


class Spares(Doubles):
    def encode(self, vector, payload):
        payload.view(self.dtype)[:] = vector


class Bowl:
    dimension = {dimension}

    def __init__(self, rank, size, seed, xp, dtype):
        self.dtype = dtype

    def initial_point(self):
        return np.ones(self.dimension, self.dtype)

    def gradient(self, x, iteration):
        return 0.5 * float(x @ x), x * 1


class Small(Bowl):
    dimension = 7


class Scaled(CSGD):
    def step(self, x, gradient, lr):
        super().step(x, lambda point: gradient(point) * 1, lr)
"""


DIANA, SPARSE_SIGN = f"{EXAMPLES}/diana.py:Diana", f"{EXAMPLES}/sparse_sign.py:SparseSign"


NAMES = [*CENTRALIZED[1:], *GOSSIP, DIANA, "sgd", "allreduce", "powersgd"]


@pytest.mark.parametrize(
    ("name", "spec"), [*itertools.product(NAMES, [*COMPRESSORS, SPARSE_SIGN]), *FIELD.items(), ("ef21", "topk:0.01")]
)
def test_a_step_allocates_nothing_of_the_vectors_size(name: str, spec: str) -> None:
    if kernels_for(np, np.float32).name == "numpy" and spec != "identity":
        pytest.skip("NumPy's fallback allocates tiles")
    if name in ("sgd", "allreduce", "powersgd", "dpsgd", "d2") and spec != "identity":
        pytest.skip("it takes no compressor")
    alone, shapes = World(MPI.COMM_SELF), [(256, 4, 255), (DIMENSION - 255 * 1024,)]
    algorithm: Any = make_algorithm(name, spec, DIMENSION, np.float32, alone, shapes=shapes)
    assert not excess(stepping(algorithm, DIMENSION, np.float32), 4 * DIMENSION)


def test_temporaries_are_seen_and_what_fills_caches_is_not() -> None:
    x, cache = np.ones(DIMENSION, np.float32), list[np.ndarray]()
    assert peak_allocation(lambda t: x + 1) >= x.nbytes
    assert excess(lambda t: x + 1, x.nbytes) >= x.nbytes
    assert not excess(lambda t: cache or cache.append(x.copy()), x.nbytes)


@pytest.mark.parametrize(
    ("name", "outcome", "says"),
    [
        ("Doubles", "doubtful", "encode 1.05 MB, encode_feedback 1.05 MB"),
        ("Spares", "passed", ""),
        ("Bowl", "doubtful", "gradient"),
        ("Small", "doubtful", "a new one each time"),
        ("Scaled", "doubtful", "a step with identity"),
    ],
)
def test_check_says_what_a_plug_in_allocates(tmp_path: Path, name: str, outcome: str, says: str) -> None:
    (tmp_path / "mine.py").write_text(PLUGINS.replace("{dimension}", str(DIMENSION)))
    kind, part = find_part(f"{tmp_path}/mine.py:{name}")
    found = {finding.check: finding for finding in examine(kind, part)}
    if kind in CHECKS:
        assert list(found) == [check for check, _ in CHECKS[kind]]
    assert found[ALLOCATES].outcome == outcome
    assert says in found[ALLOCATES].detail


def test_a_built_in_part_that_allocates_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels_for(np, np.float32).name == "numpy":
        pytest.skip("NumPy's fallback allocates tiles")
    kind, part = find_part("fp16")
    encode = part.cls.encode
    monkeypatch.setattr(part.cls, "encode", lambda self, vector, payload: encode(self, vector * 1, payload))
    failed = [finding for finding in examine(kind, part) if finding.outcome == "failed"]
    assert [finding.check for finding in failed] == [ALLOCATES]


def test_an_error_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        PLUGINS.replace("self.payload_bytes = ", "self.size = ").replace("{dimension}", "9")
    )
    findings = list(examine(*find_part(f"{tmp_path}/mine.py:Spares")))
    assert [finding.outcome for finding in findings] == ["failed"] + ["untried"] * (len(findings) - 1)
    assert "payload_bytes must be" in findings[0].detail
