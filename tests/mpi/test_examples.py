"""The worked examples of parts of one's own, each one file, run as a contributor runs them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from parts import EXAMPLES

Run = Callable[..., Finished]


@pytest.fixture(autouse=True)
def examples(tmp_path: Path) -> None:
    for name in ("diana.py", "sparse_sign.py"):
        shutil.copy(EXAMPLES / name, tmp_path)


@pytest.mark.parametrize("server", ["root", "sharded"])
def test_an_algorithm_with_an_option(mpisqueeze_run: Run, tmp_path: Path, server: str) -> None:
    """DIANA with and without its option, beside sgd: its bytes, its names, and a resumed run."""
    n, iterations = 3, 20
    options = ("--problem", "mlp:64", "--iterations", str(iterations), "--server", server, "--warmup", "0")
    pairs = ("sgd", "./diana.py:Diana/identity", "./diana.py:Diana/uniform:8", "./diana.py:Diana,alpha=0.25/uniform:8")
    finished = mpisqueeze_run(n, "compare", *pairs, *options, "--out", "all", "--json", "-", "--save-model").well()
    found = {run["name"]: run for run in finished.json}
    assert list(found) == ["sgd", "diana/identity", "diana/uniform:8", "diana,alpha=0.25/uniform:8"]
    d = found["sgd"]["dimension"]
    shards = [d // n + (s < d % n) for s in range(n)] if server == "sharded" else [d]
    full, c = 4 * d, sum(size + 8 * -(-size // 512) for size in shards)
    for name in list(found)[2:]:
        assert found[name]["bytes_sent"] == (n - 1) * iterations * (c + full), name
    x = [np.load(tmp_path / "all" / folder / "model.npz")["x"] for folder in ("01-sgd", "02-diana-identity")]
    np.testing.assert_allclose(x[1], x[0], atol=1e-5)

    train = ("train", *options, "--algorithm", "./diana.py:Diana", "--compressor", "uniform:8", "--save-model")
    mpisqueeze_run(n, *train, "--out", "part", "--checkpoint-every", "7", "--iterations", "7").well()
    mpisqueeze_run(n, "train", "--resume", "part", "--iterations", str(iterations)).well()
    assert np.array_equal(*(np.load(tmp_path / run / "model.npz")["x"] for run in ("all/03-diana-uniform-8", "part")))


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("diana.py:Diana,alpha=2", "alpha must be a number > 0 and ≤ 1"),
        ("diana.py:Diana:soon", "Diana:soon: alpha must be a number"),
        ("diana.py:Diana,alhpa=1", "Diana has no parameter 'alhpa'; did you mean 'alpha'?; it accepts: alpha"),
    ],
)
def test_an_option_that_is_wrong(mpisqueeze_run: Run, part: str, says: str) -> None:
    finished = mpisqueeze_run(2, "train", "--algorithm", part)
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert says in finished.err


def test_a_compressor_without_a_kernel(mpisqueeze_run: Run) -> None:
    """Checked as the package's own are, and with error feedback it trains nearly as well as no compression."""
    mpisqueeze_run(1, "check", "sparse_sign.py:SparseSign,block=64").well()
    pairs = ("sgd", "doublesqueeze/sparse_sign.py:SparseSign,block=64", "doublesqueeze/sparse_sign.py:SparseSign")
    finished = mpisqueeze_run(2, "compare", *pairs, "--epochs", "5", "--json", "-").well()
    sgd, *squeezed = finished.json
    d = sgd["dimension"]
    for run, block in zip(squeezed, (64, 128), strict=True):
        assert run["bytes_sent"] == run["iterations"] * 2 * (4 + -(-d // block))
        assert run["test_accuracy"] > sgd["test_accuracy"] - 0.05
