"""Checkpoints: a run that was ended and taken up again ends as one that was not, to the bit."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, logged, start_on_ranks
from parts import CENTRALIZED, FIELD, GOSSIP

from mpisqueeze.errors import UsageError
from mpisqueeze.record.arrays import write_npz
from mpisqueeze.record.checkpoint import _digest_of
from mpisqueeze.record.folder import check_path
from mpisqueeze.record.reading import read_run

Run = Callable[..., Finished]
LENGTH = ("--problem", "quadratic:101", "--lr", "0.05", "--eval-every", "7")


def untimed(folder: Path) -> list[dict[str, Any]]:
    """The lines of iterations.jsonl, without what the clock says."""
    lines = (folder / "iterations.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if not key.endswith("_s")} for line in lines]


def same_runs(one: Path, other: Path) -> None:
    assert np.array_equal(np.load(one / "model.npz")["x"], np.load(other / "model.npz")["x"])
    assert untimed(one) == untimed(other)
    evaluations = [[file.read_text() for file in path.glob("evaluations.jsonl")] for path in (one, other)]
    assert evaluations[0] == evaluations[1]
    first, second = (json.loads((path / "summary.json").read_text()) for path in (one, other))
    for key in ("bytes_sent", "messages", "bytes_by_rank", "final_loss", "iterations", "evaluation", "status"):
        assert first[key] == second[key], key
    assert first["times"]["iteration_s"]["total"] > 0
    for path in (one, other):
        elapsed = read_run(path).columns["elapsed_s"]
        assert (np.diff(elapsed, prepend=0.0) > 0).all()


def whole_and_part(
    run: Run, folder: Path, ranks: int, *options: str, last: int = 9, saved: int = 5, meanwhile: Callable[[], Any] = int
) -> tuple[Path, Path]:
    """Folders of two runs of `last` iterations: one at once, and one that was saved, ended and resumed.

    Args:
        saved: the iteration in which the second one ended.
        meanwhile: what happens before it goes on.
    """
    run(ranks, "train", *options, "--save-model", "--iterations", f"{last}", "--out", "whole").well()
    saving = ("--iterations", f"{saved}", "--checkpoint-every", f"{saved}", "--out", "part")
    run(ranks, "train", *options, "--save-model", *saving).well()
    meanwhile()
    run(ranks, "train", "--resume", "part", "--iterations", f"{last}").well()
    return folder / "whole", folder / "part"


#: Those that remember something of a kind of its own; the others are slow tests.
KINDS = ("doublesqueeze", "onebit-adam:freeze=14", "dcd", "ecd", "choco", "d2")


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(name, marks=() if name in KINDS else pytest.mark.slow)
        for name in (*CENTRALIZED, *FIELD, KINDS[1], *GOSSIP)
    ],
)
def test_every_algorithm_goes_on_as_if_nothing_had_been(mpisqueeze_run: Run, tmp_path: Path, algorithm: str) -> None:
    """Momentum, residuals, replicas, x̂, y, gradients of before, and ECD's t."""
    more = ("--self-weight", "0.5") if algorithm == "d2" else ()
    options = ("--algorithm", algorithm, "--momentum", "0.5", *LENGTH, *more, "--save-model")
    mpisqueeze_run(3, "train", *options, "--iterations", "23", "--out", "whole").well()
    mpisqueeze_run(
        3, "train", *options, "--iterations", "16", "--checkpoint-every", "6", "--out", "part", "--per-rank"
    ).well()
    assert sorted(path.name for path in (tmp_path / "part" / "checkpoint").iterdir()) == ["00000012", "00000016"]
    # As if it had been killed in iteration 14.
    shutil.rmtree(tmp_path / "part" / "checkpoint" / "00000016")
    rest = mpisqueeze_run(3, "train", "--resume", "part", "--iterations", "23").well()
    assert "resumed after iteration 12" in rest.out
    same_runs(tmp_path / "whole", tmp_path / "part")
    ranks = logged(tmp_path / "part" / "ranks.jsonl")
    assert [(line["iteration"], line["rank"]) for line in ranks] == [(t, r) for t in range(1, 24) for r in range(3)]
    assert json.loads((tmp_path / "part" / "summary.json").read_text())["resumed_after"] == [12]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, launcher: Any) -> Path:
    """A run of 12 iterations on two ranks with checkpoints at 8 and 12."""
    folder = tmp_path_factory.mktemp("saved")
    arguments = ("train", *LENGTH, "--iterations", "12", "--checkpoint-every", "4", "--out", "run", "--save-model")
    start_on_ranks(launcher, 2, [sys.executable, "-m", "mpisqueeze", *arguments], folder, timeout=120).well()
    return folder / "run"


def test_a_damaged_checkpoint_is_named_and_the_older_one_taken(
    mpisqueeze_run: Run, tmp_path: Path, saved: Path
) -> None:
    run = shutil.copytree(saved, tmp_path / "run")
    file = run / "checkpoint" / "00000012" / "rank-0001.npz"
    file.write_bytes(file.read_bytes()[:-100])
    finished = mpisqueeze_run(2, "train", "--resume", "run").well()
    assert "checkpoint 00000012 cannot be used" in finished.out
    assert "rank-0001.npz is truncated or was altered" in finished.out
    assert "resumed after iteration 8" in finished.out
    same_runs(saved, run)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda run: [shutil.rmtree(path) for path in run.glob("checkpoint/*")], None),
        (lambda run: [path.write_text("[") for path in run.glob("checkpoint/*/manifest.json")], "no sound"),
        (lambda run: [path.write_bytes(b"") for path in run.glob("checkpoint/*/rank-0000.npz")], "no sound"),
        (lambda run: altered(run, "lr", 0.5), "config.json has lr = 0.5, and its checkpoint 0.05"),
        (lambda run: altered(run, "algorithm", "memsgd"), "algorithm = "),
        (lambda run: altered(run, "lr", "quick"), "--lr"),
        (lambda run: (run / "config.json").unlink(), "config.json is not there"),
        (lambda run: (run / "iterations.jsonl").write_text(""), "iterations.jsonl has 0 lines for 12"),
    ],
)
def test_what_cannot_be_continued(
    mpisqueeze_run: Run, tmp_path: Path, saved: Path, damage: Callable[[Path], Any], expected: str | None
) -> None:
    run = shutil.copytree(saved, tmp_path / "run")
    damage(run)
    finished = mpisqueeze_run(2, "train", "--resume", "run")
    if expected is None:
        assert finished.code == 0, finished.err
        assert "begun anew" in finished.out
        same_runs(saved, run)
        return
    assert finished.code == 2, finished.err + finished.out
    assert expected in finished.err
    assert "Traceback" not in finished.err


def test_what_a_run_leaves_that_was_killed_at_once_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "config.json.part").write_text("{")
    check_path(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="not empty"):
        check_path(tmp_path)


def test_a_disk_that_is_full_within_an_array_is_an_error_of_the_system(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
        with pytest.raises(OSError, match="File too large"):
            write_npz(tmp_path / "model.npz", {"x": np.ones(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def altered(run: Path, key: str, value: Any) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {key: value}))


@pytest.mark.parametrize(
    ("ranks", "arguments", "expected"),
    [
        (3, ("--resume", "run"), "run is a run of 2 ranks, and these are 3"),
        (2, ("--resume", "run", "--lr", "0.3", "--algorithm", "sgd"), "leave out --algorithm"),
        (2, ("--resume", "run", "--iterations", "5"), "may only be raised"),
        (2, ("--resume", "nowhere"), "config.json is not there"),
        (2, ("--checkpoint-every", "0"), "a number of iterations or a time above 0"),
        (2, ("--checkpoint-every", "soon"), "a number of iterations or a time above 0"),
    ],
)
def test_errors_of_use(
    mpisqueeze_run: Run, tmp_path: Path, saved: Path, ranks: int, arguments: tuple[str, ...], expected: str
) -> None:
    shutil.copytree(saved, tmp_path / "run")
    before = (tmp_path / "run" / "iterations.jsonl").read_text()
    finished = mpisqueeze_run(ranks, "train", *arguments)
    assert finished.code == 2
    assert expected in finished.err
    assert (tmp_path / "run" / "iterations.jsonl").read_text() == before


def test_a_run_that_goes_on_sends_as_the_folder_says(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """Trees follow the link, which would be measured anew, and with them the bytes of each rank."""
    options = ("--problem", "quadratic:4000", "--algorithm", "sgd", "--per-rank", "--checkpoint-every", "3")
    mpisqueeze_run(4, "train", *options, "--iterations", "3", "--out", "run").well()
    environment = tmp_path / "run" / "environment.json"
    facts = json.loads(environment.read_text())
    for latency, tree, most in ((0.0, "binary", 32_000), (0.05, "flat", 48_000)):
        other = shutil.copytree(tmp_path / "run", tmp_path / tree)
        link = {**facts["link_model"], "latency": latency, "gap": 1e-6, "byte_s": 1e-8}
        (other / "environment.json").write_text(json.dumps({**facts, "link_model": link}))
        mpisqueeze_run(4, "train", "--resume", tree, "--iterations", "6").well()
        assert json.loads((other / "environment.json").read_text())["link_model"] == link
        assert json.loads((other / "summary.json").read_text())["tree"] == tree
        last = json.loads((other / "ranks.jsonl").read_text().splitlines()[-4])
        assert (last["iteration"], last["rank"], last["bytes_sent"]) == (6, 0, most)


def test_a_plug_in_must_say_what_it_remembers(mpisqueeze_run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from mpisqueeze.algorithms.doublesqueeze import DoubleSqueeze\n"
        "class Silent(DoubleSqueeze):\n"
        "    pass\n"
        "class Frank(DoubleSqueeze):\n"
        "    memory = (*DoubleSqueeze.memory, 'steps')\n"
        "    steps = 0\n"
        "    def step(self, x, gradient, lr):\n"
        "        self.steps += 1\n"
        "        super().step(x, gradient, lr / self.steps)\n"
    )
    silent = mpisqueeze_run(2, "train", *LENGTH, "--algorithm", "mine.py:Silent", "--checkpoint-every", "5")
    assert silent.code == 2
    assert "`memory`" in silent.err
    same_runs(*whole_and_part(mpisqueeze_run, tmp_path, 2, *LENGTH, "--algorithm", "mine.py:Frank"))


def test_a_run_of_an_earlier_version_goes_on(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """One whose η was a setting of its own: it is told of and resumed as the run that it is."""
    config = tmp_path / "part" / "config.json"

    def put_back_in_time() -> None:
        former = {"algorithm": "choco", "eta": 0.3, "order": "atc", "memory_lr": "outside", "server": "root"}
        config.write_text(json.dumps({**json.loads(config.read_text()), **former}))
        # Nor was there elapsed time.
        log = tmp_path / "part" / "iterations.jsonl"
        lines = logged(log)
        for line in lines:
            del line["elapsed_s"]
        log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        manifest = tmp_path / "part" / "checkpoint" / "00000005" / "manifest.json"
        body = json.loads(manifest.read_text())
        version = {key: body.pop(key) for key in ("schema_version", "sha256")}
        part = {"name": "choco", "origin": "built-in", "parameters": {}}
        body["settings"] |= {**former, "parts": {"algorithm": part}}
        body["log"]["iterations.jsonl"] = log.stat().st_size
        manifest.write_text(json.dumps({**version, **body, "sha256": _digest_of(body)}))
        assert "choco:eta=0.3/topk:0.1" in mpisqueeze_run(1, "report", "part").out

    options = (*LENGTH, "--algorithm", "choco:eta=0.3", "--compressor", "topk:0.1")
    same_runs(*whole_and_part(mpisqueeze_run, tmp_path, 2, *options, meanwhile=put_back_in_time))
    assert json.loads(config.read_text())["algorithm"] == "choco:eta=0.3"


def test_a_plug_in_s_state_is_saved_and_what_is_missing_in_it_is_told(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """A problem's and a compressor's; and a problem with a generator, which no array is."""
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "class Drifting:\n"
        "    dimension = 4\n"
        "    def __init__(self, rank, size, seed, xp, dtype):\n"
        "        self.state = {'target': np.full(4, rank, dtype), 'steps': np.zeros((), np.int64)}\n"
        "        self.dtype = dtype\n"
        "    def initial_point(self):\n"
        "        return np.zeros(4, self.dtype)\n"
        "    def gradient(self, x, iteration):\n"
        "        self.state['steps'] += 1\n"
        "        self.state['target'] += x / self.state['steps']\n"
        "        g = x - self.state['target']\n"
        "        return float(g @ g) / 2, g\n"
        "class Rough:\n"
        "    unbiased = False\n"
        "    def __init__(self, dimension, xp, dtype, seed):\n"
        "        self.payload_bytes, self.dtype = dimension * dtype.itemsize, dtype\n"
        "        self.state = {'last': np.zeros(dimension, dtype)}\n"
        "        self.memory = np.zeros(dimension)  # its own\n"
        "    def encode(self, vector, payload):\n"
        "        payload.view(self.dtype)[:] = vector + self.state['last'] / 8\n"
        "        self.state['last'][:] = vector\n"
        "    def decode(self, payload, out):\n"
        "        out[:] = payload.view(self.dtype)\n"
        "class Carrying(Drifting):\n"
        "    def __init__(self, *run):\n"
        "        super().__init__(*run)\n"
        "        self.generator = np.random.default_rng(0)\n"
        "    def gradient(self, x, iteration):\n"
        "        loss, g = super().gradient(x, iteration)\n"
        "        return loss, g + self.generator.random(4)\n"
        "class Texts(Drifting):\n"
        "    def __init__(self, *run):\n"
        "        super().__init__(*run)\n"
        "        self.state['name'] = 'target'\n"
    )
    parts = ("--problem", "mine.py:Drifting", "--algorithm", "csgd-double", "--compressor", "mine.py:Rough")

    def is_not_warned_of() -> None:
        summary = json.loads((tmp_path / "part" / "summary.json").read_text())
        assert not any("computed twice" in warning for warning in summary["warnings"])

    options = (*parts, "--lr", "0.1", "--eval-every", "5")
    same_runs(*whole_and_part(mpisqueeze_run, tmp_path, 2, *options, meanwhile=is_not_warned_of))
    with np.load(tmp_path / "part" / "checkpoint" / "00000009" / "rank-0001.npz") as saved:
        assert saved["problem.state.steps"] == 9

    options = ("train", "--lr", "0.1", "--iterations", "3", "--checkpoint-every", "2", "--json", "-", "--problem")
    warnings = mpisqueeze_run(2, *options, "mine.py:Carrying").well().json["warnings"]
    assert any("mine.py:Carrying: iteration 1, computed twice, gives another gradient" in text for text in warnings)
    texts = mpisqueeze_run(2, *options, "mine.py:Texts")
    assert texts.code == 2
    assert "state.name must be an array of numbers, not 'target'" in texts.err
