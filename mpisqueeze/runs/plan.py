"""The settings of a run, and the parts that they name, checked before MPI does any work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np

from mpisqueeze.costs.link import Link, parse_link
from mpisqueeze.data import check_data_spec
from mpisqueeze.data.partition import Partition, parse_partition
from mpisqueeze.errors import UsageError
from mpisqueeze.kernels import MAX_THREADS
from mpisqueeze.language import flag, moved, suggestion
from mpisqueeze.parts import registry
from mpisqueeze.parts.contracts import check_installed, default_compressor
from mpisqueeze.parts.registry import Part
from mpisqueeze.quantities import parse_size, parse_time
from mpisqueeze.runs.schedule import Schedule, parse_schedule
from mpisqueeze.topology import Topology

DTYPES = ("float32", "float64")
DEVICES = ("auto", "cpu", "cuda")
BUFFERS = ("auto", "device", "staged")
SERVERS = ("root", "sharded")
TREES = ("flat", "chain", "binary", "binomial")
NO_OVERLAP_ON_GPU = "is for gradients on a CPU: use --device cpu"
DEFAULT_EPOCHS = 10.0
DEFAULT_LR = 0.3
#: Seeds are keys of 64-bit hashes, of which NumPy's generators want the positive half.
MAX_SEED = 2**63 - 1
#: Samples that an int32 index reaches.
MAX_BATCH = 2**31 - 1


@dataclass(frozen=True)
class Interval:
    """How often: after so many iterations, or so many seconds; the other one is None."""

    iterations: int | None
    seconds: float | None


def parse_interval(text: str) -> Interval:
    """`500` iterations, `10min`, `90s`. Raises UsageError."""
    try:
        found = Interval(parse_size(text), None) if text.strip()[-1:].isdigit() else Interval(None, parse_time(text))
    except ValueError:
        found = Interval(0, None)
    if not (found.iterations or found.seconds):
        raise UsageError(
            f"{text!r} is neither a number of iterations nor a time above 0, such as 500 or 10min",
            "--checkpoint-every",
        )
    return found


@dataclass
class TrainConfig:
    """What the command line sets; None means: the default that `plan` resolves.

    `epochs`, `eval_every` (iterations between evaluations, 0 = only at the end) and `iterations` are per run;
    `batch_size` is samples a rank; `lr` the base learning rate γ; `samples` and `test_samples` how many of the data
    set's there are.
    """

    algorithm: str = "doublesqueeze"
    compressor: str | None = None
    server: str = "root"
    topology: str = "ring"
    self_weight: float | None = None
    problem: str = "mlp"
    data: str = "digits"
    data_dir: Path | None = None
    samples: int | None = None
    test_samples: int | None = None
    partition: str = "iid"
    iterations: int | None = None
    epochs: float | None = None
    batch_size: int = 16
    lr: float | None = None
    lr_schedule: str = "constant"
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    seed: int = 1
    dtype: str = "float32"
    device: str = "auto"
    buffers: str = "auto"
    threads: int = 1
    warmup: int = 3
    barrier: bool = True
    overlap: bool = False
    link: str | None = None
    chunk: int | None = None
    tree: str | None = None
    eval_every: int | None = None
    consensus_every: int = 1
    per_rank: bool = False
    save_model: bool = False
    checkpoint_every: str | None = None
    checksum: bool = False
    timeout: str | None = None
    out: Path | None = None


def parse_timeout(text: str) -> float:
    """`30s`, `10min` → seconds > 0; infinite for `0`. Raises UsageError."""
    try:
        seconds = math.inf if text.strip() == "0" else parse_time(text)
    except ValueError as error:
        raise UsageError(f"{error}; 0: for ever", "--timeout") from None
    if seconds <= 0:
        raise UsageError(f"must be above 0, or 0 for ever, got {text!r}", "--timeout")
    return seconds


def config_of(values: Mapping[str, Any]) -> TrainConfig:
    """Settings from a file, by TrainConfig's names; what is not named has its default.

    Whole numbers may have suffixes in quotes (`"4Ki"`), and paths are text.

    Raises:
        UsageError: a name that is none, or a value of another type; says which option, and what it accepts.
    """
    hints = get_type_hints(TrainConfig)
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise UsageError(f"{name!r} is no setting{moved(name) or suggestion(name, hints)}")
        kinds = get_args(hints[name]) or (hints[name],)
        if value is None and type(None) in kinds:
            found[name] = None
            continue
        kind = next(kind for kind in kinds if kind is not type(None))
        try:
            found[name] = _typed(value, kind)
        except ValueError as error:
            raise UsageError(str(error), f"--{name.replace('_', '-')}") from None
    return TrainConfig(**found)


def _typed(value: Any, kind: type) -> Any:
    """`value` as a `kind`. Raises ValueError."""
    if kind is int and isinstance(value, str):
        return parse_size(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        what = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}[kind]
        raise ValueError(f"must be {what}, got {value!r}")
    try:
        return kind(value)
    except OverflowError:
        raise ValueError("is too large a number") from None


def value_of(name: str, text: str) -> Any:
    """A setting by TrainConfig's name, read as the command line reads it; a flag is true or false, 1 or 0.

    Raises:
        ValueError: says what is accepted.
    """
    kind = get_type_hints(TrainConfig)[name]
    kind = next((item for item in get_args(kind) if item is not type(None)), kind)
    convert: Callable[[str], Any] = {bool: _flag, int: parse_size, float: _number}.get(kind, kind)
    return convert(text)


def _flag(text: str) -> bool:
    return text == "1" if text in ("0", "1") else flag(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


@dataclass(frozen=True)
class Plan:
    """A checked configuration with its parts found."""

    config: TrainConfig
    algorithm: Part
    compressor: Part
    problem: Part
    partition: Partition
    schedule: Schedule
    link: Link | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.config.dtype)

    @property
    def lr(self) -> float:
        """γ before the schedule's factor."""
        assert self.config.lr is not None
        return self.config.lr

    def as_json(self) -> dict[str, Any]:
        """Every setting, resolved as far as the command line goes."""
        return {
            **asdict(self.config),
            "compressor": self.compressor.spec,
            "data": self.config.data if getattr(self.problem.cls, "needs_data", False) else None,
            "parts": {
                part: {"name": found.name, "origin": found.origin, "parameters": found.options}
                for part, found in (
                    ("algorithm", self.algorithm),
                    ("compressor", self.compressor),
                    ("problem", self.problem),
                )
            },
        }


def plan(config: TrainConfig) -> Plan:
    """Check every setting and find the parts. Raises UsageError."""
    for option, value, accepted in (
        ("--server", config.server, SERVERS),
        ("--dtype", config.dtype, DTYPES),
        ("--device", config.device, DEVICES),
        ("--buffers", config.buffers, BUFFERS),
        ("--tree", TREES[0] if config.tree is None else config.tree, TREES),
    ):
        if value not in accepted:
            raise UsageError(f"{value!r} is not one of {', '.join(accepted)}{suggestion(value, accepted)}", option)
    _at_least("--iterations", config.iterations, 1)
    _at_least("--batch-size", config.batch_size, 1)
    _at_least("--samples", config.samples, 1)
    _at_least("--test-samples", config.test_samples, 1)
    _at_least("--warmup", config.warmup, 0)
    _at_least("--eval-every", config.eval_every, 0)
    _at_least("--consensus-every", config.consensus_every, 0)
    _at_least("--seed", config.seed, 0)
    _at_least("--chunk", config.chunk, 1)
    check_threads(config.threads)
    if config.batch_size > MAX_BATCH:
        raise UsageError(f"must be at most {MAX_BATCH}, got {config.batch_size}", "--batch-size")
    if config.seed > MAX_SEED:
        raise UsageError(f"must be at most {MAX_SEED}, got {config.seed}", "--seed")
    _positive("--epochs", config.epochs)
    _positive("--lr", config.lr)
    _positive("--clip-norm", config.clip_norm)
    check_topology(config.topology)
    if not math.isfinite(config.weight_decay) or config.weight_decay < 0:
        raise UsageError(f"must be a number ≥ 0, got {config.weight_decay}", "--weight-decay")
    if not 0 <= config.momentum < 1:
        raise UsageError(f"must be a number from 0 to below 1, got {config.momentum}", "--momentum")
    if config.iterations is not None and config.epochs is not None:
        raise UsageError("give --iterations or --epochs, not both", "--iterations")
    algorithm = registry.algorithms.find(config.algorithm)
    compresses = getattr(algorithm.cls, "compresses", True)
    compressor = registry.compressors.find(
        default_compressor(algorithm) if config.compressor is None else config.compressor
    )
    if not compresses and compressor.name != "identity":
        takers = [name for name, cls in registry.algorithms.builtins().items() if getattr(cls, "compresses", True)]
        raise UsageError(
            f"{algorithm.name} sends full vectors and takes no compressor, got {compressor.spec!r}; "
            f"these take one: {', '.join(takers)}",
            "--compressor",
        )
    problem = registry.problems.find(config.problem)
    check_installed(problem, "--problem")
    if config.lr is None:
        config = replace(config, lr=getattr(problem.cls, "default_lr", DEFAULT_LR))
    if config.overlap:
        _check_overlap(config, algorithm, problem)
    partition = parse_partition(config.partition)
    if getattr(problem.cls, "needs_data", False):
        check_data_spec(config.data)
    elif config.samples is not None or config.test_samples is not None:
        option = "--samples" if config.samples is not None else "--test-samples"
        raise UsageError(f"{problem.name} takes no part of --data", option)
    if config.checkpoint_every is not None:
        parse_interval(config.checkpoint_every)
    if config.timeout is not None:
        parse_timeout(config.timeout)
    link = None if config.link is None else parse_link(config.link)
    return Plan(config, algorithm, compressor, problem, partition, parse_schedule(config.lr_schedule), link)


def _check_overlap(config: TrainConfig, algorithm: Part, problem: Part) -> None:
    """Raise UsageError unless the gradient's sections can leave while it is computed."""
    if not getattr(algorithm.cls, "overlaps", False):
        able = [name for name, cls in registry.algorithms.builtins().items() if getattr(cls, "overlaps", False)]
        raise UsageError(
            f"{algorithm.name} sends nothing before its gradient is complete; these do: {', '.join(able)} "
            "(and dpsgd:order=awc in its own way)",
            "--overlap",
        )
    if not callable(getattr(problem.cls, "gradient_in_parts", None)):
        able = [name for name, cls in registry.problems.builtins().items() if hasattr(cls, "gradient_in_parts")]
        raise UsageError(
            f"{problem.name} gives its gradient in one piece; these do not: {', '.join(able)}", "--overlap"
        )
    getattr(problem.cls, "check_parts", lambda options: None)(problem.options)
    if config.clip_norm is not None:
        raise UsageError("--clip-norm needs the whole gradient before any of it is sent; leave out one", "--overlap")
    if config.device == "cuda":
        raise UsageError(NO_OVERLAP_ON_GPU, "--overlap")


def check_topology(spec: str) -> None:
    """Raise UsageError unless `spec` names a graph; a file's edges are read once the number of ranks is known."""
    if not spec.startswith("file:"):
        Topology(spec, 1)


def check_threads(threads: int) -> None:
    """Raise UsageError unless the kernels can be given so many threads."""
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"must be a whole number from 1 to {MAX_THREADS}, got {threads}", "--threads")


def _at_least(option: str, value: int | None, low: int) -> None:
    if value is not None and value < low:
        raise UsageError(f"must be a whole number ≥ {low}, got {value}", option)


def _positive(option: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise UsageError(f"must be a positive number, got {value}", option)
