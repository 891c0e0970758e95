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
    for name in ("ef21.py", "sparse_sign.py"):
        shutil.copy(EXAMPLES / name, tmp_path)


@pytest.mark.parametrize("server", ["root", "sharded"])
def test_an_algorithm_with_an_option(mpisqueeze_run: Run, tmp_path: Path, server: str) -> None:
    """EF21 with and without its option, beside sgd: its bytes, its names, and a resumed run."""
    d, n, iterations = 650 * 10, 3, 20
    options = ("--problem", "mlp:64", "--iterations", str(iterations), "--server", server, "--warmup", "0")
    pairs = ("sgd", "./ef21.py:EF21/identity", "./ef21.py:EF21/topk:0.1", "./ef21.py:EF21,start=compressed/topk:0.1")
    finished = mpisqueeze_run(n, "compare", *pairs, *options, "--out", "all", "--json", "-", "--save-model").well()
    found = {run["name"]: run for run in finished.json}
    assert list(found) == ["sgd", "ef21/identity", "ef21/topk:0.1", "ef21,start=compressed/topk:0.1"]
    d = found["sgd"]["dimension"]
    shards = [d // n + (s < d % n) for s in range(n)] if server == "sharded" else [d]
    full, c = 4 * d, sum(8 * -(-size // 10) for size in shards)
    first, other = 2 * full, c + full
    for name, expected in (
        ("ef21/topk:0.1", first + (iterations - 1) * other),
        ("ef21,start=compressed/topk:0.1", iterations * other),
    ):
        assert found[name]["bytes_sent"] == (n - 1) * expected, name
    x = [np.load(tmp_path / "all" / folder / "model.npz")["x"] for folder in ("01-sgd", "02-ef21-identity")]
    np.testing.assert_allclose(x[1], x[0], atol=1e-5)

    train = ("train", *options, "--algorithm", "./ef21.py:EF21", "--compressor", "topk:0.1", "--save-model")
    mpisqueeze_run(n, *train, "--out", "part", "--checkpoint-every", "7", "--iterations", "7").well()
    mpisqueeze_run(n, "train", "--resume", "part", "--iterations", str(iterations)).well()
    assert np.array_equal(*(np.load(tmp_path / run / "model.npz")["x"] for run in ("all/03-ef21-topk-0.1", "part")))


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("ef21.py:EF21,start=soon", "start must be full or compressed"),
        ("ef21.py:EF21:soon", "EF21:soon: start must be full or compressed"),
        ("ef21.py:EF21,stat=full", "EF21 has no parameter 'stat'; did you mean 'start'?; it accepts: start"),
    ],
)
def test_an_option_that_is_wrong(mpisqueeze_run: Run, part: str, says: str) -> None:
    finished = mpisqueeze_run(2, "train", "--algorithm", part)
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert says in finished.err


def test_a_compressor_without_a_kernel(mpisqueeze_run: Run) -> None:
    """Checked as the package's own are, and with error feedback it trains nearly as well as no compression."""
    checked = mpisqueeze_run(1, "check", "sparse_sign.py:SparseSign,block=64")
    assert checked.code == 0, checked.out
    pairs = ("sgd", "doublesqueeze/sparse_sign.py:SparseSign,block=64", "doublesqueeze/sparse_sign.py:SparseSign")
    finished = mpisqueeze_run(2, "compare", *pairs, "--epochs", "5", "--json", "-").well()
    sgd, *squeezed = finished.json
    d = sgd["dimension"]
    for run, block in zip(squeezed, (64, 128), strict=True):
        assert run["bytes_sent"] == run["iterations"] * 2 * (4 + -(-d // block))
        assert run["test_accuracy"] > sgd["test_accuracy"] - 0.05
