"""A run's settings checked, and the parts that they name found, before MPI does any work."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpisqueeze.costs.link import Link, parse_link
from mpisqueeze.data import check_data_spec
from mpisqueeze.data.partition import Partition, parse_partition
from mpisqueeze.errors import UsageError
from mpisqueeze.optimizers.base import Optimizer
from mpisqueeze.parts import contracts, registry
from mpisqueeze.parts.contracts import check_installed, default_compressor
from mpisqueeze.parts.registry import Part
from mpisqueeze.quantities import parse_time
from mpisqueeze.runs.schedule import LrSchedule, parse_schedule
from mpisqueeze.settings import ALLREDUCE, DEFAULT_DATA, DEFAULT_LR, SETTINGS, Settings, parse_group, with_files
from mpisqueeze.topology import ONE_PEER, Topology
from mpisqueeze.virtual.jitter import Jitter, parse_jitter

NO_OVERLAP_ON_GPU = "is for gradients on a CPU: use --device cpu"

#: Settings that algorithms of one route alone have a use for.
ROUTES = {"server": "servers", "tree": "servers", "topology": "neighbours", "self_weight": "neighbours"}

#: Settings of a run whose gradients come from a script of the user's own.
OF_SCRIPTS = (
    "algorithm", "compressor", "server", "topology", "self_weight", "local_steps", "outer_lr", "outer_momentum",
    "outer_nesterov", "iterations", "momentum", "seed", "buffers", "threads", "warmup", "link", "chunk", "tree",
    "barrier", "overlap", "timeout", "checksum", "out", "consensus_every", "log", "per_rank",
    "save_model",
)  # fmt: skip

#: The methods that give a gradient: in parts, which `--overlap` asks for, and whole.
_GRADIENTS = ("gradient_in_parts", "gradient")
#: Elements of a vector for which a compressor is asked whether it is linear.
_PROBED = 64

#: Settings that a problem has a use for where its class has one of these attributes.
_OF_PROBLEMS = {
    **dict.fromkeys(("data", "data_dir", "partition"), ("needs_data",)),
    "batch_size": ("needs_data", "takes_batch_size"),
    "eval_every": ("evaluate",),
}


def applies(setting: str, algorithm: Part) -> bool:
    """True unless the algorithm says that it exchanges in a way that has no use for the setting."""
    route = getattr(algorithm.cls, "route", "")
    return not route or ROUTES.get(setting, route) == route


@dataclass(frozen=True)
class Plan:
    """A checked configuration with its parts found."""

    config: Settings
    algorithm: Part
    compressor: Part
    problem: Part
    optimizer: Part
    partition: Partition
    schedule: LrSchedule
    link: Link | None = None
    compute_s: float | None = None
    jitter: Jitter | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.config.dtype)

    @property
    def lr(self) -> float:
        """γ before the schedule's factor."""
        assert self.config.lr is not None
        return self.config.lr

    def used(self, setting: str) -> Any:
        """A setting's value; None where the algorithm says that it exchanges in another way."""
        return getattr(self.config, setting) if applies(setting, self.algorithm) else None

    @property
    def idle(self) -> dict[str, str]:
        """The settings that have another value than the default and no effect, with the name of the part that has no
        use for them."""
        algorithm, problem, config = self.algorithm, self.problem, self.config
        found = {setting: algorithm.name for setting in ROUTES if not applies(setting, algorithm)}
        found |= dict.fromkeys(getattr(algorithm.cls, "ignores", ()), algorithm.name)
        if self.used("server") == ALLREDUCE:
            found["tree"] = f"--server {ALLREDUCE}"
        if getattr(algorithm.cls, "centralized", False) is True:
            found["consensus_every"] = algorithm.name
        for setting, attributes in _OF_PROBLEMS.items():
            if not any(getattr(problem.cls, name, False) for name in attributes):
                found[setting] = problem.name
        if self.optimizer.cls.linear and not self.own_momentum:
            found |= dict.fromkeys(("betas", "eps"), self.optimizer.name)
        if not config.momentum:
            found["momentum_at"] = "--momentum 0"
        if not config.weight_decay:
            found["weight_decay_on"] = "--weight-decay 0"
        return {name: by for name, by in found.items() if getattr(config, name) != SETTINGS[name].default}

    @property
    def centralized(self) -> bool:
        """All ranks hold the same x, as far as the algorithm's class says."""
        return getattr(self.algorithm.cls, "centralized", True) is not False

    @property
    def own_momentum(self) -> bool:
        """The algorithm has a momentum of its own."""
        return getattr(self.algorithm.cls, "own_momentum", False) is True

    @property
    def local(self) -> bool:
        """Ranks move models of their own, and exchange how far they went."""
        config = self.config
        return config.local_steps > 1 or config.outer_lr != 1 or config.outer_momentum > 0

    @property
    def grouped(self) -> bool:
        """Groups of ranks take part as one rank each."""
        return self.config.group is not None and parse_group(self.config.group) != 1

    @property
    def optimizes(self) -> str:
        """The optimizer acts on each rank's `gradient`, on the `answer`, or moves each rank's own x (`local`).

        It is empty where the optimizer is x ← x − γp.
        """
        if self.local:
            return "local"
        linear = self.optimizer.cls.linear
        if linear and (not self.config.momentum or self.own_momentum):
            return ""
        return "answer" if self.centralized and (not linear or self.config.momentum_at == "update") else "gradient"

    @property
    def barrier(self) -> bool:
        """All ranks meet before each exchange; by default not where they gossip."""
        chosen = self.config.barrier
        return self.centralized if chosen is None else chosen

    def as_json(self) -> dict[str, Any]:
        """Every setting, resolved as far as the command line goes; None where the algorithm has no use for it.

        Files are absolute, since a run may be resumed in another folder.
        """
        settings = {
            **asdict(self.config),
            **{setting: self.used(setting) for setting in ROUTES},
            "compressor": self.compressor.spec,
            "barrier": self.barrier,
            "data": self.config.data if getattr(self.problem.cls, "needs_data", False) else None,
        }
        unknown = getattr(self.problem.cls, "leaves_out", ())
        return {
            **{name: value for name, value in with_files(settings, Path.absolute).items() if name not in unknown},
            "parts": {
                kind: {"name": part.name, "origin": part.origin, "parameters": part.options}
                for kind, part in vars(self).items()
                if isinstance(part, Part)
            },
        }


def plan(config: Settings, problem: Part | None = None, optimizer: Part | None = None) -> Plan:
    """Check every setting and find the parts; a problem and an optimizer that are given need not be found.

    Raises UsageError.
    """
    config.check()
    check_topology(config.topology)
    if config.iterations is not None and config.epochs is not None:
        raise UsageError("give --iterations or --epochs, not both", "--iterations")
    algorithm = registry.algorithms.find(config.algorithm)
    compressor = registry.compressors.find(
        default_compressor(algorithm) if config.compressor is None else config.compressor
    )
    _check_compressor(algorithm, compressor)
    check_directed(algorithm, config.topology)
    if config.server == ALLREDUCE:
        check_linear(algorithm, compressor)
    problem = problem or registry.problems.find(config.problem)
    check_installed(problem, "--problem")
    optimizer = optimizer or _optimizer(config)
    if config.lr is None:
        usual = (getattr(part.cls, "default_lr", None) for part in (algorithm, optimizer, problem))
        config = replace(config, lr=next((lr for lr in usual if lr is not None), DEFAULT_LR))
    if config.overlap:
        _check_overlap(config, algorithm, problem)
    partition = parse_partition(config.partition)
    if getattr(problem.cls, "needs_data", False):
        data = str(config.data or getattr(problem.cls, "default_data", DEFAULT_DATA))
        check_data_spec(data)
        config = replace(config, data=data)
    elif config.samples is not None or config.test_samples is not None:
        option = "--samples" if config.samples is not None else "--test-samples"
        raise UsageError(f"{problem.name} takes no part of --data", option)
    link = None if config.link is None else parse_link(config.link)
    schedule = parse_schedule(config.lr_schedule)
    compute_s = None if config.compute is None else parse_time(config.compute)
    jitter = None if config.jitter is None else parse_jitter(config.jitter)
    found = Plan(config, algorithm, compressor, problem, optimizer, partition, schedule, link, compute_s, jitter)
    _check_recipe(found)
    check_workers(config)
    return found


def _check_compressor(algorithm: Part, compressor: Part) -> None:
    """Raise UsageError for a compressor that the algorithm does not take."""
    name, takes = algorithm.name, getattr(algorithm.cls, "takes", ())
    if not getattr(algorithm.cls, "compresses", True):
        fixed = registry.compressors.find(default_compressor(algorithm))
        if (compressor.name, compressor.options) != (fixed.name, fixed.options):
            takers = [name for name, cls in registry.algorithms.builtins().items() if getattr(cls, "compresses", True)]
            sends = "" if fixed.name == "identity" else f"sends what {fixed.spec} makes and "
            raise UsageError(
                f"{name} {sends}takes no compressor, got {compressor.spec!r}; these take one: {', '.join(takers)}",
                "--compressor",
            )
    elif takes and compressor.name not in takes:
        raise UsageError(f"{name} takes {' or '.join(takes)}, got {compressor.spec!r}", "--compressor")


def _check_local(plan: Plan) -> None:
    """Raise UsageError for what local steps have no place for."""
    config = plan.config
    if not plan.centralized:
        raise UsageError(f"is for centralized algorithms, and {plan.algorithm.name} gossips", "--local-steps")
    if config.overlap:
        raise UsageError("sends gradients, and --local-steps exchanges none", "--overlap")
    if config.momentum_at == "update":
        raise UsageError("update is --outer-momentum where there are --local-steps", "--momentum-at")


def _check_groups(plan: Plan) -> None:
    """Raise UsageError for what groups have no place for."""
    if not plan.centralized:
        raise UsageError(f"is for centralized algorithms, and {plan.algorithm.name} gossips", "--group")
    if plan.config.overlap:
        raise UsageError("sends a gradient in sections, and --group adds up whole ones: leave out one", "--overlap")


def _optimizer(config: Settings) -> Part:
    """The optimizer. Raises UsageError for a momentum that it has no use for, or none where there must be one."""
    optimizer = registry.optimizers.find(config.optimizer)
    if not issubclass(optimizer.cls, Optimizer):
        raise UsageError(f"{optimizer.spec} must be based on mpisqueeze.optimizers.base.Optimizer", "--optimizer")
    if config.momentum and not optimizer.cls.linear:
        raise UsageError(f"is for --optimizer sgd; that of {optimizer.name} is set by --betas", "--momentum")
    if config.nesterov and not config.momentum:
        raise UsageError("needs --momentum above 0, such as 0.9", "--nesterov")
    return optimizer


def _check_recipe(plan: Plan) -> None:
    """Raise UsageError where the algorithm leaves the optimizer no place."""
    config, name = plan.config, plan.algorithm.name
    if plan.own_momentum:
        for option, asked in (
            ("--optimizer", not plan.optimizer.cls.linear),
            ("--nesterov", config.nesterov),
            ("--momentum-at", config.momentum_at == "update"),
        ):
            if asked:
                raise UsageError(f"{name} has a momentum of its own, and takes sgd with --momentum alone", option)
    if config.outer_nesterov and not config.outer_momentum:
        raise UsageError("needs --outer-momentum above 0, such as 0.9", "--outer-nesterov")
    if plan.local:
        _check_local(plan)
    if plan.grouped:
        _check_groups(plan)
    if config.momentum_at == "update" and not plan.centralized:
        raise UsageError(f"update is for an answer to all ranks, and {name} gossips: use gradient", "--momentum-at")


def check_linear(algorithm: Part, compressor: Part) -> None:
    """Raise UsageError unless MPI_Allreduce can average what the algorithm's workers send."""
    if getattr(algorithm.cls, "route", "") == ALLREDUCE:
        return
    if not getattr(algorithm.cls, "linear", False):
        able = [name for name, cls in registry.algorithms.builtins().items() if getattr(cls, "linear", False)]
        raise UsageError(
            f"{ALLREDUCE} has no server, and averages what workers send; these need no more: {', '.join(able)}, "
            f"not {algorithm.name}",
            "--server",
        )
    dtype = np.dtype(np.float32)
    with contracts.plugin(compressor, "--compressor", "__init__(dimension, xp, dtype, seed)"):
        made = contracts.make_compressor(compressor, _PROBED, np, dtype, 0)
    if not made.linear or made.payload_bytes % dtype.itemsize:
        raise UsageError(
            f"{ALLREDUCE} adds payloads up inside MPI, which linear compressors stand: identity and "
            f"randomk:RATIO,shared, not {compressor.spec}",
            "--server",
        )


def _check_overlap(config: Settings, algorithm: Part, problem: Part) -> None:
    """Raise UsageError unless the gradient's sections can leave while it is computed."""
    if not getattr(algorithm.cls, "overlaps", False):
        able = [name for name, cls in registry.algorithms.builtins().items() if getattr(cls, "overlaps", False)]
        raise UsageError(
            f"{algorithm.name} sends nothing before its gradient is complete; these do: {', '.join(able)} "
            "(and dpsgd:order=awc in its own way)",
            "--overlap",
        )
    # An inherited gradient_in_parts would bypass a class's own gradient.
    if next((name for cls in problem.cls.__mro__ for name in _GRADIENTS if name in vars(cls)), "") != _GRADIENTS[0]:
        able = [name for name, cls in registry.problems.builtins().items() if hasattr(cls, _GRADIENTS[0])]
        raise UsageError(
            f"{problem.name} gives its gradient in one piece; these do not: {', '.join(able)}", "--overlap"
        )
    getattr(problem.cls, "check_parts", lambda options: None)(problem.options)
    if config.clip_norm is not None:
        raise UsageError("--clip-norm needs the whole gradient before any of it is sent; leave out one", "--overlap")
    if config.device == "cuda":
        raise UsageError(NO_OVERLAP_ON_GPU, "--overlap")
    if config.link and ALLREDUCE in (getattr(algorithm.cls, "route", ""), config.server):
        raise UsageError(
            f"{ALLREDUCE} leaves bucket by bucket in MPI's own messages, which pass by an emulated --link: leave out "
            "one, or use `mpisqueeze lab`",
            "--overlap",
        )


def check_workers(config: Settings) -> None:
    """Raise UsageError for what virtual workers do not go with, and for what they alone take."""
    if config.workers is None:
        for option, given in (("--compute", config.compute), ("--jitter", config.jitter)):
            if given is not None:
                raise UsageError("is for virtual workers; say how many by --workers", option)
        return
    if "MPISQUEEZE_LAB" in os.environ:
        raise UsageError("a lab's links are between real ranks: leave it out, or train without lab", "--workers")


def check_directed(algorithm: Part, topology: str) -> None:
    """Raise UsageError for a graph whose W is not symmetric, with an algorithm that needs it to be."""
    cls = algorithm.cls
    if topology != ONE_PEER or getattr(cls, "centralized", True) is not False or getattr(cls, "directed", False):
        return
    able = [name for name, cls in registry.algorithms.builtins().items() if getattr(cls, "directed", False)]
    raise UsageError(
        f"{algorithm.name} needs a W that is symmetric, and the same in each iteration, which that of {topology} is "
        f"not; these do without: {', '.join(able)}",
        "--topology",
    )


def check_topology(spec: str) -> None:
    """Raise UsageError unless `spec` names a graph; a file's edges are read once the number of ranks is known."""
    if not spec.startswith("file:"):
        Topology(spec, 1)
