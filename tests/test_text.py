"""Text: windows of a file's bytes, a Markov source of known entropy, and the transformer that is trained on them."""

from __future__ import annotations

import gzip
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from problem_cases import make, windows

from mpisqueeze.cli.app import run
from mpisqueeze.data import load_dataset
from mpisqueeze.data.partition import parse_partition, partition_indices
from mpisqueeze.data.text import ALPHABET, entropy_rate
from mpisqueeze.errors import UsageError
from mpisqueeze.record.reading import read_run


def test_windows_of_a_file_meet_and_the_last_tenth_is_for_tests(tmp_path: Path) -> None:
    content = bytes(np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8))
    (tmp_path / "plain.bin").write_bytes(content)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(content))
    for name in ("plain.bin", "packed.gz"):
        data = load_dataset(f"text:{tmp_path / name},context=9", None, 1)
        assert (data.train_inputs.shape, data.test_inputs.shape, data.text) == ((99, 10), (11, 10), True)
        assert data.train_inputs[0].tobytes() == content[:10]
        assert data.train_inputs[98].tobytes() == content[882:892]
        assert data.test_inputs[0].tobytes() == content[900:910]
        assert data.floor is None
    # Each rank has a part in one piece.
    shares = partition_indices(data.train_labels, 4, parse_partition("label"), 1)
    assert [share.tolist() for share in shares] == [part.tolist() for part in np.array_split(np.arange(99), 4)]


@pytest.mark.parametrize(
    ("spec", "says"),
    [("text:short,context=10", "at least 110 bytes for windows of 10, found 100"), ("text:none", "no file")],
)
def test_text_that_is_none_is_refused(spec: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").write_bytes(bytes(100))
    with pytest.raises(UsageError, match=says):
        load_dataset(spec, None, 1)


def test_synthetic_text_is_a_function_of_the_seed_and_as_random_as_its_floor_says() -> None:
    """The log-likelihood that the successors' frequencies give to a long text is its entropy, or a little more."""
    one, same, other = (load_dataset("synthetic-text:64Ki,context=64", None, seed) for seed in (3, 3, 4))
    assert np.array_equal(one.train_inputs, same.train_inputs)
    assert one.floor == same.floor != other.floor
    assert one.floor is not None
    assert set(np.unique(one.train_inputs)) == set(ALPHABET)
    long = load_dataset("synthetic-text:1Mi,context=64", None, 3)
    assert long.floor == one.floor
    content = np.searchsorted(np.sort(ALPHABET), long.train_inputs[:, :-1].reshape(-1))
    pairs = content[:-2] * 27 + content[1:-1]
    counts = np.bincount(pairs * 27 + content[2:], minlength=27**3).reshape(-1, 27)
    totals = counts.sum(axis=1, keepdims=True)
    likelihood = -(counts * np.log(np.where(counts, counts, 1) / np.maximum(totals, 1))).sum() / counts.sum()
    assert likelihood == pytest.approx(one.floor, rel=0.02)


def test_the_entropy_rate_of_chains_that_are_known() -> None:
    assert entropy_rate(np.full((9, 3), 1 / 3)) == pytest.approx(math.log(3))
    # The next symbol is that before the last one, or by chance another: H(p) whatever the pairs are.
    p, chances = 0.2, np.zeros((4, 2))
    for a, b in itertools.product(range(2), range(2)):
        chances[2 * a + b] = [p, 1 - p] if a else [1 - p, p]
    assert entropy_rate(chances) == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--problem", "mlp", "--data", "synthetic-text"), "no classes to tell apart; it is for --problem gpt"),
        (("--problem", "gpt", "--data", "digits"), "gpt needs text, and digits is none"),
        (("--problem", "gpt:2x48"), "LAYERSxWIDTH such as 2x64"),
    ],
)
def test_problems_and_data_that_do_not_go_together(
    options: tuple[str, ...], says: str, refused: Callable[..., str]
) -> None:
    if "digits" in options:
        pytest.importorskip("torch")
    assert says in refused("train", *options)


def test_a_byte_tells_nothing_of_those_before_it() -> None:
    torch = pytest.importorskip("torch")
    problem = make("gpt:2x8", dtype=np.float64)
    network = problem._network
    given = torch.randint(0, 256, (3, 8), generator=torch.Generator().manual_seed(1))
    changed = given.clone()
    changed[:, 5] += 1
    with torch.no_grad(), network.at(problem.initial_point() * 20):
        before, after = (network.module(inputs).view(3, 8, 256) for inputs in (given, changed % 256))
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.isclose(before[:, 5], after[:, 5]).all(1).any()


def test_the_number_of_parameters_and_of_bytes_in_an_evaluation() -> None:
    pytest.importorskip("torch")
    assert make("gpt", dataset=load_dataset("synthetic-text:4Ki", None, 1), dtype=np.float32).dimension == 136_960
    problem = make("gpt:1x8")
    # At x = 0 all bytes are as likely, and the first of them is the guess.
    found = problem.evaluate(np.zeros(problem.dimension))
    assert found["test_loss"] == pytest.approx(math.log(256))
    assert found["test_accuracy"] == pytest.approx(np.mean(windows().test_inputs[:, 1:] == 0))


@pytest.mark.parametrize("method", [("--optimizer", "adamw", "--lr", "0.01"), ("--momentum", "0.9")])
def test_training_comes_down_towards_the_floor_and_not_below(
    method: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with momentum at the default rate."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    source = "synthetic-text:128Ki,context=16"
    options = ("--problem", "gpt:1x32", "--data", source, *method)
    assert run(["train", "allreduce", *options, "--iterations", "40", "--eval-every", "0", "--out", "run"]) == 0
    data = load_dataset(source, None, 1)
    assert data.floor is not None
    assert f"expected loss ≥ {data.floor:.3g}, the source's entropy" in " ".join(capsys.readouterr().out.split())
    losses = read_run(Path("run")).columns["loss"]
    assert losses[0] == pytest.approx(math.log(256), rel=0.02)
    assert data.floor < losses[-5:].mean() < 0.95 * math.log(27)
