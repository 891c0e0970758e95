"""The fuzz targets for a few seconds each, and regressions that fuzzing has found."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import logged
from fuzz import targets
from fuzz.sandbox import EscapedError, sandbox
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import mpisqueeze
from mpisqueeze.cli.app import run
from mpisqueeze.comm.world import World
from mpisqueeze.data.idx import read_idx
from mpisqueeze.errors import UsageError
from mpisqueeze.quantities import parse_size, parse_time

#: Inputs a target, of those that take long fewer.
MANY, FEW = 60, 5
SLOW = ("command_line", "data_tables")


@pytest.mark.parametrize("name", targets.TARGETS)
def test_nothing_but_an_error_of_use_comes_of(name: str) -> None:
    tried = settings(
        max_examples=FEW if name in SLOW else MANY,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    check = given(st.binary(max_size=200))(targets.TARGETS[name])
    for seed in targets.SEEDS[name][: FEW if name in SLOW else MANY]:
        check = example(seed)(check)
    tried(check)()


def test_the_sandbox_sees_what_it_is_there_for(tmp_path: Path) -> None:
    with pytest.raises(EscapedError, match=r"open .*here"), sandbox():
        (tmp_path / "here").write_text("outside")
    pickled = pickle.dumps(World)
    with pytest.raises(EscapedError, match="pickle"), sandbox():
        pickle.loads(pickled)
    with sandbox() as folder:
        (folder / "there").write_text("inside")
    assert not folder.exists()


def test_no_file_is_ever_unpickled() -> None:
    """And none is run, which ruff sees to."""
    modules = "pickle|dill|cloudpickle|joblib|marshal|shelve|yaml"
    unsafe = re.compile(rf"import ({modules})\b|from ({modules})\b|allow_pickle=True|weights_only=False|read_pickle")
    sources = sorted(Path(mpisqueeze.__file__).parent.rglob("*.py"))
    assert len(sources) > 100
    assert [str(path) for path in sources if unsafe.search(path.read_text(encoding="utf-8"))] == []


# -- what has been found


@pytest.mark.parametrize("parse", [parse_size, parse_time])
@pytest.mark.parametrize(
    "text", ["9" * 400 + ".5", "9" * 400, "9" * 400 + "s", "9" * 400 + ".0h", "9223372036854775808"]
)
def test_numbers_beyond_all_bounds_are_no_sizes_and_no_times(parse: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"size|time"):
        parse(text)


@pytest.mark.parametrize("size", [2**31, 2**32 - 1])
@pytest.mark.parametrize("pack", [bytes, lambda data: gzip.compress(data, mtime=0)])
def test_a_header_takes_no_memory(tmp_path: Path, size: int, pack: Any) -> None:
    (tmp_path / "images").write_bytes(pack(struct.pack(">4I", 0x803, size, 28, 28) + bytes(50_000)))
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="50000 bytes"):
            read_idx(tmp_path / "images", 3)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one; `run` in it is a run folder."""
    monkeypatch.chdir(tmp_path)
    targets.put(targets.left_behind(), tmp_path / "run")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], says: str, *arguments: str) -> None:
    """Exit code 2 and one line."""
    assert run(list(arguments)) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err
    assert err.count("mpisqueeze: error:") == 1


LONG, MANY_DIGITS, TINY_RATE = "a" * 300, "9" * 30, f"0.{'0' * 320}1bit"
QUADRATIC = "train --problem quadratic:3"
PREDICT = "predict --dimension 10 -n 2"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        # A variable that a script left empty.
        ("train --compressor=", "--compressor: "),
        (f"{QUADRATIC} --tree=", "--tree: "),
        (f"{QUADRATIC} --json=", "--json: "),
        ("compare sgd csgd/fp16 --preset=", "--preset: "),
        ("bench comm root -m 64 -i 1 --tree=", "--tree: "),
        ("report run --html=", "--html: "),
        ("info --compressor=", "--compressor: "),
        # A file that becomes a folder meanwhile.
        (f"{QUADRATIC} --iterations 1 --out new --json new", "--json: new cannot be written: Is a directory"),
        # Numbers beyond any patience or memory.
        (f"bench kernels -m 64 -i {MANY_DIGITS}", "-i: "),
        ("bench kernels -m 64 -x 1000001", "-x: must be a whole number from"),
        (f"{PREDICT} --latency 1us --bandwidth {TINY_RATE}", "is not a rate above 0"),
        (f"{QUADRATIC} --link bandwidth={TINY_RATE}", "is not a rate above 0"),
        ("train --problem mlp:1000000x1000000", "does not fit in this machine's memory"),
        ("train --data synthetic:1Gx1G", "does not fit in this machine's memory"),
        ("train --batch-size 9000000000G", "--batch-size: must be a whole number from 1 to"),
        # Names that no file system takes.
        (f"report {LONG}", "is not there"),
        (f"{QUADRATIC} --out {LONG}", "cannot be made: File name too long"),
        (f"train --problem {LONG}.py:Thing", "there is no file"),
        (f"info --json {LONG}/{LONG}", "--json"),
        (f"data list --json {LONG}", "cannot be written"),
        (f"train --config {LONG}", "--config"),
        # Files nested too deep, and files of something else.
        (f"{PREDICT} --calibration deep.json", "deep.json"),
        ("report deep", "config.json"),
        ("train --resume empty", "config.json"),
    ],
)
def test_odd_command_lines(folder: Path, capsys: pytest.CaptureFixture[str], command: str, says: str) -> None:
    (folder / "deep.json").write_text("[" * 100_000)
    for name, text in (("deep", "[" * 100_000), ("empty", "{}")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)
    refused(capsys, says, *command.split())


@pytest.mark.parametrize(
    ("file", "key", "value", "says"),
    [
        ("config.json", "compressor", 3, "run/config.json has 3 as 'compressor', not text"),
        ("config.json", "tree", "oak", "run/config.json has 'oak' as 'tree', not one of binary, "),
        ("config.json", "ranks", 2**53, "as 'ranks', not a whole number from 1 to 1000000"),
        ("config.json", "parts", [], "run/config.json has [] as 'parts', not an object"),
        ("environment.json", "lab", "x", "run/environment.json has 'x' as 'lab', not an object"),
        ("environment.json", "hosts", [None], "has None as 'hosts[0]'"),
        ("summary.json", "times", {"comm_s": {}}, "run/summary.json has no 'times.comm_s.median'"),
        ("summary.json", "reason", ["a"], "has ['a'] as 'reason', not text"),
        ("summary.json", "bytes_sent", 10**400, "as 'bytes_sent', not a whole number"),
        ("summary.json", "evaluation", {"test_loss": "x"}, "has 'x' as 'evaluation.test_loss', not a number"),
        ("summary.json", "dtype", "e400", "has 'e400' as 'dtype', not one of float32, float64"),
        ("summary.json", "wall_s", float("nan"), "run/summary.json is not JSON: it holds NaN"),
    ],
)
def test_a_run_folder_that_was_edited_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], file: str, key: str, value: Any, says: str
) -> None:
    path = folder / "run" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    refused(capsys, says, "report", "run", "--html", "page.html")


def test_names_are_no_markup(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a tag of rich's, nor an emoji."""
    named = folder / "[/]" / "[bold]:smile:"
    named.parent.mkdir(parents=True)
    (folder / "run").rename(named)
    assert run(["report", str(named.relative_to(folder)), "--html", "[i].html", "--color", "always"]) == 0
    (folder / "[b].py").write_text("class Thing:\n    pass\n")
    assert run(["check", "[b].py:Thing"]) == 2
    assert run([*QUADRATIC.split(), "--iterations", "3", "--checkpoint-every", "1", "--out", "[/]/b"]) == 0
    assert "[/]/b" in capsys.readouterr().out
    newest = max((folder / "[/]" / "b" / "checkpoint").glob("0*"))
    next(newest.glob("*.npz")).write_bytes(b"")
    assert run(["train", "--resume", "[/]/b", "--iterations", "4"]) == 0
    assert "[/]/b/checkpoint" in capsys.readouterr().out
    spec = f"onebit:{'0' * 300}7"
    assert run([*QUADRATIC.split(), "--iterations", "1", "--compressor", spec]) == 0
    assert len(next(folder.glob("results/*")).name) < 200


def test_losses_that_no_axis_shows_are_survived(folder: Path) -> None:
    path = folder / "run" / "iterations.jsonl"
    lines = logged(path)
    for line, loss in zip(lines, (1e-320, 1.0, 1.7e308, -1.7e308), strict=True):
        line["loss"] = loss
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run(["report", "run", "--html", "page.html", "--plot", "terminal"]) == 0


def test_a_terminal_without_the_characters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    (folder / "run" / "summary.json").unlink()
    (folder / "run").rename("run\udcff—")
    assert run(["report", "run\udcff—", "--csv", "t.csv", "--html", "t.html"]) == 0
    out.flush()
    assert b"run\\udcff-" in out.buffer.getvalue()  # type: ignore[attr-defined]
    assert "run\\udcff—" in (folder / "t.csv").read_text(encoding="utf-8")


INIT = "def __init__(self, *a):"
VECTOR = f"dimension = 3\n    {INIT} pass\n    initial_point = lambda self: np.zeros(3)\n"


@pytest.mark.parametrize(
    ("command", "base", "body", "says"),
    [
        ("train --problem", "", f"{INIT} raise SystemExit(0)", "xp, dtype) raised SystemExit: 0"),
        ("train --compressor", "", f"{INIT} raise SystemExit(0)", "raised SystemExit: 0"),
        ("train --algorithm", "", f"{INIT} raise SystemExit(0)", "__init__(setup) raised SystemExit: 0"),
        ("train --algorithm", "", f"{INIT} pass", "it has no method step"),
        ("train --problem", "", "limit_threads = 3", "limit_threads must be a method of the class, not 3"),
        ("train --problem", "", "default_lr = 'x'", "default_lr must be a number above 0, not 'x'"),
        ("train --problem", "", f"{INIT} pass\n    dimension = property(lambda self: 1 / 0)", "ZeroDivisionError"),
        ("train --problem", "", f"{VECTOR}    def gradient(self, x, t): return 1", "gave 1, not"),
        ("train --problem", "", f"{VECTOR}    def gradient(self, x, t): return 'x', np.ones(3)", "gave ('x', "),
        ("train --problem", "", f"{VECTOR}    def gradient(self, x, t): return 0, 1j * x", "an array of complex"),
        ("train --algorithm", "DoubleSqueeze", "default_compressor = None", "default_compressor must be a text"),
        ("train --algorithm", "DoubleSqueeze", "payload_bytes = (1,)", "payload_bytes must be a whole number, not"),
        ("compare sgd", "DoubleSqueeze", "centralized = np.zeros(3)", "centralized must be True or False"),
        ("compare sgd", "DoubleSqueeze", "formula = print", "formula must be a text"),
        ("train --algorithm", "DoubleSqueeze", "eta = 'x'", "eta must be a number, not 'x'"),
        ("train --algorithm", "DoubleSqueeze", "def bytes_per_iteration(self): return []", "gave [], not a number ≥ 0"),
        ("compare sgd", "DoubleSqueeze", "def bytes_per_iteration(self): 1 / 0", "() raised ZeroDivisionError"),
        ("train --algorithm", "DoubleSqueeze", "def residual(self): return 1", "residual gave 1, not a vector"),
    ],
)
def test_plug_ins_that_break_their_contract(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, base: str, body: str, says: str
) -> None:
    (folder / "p.py").write_text(
        "import numpy as np\nfrom mpisqueeze.algorithms.doublesqueeze import DoubleSqueeze\n"
        f"class Thing({base}):\n    {body}\n"
        + ("" if base or "gradient" in body else "    def gradient(self): pass\n    initial_point = gradient\n")
    )
    problem = () if "--problem" in command else ("--problem", "quadratic:3")
    # Modules are kept by their path, which is absolute here.
    refused(capsys, says, *command.split(), f"{folder.resolve()}/p.py:Thing", *problem, "--iterations", "1")


@pytest.mark.parametrize(
    ("step", "code"), [("x -= lr * gradient(x)", 0), ("raise SystemExit(0)", 4)], ids=["names", "exit"]
)
def test_an_algorithm_that_is_not_built_on_ours(
    folder: Path, capsys: pytest.CaptureFixture[str], step: str, code: int
) -> None:
    """It may call its attributes as it likes, and ends the run as a failure where it exits."""
    (folder / "p.py").write_text(
        "class Thing:\n    schedule, eta, payload_bytes = [0.1, 0.2], 'auto', None\n"
        f"    def __init__(self, setup): pass\n    def step(self, x, gradient, lr): {step}\n"
    )
    part = f"{folder.resolve()}/p.py:Thing"
    assert run([*QUADRATIC.split(), "--algorithm", part, "--iterations", "1"]) == code
    assert ("a plug-in ended the program" in capsys.readouterr().err) == (code == 4)


def test_inputs_that_failed_once(tmp_path: Path) -> None:
    """zipfile and NumPy raise what they like: of another version, compressed in another way, encrypted, pickled."""
    np.savez(tmp_path / "a.npz", x=np.array([None], object))
    targets.arrays(b"\x04" + (tmp_path / "a.npz").read_bytes())
    targets.arrays(b"\x06\x11\x1c'2=HS^itC\x7f\x8a\x95\xa0")
    targets.arrays(b"\x9a\xa5\xb0\xbb\xc6\x1c\xdc\xe3\xf2\xfd\x08\x13\x1e)4?")
