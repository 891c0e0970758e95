"""The fuzz targets for a few seconds each, and what fuzzing has found."""

from __future__ import annotations

import ast
import gzip
import io
import json
import pickle
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
SLOW = ("report_run", "report_comparison", "report_reproduction", "resume", "plugin", "command_line", "calibration_odd")


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


@pytest.mark.slow
@pytest.mark.parametrize("name", targets.TARGETS)
def test_no_seed_finds_anything(name: str) -> None:
    for seed in targets.SEEDS[name]:
        targets.TARGETS[name](seed)


def test_the_sandbox_sees_what_it_is_there_for(tmp_path: Path) -> None:
    with pytest.raises(EscapedError, match=r"open .*here"), sandbox():
        (tmp_path / "here").write_text("outside")
    pickled = pickle.dumps(World)
    with pytest.raises(EscapedError, match="pickle"), sandbox():
        pickle.loads(pickled)
    with sandbox() as folder:
        (folder / "there").write_text("inside")
    assert not folder.exists()


#: Modules whose files run code when they are loaded, and functions that run text.
_UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
_UNSAFE_CALLS = {"eval", "exec", "compile", "execfile"}


def unsafe(source: str) -> list[str]:
    """What in a program could run code out of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            found += [name for name in names if name.partition(".")[0] in _UNSAFE_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in _UNSAFE_CALLS or name.endswith(("read_pickle", "fromfile", "memmap", "find_class")):
            found.append(name)
        if name in ("np.load", "numpy.load", "xp.load", "cupy.load", "np.genfromtxt"):
            found += [] if given.get("allow_pickle") == "False" else [f"{name} without allow_pickle=False"]
        if name.endswith("torch.load"):
            found += [] if given.get("weights_only") == "True" else [f"{name} without weights_only=True"]
        found += ["allow_pickle"] if given.get("allow_pickle", "False") != "False" else []
    return found


def test_no_file_is_ever_unpickled_or_run() -> None:
    assert unsafe("import numpy as np\nnp.load(p)") == ["np.load without allow_pickle=False"]
    assert unsafe("import torch\ntorch.load(p)") == ["torch.load without weights_only=True"]
    assert unsafe("from pickle import loads\nx.eval()\nast.literal_eval(t)\nre.compile(t)") == ["pickle"]
    package = Path(mpisqueeze.__file__).parent
    sources = sorted(package.rglob("*.py"))
    assert len(sources) > 100
    found = {str(path.relative_to(package)): unsafe(path.read_text(encoding="utf-8")) for path in sources}
    assert {path: what for path, what in found.items() if what} == {}


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
    targets._put(targets._left_behind()["run"], tmp_path / "run")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], says: str, *arguments: str) -> None:
    """Exit code 2 and one line."""
    assert run(list(arguments)) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err
    assert err.count("mpisqueeze: error:") == 1


@pytest.mark.parametrize(
    ("file", "key", "value", "says"),
    [
        ("config.json", "compressor", 3, "run/config.json has 3 as 'compressor', not text"),
        ("config.json", "tree", "oak", "run/config.json has 'oak' as 'tree', not one of flat"),
        ("config.json", "ranks", 2**53, "as 'ranks', not a whole number from 1 to 1000000"),
        ("config.json", "parts", [], "run/config.json has [] as 'parts', not an object"),
        ("environment.json", "lab", "x", "run/environment.json has 'x' as 'lab', not an object"),
        ("environment.json", "hosts", [None], "has None as 'hosts[0]'"),
        ("summary.json", "times", {}, "run/summary.json has no 'times.compute_s'"),
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


@pytest.mark.parametrize(("key", "value", "what"), [("found", None, "text"), ("passed", None, "true or false")])
def test_a_decision_that_was_tested_has_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str, value: Any, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    targets._put(targets._left_behind()["reproduced"], tmp_path / "reproduced")
    path = tmp_path / "reproduced" / "claims.json"
    about = json.loads(path.read_text())
    about["claims"][0]["decisions"][0] |= {"found": "1 < 2", "passed": True, key: value}
    path.write_text(json.dumps(about))
    refused(capsys, f"has None as 'claims[0].decisions[0].{key}', not {what}", "report", "reproduced")


def test_names_are_no_markup(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What rich takes for a tag, or for an emoji."""
    named = folder / "[/]" / "[bold]:smile:"
    named.parent.mkdir(parents=True)
    (folder / "run").rename(named)
    assert run(["report", str(named.relative_to(folder)), "--html", "[i].html", "--color", "always"]) == 0
    (folder / "[b].py").write_text("class Thing:\n    pass\n")
    assert run(["check", "[b].py:Thing"]) == 2
    assert (
        run(["train", "--problem", "quadratic:3", "--iterations", "3", "--checkpoint-every", "1", "--out", "[/]/b"])
        == 0
    )
    assert "[/]/b" in capsys.readouterr().out
    newest = max((folder / "[/]" / "b" / "checkpoint").glob("0*"))
    next(newest.glob("*.npz")).write_bytes(b"")
    assert run(["train", "--resume", "[/]/b", "--iterations", "4"]) == 0
    assert "[/]/b/checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--compressor"),
        ("train", "--tree"),
        ("train", "--json"),
        ("compare", "sgd", "csgd/fp16", "--preset"),
        ("bench", "comm", "root", "-m", "64", "-i", "1", "--tree"),
        ("report", "run", "--html"),
        ("info", "--compressor"),
    ],
)
def test_a_variable_that_a_script_left_empty(
    folder: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    few = ("--problem", "quadratic:3", "--iterations", "1") if command[0] in ("train", "compare") else ()
    refused(capsys, f"{command[-1]}: ", command[0], *few, *command[1:], "")


@pytest.mark.parametrize("option", ["-i", "-x"])
def test_repetitions_beyond_any_patience(capsys: pytest.CaptureFixture[str], folder: Path, option: str) -> None:
    for number, says in {"9" * 30: "", "1000001": "must be a whole number from"}.items():
        refused(capsys, f"{option}: {says}", "bench", "kernels", "-m", "64", option, number)


def test_losses_that_no_axis_shows_are_survived(folder: Path) -> None:
    path = folder / "run" / "iterations.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
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
    assert b"run\\udcff\\u2014" in out.buffer.getvalue()  # type: ignore[attr-defined]
    assert "run\\udcff—" in (folder / "t.csv").read_text(encoding="utf-8")


def test_names_that_are_too_long(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "a" * 300
    refused(capsys, "is not there", "report", long)
    refused(capsys, "cannot be made: File name too long", "train", "--problem", "quadratic:3", "--out", long)
    refused(capsys, "there is no file", "train", "--problem", f"{long}.py:Thing")
    refused(capsys, "--json", "info", "--json", f"{long}/{long}")
    refused(capsys, "cannot be written", "data", "list", "--json", long)
    refused(capsys, "--config", "train", "--config", long)
    spec = f"onebit:{'0' * 300}7"
    assert run(["train", "--problem", "quadratic:10", "--iterations", "1", "--compressor", spec]) == 0
    assert len(next(folder.glob("results/*")).name) < 200


def test_files_nested_too_deep(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "deep.json").write_text("[" * 100_000)
    question = ("predict", "--dimension", "10", "-n", "2", "--calibration", "deep.json")
    refused(capsys, "deep.json is not JSON", *question)
    (folder / "run" / "config.json").write_text("[" * 100_000)
    refused(capsys, "config.json is not JSON", "report", "run")
    (folder / "run" / "config.json").write_text("{}")
    refused(capsys, "config.json has no 'algorithm'", "train", "--resume", "run")


@pytest.mark.parametrize(
    ("body", "option", "says"),
    [
        ("def __init__(self, *a): raise SystemExit(0)", "--problem", "xp, dtype) raised SystemExit: 0"),
        ("def __init__(self, *a): raise SystemExit(0)", "--compressor", "raised SystemExit: 0"),
        ("def __init__(self, *a): raise SystemExit(0)", "--algorithm", "__init__(setup) raised SystemExit: 0"),
        ("limit_threads = 3", "--problem", "limit_threads must be a method of the class, not 3"),
        ("check_installed = print\n    compresses = []", "--algorithm", "compresses must be True or False, not []"),
        ("default_lr = 'x'", "--problem", "default_lr must be a number above 0, not 'x'"),
        ("def __init__(self, *a): pass", "--algorithm", "it has no method step"),
        ("def __init__(self, *a): pass\n    dimension = property(lambda self: 1 / 0)", "--problem",
         "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_plug_ins_that_break_their_contract(
    folder: Path, capsys: pytest.CaptureFixture[str], body: str, option: str, says: str
) -> None:
    # Modules are kept by their path.
    (folder / "p.py").write_text(
        f"class Thing:\n    {body}\n    def gradient(self): pass\n    initial_point = gradient\n"
    )
    part = str((folder / "p.py").resolve())
    problem = () if option == "--problem" else ("--problem", "quadratic:3")
    refused(capsys, says, "train", option, f"{part}:Thing", *problem, "--iterations", "1")


def test_a_gradient_that_is_no_pair(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets.plugin(b"\x00cl2wa)\xff\xff\xff]\x01\x82")
    start = "import numpy as np\nclass Thing:\n    dimension = 3\n    def __init__(self, *a): pass\n"
    wrong = {
        "1": "gave 1, not",
        "('x', np.ones(3))": "gave ('x', ",
        "(0, 1j * np.ones(3))": "gradient gave an array of complex128",
        "(0, np.array(['x'] * 3))": "gradient gave an array of <U1",
    }
    for number, (value, says) in enumerate(wrong.items()):
        body = f"    initial_point = lambda self: np.zeros(3)\n    def gradient(self, x, t): return {value}\n"
        (folder / f"p{number}.py").write_text(start + body)
        refused(capsys, says, "train", "--problem", f"{folder}/p{number}.py:Thing", "--iterations", "1")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("default_compressor = None", "default_compressor must be a text, not None"),
        ("payload_bytes = (1,)", "payload_bytes must be a whole number, not (1,)"),
        ("centralized = np.zeros(3)", "centralized must be True or False"),
        ("formula = print", "formula must be a text"),
        ("eta = 'x'", "eta must be a number, not 'x'"),
        ("def bytes_per_iteration(self): return []", "bytes_per_iteration gave [], not a number ≥ 0"),
        ("def bytes_per_iteration(self): return 1 / 0", "bytes_per_iteration() raised ZeroDivisionError"),
        ("def residual(self): return 1", "residual gave 1, not a vector"),
    ],
)
@pytest.mark.parametrize("command", ["train", "compare"])
def test_what_an_algorithm_says_of_itself(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, body: str, says: str
) -> None:
    # Modules are kept by their path.
    part = folder / "p.py"
    part.write_text(
        "import numpy as np\nfrom mpisqueeze.algorithms.doublesqueeze import DoubleSqueeze\n"
        f"class Thing(DoubleSqueeze):\n    {body}\n"
    )
    pairs = ("--algorithm", f"{part}:Thing") if command == "train" else ("sgd", f"{part}:Thing")
    refused(capsys, says, command, *pairs, "--problem", "quadratic:3", "--iterations", "1")


def test_an_algorithm_of_its_own_may_call_its_attributes_as_it_likes(folder: Path) -> None:
    part = folder / "p.py"
    part.write_text(
        "class Thing:\n    schedule, eta, payload_bytes = [0.1, 0.2], 'auto', None\n"
        "    def __init__(self, setup): pass\n    def step(self, x, gradient, lr): x -= lr * gradient(x)\n"
    )
    assert run(["train", "--algorithm", f"{part}:Thing", "--problem", "quadratic:3", "--iterations", "1"]) == 0


def test_a_plug_in_that_exits_ends_the_run_as_a_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "class Thing:\n    def __init__(self, setup): pass\n    def step(self, x, gradient, lr): raise SystemExit(0)\n"
    )
    (folder / "p.py").write_text(text)
    path = (folder / "p.py").resolve()
    assert run(["train", "--problem", "quadratic:3", "--algorithm", f"{path}:Thing", "--iterations", "1"]) == 4
    assert "a plug-in ended the program" in capsys.readouterr().err


def test_rates_that_are_all_but_nothing(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    targets.calibration_odd(b"\xab\xbf\xe0\xeb\xf6\x01\x0c\xff\xff\xff\xff\x00\x00\x00\x00\xbe\xbeh\xbe\x03")
    tiny = f"0.{'0' * 320}1bit"
    question = ("predict", "--dimension", "10", "-n", "2", "--latency", "1us", "--bandwidth")
    refused(capsys, "is not a rate above 0", *question, tiny)
    refused(capsys, "is not a rate above 0", "train", "--problem", "quadratic:3", "--link", f"bandwidth={tiny}")


def test_sizes_that_no_memory_holds(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    refused(capsys, "does not fit in this machine's memory", "train", "--problem", "mlp:1000000x1000000")
    refused(capsys, "does not fit in this machine's memory", "train", "--data", "synthetic:1Gx1G")
    refused(capsys, "--batch-size: must be a whole number from 1 to", "train", "--batch-size", "9000000000G")


def test_archives_that_numpy_has_not_written(tmp_path: Path) -> None:
    """zipfile and NumPy raise what they like: of another version, compressed in another way, encrypted, pickled."""
    np.savez(tmp_path / "a.npz", x=np.array([None], object))
    targets.arrays(b"\x04" + (tmp_path / "a.npz").read_bytes())
    for changed in (
        b"\x06\x11\x1c'2=HS^itC\x7f\x8a\x95\xa0",
        b"\x9a\xa5\xb0\xbb\xc6\x1c\xdc\xe3\xf2\xfd\x08\x13\x1e)4?",
    ):
        targets.arrays(changed)
