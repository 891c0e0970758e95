"""A run before its first iteration: its parts are built and checked on all ranks together."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpisqueeze.algorithms.base import AdaptedAlgorithm, Algorithm, Descent, Setup
from mpisqueeze.algorithms.groups import Grouped
from mpisqueeze.algorithms.local import LocalSteps
from mpisqueeze.comm.consensus import Consensus
from mpisqueeze.comm.emulated import emulate
from mpisqueeze.comm.exchange import HoldingLink, Network
from mpisqueeze.comm.groups import LeadersNetwork
from mpisqueeze.comm.placement import choose_device, quota_doubts, threads_of_rank
from mpisqueeze.comm.world import Groups, World
from mpisqueeze.compressors.base import Compressor, adapt
from mpisqueeze.control_groups import claimed_memory
from mpisqueeze.costs.link import Link
from mpisqueeze.data import load_dataset
from mpisqueeze.devices.clock import PhaseClock
from mpisqueeze.errors import UsageError
from mpisqueeze.files import check_whole, own
from mpisqueeze.holder import check_free
from mpisqueeze.kernels import kernels_for, threads_of
from mpisqueeze.optimizers.base import Optimizer, Recipe
from mpisqueeze.optimizers.decay import Decay, matrices
from mpisqueeze.optimizers.sgd import GradientDescent
from mpisqueeze.parts import contracts
from mpisqueeze.parts.registry import Part
from mpisqueeze.parts.state import carried
from mpisqueeze.problems.base import Problem
from mpisqueeze.quantities import counted, grouped, size
from mpisqueeze.record.decoding import as_type, read_object
from mpisqueeze.record.folder import RunFolder, check_path, hold_of_all, sanitized, slug, timed_path
from mpisqueeze.record.types import Environment
from mpisqueeze.runs.plan import NO_OVERLAP_ON_GPU, Plan
from mpisqueeze.settings import DEFAULT_EPOCHS, SETTINGS, option_of, parse_betas, parse_group, parse_target
from mpisqueeze.topology import Topology
from mpisqueeze.virtual.link import simulate, simulated_link


class Run:
    """A run that is ready to start. Building it is collective.

    Args:
        again: it continues in the folder that it has.

    Raises:
        UsageError, RankFailureError: on every rank alike.

    Attributes:
        problem, x (d): this rank's.
        shapes: of the parameters in x, empty where the problem tells none.
        threads: how many this rank may compute with.
        stateful: a plug-in's compressors that carry something over, in the order in which they were made.
        samples: the number of training samples on each rank, or None.
        weight: w_r of this rank's loss and gradient, see `problems.base.Problem`.
        optimizer: on each rank, for its gradients or for the answers, see `Plan.optimizes`.
        decay: weight decay of the gradients, or None.
        iterations, per_epoch, eval_every, consensus_every: in iterations.
        warnings: what this run does not promise, above all that it converges, and settings without effect.
        groups: that take part as one rank each, or None.
        consensus: of gossip, the mean model for metrics, or None.
        memory_bytes: that a host's ranks take in training, the most of all hosts.
        network: of all ranks.
        exchanging: the network of the ranks that the algorithm runs on; None on those that only follow a leader.
        evaluated: on rank 0, the metrics of the initial point, where they were needed before the first iteration.
        path, hold: the run folder's, on every rank; `folder` is open on rank 0 only.
    """

    def __init__(self, plan: Plan, world: World, again: bool = False) -> None:
        config = plan.config
        self.plan, self.world, self._again = plan, world, again
        world.on_root(self._check_folder)
        self.device = choose_device(config.device, config.buffers, world, config.checksum)
        if config.overlap and self.device.kind != "cpu":
            raise UsageError(NO_OVERLAP_ON_GPU, "--overlap")
        self.threads = threads_of_rank(world)
        before = claimed_memory()
        self.stateful: list[Any] = []
        self._data_note = ""
        self.problem = self._build_problems()
        self.dimension = int(self.problem.dimension)
        self.shapes = contracts.shapes_of(plan.problem, self.problem)
        self.samples = world.comm.allgather(getattr(self.problem, "training_samples", None))
        mine = self.samples[world.rank]
        self.weight = 1.0 if None in self.samples else mine * world.size / sum(self.samples)
        self.per_epoch = min(world.comm.allgather(int(getattr(self.problem, "iterations_per_epoch", 100))))
        epochs = config.epochs or DEFAULT_EPOCHS
        self.iterations = config.iterations or max(1, math.ceil(epochs * self.per_epoch - 1e-9))
        self.eval_every = self.per_epoch if config.eval_every is None else config.eval_every
        self.consensus_every = self.eval_every if config.consensus_every is None else config.consensus_every
        self.x = world.collectively(self._initial_point)
        self._check_ranks_agree()
        self.optimizer = world.collectively(self._build_optimizer)
        sizes = world.comm.allgather(world.collectively(self._try_compressor))
        if len(set(sizes)) > 1:
            raise UsageError(f"{plan.compressor.spec}: payload_bytes differs by rank: {sizes}", "--compressor")
        self.groups = self._form_groups() if plan.grouped else None
        self.network = self._build_network()
        self.exchanging = world.collectively(self._leaders_network) if self.groups else self.network
        self.topology = world.collectively(lambda: Topology(config.topology, world.size, config.self_weight))
        self.outer = self._build_outer()
        self.algorithm: Algorithm = world.collectively(self._build_algorithm)
        self.local = self._build_local()
        self.consensus = self._build_consensus()
        self.memory_bytes = self._check_claims(before)
        self.warnings: list[str] = world.on_root(lambda: [*self._doubts(), *self._idle()])
        self.evaluated: dict[str, float] = {}
        if config.stop_at is not None:
            metric, _ = parse_target(config.stop_at)
            world.on_root(lambda: self.evaluate_start(metric, "--stop-at"))
        self.folder: RunFolder | None = None
        self.path = ""
        self._open_folder()

    @property
    def centralized(self) -> bool:
        """All ranks hold the same x after each exchange."""
        return self.algorithm.centralized

    @property
    def carrying(self) -> dict[str, Any]:
        """Everything that may carry something from one iteration to the next, by its name in a checkpoint.

        The algorithm is the one that has the memory: a plug-in behind its adapter, or that of a group's leader.
        """
        algorithm: Any = self.algorithm.algorithm if isinstance(self.algorithm, Grouped) else self.algorithm
        algorithm = algorithm.part if isinstance(algorithm, AdaptedAlgorithm) else algorithm
        parts = {"algorithm": algorithm, "problem": self.problem, "optimizer": self.optimizer}
        parts |= {f"compressor{i}": compressor for i, compressor in enumerate(self.stateful)}
        parts |= {"local": self.local, "outer": self.outer}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def carried(self) -> dict[str, Any]:
        """Arrays and numbers that go into a checkpoint, by key; the arrays are the live ones."""
        found = {"x": self.x}
        for prefix, part in self.carrying.items():
            found |= {f"{prefix}.{key}": value for key, value in carried(part).items()}
        return found

    @property
    def open_ended(self) -> bool:
        """Nobody knows how many iterations there will be; `iterations` is a guess."""
        return self.plan.config.iterations is None and getattr(self.plan.problem.cls, "open_ended", False)

    @property
    def one_model(self) -> bool:
        """All ranks hold the same x after each iteration."""
        return self.centralized and self.local is None

    def write_line(self, name: str, value: Any) -> None:
        """Add a line to a log of the run folder, on rank 0."""
        if self.folder is not None:
            self.folder.append(name, f"{json.dumps(sanitized(value))}\n".encode())

    def evaluate_start(self, metric: str, option: str) -> None:
        """On rank 0: evaluate the initial point, by which alone a problem tells its metrics.

        Raises UsageError, blaming `option`, where `metric` is none of them.
        """
        part = self.plan.problem
        with contracts.plugin(part, "--problem", "evaluate(x)"):
            evaluate = getattr(self.problem, "evaluate", lambda x: None)
            self.evaluated = contracts.evaluation(part, evaluate(self.x))
        if metric not in self.evaluated:
            known = ", ".join(sorted(self.evaluated)) or "nothing"
            raise UsageError(f"{part.spec} evaluates {known}, not {metric!r}", option)

    @property
    def server(self) -> str | None:
        """`root`, `sharded` or `allreduce`; None for an algorithm without servers, as far as it says."""
        return self.plan.used("server") if self.centralized else None

    def settings(self) -> dict[str, Any]:
        """The content of config.json."""
        return {
            **self.plan.as_json(),
            "bytes": self.network.counter.bytes_are,
            "iterations": self.iterations,
            "epochs": self.iterations / self.per_epoch,
            "iterations_per_epoch": self.per_epoch,
            "eval_every": self.eval_every,
            "consensus_every": None if self.centralized else self.consensus_every,
            "ranks": self.world.process.size,
            "workers": self.world.size if self.world.virtual else None,
            "groups": self.groups.count if self.groups else None,
            "dimension": self.dimension,
            "shapes": self.shapes or None,
            "out": self.path,
        }

    def make_compressor(self, dimension: int, seed: int) -> Compressor:
        """The run's compressor for vectors of `dimension`. Raises UsageError for a plug-in that breaks its contract."""
        part = self.plan.compressor
        with contracts.plugin(part, "--compressor", "__init__(dimension, xp, dtype, seed)"):
            made = part.cls(dimension, self.device.xp, self.plan.dtype, seed, **part.options)
            contracts.check_compressor(part, made)
            if carried(made):
                self.stateful.append(made)
            return adapt(made, dimension, self.device.xp, self.plan.dtype)

    def _build_problems(self) -> Any:
        """This rank's problem; that of a process's first worker tells, before there are others, whether all fit."""
        world = self.world
        part = self.plan.problem
        if issubclass(part.cls, Problem) and (needs := part.cls.needs(world.size, **part.options)):
            world.collectively(lambda: self._check_memory(*needs))
        first: Any = world.collectively(lambda: self._build_problem() if world.leads else None)
        if not world.virtual:
            return first
        world.collectively(lambda: self._check_memory(int(first.dimension)) if world.leads else None)
        others = world.collectively(lambda: None if world.leads else self._build_problem())
        return first if world.leads else others

    def _check_memory(self, dimension: int, vectors: int = 1) -> None:
        """Raise UsageError where this host, or its GPU, lacks the memory that its ranks take at the least.

        Args:
            vectors: that a rank's problem holds, the gradient among them.
        """
        plan, workers, virtual = self.plan, self.world.local_size, self.world.virtual
        state = bool(getattr(plan.algorithm.cls, "memory", ())) + bool(plan.config.momentum)
        state += 0 if plan.optimizer.cls.linear else 2
        least, free = workers * (1 + vectors + state) * dimension * plan.dtype.itemsize, self.device.free_memory()
        if least > free:
            raise UsageError(
                f"{grouped(workers)} {'workers' if virtual else 'ranks'} take {size(least)} at the least: x, {vectors} "
                f"of the problem and {state} of state, {grouped(dimension)} numbers each; {size(free)} are free",
                "--workers" if virtual else "--problem",
            )

    def _check_claims(self, before: tuple[int, int]) -> int:
        """The bytes that the ranks of this host, or of the one with the most, take once the iterations are under way.

        By now all of it has been asked for, but for what `later` says, and little has been written to.

        Args:
            before: `claimed_memory` before the first vector.

        Raises UsageError where a host has less, which would end a rank without a word.
        """
        world, claimed = self.world, claimed_memory()
        mine = [max(0, now - then) if world.leads else 0 for now, then in zip(claimed, before, strict=True)]
        found = world.comm.allgather((world.host, mine[0] + self._later_bytes(), mine[1]))
        here = [(asked, written) for host, asked, written in found if host == world.host]
        needed, written = (sum(each) for each in zip(*here, strict=True))

        def check() -> None:
            if self.device.kind == "cpu" and needed > (free := self.device.free_memory() + written):
                raise UsageError(
                    f"{counted(world.local_size, 'worker' if world.virtual else 'rank')} of {grouped(self.dimension)} "
                    f"numbers a vector take {size(needed)} on this host, {size(free)} are free",
                    "--problem",
                )

        world.collectively(check)
        return max(world.comm.allgather(needed))

    def _later_bytes(self) -> int:
        """Bytes of vectors that this rank asks for when the iterations are under way."""
        config, world = self.plan.config, self.world
        found = self.algorithm.later_bytes
        if config.checkpoint_every is not None:
            found += sum(getattr(array, "nbytes", 0) for array in self.carried.values())
        if config.save_model and world.is_root:
            found += world.size * self.dimension * self.plan.dtype.itemsize
        return found

    def _build_network(self) -> Network:
        """The network of all ranks. The clock of virtual workers begins."""
        plan, config, world = self.plan, self.plan.config, self.world
        clock: PhaseClock | None = None
        if world.virtual:
            clock = simulate(world, plan.link, plan.compute_s, plan.jitter, config.seed, lambda: self.network.iteration)
        held = None if self.groups else self._link(world)
        known = world.on_root(self._known_link) if self._again else None
        options = (config.chunk, config.tree, config.checksum, known, clock)
        return Network(world, self.device, plan.barrier, held, *options)

    def _link(self, world: World) -> HoldingLink | None:
        """The emulated or simulated link between the ranks of a world."""
        if self.plan.link is None:
            return None
        return simulated_link(world) if world.virtual else emulate(world, self.plan.link)

    def _build_problem(self) -> Any:
        config, part, world = self.plan.config, self.plan.problem, self.world
        options = dict(part.options)
        if getattr(part.cls, "needs_data", False):
            assert config.data is not None
            dataset = load_dataset(config.data, config.data_dir, config.seed, shared=not part.is_plugin)
            self._data_note = dataset.note
            options["dataset"] = dataset.subset(config.samples, config.test_samples, config.seed)
            options["partition"] = self.plan.partition
        if any(getattr(part.cls, name, False) for name in ("needs_data", "takes_batch_size")):
            options["batch_size"] = config.batch_size
        with contracts.plugin(part, "--problem", "limit_threads(threads)"):
            getattr(part.cls, "limit_threads", lambda threads: None)(self.threads)
        with contracts.plugin(part, "--problem", "__init__(rank, size, seed, xp, dtype)"), _fitting(part):
            problem = part.cls(world.rank, world.size, config.seed, self.device.xp, self.plan.dtype, **options)
            contracts.check_problem(part, problem)
        return problem

    def _initial_point(self) -> Any:
        part = self.plan.problem
        with contracts.plugin(part, "--problem", "initial_point()"), _fitting(part):
            x = self.problem.initial_point()
        return contracts.checked_point(part, x, self.dimension, self.device.xp, self.plan.dtype)

    def _build_optimizer(self) -> Optimizer:
        plan, config, part = self.plan, self.plan.config, self.plan.optimizer
        decay = Decay(config.weight_decay, self._decayed()) if config.weight_decay else None
        # A linear one takes it with the gradient.
        moves = plan.optimizes == "answer" or (plan.local and not part.cls.linear)
        self.decay = None if moves else decay
        recipe = Recipe(
            0.0 if plan.own_momentum else config.momentum,
            config.nesterov,
            parse_betas(config.betas),
            config.eps,
            decay if moves else None,
        )
        with _fitting(part, "--optimizer"):
            made = part.cls(self.dimension, self.device.xp, plan.dtype, recipe)
        self.device.adopt(made)
        return made

    def _build_outer(self) -> Optimizer | None:
        """The momentum of the answers to how far local steps went."""
        config = self.plan.config
        if not config.outer_momentum:
            return None
        recipe = Recipe(config.outer_momentum, config.outer_nesterov)
        return GradientDescent(self.dimension, self.device.xp, self.plan.dtype, recipe)

    def _form_groups(self) -> Groups:
        assert self.plan.config.group is not None
        size, ranks = parse_group(self.plan.config.group), self.world.size
        if size is not None and ranks % size:
            raise UsageError(f"{size} does not divide the {counted(ranks, 'rank')} of this run", "--group")
        return self.world.grouped(size)

    def _leaders_network(self) -> Network | None:
        leaders = self.groups.leaders if self.groups else None
        return None if leaders is None else LeadersNetwork(self.network, leaders, self._link(leaders))

    def _build_local(self) -> LocalSteps | None:
        config = self.plan.config
        if not self.plan.local:
            return None
        if config.local_steps > self.iterations:
            raise UsageError(
                f"{config.local_steps} steps are more than the {counted(self.iterations, 'iteration')} of the run: "
                "nothing would be exchanged",
                "--local-steps",
            )
        inner = Descent(self.optimizer, self.network)
        return LocalSteps(self.algorithm, inner, self.x, config.local_steps, config.outer_lr)

    def _build_consensus(self) -> Consensus | None:
        """The mean of the ranks' models, where there are several and anyone asks for it."""
        distances = bool(self.consensus_every)
        if self.one_model or not (distances or getattr(self.problem, "evaluate", None)):
            return None
        return Consensus(self.world, self.dimension, self.plan.dtype, distances)

    def _decayed(self) -> list[slice] | None:
        """The elements that weight decay holds for; None for all."""
        if self.plan.config.weight_decay_on == "all":
            return None
        if not self.shapes:
            raise UsageError(
                f"matrices needs a problem that tells its parameters' `shapes`, and {self.plan.problem.spec} does not",
                "--weight-decay-on",
            )
        return matrices(self.shapes)

    def _check_ranks_agree(self) -> None:
        """Every rank has the same dimension and x₀, which no exchange could repair."""
        comm, spec = self.world.comm, self.plan.problem.spec
        dimensions = comm.allgather(self.dimension)
        if len(set(dimensions)) > 1:
            raise UsageError(f"{spec}: the dimension differs by rank: {dimensions}", "--problem")
        shapes = comm.allgather(hash(self.shapes))
        if len(set(shapes)) > 1:
            raise UsageError(f"{spec}: shapes differs by rank", "--problem")
        # A digest in place of the vector: on a slow link that would take longer than an iteration.
        digests = comm.allgather(hashlib.sha256(self.device.to_numpy(self.x).data).digest())
        other = next((rank for rank, digest in enumerate(digests) if digest != digests[0]), None)
        if other is not None:
            raise UsageError(f"{spec}: initial_point differs between ranks 0 and {other}", "--problem")

    def _try_compressor(self) -> int:
        part = self.plan.compressor
        with _fitting(part, "--compressor"):
            return contracts.try_compressor(part, self.make_compressor, self.dimension, self.device.xp)

    def _build_algorithm(self) -> Algorithm:
        config = self.plan.config
        setup = Setup(
            self.network,
            self.dimension,
            self.plan.dtype,
            config.seed,
            self.make_compressor,
            self.topology,
            server=config.server,
            overlap=config.overlap,
            optimizer=self.outer if self.plan.local else self.optimizer if self.plan.optimizes == "answer" else None,
            momentum=config.momentum,
            betas=parse_betas(config.betas),
            eps=config.eps,
            shapes=self.shapes,
            per_epoch=max(1, self.per_epoch // config.local_steps),
            iterations=None if self.open_ended else self.iterations // config.local_steps,
            every=config.local_steps,
        )
        if self.groups is None:
            return self._made(setup)
        leads = self._made(replace(setup, network=self.exchanging)) if self.exchanging else None
        return Grouped(setup, self.groups, leads)

    def _made(self, setup: Setup) -> Algorithm:
        """The run's algorithm on the ranks of `setup`."""
        part = self.plan.algorithm
        with contracts.plugin(part, "--algorithm", "__init__(setup)"), _fitting(part, "--algorithm"):
            made = part.cls(setup, **part.options)
            contracts.check_algorithm(part, made)
            return made if isinstance(made, Algorithm) else AdaptedAlgorithm(setup, made)

    def _doubts(self) -> list[str]:
        found: list[str] = []
        for part, option, thing in (
            (self.plan.algorithm, "--algorithm", self.algorithm),
            (self.plan.problem, "--problem", self.problem),
        ):
            with contracts.plugin(part, option, "doubts()"):
                found += [str(doubt) for doubt in getattr(thing, "doubts", list)()]
        if self.topology.note and not self.centralized:
            found.append(self.topology.note)
        if self._data_note:
            found.append(self._data_note)
        return [*found, *quota_doubts(self.world, self.threads)]

    def _idle(self) -> Iterator[str]:
        """Sentences about settings that have no effect, or not the one that they are there for."""
        plan, config = self.plan, self.plan.config
        if self.world.size == 1:
            yield "one rank has nobody to exchange with; mpisqueeze launch -n 4, or mpirun, starts several"
        for name, by in plan.idle.items():
            yield f"{option_of(name)} has no effect with {by}"
        if config.checksum and self.network.counter.bytes_are == "by definition":
            yield "--checksum checks nothing here: the messages of MPI_Allreduce are the library's own"
        if config.checksum and self.groups:
            yield "--checksum checks nothing inside groups: those messages are the MPI library's own"
        if config.buffers != SETTINGS["buffers"].default and self.device.kind == "cpu":
            yield "--buffers has no effect on a CPU"
        if config.threads > threads_of(kernels_for(self.device.xp, plan.dtype)):
            yield "--threads has no effect on these kernels"
        warmup = plan.schedule.warmup_iterations(self.per_epoch)
        if warmup > self.iterations:
            yield (
                f"--lr-schedule {config.lr_schedule} warms up for {counted(warmup, 'iteration')} and the run has "
                f"{self.iterations}: the learning rate does not come up to {plan.lr:g}"
            )
        if rest := self.iterations % config.local_steps:
            yield f"--local-steps {config.local_steps}: the last {counted(rest, 'iteration')} end without an exchange"
        fewest = min((count for count in self.samples if count is not None), default=config.batch_size)
        if config.batch_size > fewest:
            yield f"--batch-size {config.batch_size}: a rank has {counted(fewest, 'sample')}, and draws some repeatedly"
        full = self.dimension * plan.dtype.itemsize
        payload = getattr(self.algorithm, "payload_bytes", None) or 0
        if payload > full and size(payload) != size(full):
            yield f"{plan.compressor.spec} makes {size(payload)} of a vector of {size(full)}, and saves nothing"
        if config.stop_at is not None and not self.eval_every:
            yield "--stop-at has no effect where nothing is evaluated on the way (--eval-every 0)"
        if 0 < self.iterations <= config.warmup:
            yield f"--warmup {config.warmup} leaves none of {counted(self.iterations, 'iteration')} to take times of"

    def _check_folder(self) -> None:
        """Find out what `_open_folder` would, before the problem takes its time."""
        path = self.plan.config.out
        if path and self._again:
            check_whole(path, "--resume")
            check_free(path, "--resume")
        elif path:
            check_path(path)

    def _known_link(self) -> Link | None:
        """The link that the run began with; by another one, trees might differ, and with them the bytes by rank."""
        path = Path(self.plan.config.out or "") / "environment.json"
        if not os.path.exists(path):
            return None
        model = read_object(own(path, "--resume"), "--resume", Environment).get("link_model")
        return as_type(model, Link, f"{path} link_model", "--resume") if model else None

    def _open_folder(self) -> None:
        self.path = self.world.on_root(self._make_folder)
        self.hold = hold_of_all(self.world, self.folder, Path(self.path))

    def _make_folder(self) -> str:
        plan = self.plan
        name = f"{slug(plan.algorithm.label)}-{slug(plan.compressor.label)}"
        path = plan.config.out or timed_path(name, self.world.size)
        self.folder = RunFolder(path, self._again)
        return str(path)


@contextmanager
def _fitting(part: Part, option: str = "--problem") -> Iterator[None]:
    """Sizes that no memory holds are the user's mistake."""
    try:
        yield
    except (MemoryError, OverflowError):
        raise UsageError(f"{part.spec} does not fit in this machine's memory", option) from None
