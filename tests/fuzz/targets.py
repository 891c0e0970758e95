"""A function of bytes for each thing that the package parses.

It returns where the package takes the input or refuses it as documented (UsageError; ValueError or DamagedError where a
docstring says so), and raises whatever else comes out. SEEDS has inputs to begin with, by target.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import typer
from fuzz.choices import ODD, WORDS, Choices, as_json
from fuzz.sandbox import sandbox

from mpisqueeze import language as specs
from mpisqueeze import quantities
from mpisqueeze.cli import app as cli
from mpisqueeze.cli.app import run
from mpisqueeze.comm.world import World
from mpisqueeze.costs import link as link_spec
from mpisqueeze.data import cifar10, idx, load_dataset, partition
from mpisqueeze.errors import UsageError
from mpisqueeze.lab import lab
from mpisqueeze.parts import registry
from mpisqueeze.record import calibration, checkpoint, environment
from mpisqueeze.reproduce import claims, expressions
from mpisqueeze.runs import pairs, schedule
from mpisqueeze.runs import plan as config
from mpisqueeze.runs.sources import VARIABLES, resolve
from mpisqueeze.settings import SETTINGS, parse_interval, parse_timeout
from mpisqueeze.topology import Topology

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
SEEDS: dict[str, list[bytes]] = {}

#: What mpi4py does to hand objects from rank to rank.
_BETWEEN_RANKS = ("pickle.find_class",)


def target(*seeds: bytes) -> Callable[[Target], Target]:
    def register(function: Target) -> Target:
        TARGETS[function.__name__] = function
        SEEDS[function.__name__] = list(seeds)
        return function

    return register


# -- the small languages of options


def _finite(value: Any) -> None:
    assert value is None or math.isfinite(value), value


def _spec(text: str) -> None:
    found = specs.parse_spec(text)
    assert found.name == found.name.strip() != ""


def _part(parts: registry.Registry, text: str) -> None:
    found = parts.find(text)
    assert not found.is_plugin
    if parts is registry.compressors:
        _round_trip(found)


def _round_trip(part: registry.Part) -> None:
    """A compressor that was accepted works."""
    made = part.cls(5, np, np.dtype("float32"), 1, **part.options)
    payload, out = np.zeros(made.payload_bytes, np.uint8), np.zeros(5, np.float32)
    made.encode(np.arange(5, dtype=np.float32), payload)
    made.decode(payload, out)
    assert np.isfinite(out).all()


def _size(text: str) -> None:
    assert 0 <= quantities.parse_size(text) < 2**63


def _schedule(text: str) -> None:
    lr = schedule.parse_schedule(text)
    with contextlib.suppress(OverflowError):
        assert all(lr(t, 100, 10) >= 0 for t in (1, 50, 100))


_LANGUAGES: dict[str, Callable[[str], Any]] = {
    "size": _size,
    "rate": lambda text: _finite(quantities.parse_rate(text)),
    "time": lambda text: _finite(quantities.parse_time(text)),
    "spec": _spec,
    "interval": parse_interval,
    "timeout": parse_timeout,
    "schedule": _schedule,
    "partition": partition.parse_partition,
    "link": link_spec.parse_link,
    "data": lambda text: None if "G" in text or "T" in text else config.check_data_spec(text),
    "pair": pairs.parse_pair,
    "sweep": pairs.parse_sweep,
    "topology": config.check_topology,
    "compressor": partial(_part, registry.compressors),
    "algorithm": partial(_part, registry.algorithms),
    "problem": partial(_part, registry.problems),
    "expression": expressions.parse,
    **{f"setting {name}": SETTINGS[name].checked for name in VARIABLES.values()},
}


@target(
    *(bytes((language, 1, 0, word)) for language in range(64) for word in range(0, len(WORDS), 7)),
    b"\x000" + b"4Ki", b"\x080latency=5ms,bandwidth=1gbit,gap=2us", b"\x100a.loss<=b.loss+0.1 and gap(a,b)>2*N",
)  # fmt: skip
def language(data: bytes) -> None:
    """The first byte names the language, the second whether the rest is the text or chooses its words."""
    choices = Choices(data)
    parse = _LANGUAGES[choices.pick(list(_LANGUAGES))]
    text = choices.text() if choices.number(2) else choices.rest().decode(errors="surrogateescape")
    with sandbox(), contextlib.suppress(UsageError, ValueError):
        parse(text)


# -- settings


_TOML = b"lr = 0.1\nbatch-size = '4Ki'\nalgorithm = \"choco\"\noverlap = false\nlink = 'latency=5ms'\nseed = 3\n"


def _resolved(name: str, content: bytes, environment: dict[str, str] | None = None) -> None:
    with sandbox() as folder, contextlib.suppress(UsageError):
        (folder / name).write_bytes(content)
        found = resolve({}, environment or {}, Path(name))
        with found.blamed():
            config.plan(found.config)


@target(_TOML, b"[a]\nb=1", b"lr = 1e400", b"seed = 1_0", b"\xef\xbb\xbflr=1", b"out = '\\u0000'", b'out = "\\u0000"')
def settings_toml(data: bytes) -> None:
    """A settings file."""
    _resolved("run.toml", data)


@target(as_json({"lr": 0.1, "algorithm": "sgd", "iterations_per_epoch": 3, "iterations": 2, "epochs": 1}), b"[" * 5000)
def settings_json(data: bytes) -> None:
    """A run's config.json as a settings file."""
    _resolved("config.json", data)


@target(bytes(range(0, 250, 7)), b"\x00" * 8)
def settings_odd(data: bytes) -> None:
    """A settings file of sound JSON, whose values are odd ones, and variables."""
    choices = Choices(data)
    values = {choices.pick(sorted(VARIABLES.values())): choices.pick(ODD) for _ in range(choices.number(4))}
    variables = {choices.pick(sorted(VARIABLES)): choices.text() for _ in range(choices.number(3))}
    _resolved("run.json", as_json(values), variables)


# -- data files


def _idx(shape: tuple[int, ...], body: bytes) -> bytes:
    return struct.pack(f">{1 + len(shape)}I", 8 << 8 | len(shape), *shape) + body


_IMAGES, _LABELS = _idx((3, 2, 2), bytes(12)), _idx((3,), b"\x01\x02\x03")


@target(
    _IMAGES, _LABELS, gzip.compress(_IMAGES, mtime=0), _idx((2**31, 28, 28), b"12"), _idx((2**32 - 1,) * 3, b""),
    gzip.compress(_idx((2**31, 28, 28), bytes(1000)), mtime=0), gzip.compress(_IMAGES, mtime=0)[:-5],
    _idx((0, 2, 2), b""),
)  # fmt: skip
def data_idx(data: bytes) -> None:
    """An IDX file, by itself and as one of the four of a data set."""
    with sandbox() as folder:
        path = folder / "file"
        path.write_bytes(data)
        for axes in (1, 3):
            with contextlib.suppress(UsageError):
                assert idx.read_idx(path, axes).ndim == axes
        for name, content in {
            "train-images-idx3-ubyte": _IMAGES,
            "train-labels-idx1-ubyte": _LABELS,
            "t10k-images-idx3-ubyte": _IMAGES,
            "t10k-labels-idx1-ubyte": _LABELS,
        }.items():
            (folder / name).write_bytes(data)
            with contextlib.suppress(UsageError):
                load_dataset("mnist", folder, 1)
            (folder / name).write_bytes(content)
        load_dataset("mnist", folder, 1)


@target(b"\x03" + bytes(3072), b"\x03" + bytes(3072) + b"\x0b", gzip.compress(b"\x09" + bytes(3072), mtime=0), b"\x0a")
def data_cifar10(data: bytes) -> None:
    """A file of CIFAR-10, which has one record here and not 10 000."""
    records, cifar10.RECORDS = cifar10.RECORDS, 1
    try:
        with sandbox() as folder, contextlib.suppress(UsageError):
            for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
                (folder / name).write_bytes(data)
            assert load_dataset("cifar10", folder, 1).train_labels.max() < 10
    finally:
        cifar10.RECORDS = records


@target(b"0 1\n1 2 # x\n2,3\n3 0\n", b"0 0", b"0 9999999999", b"\xd9\xa3 1", b"0 1", b"\xff", b"0\x0c1\n2\x1c3")
def edges(data: bytes) -> None:
    """A graph's edges."""
    with sandbox() as folder, contextlib.suppress(UsageError):
        (folder / "edges").write_bytes(data)
        topology = Topology("file:edges", 4)
        assert all(i in topology.neighbours(j) for i in range(4) for j in topology.neighbours(i))


# -- what a run leaves behind


@cache
def _left_behind() -> dict[str, dict[str, bytes]]:
    """The files of run folders: of a run with a checkpoint, of a comparison and of a reproduction, by path."""
    found = {}
    commands = {
        "run": ["train", *_TINY, "--checkpoint-every", "1"],
        "compared": ["compare", "sgd", "choco/onebit", *_TINY],
    }
    with sandbox(_BETWEEN_RANKS) as folder, _light(), _quiet():
        for name, command in commands.items():
            assert run([*command, "--out", name]) == 0
            files = [path for path in sorted((folder / name).rglob("*")) if path.is_file()]
            found[name] = {str(path.relative_to(folder / name)): _of_four(path) for path in files}
        found["resumable"] = {str(path.relative_to("run")): path.read_bytes() for path in Path("run").rglob("*.*")}
    claim = {
        "claim": "c", "title": "t", "says": "s", "source": "o", "note": "", "sweep": None, "verdict": "PASS",
        "reason": None, "figure": {"kind": "loss", "y": "loss"},
        "decisions": [{"text": "d", "holds": "a.loss < 1", "found": "0.1 < 1", "passed": True}],
        "runs": [{"run": "a", "point": "", "x": 0.0, "seed": 1, "algorithm": "sgd", "compressor": "identity",
                  "status": "ok", "run_folder": "r/c/001-a"}],
    }  # fmt: skip
    about = {"claims": [claim], "scale": "laptop", "ranks": 4, "status": "done"}
    logs = {f"c/001-a/{path}": content for path, content in found["run"].items() if "/" not in path}
    found["reproduced"] = {"claims.json": as_json(about), **logs}
    return found


_TINY = ("--problem", "quadratic:10", "--iterations", "4")


def _of_four(path: Path) -> bytes:
    """A file as a run of four ranks would have left it, which sends bytes."""
    content = path.read_bytes()
    if path.suffix == ".npz":
        return content
    for old, new in {b'"ranks": 1': b'"ranks": 4', b'"bytes_sent": 0': b'"bytes_sent": 960'}.items():
        content = content.replace(old, new) if path.name != checkpoint.MANIFEST else content
    return content


@cache
def _world() -> Any:
    return World()


@contextlib.contextmanager
def _light() -> Iterator[None]:
    """Commands share a communicator, of which MPI has not many thousands, and their parser; they do not ask git."""
    with (
        mock.patch("mpisqueeze.comm.world.World", _world),
        mock.patch("mpisqueeze.cli.app.app", _parser()),
        mock.patch(f"{environment.__name__}._git_commit", return_value=None),
    ):
        yield


@cache
def _parser() -> Any:
    """What Typer makes of the commands, which takes it longer than most of them."""
    return typer.main.get_command(cli.app)


@contextlib.contextmanager
def _quiet() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        yield out, err


def _command(arguments: list[str], codes: tuple[int, ...] = (0, 2)) -> int:
    """Run a command in this process; it ends with one of the codes and without a traceback."""
    with _light(), _quiet() as (_, err):
        code = run(arguments)
    said = err.getvalue()
    # A plug-in that is at fault is shown where.
    assert "Traceback" not in said or (code == 4 and f"{os.sep}p.py" in said), said
    assert code in codes, (code, said)
    assert code != 2 or arguments[0] == "check" or said.count("mpisqueeze: error:") == 1, said
    return code


def _put(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _odd_file(choices: Choices, name: str, content: bytes) -> bytes:
    """A file with odd values in sound JSON, or other bytes."""
    kind = choices.number(8)
    if kind == 0:
        return choices.rest()
    if kind == 1:
        return content[: choices.number(1 + len(content))]
    try:
        if not name.endswith(".jsonl"):
            return as_json(choices.edited(json.loads(content)))
        lines = content.splitlines() or [b"{}"]
        at = choices.number(len(lines))
        lines[at] = as_json(choices.edited(json.loads(lines[at])))
        return b"\n".join(lines) + b"\n" * choices.number(2)
    except ValueError:
        return content  # It is none any more.


def _reported(kind: str, data: bytes) -> None:
    choices = Choices(data)
    files = dict(_left_behind()[kind])
    names = sorted(name for name in files if "checkpoint" not in name)
    for _ in range(1 + choices.number(2)):
        name = choices.pick(names)
        files[name] = _odd_file(choices, name, files[name])
        if choices.number(32) == 0:
            files[name] = b""
    plots = ["--plot", "terminal", "--plot-kind", choices.pick(("loss", "test-by-time", "phases", "time-by-bandwidth"))]
    tables = ["--csv", "t.csv", "--markdown", "t.md"]
    extra = [[], [], plots, tables][choices.number(4)] if kind != "reproduced" else []
    with sandbox(_BETWEEN_RANKS) as folder:
        _put(files, folder / kind)
        if _command(["report", kind, "--json", "r.json", "--html", "r.html", *extra]) == 0:
            json.loads((folder / "r.json").read_text(), parse_constant=_no_constant)
        if choices.number(4) == 0 and kind != "reproduced":
            _command(["predict", "--check", kind, "--latency", "50us", "--bandwidth", "1gbit"])


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


_EDITS = [bytes((i * 37 + j * 11) % 256 for j in range(40)) for i in range(24)]


@target(*_EDITS)
def report_run(data: bytes) -> None:
    """A run folder with odd files, reported in every way."""
    _reported("run", data)


@target(*_EDITS)
def report_comparison(data: bytes) -> None:
    """A comparison's folder."""
    _reported("compared", data)


@target(*_EDITS)
def report_reproduction(data: bytes) -> None:
    """A reproduction's folder."""
    _reported("reproduced", data)


@target(*_EDITS)
def resume(data: bytes) -> None:
    """A run folder with odd settings, manifests and arrays, some of which have the right checksum, taken up again."""
    choices = Choices(data)
    files = dict(_left_behind()["resumable"])
    kinds = sorted(name for name in files if not name.endswith(".npz"))
    at = sorted(name for name in files if name.endswith(checkpoint.MANIFEST))[-1]
    manifest = json.loads(files[at])
    if choices.number(3) == 0:
        array = at.replace(checkpoint.MANIFEST, checkpoint.file_of(0))
        files[array] = _odd_archive(choices, files[array])
        manifest["files"][checkpoint.file_of(0)] = hashlib.sha256(files[array]).hexdigest()
    elif choices.number(2):
        manifest = choices.edited(manifest)
    else:
        name = choices.pick(kinds)
        files[name] = _odd_file(choices, name, files[name])
    if isinstance(manifest, dict) and choices.number(8):
        body = {key: value for key, value in manifest.items() if key not in ("schema_version", "sha256")}
        with contextlib.suppress(TypeError, ValueError):
            manifest["sha256"] = checkpoint._digest_of(body)
    if choices.number(8):
        files[at] = as_json(manifest)
    with sandbox(_BETWEEN_RANKS) as folder:
        _put(files, folder / "run")
        settings = files["config.json"]
        if b"link" in settings and b'"link": null' not in settings:
            return  # It may be one that takes hours.
        _command(["train", "--resume", "run", "--iterations", "5", "--timeout", "0"], (0, 2, 3))


def _odd_archive(choices: Choices, content: bytes) -> bytes:
    """An .npz with bytes changed, or an array of another kind in place of x."""
    kind = choices.number(4)
    if kind == 0:
        return choices.rest()
    if kind == 1:
        changed = bytearray(content)
        for _ in range(1 + choices.number(8)):
            changed[choices.number(min(len(changed), 65536))] = choices.number(256)
        return bytes(changed)
    stream = io.BytesIO()
    arrays: dict[str, Any] = dict(np.load(io.BytesIO(content), allow_pickle=False))
    odd = (np.zeros(3), np.array("x"), np.array(["a"] * 10), np.zeros(10, "datetime64[s]"), np.zeros((2, 5)),
           np.array([None, {}], object), np.array(1j), np.array(float("nan")), np.zeros(0))  # fmt: skip
    arrays[choices.pick(sorted(arrays))] = choices.pick(odd)
    if kind == 2:
        del arrays[choices.pick(sorted(arrays))]
    np.savez(stream, **arrays)
    return stream.getvalue()


@target(*_EDITS, b"PK\x03\x04", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}")
def arrays(data: bytes) -> None:
    """A rank's file of a checkpoint whose checksum is right."""
    choices = Choices(data)
    files = _left_behind()["run"]
    name = next(name for name in sorted(files) if name.endswith(".npz"))
    content = _odd_archive(choices, files[name]) if choices.number(4) else choices.rest()
    with sandbox() as folder, contextlib.suppress(checkpoint.DamagedError):
        (folder / checkpoint.file_of(0)).write_bytes(content)
        digests = {checkpoint.file_of(0): hashlib.sha256(content).hexdigest()}
        found = checkpoint.read_arrays(checkpoint.Manifest(folder, 1, 1, {}, {}, {}, digests), 0)
        assert all(array.dtype != object for array in found.values())


# -- calibrations and claims


_CALIBRATION = {
    "schema_version": 1, "ranks": 4, "dtype": "float32", "link": {"alpha_s": 1e-5, "gap_s": 1e-6, "bandwidth": 1e9},
    "memory": {"add_s_per_element": 1e-9},
    "kernels": [{"compressor": "onebit", "plain_encode_s_per_element": 1e-9, "encode_s_per_element": 1e-9,
                 "decode_add_s_per_element": 1e-9}],
}  # fmt: skip


@target(as_json(_CALIBRATION), b'{"schema_version": 1}', b"[" * 5000, b"1" * 5000)
def calibration_json(data: bytes) -> None:
    """What `calibrate` wrote."""
    with sandbox() as folder, contextlib.suppress(UsageError):
        (folder / "c.json").write_bytes(data)
        calibration.read_calibration(Path("c.json"))


@target(*_EDITS)
def calibration_odd(data: bytes) -> None:
    """A calibration with odd values, and what is predicted with it."""
    with sandbox(_BETWEEN_RANKS) as folder:
        (folder / "c.json").write_bytes(as_json(Choices(data).edited(_CALIBRATION)))
        _command(["predict", "sgd", "dpsgd/onebit", "--calibration", "c.json", "--dimension", "1k", "--json", "p.json"])


_CLAIM = {
    "title": "t", "says": "s", "source": "o", "seeds": [1, 2], "min_ranks": 2, "note": "n",
    "settings": {"lr": 0.1, "iterations": 4}, "gpu": {"lr": 0.2},
    "runs": {"a": {"algorithm": "sgd"}, "b": {"algorithm": "choco", "compressor": "onebit"}},
    "sweep": {"bandwidths": ["1gbit", "10mbit"], "latency": "1ms"},
    "decisions": [{"text": "d", "holds": "last(a.loss) < b.loss + 0.1 and gap(a, b) > 0"}],
    "figure": {"kind": "sweep", "y": "loss"},
}  # fmt: skip


def _as_toml(value: Any) -> str:
    """TOML of a JSON value, for tables within tables as inline ones."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_as_toml, value))}]"
    return "''" if value is None else str(value) if isinstance(value, float) else json.dumps(value)


def _claim_file(content: bytes) -> None:
    with sandbox() as folder, contextlib.suppress(UsageError):
        (folder / "c.toml").write_bytes(content)
        for scale in claims.SCALES:
            claim = claims.select(["c.toml"], scale)[0]
            for trial in claim.trials(8):
                trial.entry(1)


@target(
    "\n".join(f"{key} = {_as_toml(value)}" for key, value in _CLAIM.items()).encode(),
    *(path.read_bytes() for path in sorted(claims.FOLDER.glob("*.toml"))),
)
def claim_toml(data: bytes) -> None:
    """A claim's file."""
    _claim_file(data)


@target(*_EDITS)
def claim_odd(data: bytes) -> None:
    """A claim's file of sound TOML with odd values."""
    facts = Choices(data).edited(_CLAIM)
    if isinstance(facts, dict):
        text = "\n".join(f"{json.dumps(str(key))} = {_as_toml(value)}" for key, value in facts.items())
        _claim_file(text.encode(errors="replace"))


# -- plug-ins


_BODIES = (
    "return None", "return 1", "return 'x'", "return xp.zeros(3)", "return np.zeros(3), 1", "return 1.0, np.zeros(3)",
    "return float('nan'), np.ones(3)", "raise ValueError('no')", "raise SystemExit(0)", "raise KeyError", "return []",
    "return self", "return np.zeros((3, 1))", "return np.array([None])", "return 1j", "return np.zeros(3, complex)",
    "raise MemoryError", "assert False", "return self.gone", "return (1.0, [0, 0, 0])", "raise StopIteration", "1/0",
    "raise RecursionError",
)  # fmt: skip
_VALUES = (
    "3", "0", "-1", "2**40", "None", "'x'", "1.5", "True", "[]", "[1]", "()", "(1,)", "{}", "lambda *a: 1", "object()",
    "property(lambda s: 1 / 0)", "float('nan')", "('a', 'b')", "b'x'", "np.zeros(3)", "print", "type",
)  # fmt: skip
_METHODS = (
    "__init__(self, *a, **k)", "initial_point(self)", "gradient(self, x, iteration)", "evaluate(self, x)",
    "encode(self, v, p)", "decode(self, p, out)", "step(self, x, gradient, lr)", "state(self)", "doubts(self)",
    "send(self, section)", "answer(self, section)", "apply(self, section)",
    "close(self)", "gradient_in_parts(self, x, iteration, ready)", "bytes_per_iteration(self)", "residual(self)",
)  # fmt: skip
_ATTRIBUTES = (
    "dimension", "iterations_per_epoch", "payload_bytes", "unbiased", "name", "needs_data", "compresses",
    "centralized", "default_lr", "default_compressor", "memory", "summary", "check_installed", "overlaps", "grain",
    "takes_batch_size", "limit_threads", "check_parts", "schedule", "formula", "eta", "seed", "xp",
)  # fmt: skip
_BASES = (
    "", "", "Problem", "Compressor", "Algorithm", "ServerAlgorithm", "GossipAlgorithm", "Quadratic", "OneBit", "dict",
)  # fmt: skip
_HEAD = """import numpy as np
xp = np
from mpisqueeze.problems.base import Problem
from mpisqueeze.problems.quadratic import Quadratic
from mpisqueeze.compressors.base import Compressor
from mpisqueeze.compressors.onebit import OneBit
from mpisqueeze.algorithms.base import Algorithm
from mpisqueeze.algorithms.decentralized import GossipAlgorithm
from mpisqueeze.algorithms.centralized import ServerAlgorithm
"""


def _program(choices: Choices) -> str:
    """A class with odd attributes and methods, or a text that is none."""
    kind = choices.number(8)
    if kind == 0:
        return choices.rest().decode(errors="surrogateescape")
    if kind == 1:
        return f"def Thing({choices.pick(('', 'a', '*a', 'rank, size, seed'))}):\n    {choices.pick(_BODIES)}\n"
    base = choices.pick(_BASES)
    lines = [f"class Thing({base}):", "    dimension = 3", "    payload_bytes = 12", "    unbiased = True"]
    for _ in range(choices.number(5)):
        lines.append(f"    {choices.pick(_ATTRIBUTES)} = {choices.pick(_VALUES)}")
    for _ in range(choices.number(6)):
        lines.append(f"    def {choices.pick(_METHODS)}:\n        {choices.pick(_BODIES)}")
    return _HEAD + "\n".join(lines) + "\n"


@target(*_EDITS, b"\x00class", b"\x01", b"\x02\x00\x00\x00")
def plugin(data: bytes) -> None:
    """A file of somebody's own as each kind of part, and its conformance tests."""
    choices = Choices(data)
    uses = (
        ["train", "--problem", "p.py:Thing"],
        ["train", "--compressor", "p.py:Thing", "--problem", "quadratic:3"],
        ["train", "--algorithm", "p.py:Thing", "--problem", "quadratic:3"],
        ["check", "p.py:Thing"],
        ["compare", "sgd", "p.py:Thing", "--problem", "quadratic:3"],
    )
    command = choices.pick(uses)
    text = _program(choices)
    registry._load_module.cache_clear()
    # What a plug-in itself does, it may.
    with sandbox(_BETWEEN_RANKS) as folder:
        (folder / "p.py").write_bytes(text.encode(errors="surrogateescape"))
        with np.errstate(all="ignore"):
            _command([*command, *(() if command[0] == "check" else ("--iterations", "2"))], (0, 2, 3, 4))


# -- the command line


def _options_of(command: str) -> list[Any]:
    found = _parser()
    for word in command.split():
        found = found.commands[word]
    return [option for option in found.params if option.param_type_name == "option"]


#: What makes a command short, and options that would wait, take all cores or end this process.
_COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("--iterations", "1", "--problem", "quadratic:10"),
    "compare": ("--iterations", "1", "--problem", "quadratic:10"),
    "predict": (),
    "report": (),
    "info": (),
    "data list": (),
    "bench kernels": ("-m", "64", "-i", "1"),
    "bench comm": ("-m", "64", "-i", "1"),
    "reproduce": (),
}
_LEFT_OUT = ("--link", "--timeout", "--threads", "--max-size", "--epochs")


@cache
def _known() -> dict[str, list[Any]]:
    return {command: _options_of(command) for command in _COMMANDS}


def _arguments(choices: Choices) -> list[str]:
    command = choices.pick(list(_COMMANDS))
    words = command.split()
    for _ in range(choices.number(5)):
        option = choices.pick(_known()[command])
        name = choices.pick([*option.opts, *option.secondary_opts])
        if name in _LEFT_OUT:
            continue
        words += [name] if getattr(option, "is_flag", False) else [name, choices.text()]
    for _ in range(choices.number(3)):
        if command != "reproduce":
            words.append(choices.text())
    return [*words, *_COMMANDS[command]]


@target(*_EDITS, *(bytes((i, 2, 3 * i, 0, j, 7, j)) for i in range(9) for j in range(0, 250, 40)))
def command_line(data: bytes) -> None:
    """Odd options of every command, and odd variables."""
    choices = Choices(data)
    words = _arguments(choices)
    variables = {}
    if choices.number(4) == 0:
        variables = {choices.pick(sorted(VARIABLES)): choices.text() for _ in range(1 + choices.number(2))}
    variables = {
        name: value
        for name, value in variables.items()
        if name.removeprefix("MPISQUEEZE_") not in ("LINK", "TIMEOUT", "THREADS", "EPOCHS")
    }
    try:
        given = [os.fsencode(text) for text in (*words, *variables.values())]
    except UnicodeEncodeError:
        return
    if any(b"\0" in text for text in given):
        return  # No system hands that to a program.
    # `info` asks what launcher there is.
    with sandbox((*_BETWEEN_RANKS, "subprocess.Popen")) as folder, _variables(variables):
        _put(_left_behind()["run"], folder / "run")
        (folder / "empty").mkdir()
        (folder / "edges").write_text("0 1\n")
        (folder / "file.json").write_text("{}")
        _command(words, (0, 2, 3))


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@target(*_EDITS)
def lab_options(data: bytes) -> None:
    """What `lab` is asked for, before it makes anything."""
    choices = Choices(data)
    rate, rates, delay = (choices.text() for _ in range(3))
    words = [choices.text() for _ in range(choices.number(5))]
    with sandbox(), contextlib.suppress(UsageError):
        lab.plan_trials(
            choices.pick((-1, 0, 1, 4, 10**9)), rate or None, None if choices.number(2) else rates, delay, 1500,
            words, bool(choices.number(2)),
        )  # fmt: skip
