"""`mpisqueeze check`: built-in parts pass, and a part that is broken in one way is told so in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import broken_parts
import pytest
from broken_parts import SAYS
from conftest import HERE, Finished
from parts import CENTRALIZED, COMPRESSORS, EXAMPLES, FIELD, GOSSIP
from test_checkpoint import same_runs, whole_and_part

from mpisqueeze.algorithms.base import Algorithm
from mpisqueeze.cli.app import run
from mpisqueeze.parts.conformance import examine, find_part

Run = Callable[..., Finished]
BROKEN = HERE / "broken_parts.py"


def kind_of(name: str) -> str:
    cls = getattr(broken_parts, name)
    kinds = {"compressor": broken_parts.Halves, "problem": broken_parts.Bowl}
    found = [kind for kind, base in kinds.items() if issubclass(cls, base)]
    assert found or issubclass(cls, Algorithm | broken_parts.NeverSends)
    return found[0] if found else "algorithm"


ALGORITHMS = [name for name in SAYS if kind_of(name) == "algorithm"]


@pytest.mark.parametrize(
    "part",
    [
        *COMPRESSORS, "quadratic:33", "logistic", "mlp:5x3", f"{EXAMPLES}/sparse_sign.py:SparseSign",
        f"{BROKEN}:Halves", f"{BROKEN}:Counts", f"{BROKEN}:Bowl",
    ],
)  # fmt: skip
def test_sound_parts_pass(part: str) -> None:
    findings = list(examine(*find_part(part)))
    assert [found for found in findings if found.outcome == "failed"] == []
    if "broken_parts" not in part:
        # Of signs without a scale there is no bound.
        allowed = {"passed", "doubtful"} if "SparseSign" in part or "none" in part else {"passed"}
        assert {found.outcome for found in findings} <= allowed


def test_sound_algorithms_pass(mpisqueeze_run: Run) -> None:
    names = [
        *CENTRALIZED, "allreduce", "powersgd", "powersgd:1", "memsgd:lr=inside",
        *(name.partition(":")[0] for name in FIELD), *GOSSIP, "dpsgd:order=awc",
    ]  # fmt: skip
    finished = mpisqueeze_run(3, "check", *names, f"{EXAMPLES}/diana.py:Diana", "onebit").well()
    assert "FAILED" not in finished.out
    # The majority of ranks whose data differ is not their mean.
    doubts = re.findall(r"^  doubtful (.*): 60 steps on a quadratic", finished.out, re.MULTILINE)
    assert doubts == ["ranks minimise the mean of their functions together"]
    # On the same ranks a compressor is checked on rank 0.
    counts = ["7 passed, 1 doubtful" if name == "signum" else "8 passed" for name in (*names, "diana.py")]
    counts.append("13 passed")
    assert re.findall(r"^\d+ passed.*$", finished.out, re.MULTILINE) == counts


@pytest.mark.parametrize("name", [name for name in SAYS if name not in ALGORITHMS])
def test_a_broken_part_is_told_so(name: str) -> None:
    kind, part = find_part(f"{BROKEN}:{name}")
    assert kind == kind_of(name)
    findings = [found for found in examine(kind, part) if found.outcome not in ("passed", "untried")]
    judge(name, [(found.outcome, found.detail) for found in findings if "allocates" not in found.check])


def test_broken_algorithms_are_told_so(mpisqueeze_run: Run) -> None:
    names = [name for name in ALGORITHMS if name != "RaisesOnRank1"]
    finished = mpisqueeze_run(3, "check", *(f"{BROKEN}:{name}" for name in names))
    assert finished.code == 2, finished.err
    blocks = re.split(r"^algorithm .*:", finished.out, flags=re.MULTILINE)[1:]
    assert [block.split()[0] for block in blocks] == names
    for name, block in zip(names, blocks, strict=True):
        lines = re.findall(r"^  (FAILED  |doubtful) (.*?): (.*)$", block, re.MULTILINE)
        judge(name, [(outcome.strip().lower(), detail) for outcome, check, detail in lines if "allocates" not in check])


def judge(name: str, findings: list[tuple[str, str]]) -> None:
    """The first line is the one; no other says the same, and nothing fails where a doubt is due."""
    outcome, text = SAYS[name]
    assert findings, f"{name} passes"
    assert findings[0][0] == outcome, findings
    assert text in findings[0][1], findings
    assert len({detail for _, detail in findings}) == len(findings), findings
    if outcome == "doubtful":
        assert "failed" not in dict(findings), findings


def test_an_algorithm_is_launched_on_ranks(mpisqueeze_run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    """By `check` itself; an error on one of them, for which the others wait, is told, and ends all."""
    assert run(["check", f"{BROKEN}:RaisesOnRank1"]) == 2
    out, err = capfd.readouterr()
    out += err
    assert out.count("FAILED") == 1
    assert f"{SAYS['RaisesOnRank1'][1]}" in out
    assert "; the others wait for it" in out


def test_a_compressor_that_carries_something_over_is_warned_of_or_saved(mpisqueeze_run: Run, tmp_path: Any) -> None:
    """Without `state` a run with checkpoints says that it may not be repeated; with it, resuming is exact."""
    options = ("--problem", "quadratic:37", "--algorithm", "doublesqueeze", "--compressor")

    def warnings(out: str) -> list[str]:
        found = json.loads((tmp_path / out / "summary.json").read_text())["warnings"]
        return [text for text in found if "computed twice" in text]

    own = f"{BROKEN}:OwnGenerator"
    mpisqueeze_run(2, "train", *options, own, "--iterations", "5", "--checkpoint-every", "5", "--out", "warned").well()
    (warning,) = warnings("warned")
    assert f"{own}: iteration 1, computed twice, gives another payload" in warning
    same_runs(*whole_and_part(mpisqueeze_run, tmp_path, 2, *options, f"{BROKEN}:Counts", last=11))
    assert warnings("whole") == warnings("part") == []


def test_an_error_of_a_file_is_told_with_its_line(refused: Any, empty_folder: Any) -> None:
    (empty_folder / "mine.py").write_text("import numpy as np\n\nx = np.zeros(3) @ np.zeros(4)\n")
    line = refused("train", "--problem", "mine.py:Mine", "--iterations", "3")
    assert "mine.py does not load: ValueError: " in line
    assert line.endswith("(mine.py, line 3)")
    (empty_folder / "other.py").write_text("class C:\n    def __init__(self, *all, **options):\n        {}['no']\n")
    line = refused("train", "--problem", "quadratic:5", "--compressor", "other.py:C", "--algorithm", "csgd")
    assert line.endswith("raised KeyError: 'no' (other.py, line 3)")


def test_an_algorithm_with_a_method_of_another_kind(tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "from mpisqueeze.algorithms.csgd import CSGD\n\nclass A(CSGD):\n"
        "    def gradient(self, x): ...\n    def encode(self, v): ...\n"
    )
    assert find_part(f"{tmp_path}/mine.py:A")[0] == "algorithm"
