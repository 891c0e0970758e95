"""Claims: their files, the language of what decides them, and the figures that it names."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpisqueeze.analysis.evidence import Evidence
from mpisqueeze.cli.app import run
from mpisqueeze.data import cifar10
from mpisqueeze.errors import UsageError
from mpisqueeze.record.claims import read_claims
from mpisqueeze.record.figures import no_columns
from mpisqueeze.record.reading import RunLog
from mpisqueeze.reproduce import virtual
from mpisqueeze.reproduce.claims import FOLDER, SCALES, load, names, select
from mpisqueeze.reproduce.engine import plan_tasks
from mpisqueeze.reproduce.expressions import parse
from mpisqueeze.settings import Settings

SMALLEST = """
title = "t"
says = "s"
source = "o"
[runs.sgd]
algorithm = "sgd"
[[decisions]]
text = "d"
holds = "sgd.loss < 1"
"""

OVER_N = """
[sweep]
workers = [4, 1]
[sweep.settings]
lr = [0.1, 0.2]
"""


class Told:
    """Evidence that says what it was told; `seeds` has what each of them says."""

    def __init__(self, seeds: Sequence[dict[str, Any]] = (), **figures: Any) -> None:
        self.constants = {"N": 8.0, "d": 100.0}
        self.seeds = [Told(**told) for told in seeds]
        self.figures = {
            name: np.median([told[name] for told in seeds]) for name in (seeds[0] if seeds else ())
        } | figures

    def figure(self, run: str, name: str) -> Any:
        return self.figures[f"{run}_{name}"]

    def slope(self, values: Any) -> float:
        return float(np.polyfit(range(len(values)), values, 1)[0])

    def gap(self, one: str, other: str) -> float:
        return self.figures[f"{one}_{other}"]


def decide(text: str, **figures: Any) -> tuple[bool, str]:
    finding = parse(text).decide(Told(**figures))
    return finding.holds, finding.shown


def test_expressions() -> None:
    assert decide("a.loss >= b.loss - 0.01", a_loss=0.97, b_loss=0.98) == (True, "0.970 ≥ 0.970")
    assert decide("a.loss >= b.loss - 0.01", a_loss=0.96, b_loss=0.98) == (False, "0.960 not ≥ 0.970")
    assert decide("a.c == 2 * (N - 1) / 7", a_c=2.0)[0]
    assert decide("a.c == 2", a_c=2 + 1e-6) == (False, "2.000001000 not = 2.000000000")
    assert decide("3 <= a.c <= 4", a_c=2.0) == (False, "3.00 not ≤ 2.00 ≤ 4.00")
    assert decide("a.c > 5 or 1 <= -a.c + 4 < 3", a_c=2.0) == (True, "2.00 not > 5.00 or 1.00 ≤ 2.00 < 3.00")
    assert decide("not a.c > 5 and abs(-3) == 3", a_c=2.0)[0]
    assert decide("gap(a, b) < 0.1", a_b=0.05)[0]
    assert decide("min(a.c, 3) == 2 and max(a.c, 3) == 3", a_c=2.0)[0]


def by_seed(text: str, **figures: Sequence[float]) -> tuple[bool | None, str]:
    seeds = [dict(zip(figures, values, strict=True)) for values in zip(*figures.values(), strict=True)]
    finding = parse(text).decide(Told(seeds))
    return finding.holds, finding.shown


def test_the_interval_of_the_paired_ratio_decides() -> None:
    """Student's t for two degrees of freedom is 4.303: ratios of 1.1, 1.2 and 1.3 give 0.973 to 1.47."""
    reference = [1.0, 2.0, 3.0]
    assert by_seed("a.loss > b.loss", a_loss=[1.1, 2.4, 3.9], b_loss=reference) == (
        None, "2.40 perhaps > 2.00 (0.973 to 1.47 ×)",
    )  # fmt: skip
    assert by_seed("a.loss > b.loss", a_loss=[1.19, 2.4, 3.63], b_loss=reference)[0] is True
    assert by_seed("a.loss < b.loss", a_loss=[1.19, 2.4, 3.63], b_loss=reference)[0] is False
    # Two seeds give no interval, so that their medians decide.
    assert by_seed("a.loss > b.loss", a_loss=[1.1, 2.4], b_loss=[1.0, 2.3])[0] is True
    # All alike: there is nothing to tell apart.
    assert by_seed("a.loss <= b.loss", a_loss=reference, b_loss=reference)[0] is True
    assert by_seed("a.loss < b.loss", a_loss=reference, b_loss=reference)[0] is False
    # Where no ratio is, the difference decides; and where that is none, what each seed says.
    assert by_seed("a.loss > 0", a_loss=[-1.0, 2.0, 3.0])[0] is None
    assert by_seed("a.loss > 0", a_loss=[-0.001, 2.0, 2.001])[0] is None
    assert by_seed("a.loss > 1", a_loss=[np.inf, np.inf, 2.0])[0] is True
    assert by_seed("a.loss > 1", a_loss=[np.inf, np.nan, 2.0])[0] is None
    # What is not told apart is neither true nor false.
    unknown, true = "a.loss > b.loss", "c.loss > 0"
    figures = {"a_loss": [1.1, 2.4, 3.9], "b_loss": reference, "c_loss": [2.0, 2.1, 2.2]}
    assert [by_seed(f"{unknown} {word} {true}", **figures)[0] for word in ("and", "or")] == [None, True]
    assert [by_seed(f"{unknown} {word} not {true}", **figures)[0] for word in ("and", "or")] == [False, None]
    assert by_seed(f"not {unknown}", **figures)[0] is None


def test_a_comparison_over_a_sweep_holds_at_every_point() -> None:
    swept = np.array([1.0, 2.0, 4.0])
    assert decide("a.loss > 0.5", a_loss=swept) == (True, "(1.00, 2.00, 4.00) > 0.500")
    assert not decide("a.loss > 1.5", a_loss=swept)[0]
    assert decide("last(a.loss) == 4 * first(a.loss)", a_loss=swept)[0]
    assert decide("slope(a.loss) == 1.5", a_loss=swept)[0]


@pytest.mark.parametrize("text", ["a.loss < 1", "a.loss >= 1", "a.loss == a.loss"])
def test_what_is_not_known_decides_nothing(text: str) -> None:
    assert not decide(text, a_loss=math.nan)[0]


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "a.loss", "a.loss + 1", "a < 1", "a.loss.b < 1", "a.loss != 1", "'x' < 1", "True < 1", "open('x') < 1",
        "__import__('os').system('true') < 1", "gap(a.loss, b) < 1", "slope(a.loss, 2) < 1", "a.loss[0] < 1",
        "(lambda: 1)() < 1", "a.loss < 1; b", "a.loss ** 2 < 1", "a.loss in 1", "(" * 5000,
    ],
)  # fmt: skip
def test_anything_else_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


@given(st.text("abN.()<=>+-*/ 01andornot,'_[]", max_size=40))
def test_any_text_is_an_expression_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse(text)


def log(loss: list[float], status: str = "ok", **summary: Any) -> RunLog:
    columns = {**no_columns(), **{name: np.zeros(len(loss)) for name in no_columns()}, "loss": np.array(loss)}
    times = {"comm_s": {"median": 0.5}}
    facts = {"status": status, "dimension": 10, "times": times, "elapsed_s_per_iteration": 0.5, **summary}
    return RunLog("x", None, facts, len(loss), 4, columns, [])


def test_figures_are_medians_over_seeds() -> None:
    runs = {"a": [[log([4.0, 2.0]), log([4.0, 1.0]), log([9.0, 7.0], "diverged", test_accuracy=0.5)]]}
    evidence = Evidence(runs, [0.0], [8])
    assert evidence.figure("a", "loss") == 2.0
    assert evidence.figure("a", "diverged") == pytest.approx(1 / 3)
    assert evidence.figure("a", "epoch_s") == 2.0
    assert math.isnan(evidence.figure("a", "test_accuracy")), "two seeds have none"
    assert dict(evidence.constants) == {"N": 8.0, "d": 10.0}


def test_figures_of_gossip_and_of_quadratics() -> None:
    """The consensus distance is a mean over the last tenth of where it was measured; where it was not there is none."""
    near, far = log([1.0] * 20), log([1.0] * 20)
    near.columns["consensus"][:] = [9.0, math.nan] * 9 + [1.0, math.nan]
    near.summary["evaluation"] = {"distance": 4.0}
    far.columns["consensus"][:] = math.nan
    far.summary["evaluation"] = None
    evidence = Evidence({"near": [[near]], "far": [[far]]}, [0.0], [8])
    assert evidence.figure("near", "consensus") == 1.0
    assert evidence.figure("near", "distance") == 4.0
    assert math.isnan(evidence.figure("far", "consensus"))
    assert math.isnan(evidence.figure("far", "distance"))


def test_figures_over_a_sweep_and_the_distance_of_losses() -> None:
    runs = {
        "a": [[log([4.0, 2.0])], [log([4.0, 3.0])]],
        "b": [[log([4.0, 2.5])], [log([4.0, 3.0])]],
        "c": [[log([4.0, math.inf])], [log([4.0, 3.0])]],
    }
    evidence = Evidence(runs, [10.0, 30.0], [8, 8])
    assert evidence.figure("a", "loss").tolist() == [2.0, 3.0]
    assert evidence.slope(evidence.figure("a", "loss")) == pytest.approx(0.05)
    assert evidence.gap("a", "b") == pytest.approx(0.25 / 2)
    assert evidence.gap("a", "c") == math.inf
    assert math.isnan(evidence.slope(1.0))


def test_what_a_run_needs_to_its_target() -> None:
    """Infinite for one that does not get there, unknown without a target; the median counts those that miss it."""

    def aimed(iterations: int, at_target: bool) -> RunLog:
        run = log([1.0] * iterations, stopped_at_target=at_target, bytes_sent=10 * iterations)
        run.config["stop_at"] = "distance=1"
        return run

    runs = {
        "most": [[aimed(3, True), aimed(9, False), aimed(5, True)]],
        "some": [[aimed(3, True), aimed(9, False), aimed(9, False)]],
        "aimless": [[log([1.0])] * 3],
    }
    evidence = Evidence(runs, [0.0], [8])
    assert evidence.figure("most", "iterations_to_target") == 5
    assert evidence.figure("most", "bytes_to_target") == 50
    assert evidence.figure("some", "iterations_to_target") == math.inf
    assert math.isnan(evidence.figure("aimless", "iterations_to_target"))


def test_n_and_the_spectral_gap_over_a_sweep() -> None:
    """4π²/3N² for large N on a ring, whose weights are 1/3."""
    points = []
    for count in (64, 256):
        run = log([1.0])
        run.config.update({"topology": "ring", "self_weight": None, "ranks": 1, "workers": count})
        points.append([run])
    evidence = Evidence({"ring": points}, [64, 256], [64, 256])
    gaps = evidence.figure("ring", "spectral_gap") * evidence.constants["N"] ** 2
    assert gaps == pytest.approx(4 * math.pi**2 / 3, rel=3e-3)
    assert math.isnan(Evidence({"sgd": [[log([1.0])]]}, [0.0], [8]).figure("sgd", "spectral_gap"))


@pytest.mark.parametrize("scale", SCALES)
def test_the_claims_of_the_package(scale: str) -> None:
    """Every one can be read at each scale, names what it says, and its runs have labels of their own."""
    if scale == "full":
        pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")
    assert len(names()) >= 9
    for claim in select(["all"], scale):
        trials = claim.trials(8)
        assert len({trial.label for trial in trials}) == len(trials)
        assert {trial.run for trial in trials} == set(claim.runs)
        for number, trial in enumerate(trials):
            assert trial.entry(number).plan.config.seed == trial.config.seed
        for text in (claim.file.title, claim.file.says, claim.file.source):
            assert text == text.strip()
            assert text
    assert len(names()) == len(list(FOLDER.glob("*.toml")))


def test_full_scale_trains_the_papers_networks() -> None:
    """Each claim that trains does so on CIFAR-10 there, and one that is an identity stays as it is."""
    pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")
    laptop, full = ({claim.name: claim for claim in select(["all"], scale)} for scale in SCALES)
    networks = {"double-compression", "one-bit", "top-k", "decentralized", "naive-gossip", "dcd", "deepsqueeze"}
    for name, claim in full.items():
        configs = [config for points in claim.runs.values() for config in points]
        problems = {(config.problem, config.data) for config in configs}
        if name in networks:
            assert problems <= {("resnet18", "cifar10"), ("resnet20", "cifar10")}
            assert {config.epochs for config in configs} == {60}
            assert len(claim.file.seeds) >= 3
        else:
            assert len(claim.runs) == len(laptop[name].runs)
    assert (full["traffic"].file, full["traffic"].runs) == (laptop["traffic"].file, laptop["traffic"].runs)
    assert full["dcd"].runs["dcd_4_bits"][0].compressor == "qsgd:4,bucket=36864"
    assert laptop["dcd"].runs["dcd_4_bits"][0].compressor == "qsgd:4,bucket=0"
    assert set(full["top-k"].runs) - set(laptop["top-k"].runs) == {"randomk"}
    # A run that only decisions of the laptop's name has no place there.
    assert "naive_floor" not in full["one-bit"].runs


def test_full_scale_is_said_by_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    more = """
[full]
seeds = [3, 4]
[full.settings]
lr = 0.25
[full.runs.sgd]
algorithm = "allreduce"
[full.runs.other]
algorithm = "dpsgd"
[[full.decisions]]
text = "f"
holds = "other.loss < 2"
"""
    path.write_text(SMALLEST + more)
    small, large = (load(path, scale) for scale in SCALES)
    assert (set(small.runs), small.runs["sgd"][0].algorithm, small.file.seeds) == ({"sgd"}, "sgd", [1])
    assert (set(large.runs), large.runs["other"][0].lr, large.file.seeds) == ({"other"}, 0.25, [3, 4])
    assert [decision.text for decision in large.file.decisions] == ["f"]
    path.write_text(SMALLEST + more[: more.index("[[")])
    large = load(path, "full")
    assert {name: config.algorithm for name, (config,) in large.runs.items()} == {"sgd": "allreduce", "other": "dpsgd"}
    assert [decision.text for decision in large.file.decisions] == ["d"]
    path.write_text(SMALLEST + more.replace("other.loss", "another.loss"))
    with pytest.raises(UsageError, match="no run 'another'"):
        load(path, "full")


def test_full_scale_wants_data_and_torch(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is said in one line, before any run."""
    arguments = ("reproduce", "dcd", "--scale", "full", "--workers", "3", "--out", str(tmp_path / "out"))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "torch", None)
        assert "pip install 'mpisqueeze[torch]'" in refused(*arguments)
    pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")
    line = refused(*arguments, "--data-dir", str(tmp_path))
    assert "--data-dir: cifar10: no file data_batch_1.bin" in line
    assert not (tmp_path / "out").exists()


def test_a_claim_runs_at_full_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dcd` on files like CIFAR-10's, with three workers and two iterations, has the runs and decisions of its file."""
    pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")
    monkeypatch.setattr(cifar10, "RECORDS", 4)
    generator = np.random.default_rng(1)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = generator.integers(0, 256, (4, 3073), np.uint8)
        records[:, 0] %= 10
        records.tofile(tmp_path / f"{name}.bin")
    text = (FOLDER / "85-dcd.toml").read_text()
    short = text.replace("epochs = 60\nbatch_size = 16\n", "epochs = 1\nbatch_size = 2\nsamples = 12\n")
    short = short.replace("[full]\nseeds = [1, 2, 3]", "[full]\nseeds = [2]")
    assert "epochs = 1\n" in short
    assert "seeds = [2]" in short
    (tmp_path / "dcd.toml").write_text(short)
    out = tmp_path / "out"
    arguments = ["--scale", "full", "--workers", "3", "--data-dir", str(tmp_path), "--out", str(out)]
    assert run(["reproduce", str(tmp_path / "dcd.toml"), *arguments]) == 0
    about = read_claims(out)
    (claim,) = about["claims"]
    assert (about["scale"], claim["seeds"], claim["reason"]) == ("full", [2], None)
    assert {found["run"]: found["compressor"] for found in claim["runs"]} == {
        "dpsgd": "identity",
        **{f"dcd_{bits}_bits": f"qsgd:{bits},bucket=36864" for bits in (8, 4, 2)},
    }
    assert all(found["status"] == "ok" and found["test_accuracy"] is not None for found in claim["runs"])
    assert [decision["holds"] for decision in claim["decisions"]] == [
        decision.holds for decision in load(FOLDER / "85-dcd.toml", "full").file.decisions
    ]


def test_selection() -> None:
    assert [claim.name for claim in select(["dcd", "traffic", "dcd"], "laptop")] == ["dcd", "traffic"]
    with pytest.raises(UsageError, match="did you mean 'traffic'"):
        select(["trafic"], "laptop")
    with pytest.raises(UsageError, match="not one of laptop, full"):
        select(["dcd"], "desktop")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("title", "titel", "unknown field `titel`"),
        ('title = "t"', "title = 3", "Expected `str`, got `int` - at `title`"),
        ('"sgd"', '"sdg"', "did you mean 'sgd'"),
        ("sgd.loss", "sdg.loss", "no run 'sdg'; did you mean 'sgd'"),
        ("sgd.loss", "sgd.lost", "'lost' is not one of"),
        ("< 1", "<", "no expression"),
        ("[runs.sgd]", "[runs.sgd]\nlearning_rate = 1.0", "'learning_rate' is no setting"),
        ("[runs.sgd]", "[runs.sgd]\nseed = 1", "'seed' is no setting"),
        ("[runs.sgd]", "[sweep]\nranks = [0]\n[runs.sgd]", "`int` >= 1"),
        ("[runs.sgd]", "[sweep]\nranks = [2]\nbandwidths = ['1mbit']\n[runs.sgd]", "give one of"),
        ("[runs.sgd]", "[sweep]\nbandwidths = ['fast']\n[runs.sgd]", "fast"),
        ("[runs.sgd]", "[figure]\nkind = 'sweep'\n[runs.sgd]", "kind is loss"),
        ("[runs.sgd]", "[figure]\nkind = 'loss'\nruns = ['sdg']\n[runs.sgd]", "figure: there is no run 'sdg'"),
        ("[runs.sgd]", "[sweep]\nlatencies = ['1ms']\n[runs.sgd]", "missing required field `bandwidth`"),
        ("[runs.sgd]", "[lab]\nhosts = 2\nbandwidths = []\n[runs.sgd]", "length >= 1 - at `lab.bandwidths`"),
        ("[runs.sgd]", "[runs.sgd", "is not TOML"),
        ('source = "o"', 'source = "o"\nseeds = [-1]', "seeds"),
        ("[runs.sgd]", "[sweep]\nworkers = []\n[runs.sgd]", "length >= 1 - at `workers`"),
        ("[runs.sgd]", "[sweep]\nworkers = [0]\n[runs.sgd]", "`int` >= 1"),
        ("[runs.sgd]", OVER_N.replace("[0.1, 0.2]", "[0.1]") + "[runs.sgd]", "lr has 1 value for 2 points"),
        ("[runs.sgd]", OVER_N.replace("[0.1, 0.2]", "[0.1, -1]") + "[runs.sgd]", "--lr"),
        ("[runs.sgd]", OVER_N.replace("lr", "workers") + "[runs.sgd]", "swept themselves"),
        ("[runs.sgd]", OVER_N.replace("lr", "rl") + "[runs.sgd]", "'rl' is no setting of train"),
        ("[runs.sgd]", OVER_N.replace("workers", "latencies") + "[runs.sgd]", "latencies"),
        ("[runs.sgd]", "[sweep]\nranks = [2]\n[runs.sgd]\nworkers = 2", "on virtual workers or on ranks"),
        ("[runs.sgd]", "[runs.b]\nworkers = 2\n[runs.sgd]", "on virtual workers or on ranks"),
        ("[runs.sgd]", "[runs.sgd]\nworkers = 0", "--workers"),
        ("[runs.sgd]", "[figure]\nkind = 'loss'\nlog = true\n[runs.sgd]", "log is for a sweep"),
    ],
)
def test_a_wrong_file_is_one_error(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SMALLEST)
    assert load(path, "laptop").name == "mine"
    path.write_text(SMALLEST.replace(old, new, 1))
    with pytest.raises(UsageError, match="mine") as error:
        load(path, "laptop")
    assert expected in str(error.value)
    assert error.value.option == "CLAIM"


def test_points_of_a_sweep(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SMALLEST.replace("[runs.sgd]", "[sweep]\nranks = [8, 2, 4]\n[runs.sgd]", 1))
    claim = load(path, "laptop")
    assert [trial.point.ranks for trial in claim.trials(4)] == [2, 4]
    path.write_text(
        SMALLEST.replace("[runs.sgd]", "[sweep]\nbandwidths = ['10mbit', '100mbit']\nlatency='1ms'\n[runs.sgd]", 1)
    )
    trials = load(path, "laptop").trials(4)
    assert [trial.point.x for trial in trials] == [0.01, 0.1]
    assert trials[0].config.link == "latency=1ms,bandwidth=100mbit"


def test_points_over_workers(tmp_path: Path) -> None:
    """Settings go with their N, whatever ranks there are; a run's own ones stand over them."""
    path = tmp_path / "mine.toml"
    path.write_text(SMALLEST.replace("[runs.sgd]", f"{OVER_N}[runs.one]\nworkers = 1\nlr = 0.7\n[runs.sgd]", 1))
    claim = load(path, "laptop")
    trials = claim.trials(1)
    assert [(trial.run, trial.point.x, trial.config.workers, trial.config.lr) for trial in trials] == [
        ("one", 1, 1, 0.7), ("sgd", 1, 1, 0.2), ("one", 4, 1, 0.7), ("sgd", 4, 4, 0.1),
    ]  # fmt: skip
    assert claim.workers == 4
    assert [trial.entry(1).takes for trial in trials] == [1, 1, 1, 4]
    (task,) = plan_tasks([claim], 1, Settings(workers=3))
    assert (task.obstacle, task.size) == (None, 4)


def test_a_lab_has_no_virtual_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPISQUEEZE_LAB", "{}")
    path = tmp_path / "mine.toml"
    path.write_text(SMALLEST.replace("[runs.sgd]", "[runs.sgd]\nworkers = 2", 1))
    (task,) = plan_tasks([load(path, "laptop")], 4, Settings())
    assert "a lab has real ranks" in (task.obstacle or "")
    assert not task.trials


def test_a_lab_gets_the_settings_and_no_place_among_ranks() -> None:
    claim = next(claim for claim in select(["all"], "laptop") if claim.hosts)
    trials = claim.trials(8)
    labels = list(dict.fromkeys(trial.point.label for trial in trials))
    words = virtual._command(claim, trials, labels, Path("there"))
    assert words[words.index("--rates") + 1] == ",".join(labels)
    at = words.index("compare")
    assert words[at + 1 : at + 1 + len(claim.runs)] == [
        "/".join(filter(None, (config.algorithm, config.compressor))) for (config, *_) in claim.runs.values()
    ]
    config = next(iter(claim.runs.values()))[0]
    assert words[words.index("--iterations") + 1] == str(config.iterations)
    assert list(virtual._options(Settings(barrier=False, lr=0.5))) == ["--lr", "0.5", "--no-barrier"]
    place = {"OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0", "HYDI_CONTROL_FD": "7", "MPISQUEEZE_LR": "9"}
    kept = virtual._environment({**place, "PATH": "p", "HOME": "h"})
    assert kept == {"PATH": "p", "HOME": "h"}
