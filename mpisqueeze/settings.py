"""The settings of a run, each declared once: type, default, help, group, and what is accepted.

The fields of `Settings` are the source of options, their help and completion, `MPISQUEEZE_*`, settings files, sweeps,
`--dump-config` and config.json. A new setting is one more field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from mpisqueeze.errors import UsageError, describe_value
from mpisqueeze.files import path_of
from mpisqueeze.language import Kind, choice, flag, integer, real, suggestion, without_commas
from mpisqueeze.quantities import parse_size, parse_time

METHOD, PROBLEM, RUN, OUTPUT = "Method", "Problem and data", "Run", "Output"

SERVERS = ("root", "sharded")
#: The value of `--server` that has none.
ALLREDUCE = "allreduce"
TOPOLOGIES = ("ring", "torus", "complete", "exponential", "star", "one-peer")
TREES = ("flat", "chain", "binary", "binomial")
DTYPES = ("float32", "float64")
DEVICES = ("auto", "cpu", "cuda")
LOG_FORMS = ("jsonl", "binary")
BUFFERS = ("auto", "device", "staged")

DEFAULT_EPOCHS = 10.0
DEFAULT_LR = 0.3
DEFAULT_DATA = "digits"
#: An iteration takes longer than this where something hangs.
DEFAULT_TIMEOUT = "30min"
DEFAULT_HEARTBEAT = "30s"
#: Samples that an int32 index reaches.
MAX_BATCH = 2**31 - 1
#: Seeds are keys of 64-bit hashes, of which NumPy's generators want the positive half.
MAX_SEED = 2**63 - 1
#: Most ranks that somebody may have.
MAX_RANKS = 10**6
#: Most threads that a rank's kernels take.
MAX_THREADS = 64
#: Two ways to give a length: one of them overrides both.
EITHER = ("iterations", "epochs")

_POSITIVE = real(0, accepts="a positive number", open_low=True)
_BELOW_ONE = real(0, 1, "a number from 0 to below 1", open_high=True)


class Interval(NamedTuple):
    """A number of iterations, or of seconds; the other one is None."""

    iterations: int | None
    seconds: float | None


def parse_interval(text: str) -> Interval:
    """`500`, `1k` iterations, `10min`, `90s`, above 0. Raises ValueError."""
    try:
        found = Interval(parse_size(text), None)
    except ValueError:
        found = Interval(None, parse_time(text))
    if not any(found):
        raise ValueError(f"{text!r} is no time")
    return found


def parse_target(text: str) -> tuple[str, float]:
    """`test_accuracy=0.95` → (name, value). Raises ValueError."""
    name, _, number = text.partition("=")
    if not name.strip():
        raise ValueError(f"{text!r} names no metric")
    return name.strip(), real()(number)


def parse_betas(text: str) -> tuple[float, float]:
    """`0.9,0.999` → (β₁, β₂), each from 0 to below 1. Raises ValueError."""
    first, second = (_BELOW_ONE(part) for part in text.split(","))
    return first, second


def parse_group(text: str) -> int | None:
    """The ranks of a group; None for `host`. Raises ValueError."""
    return None if text.strip() == "host" else integer(1, MAX_RANKS)(text)


def parse_timeout(text: str) -> float:
    """`30s`, `10min` → seconds > 0; infinite for `0`. Raises ValueError."""
    seconds = parse_time(text) if text.strip() != "0" else math.inf
    if seconds <= 0:
        raise ValueError(f"{text!r} is no time")
    return seconds


def _readable(parse: Callable[[str], Any], accepts: str) -> Kind:
    """Text that `parse` takes."""

    def read(text: str) -> str:
        parse(text)
        return text

    return Kind(read, accepts)


def _setting(group: str, default: Any, help: str, kind: Kind | None = None, **about: Any) -> Any:
    """A field of `Settings`; `Setting` says what the arguments are."""
    return field(default=default, metadata={"group": group, "help": help, "kind": kind, **about})


_method, _problem, _run, _output = (partial(_setting, group) for group in (METHOD, PROBLEM, RUN, OUTPUT))


@dataclass
class Settings:
    """The settings of a run; None stands for a default that the run works out."""

    algorithm: str = _method("doublesqueeze", "How to train; `mpisqueeze info` lists them.")
    compressor: str | None = _method(
        None, "NAME[:ARG][,key=value…] or FILE.py:Class. Default: onebit; uniform:8 for dcd and ecd, topk:0.01 for dgc."
    )
    server: str = _method(
        "root",
        "root: rank 0 is the server. sharded: every rank, of 1/N of the vector, which is compressed by itself. "
        "allreduce: MPI_Allreduce, of sgd, and of csgd and memsgd with identity or randomk:RATIO,shared.",
        choice(*SERVERS, ALLREDUCE),
    )
    topology: str = _method(
        "ring",
        f"Gossip graph: {', '.join(TOPOLOGIES)} or file:EDGES.",
        Kind(str.strip, "a graph"),
        names=(*TOPOLOGIES, "file:"),
    )
    self_weight: float | None = _method(None, "Gossip: every rank's weight on itself, W_ii. Default: the graph's.")

    group: str | None = _method(
        None,
        "host, or SIZE ranks: groups that average their gradients in full, and take part as one rank each; not with "
        "gossip.",
        _readable(parse_group, "host, or a number of ranks from 1 to 1000000"),
        metavar="host|SIZE",
        names=("host",),
    )
    local_steps: int = _method(
        1, "Steps H of each rank on a model of its own between two exchanges, of how far it went.", integer(1)
    )
    outer_lr: float = _method(1.0, "Local steps: the factor η of the answer to how far the ranks went.", _POSITIVE)
    outer_momentum: float = _method(0.0, "Local steps: β of the answers' momentum.", _BELOW_ONE)
    outer_nesterov: bool = _method(False, "Local steps: that momentum looks ahead.")

    problem: str = _problem(
        "mlp",
        "mlp[:H1xH2…], logistic, quadratic:DIM, resnet18, resnet20, cnn, gpt[:LAYERSxWIDTH], FILE.py:Class or "
        "FILE.py:function.",
    )
    data: str | None = _problem(
        None,
        "digits (embedded), mnist, fashion-mnist, cifar10, synthetic:FEATURESxSAMPLES, csv:FILE, libsvm:FILE; for gpt "
        f"text:FILE or synthetic-text. Default: {DEFAULT_DATA}; synthetic-text for gpt.",
        names=(
            *("digits", "mnist", "fashion-mnist", "cifar10", "synthetic:", "csv:", "libsvm:", "text:"),
            "synthetic-text",
        ),
    )
    data_dir: Path | None = _problem(None, "Folder of the data files. Default: $MPISQUEEZE_DATA, else ./data.")
    samples: int | None = _problem(
        None, "Train on so many samples, drawn once from the training set by the seed. Default: all.", integer(1)
    )
    test_samples: int | None = _problem(
        None, "Evaluate on so many of the test set, drawn likewise. Default: all.", integer(1)
    )
    partition: str = _problem(
        "iid",
        "iid, label or dirichlet:ALPHA[,balanced]: how samples spread over ranks.",
        names=("iid", "label", "dirichlet:"),
    )

    iterations: int | None = _run(None, "Length of the run.", integer(1))
    epochs: float | None = _run(None, f"Length of the run. Default: {DEFAULT_EPOCHS:g}.", _POSITIVE)
    stop_at: str | None = _run(
        None,
        "End the run at the first evaluation that meets this, such as test_accuracy=0.95.",
        _readable(parse_target, "NAME=VALUE, such as test_accuracy=0.95"),
        metavar="NAME=VALUE",
    )
    batch_size: int = _run(16, "Samples a rank and iteration.", integer(1, MAX_BATCH))
    lr: float | None = _run(
        None,
        f"Learning rate γ. Default: {DEFAULT_LR}; 0.05 with torch, 0.1 for gpt; 0.001 with Adam and signum.",
        _POSITIVE,
    )
    lr_schedule: str = _run(
        "constant",
        "constant, step:EPOCHS:FACTOR, milestones:E1,E2,…:FACTOR or cosine, each with ,warmup=EPOCHS.",
        names=("constant", "step:", "milestones:", "cosine"),
    )
    optimizer: str = _run(
        "sgd",
        "sgd, adam or adamw. Adam takes the answer of the exchange; with gossip, each rank's own gradient.",
    )
    momentum: float = _run(0.0, "β of sgd's momentum, u ← βu + g; u stands in for g.", _BELOW_ONE)
    nesterov: bool = _run(False, "g + βu stands in for g, in place of u.")
    momentum_at: str = _run(
        "gradient",
        "gradient: each rank's momentum of its own gradients is exchanged. update: momentum of the answers to the "
        "exchange moves x; not with gossip.",
        choice("gradient", "update"),
    )
    betas: str = _run(
        "0.9,0.999",
        "β₁,β₂ of Adam's means of gradients and of their squares.",
        _readable(parse_betas, "two numbers from 0 to below 1, such as 0.9,0.999"),
    )
    eps: float = _run(1e-8, "ε that Adam adds to the root of its mean of squares.", _POSITIVE)
    weight_decay: float = _run(
        0.0,
        "λ: adds λx to what the optimizer takes, each rank's gradient once it is clipped or the answer; with adamw, x "
        "shrinks by γλx.",
        real(0),
    )
    weight_decay_on: str = _run(
        "all",
        "all, or matrices: spares parameters of one dimension, as biases and norms are.",
        choice("all", "matrices"),
    )
    clip_norm: float | None = _run(
        None, "Scale each rank's gradient down to this l2 norm, before weight decay and momentum.", _POSITIVE
    )
    workers: int | None = _run(
        None,
        "Train so many virtual workers in the place of ranks, which share them: as many as you like in one process. "
        "Same results to the bit; the times of a network are simulated where --link gives one.",
        integer(1),
    )
    seed: int = _run(1, "Seed for data order, initial point and compressors.", integer(0, MAX_SEED))
    dtype: str = _run("float32", "float32 or float64.", choice(*DTYPES))
    device: str = _run("auto", "auto (a GPU where every rank has one), cpu or cuda.", choice(*DEVICES))
    buffers: str = _run("auto", "auto, device or staged: whether MPI is handed GPU memory.", choice(*BUFFERS))
    threads: int = _run(
        1,
        "Threads a rank for the compiled CPU kernels; those of NumPy and CUDA take no notice.",
        integer(1, MAX_THREADS),
    )
    warmup: int = _run(3, "First iterations that the summary leaves out of its times.", integer(0))
    link: str | None = _run(
        None,
        "Emulate a network between the ranks of this host, or simulate one between virtual workers: "
        "latency=5ms,bandwidth=1gbit, and ,gap=20us.",
    )
    compute: str | None = _run(
        None,
        "Virtual workers: what a gradient takes, in place of the time measured.",
        _readable(parse_time, "a time, such as 80ms"),
        metavar="TIME",
    )
    jitter: str | None = _run(
        None,
        "Virtual workers: what a gradient takes longer, by chance: exponential:2ms, constant:50ms,probability=1%, …",
        metavar="DIST",
        names=("constant:", "uniform:", "exponential:", "pareto:"),
    )
    chunk: int | None = _run(
        None, "Bytes of a message in a pipelined exchange. Default: by the cost model.", integer(1), metavar="SIZE"
    )
    tree: str | None = _run(
        None, f"How a root's answer reaches all: {', '.join(TREES)}. Default: by the cost model.", choice(*TREES)
    )
    barrier: bool | None = _run(
        None,
        "Meet before each exchange, so that waiting is not booked as communication. Default: not with gossip, whose "
        "ranks wait for their neighbours alone.",
    )
    overlap: bool = _run(
        False, "sgd … doublesqueeze: send each section of the gradient while the rest of it is computed."
    )
    timeout: str | None = _run(
        None,
        f"End all ranks when an iteration takes longer: 30s, 10min; 0: wait for ever. Default: {DEFAULT_TIMEOUT}.",
        _readable(parse_timeout, "a time above 0, such as 30s, or 0 for ever"),
        metavar="TIME",
    )
    heartbeat: str | None = _run(
        None,
        f"End all ranks when a host has not answered for so long: 10s, 2min; 0: never. Default: {DEFAULT_HEARTBEAT}.",
        _readable(parse_timeout, "a time above 0, such as 10s, or 0 for never"),
        metavar="TIME",
    )
    checksum: bool = _run(False, "Send each message's CRC-32 behind it, and check it; 4 bytes more.")

    eval_every: int | None = _output(
        None, "Iterations between evaluations; 0: only before and after. Default: an epoch.", integer(0)
    )
    out: Path | None = _output(None, "Run folder, new or empty. Default: results/<time>-<method>-n<N>.")
    consensus_every: int | None = _output(
        None,
        "Gossip: iterations between measurements of the consensus distance, at which all ranks meet; 0: never. "
        "Default: as --eval-every.",
        integer(0),
    )
    log: str = _output(
        LOG_FORMS[0],
        "Form of the log of iterations: jsonl, an object a line, or binary, 120 bytes each.",
        choice(*LOG_FORMS),
    )
    per_rank: bool = _output(False, "Log every rank in ranks.jsonl.")
    save_model: bool = _output(False, "Write model.npz: x, every rank's parameters.")
    checkpoint_every: str | None = _output(
        None,
        "Save what --resume needs, in the run folder: after so many iterations, or 10min.",
        _readable(parse_interval, "a number of iterations or a time above 0, such as 500 or 10min"),
        metavar="COUNT|TIME",
    )

    @staticmethod
    def of(values: Mapping[str, Any]) -> Settings:
        """Settings by name, as `Setting.checked` takes them; the others have their defaults. Raises UsageError."""
        for name in values:
            if name not in SETTINGS:
                raise UsageError(f"{name!r} is no setting{moved(name) or suggestion(name, SETTINGS)}")
        return Settings(**{name: SETTINGS[name].checked(value) for name, value in values.items()})

    def check(self) -> None:
        """Raise UsageError, naming the option, for a value that is not accepted whatever the others are."""
        for name, setting in SETTINGS.items():
            setting.checked(getattr(self, name))


@dataclass(frozen=True)
class Setting:
    """A field of `Settings`, and what it accepts.

    Attributes:
        default: None where the run works it out; `help` says how.
        group: the heading in help and in `--dump-config`.
        kind: what it accepts, and how that is read.
        metavar: stands for the value in help. Default: by the type.
        names: what completion offers where the kind has no choices.
    """

    name: str
    type: type[Any]
    default: Any
    group: str
    help: str
    kind: Kind
    metavar: str | None = None
    names: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        return option_of(self.name)

    def convert(self, value: Any) -> Any:
        """The value of a text, as the command line, the environment and sweeps have it, or of a TOML or JSON value.

        A flag's text is true or false, 1 or 0; null is a setting that is not set.

        Raises:
            ValueError: says what is accepted.
        """
        if value is None and self.default is None:
            return None
        try:
            if self.type in (str, Path) and not isinstance(value, str | Path):
                raise ValueError
            return self.kind(str(value).lower() if isinstance(value, bool) else str(value))
        except ValueError:
            near = suggestion(str(value), self.kind.choices) or without_commas(str(value), self.kind)
            raise ValueError(f"must be {self.kind.accepts}, got {describe_value(value)}{near}") from None

    def checked(self, value: Any) -> Any:
        """The value as `convert` has it. Raises UsageError, which names the option."""
        try:
            return self.convert(value)
        except ValueError as error:
            raise UsageError(str(error), self.option) from None

    def typed(self, value: Any) -> list[str]:
        """The arguments that give it this value on a command line."""
        if self.type is bool:
            return [self.option if value else self.option.replace("--", "--no-", 1)]
        return [self.option, str(value)]


#: The files that a setting's value names: what stands before one, and the file.
_FILES = {
    **dict.fromkeys(("algorithm", "compressor", "problem", "optimizer"), re.compile(r"(^)(.+\.py)(?=:[A-Za-z_])")),
    "topology": re.compile(r"(^file:)(.+)"),
    "data": re.compile(r"(^csv:|^libsvm:|^text:|,test=)([^,]+)"),
    "data_dir": re.compile(r"(^)(.+)"),
}


def with_files(settings: Mapping[str, Any], locate: Callable[[Path], Path]) -> dict[str, Any]:
    """The settings, with each file that one names replaced by what `locate` says of it."""
    found = dict(settings)
    for name, pattern in _FILES.items():
        if found.get(name) is not None:
            found[name] = pattern.sub(lambda match: f"{match[1]}{locate(path_of(match[2]))}", str(found[name]))
    return found


def option_of(name: str) -> str:
    """`batch_size` → `--batch-size`."""
    return f"--{name.replace('_', '-')}"


def name_of(option: str | None) -> str:
    """`--batch-size` → `batch_size`."""
    return (option or "").removeprefix("--").replace("-", "_")


def _flag(text: str) -> bool:
    return text == "1" if text in ("0", "1") else bool(flag(text))


_KINDS = {bool: Kind(_flag, flag.accepts), float: real(), str: Kind(str, "text"), Path: Kind(path_of, "a path")}


def _declared() -> Iterator[Setting]:
    hints = get_type_hints(Settings)
    for item in fields(Settings):
        kind, *_ = get_args(hints[item.name]) or (hints[item.name],)
        about = {**item.metadata, "kind": item.metadata["kind"] or _KINDS[kind]}
        yield Setting(item.name, kind, item.default, **about)


#: The settings by name, in the order of their declaration.
SETTINGS = {setting.name: setting for setting in _declared()}


#: Settings of earlier versions that are parameters of algorithms now: of which, under which name, and their defaults.
_FORMER: dict[str, tuple[tuple[str, ...], str, Any]] = {
    "eta": (("choco", "deepsqueeze"), "eta", None),
    "order": (("dpsgd",), "order", "atc"),
    "memory_lr": (("memsgd",), "lr", "outside"),
}


#: Settings that earlier versions did not have, with what they did.
_SINCE: dict[str, Any] = {"heartbeat": None}


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json of any version as this one writes it: former settings are part of the algorithm's spec."""
    found = {**_SINCE, **{name: value for name, value in config.items() if name not in _FORMER}}
    for name, (algorithms, key, default) in _FORMER.items():
        if config.get("algorithm") in algorithms and config.get(name, default) != default:
            found["algorithm"] = f"{config['algorithm']}:{key}={config[name]}"
    return found


def moved(name: str) -> str:
    """For an error about a name that is no setting: where a setting of earlier versions went, or an empty string."""
    if name not in _FORMER:
        return ""
    algorithms, key, _ = _FORMER[name]
    return f"; it is a parameter of {' and '.join(algorithms)}, as in {algorithms[0]}:{key}=…"
