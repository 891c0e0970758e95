"""An iteration allocates nothing of a vector's size, for any algorithm and compressor."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from parts import CENTRALIZED, COMPRESSORS, EXAMPLES, GOSSIP, make_algorithm, start_at

from mpisqueeze.comm.world import World
from mpisqueeze.kernels import kernels_for

DIMENSION = 1 << 18


EF21, SPARSE_SIGN = f"{EXAMPLES}/ef21.py:EF21", f"{EXAMPLES}/sparse_sign.py:SparseSign"


@pytest.mark.parametrize("spec", [*COMPRESSORS, SPARSE_SIGN])
@pytest.mark.parametrize("name", [*CENTRALIZED[1:], *GOSSIP, EF21, "sgd", "allreduce"])
def test_a_step_allocates_nothing_of_the_vectors_size(name: str, spec: str) -> None:
    if kernels_for(np, np.float32).name == "numpy" and spec != "identity":
        pytest.skip("NumPy's fallback allocates in chunks")
    if name in ("sgd", "allreduce", "dpsgd", "d2") and spec != "identity":
        pytest.skip("it takes no compressor")
    world = World(MPI.COMM_SELF)
    algorithm: Any = make_algorithm(name, spec, DIMENSION, np.float32, world)
    x = start_at(DIMENSION, np.float32)
    g = start_at(DIMENSION, np.float32)
    fresh = np.empty_like(g)

    def gradient(_: np.ndarray) -> np.ndarray:
        np.copyto(fresh, g)
        return fresh

    for t in range(1, 6):
        if t == 3:  # the first iterations may fill caches
            tracemalloc.start()
        algorithm.setup.network.iteration = t
        algorithm.step(x, gradient, 0.1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < DIMENSION * 4 / 50, f"{peak} bytes beside vectors of {DIMENSION * 4}"
