"""A function of bytes for each thing that the package parses.

It returns where the package takes the input or refuses it as documented (UsageError; ValueError or DamagedError where a
docstring says so), and raises whatever else comes out. SEEDS has inputs to begin with, by target.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
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
from fuzz.choices import WORDS, Choices
from fuzz.sandbox import sandbox

from mpisqueeze import language as specs
from mpisqueeze import quantities
from mpisqueeze.cli import app as cli
from mpisqueeze.cli.app import run
from mpisqueeze.comm.world import World
from mpisqueeze.costs import link as link_spec
from mpisqueeze.data import cifar10, idx, load_dataset, partition
from mpisqueeze.errors import UsageError
from mpisqueeze.parts import registry
from mpisqueeze.record import checkpoint, environment
from mpisqueeze.reproduce import expressions
from mpisqueeze.runs import pairs, schedule
from mpisqueeze.runs import plan as config
from mpisqueeze.runs.sources import VARIABLES
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


@target(
    b"0,1,a\n1,2,b\n3,4,a\n5,6,b\n", b"\xef\xbb\xbf,x;y\n1;2;3\n", b'"a\nb","label"\n1,"x"\n2,"y"\n3,x\n4,y\n',
    b"1,nan,a\n",
    b"1 1:2 3:4\n-1 2:5 # x\n1 1:1\n-1 3:2\n", b"0 0:1\n1 0:2\n0 5:1e5\n1 2:.5\n", b"1 999999999:1\n0 1:1\n", b"PAR1",
    b"<html>",
)  # fmt: skip
def data_tables(data: bytes) -> None:
    """A CSV file, and a LIBSVM file."""
    for kind in ("csv", "libsvm"):
        with sandbox() as folder, contextlib.suppress(UsageError):
            (folder / "it").write_bytes(data)
            found = load_dataset(f"{kind}:it", None, 1)
            assert found.train_labels.max() < found.classes
            assert np.isfinite(found.train_inputs).all()


@target(
    b"0 1\n1 2 # x\n2,3\n3 0\n", b"0 0", b"0 9999999999", b"\xd9\xa3 1", b"0 1", b"\xff", b"0\x0c1\n2\x1c3",
    b"0 1 {'weight': 2}\n1 2 {}\n2 3 0.5", b"4 3 11 2\n1 1 2 5\n1 1 1 5 3 1\n1 1 2 1 4 1\n1 1 3 1\n",
    b"%%MatrixMarket matrix coordinate real general\n%\n4 4 3\n1 2 0.5\n2 3 0\n3 4 1e9\n", b"0 1 2 3\n# x\n2 3",
)  # fmt: skip
def edges(data: bytes) -> None:
    """A graph's edges, whatever their form."""
    for name in ("edges", "it.graph", "it.adjlist"):
        with sandbox() as folder, contextlib.suppress(UsageError):
            (folder / name).write_bytes(data)
            topology = Topology(f"file:{name}", 4)
            assert all(i in topology.neighbours(j) for i in range(4) for j in topology.neighbours(i))


# -- what a run leaves behind


@cache
def left_behind() -> dict[str, bytes]:
    """The files of a run's folder, its checkpoint included, by path."""
    with sandbox(_BETWEEN_RANKS) as folder, _light(), _quiet():
        command = "train --problem quadratic:10 --iterations 4 --checkpoint-every 1 --out run"
        assert run(command.split()) == 0
        paths = sorted(path for path in (folder / "run").rglob("*") if path.is_file())
        return {str(path.relative_to(folder / "run")): path.read_bytes() for path in paths}


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
    """Typer's parser of the commands, whose making takes longer than most of them."""
    return typer.main.get_command(cli.app)


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        yield err


def _command(arguments: list[str]) -> None:
    """Run a command in this process; it ends well, with a divergence or with one line, and without a traceback."""
    with _light(), _quiet() as err:
        code = run(arguments)
    said = err.getvalue()
    assert "Traceback" not in said, said
    assert code in (0, 2, 3), (code, said)
    assert code != 2 or said.count("mpisqueeze: error:") == 1, said


def put(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


_ANY = [bytes((i * 37 + j * 11) % 256 for j in range(40)) for i in range(24)]


def _odd_archive(choices: Choices, content: bytes) -> bytes:
    """An .npz with bytes changed, or an array of another kind."""
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


@target(*_ANY, b"PK\x03\x04", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}")
def arrays(data: bytes) -> None:
    """A rank's file of a checkpoint whose checksum is right."""
    choices = Choices(data)
    name = next(name for name in sorted(left_behind()) if name.endswith(".npz"))
    content = _odd_archive(choices, left_behind()[name]) if choices.number(4) else choices.rest()
    with sandbox() as folder, contextlib.suppress(checkpoint.DamagedError):
        (folder / checkpoint.file_of(0)).write_bytes(content)
        digests = {checkpoint.file_of(0): hashlib.sha256(content).hexdigest()}
        found = checkpoint.read_arrays(checkpoint.Manifest(folder, 1, 1, {}, {}, {}, digests), 0)
        assert all(array.dtype != object for array in found.values())


# -- the command line


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
def _options_of(command: str) -> list[Any]:
    found = _parser()
    for word in command.split():
        found = found.commands[word]
    return [option for option in found.params if option.param_type_name == "option"]


def _arguments(choices: Choices) -> list[str]:
    command = choices.pick(list(_COMMANDS))
    words = command.split()
    for _ in range(choices.number(5)):
        option = choices.pick(_options_of(command))
        name = choices.pick([*option.opts, *option.secondary_opts])
        if name in _LEFT_OUT:
            continue
        words += [name] if getattr(option, "is_flag", False) else [name, choices.text()]
    for _ in range(choices.number(3)):
        if command != "reproduce":
            words.append(choices.text())
    return [*words, *_COMMANDS[command]]


@target(*_ANY, *(bytes((i, 2, 3 * i, 0, j, 7, j)) for i in range(9) for j in range(0, 250, 40)))
def command_line(data: bytes) -> None:
    """Odd options of every command, and odd variables."""
    choices = Choices(data)
    words = _arguments(choices)
    variables = {}
    if choices.number(4) == 0:
        names = sorted(set(VARIABLES) - {f"MPISQUEEZE_{name}" for name in ("LINK", "TIMEOUT", "THREADS", "EPOCHS")})
        variables = {choices.pick(names): choices.text() for _ in range(1 + choices.number(2))}
    try:
        given = [os.fsencode(text) for text in (*words, *variables.values())]
    except UnicodeEncodeError:
        return
    if any(b"\0" in text for text in given):
        return  # No system hands that to a program.
    # `info` asks what launcher there is.
    with sandbox((*_BETWEEN_RANKS, "subprocess.Popen")) as folder, mock.patch.dict(os.environ, variables):
        put(left_behind(), folder / "run")
        (folder / "empty").mkdir()
        (folder / "edges").write_text("0 1\n")
        (folder / "file.json").write_text("{}")
        _command(words)
