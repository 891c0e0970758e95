"""`distribute`: a torch optimizer whose steps exchange gradients, or mix models, by MPI."""

from __future__ import annotations

import atexit
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mpisqueeze.cli.ranks import join
from mpisqueeze.comm.exchange import Trouble
from mpisqueeze.comm.launched import abort_others
from mpisqueeze.comm.watchdog import Watchdog
from mpisqueeze.comm.world import RankFailureError, Signal, World
from mpisqueeze.compressors.base import NonFiniteError, is_finite
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.kernels import use_threads
from mpisqueeze.language import integer
from mpisqueeze.library.values import plain
from mpisqueeze.parts import registry
from mpisqueeze.parts.registry import Part
from mpisqueeze.runs.checkpointing import put_back
from mpisqueeze.runs.interrupts import Interrupts
from mpisqueeze.runs.plan import OF_SCRIPTS, plan
from mpisqueeze.runs.preparation import Run
from mpisqueeze.runs.sources import Resolved, resolve
from mpisqueeze.runs.training import conclude, failure_of, set_up
from mpisqueeze.runs.view import View
from mpisqueeze.settings import DEFAULT_TIMEOUT, SETTINGS, Settings, parse_timeout
from mpisqueeze.torch.parameters import CALL, Parameters, start_of_all
from mpisqueeze.torch.steps import ScriptLoop, ScriptProblem, TorchOptimizer, is_plain

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mpisqueeze.library.options import ScriptOptions

#: Where `state_dict` has what is not torch's.
STATE = "mpisqueeze"
_OF_STATE = (
    "algorithm", "compressor", "server", "topology", "self_weight", "local_steps", "outer_lr", "outer_momentum",
    "outer_nesterov", "momentum", "seed", "dtype",
)  # fmt: skip


def distribute(
    optimizer: torch.optim.Optimizer, *, iterations_per_epoch: int = 100, **options: Unpack[ScriptOptions]
) -> DistributedOptimizer:
    """Make an optimizer's steps those of all ranks, in place of DistributedDataParallel. Collective.

    All ranks start from rank 0's parameters, as with DistributedDataParallel. Without a launcher it works alone.

    Args:
        optimizer: any of torch's that takes its step from `.grad`; its parameters become views of one vector.
        iterations_per_epoch: steps in an epoch, for the log's `epoch` and what algorithms do by epochs.
        options: settings of `mpisqueeze train`, above all `algorithm`, `compressor` and `out`. `$MPISQUEEZE_…` stand in
            for those that are not given. Ranks meet before each step unless `barrier=False`, with gossip, too.

    Raises:
        UsageError: an option is wrong, or ranks have different parameters, or another order of them. On all ranks.
        TypeError: there is no such option.
    """
    for name in options:
        if name not in OF_SCRIPTS:
            raise TypeError(f"{CALL}() got an unexpected keyword argument {name!r}")
    if isinstance(optimizer, DistributedOptimizer):
        raise UsageError("the optimizer is one that it has made already", CALL)
    try:
        per_epoch = integer(1)(str(iterations_per_epoch))
    except ValueError:
        raise UsageError(f"must be a whole number ≥ 1, got {iterations_per_epoch!r}", "iterations_per_epoch") from None
    world = join()
    given = {name: SETTINGS[name].checked(plain(value)) for name, value in options.items() if value is not None}
    unused = [name for name in SETTINGS if name not in OF_SCRIPTS]
    found = world.on_root(lambda: resolve(given, os.environ, None, unused))
    parameters = world.collectively(lambda: Parameters(optimizer))
    start = start_of_all(world, parameters)
    with found.blamed():
        return DistributedOptimizer(optimizer, parameters, start, world, found, per_epoch)


class DistributedOptimizer(torch.optim.Optimizer):
    """The optimizer that `distribute` returns. Schedulers and GradScaler take it as any other.

    `step`, `exchange`, `mean_model`, `paused` and `finish` are collective: every rank calls them, alike. An error of
    one rank is raised on all of them.

    Gradients are those of this rank until a step exchanges them, so that they may be accumulated over several backward
    passes. What clips them in between clips this rank's, as `mpisqueeze train --clip-norm` does; after `exchange` it
    clips the mean of all ranks', as with DistributedDataParallel. After a step, `.grad` is of no use.

    Buffers, such as batch norm's running statistics, stay each rank's own: see `mean_model`.

    Attributes:
        inner: torch's optimizer.
        run_folder: where the log is; rank 0 writes it.
    """

    #: GradScaler calls `step` on every rank, and leaves it to that whether gradients overflowed.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Parameters,
        start: np.ndarray,
        world: World,
        found: Resolved,
        per_epoch: int,
    ) -> None:
        self.inner, self._parameters, self._world = optimizer, parameters, world
        self._summary: dict[str, Any] | None = None
        self._exchanged = self._skips = False
        self._alone = False
        config = world.collectively(lambda: self._configured(found.config, per_epoch))
        # Torch's own constructor would add the parameters to groups of its own.
        self._share()
        self.__setstate__({})
        kinds = self._kinds(start, per_epoch)
        planned = world.collectively(lambda: plan(config, *self._parts(config, *kinds)))
        use_threads(config.threads)
        watchdog = Watchdog(world, parse_timeout(config.timeout or DEFAULT_TIMEOUT))
        try:
            self._run = run = Run(planned, world)
            world.collectively(self._check_gpu)
            gradient = run.device.xp.zeros(run.dimension, planned.dtype)
            parameters.bind(run.x, gradient)
            if isinstance(run.optimizer, TorchOptimizer):
                run.optimizer.x = run.x
            self._loop = set_up(ScriptLoop, run, View(), Interrupts(), watchdog)
            self._loop.open()
        except BaseException:
            watchdog.close()
            if hasattr(self, "_run"):
                self._give_up_folder()
            raise
        self._watchdog = watchdog
        self.run_folder = run.path
        atexit.register(self._at_exit)

    def _configured(self, config: Settings, per_epoch: int) -> Settings:
        parameters = self._parameters
        if parameters.device.type not in ("cpu", "cuda"):
            raise UsageError(f"the parameters are on {parameters.device}; they may be on cpu or cuda", CALL)
        if isinstance(self.inner, torch.optim.LBFGS):
            raise UsageError("LBFGS needs its gradient more than once a step: use another optimizer", CALL)
        if isinstance(self.inner, torch.optim.SparseAdam):
            raise UsageError("SparseAdam takes sparse gradients, and the exchanges give dense ones: use Adam", CALL)
        config.problem, config.device, config.dtype = _script(), parameters.device.type, parameters.dtype.name
        config.eval_every = 0
        config.barrier = config.barrier is not False
        gossips = not getattr(registry.algorithms.find(config.algorithm).cls, "centralized", True)
        if gossips and config.consensus_every is None:
            config.consensus_every = per_epoch
        return config

    def _check_gpu(self) -> None:
        mine, device = self._parameters.device, self._run.device
        if mine.type == "cuda" and mine.index != getattr(device, "index", None):
            raise UsageError(
                f"rank {self._world.rank} has its parameters on {mine}, and its GPU is {device.label}: call "
                "torch.cuda.set_device(rank on the host) before the model is made",
                CALL,
            )

    def _kinds(self, start: np.ndarray, per_epoch: int) -> tuple[type[Any], type[Any]]:
        """The classes that a run makes its problem and its optimizer of."""
        kept = {"parameters": self._parameters}
        problem = type("Script", (ScriptProblem,), {**kept, "start": start, "epoch": per_epoch, "name": _script()})
        name = f"torch {type(self.inner).__name__}"
        return problem, type("Inner", (TorchOptimizer,), {**kept, "inner": self.inner, "name": name})

    def _parts(self, config: Settings, problem: type[Any], optimizer: type[Any]) -> tuple[Part, Part | None]:
        """The run's problem, and its optimizer if it is not this package's plain one."""
        algorithm = registry.algorithms.find(config.algorithm)
        plain = getattr(algorithm.cls, "own_momentum", False)
        if plain and not (is_plain(self.inner) and len(self.inner.param_groups) == 1):
            raise UsageError(
                f"{algorithm.name} has a momentum of its own: give it torch.optim.SGD with nothing but lr", CALL
            )
        if config.momentum and not plain:
            raise UsageError(f"is the torch optimizer's affair with {algorithm.name}", "--momentum")
        own = None if plain else Part(str(optimizer.name), optimizer, {}, "script")
        return Part(config.problem, problem, {}, "script"), own

    def _share(self) -> None:
        """Have the inner optimizer's groups and state."""
        inner = self.inner
        self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, inner.defaults

    @property
    def iteration(self) -> int:
        """The number of steps taken, those before a `load_state_dict` included."""
        return self._loop.steps

    def step(self, closure: Callable[[], Any] | None = None, *, loss: torch.Tensor | float | None = None) -> Any:
        """Exchange the gradients, and move the parameters; collective.

        With GradScaler, no rank takes a step whose gradients overflowed on one of them.

        Args:
            closure: called once, before; its result is the loss.
            loss: this rank's loss, for the log.

        Raises:
            NonFiniteError: a gradient is NaN or infinite.
            UsageError: a gradient is sparse, parameters were added or moved, or a rank is not in this step.
            RankFailureError: another rank failed.
        """
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._skips or self._exchanged:
            if self._exchanged and isinstance(self._run.optimizer, TorchOptimizer):
                self.inner.step()
            self._skips = self._exchanged = False
            return loss
        self._without_overlap("step")
        unscale = None
        # A GradScaler has given them to this optimizer for the time of the call.
        if (overflows := getattr(self, "found_inf", None)) is not None:
            if self._any(bool(overflows)):
                return loss
            scale = getattr(self, "grad_scale", None)
            unscale = None if scale is None else 1 / float(scale)
        self._take(loss, unscale)
        return loss

    def backward(self, loss: torch.Tensor) -> None:
        """The backward pass of a loss and, meanwhile, the exchange, with `overlap=True`; `step` follows. Collective.

        Afterwards `.grad` is the answer, the same on all ranks, as with DistributedDataParallel. The gradient is that
        of this loss alone: what was in `.grad` is lost.

        Raises what `step` raises.
        """
        if not self._run.plan.config.overlap:
            raise UsageError("is for overlap=True; without it, call loss.backward()", "backward")
        self._run.problem.loss = loss
        try:
            self._exchange(loss)
        finally:
            self._run.problem.loss = None

    def exchange(self, scaler: Any = None, *, loss: torch.Tensor | float | None = None) -> bool:
        """Exchange the gradients now, so that `.grad` is the answer, the same on all ranks; `step` follows. Collective.

        For what is to see the mean gradient, such as `clip_grad_norm_`, and for centralized algorithms.

        Args:
            scaler: the GradScaler, after its `unscale_`.
            loss: this rank's loss, for the log.

        Returns:
            False if gradients overflowed on a rank, so that `step` will do nothing; only with a scaler.
        """
        if not self._run.one_model or not isinstance(self._run.optimizer, TorchOptimizer):
            what = "local steps" if self._run.local else self._run.plan.algorithm.name
            raise UsageError(f"there is no mean gradient with {what}", "exchange")
        self._without_overlap("exchange")
        if scaler is not None and scaler.is_enabled():
            overflows = False
            # An error of this rank is told to all in the exchange.
            with suppress(UsageError):
                self._parameters.gather()
                overflows = not is_finite(self._parameters.gradient, self._run.device.xp)
            if self._any(overflows):
                self._skips = True
                return False
        self._exchange(loss)
        return True

    def _exchange(self, loss: torch.Tensor | float | None) -> None:
        """An iteration whose step along the answer is left to `step`."""
        stepper = self._run.optimizer
        if self._exchanged or self._skips:
            raise UsageError("a step has to follow first", "exchange")
        if isinstance(stepper, TorchOptimizer):
            stepper.defers = True
        try:
            self._take(loss, None)
        finally:
            if isinstance(stepper, TorchOptimizer):
                stepper.defers = False
        self._exchanged = True

    def _without_overlap(self, what: str) -> None:
        if self._run.plan.config.overlap:
            raise UsageError("with overlap=True it is optimizer.backward(loss) that exchanges", what)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Nothing is exchanged before a step anyway: for scripts that accumulate gradients as with DDP."""
        before = self._alone
        self._alone = True
        try:
            yield
        finally:
            self._alone = before

    @contextmanager
    def mean_model(self, *modules: nn.Module) -> Iterator[None]:
        """A context in which the parameters are the mean of all ranks', to be evaluated or saved; collective.

        With a centralized algorithm they are so anyway, except within local steps. The run's clock stands still.

        Args:
            modules: their floating-point buffers are the mean of all ranks' meanwhile, too.
        """
        with self._aside("evaluates the mean model"):
            kept: list[tuple[torch.Tensor, torch.Tensor]] = []
            tensors = [] if self._run.one_model else [tensor.data for tensor in self._parameters.tensors]
            for module in modules:
                tensors += [b.data for b in module.buffers() if b.is_floating_point() or b.is_complex()]
            for tensor in tensors:
                kept.append((tensor, tensor.clone()))
                tensor.copy_(self._mean(tensor))
            try:
                yield
            finally:
                for tensor, before in kept:
                    tensor.copy_(before)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which the run's clock stands still, for evaluations and the like; collective."""
        with self._aside("pauses"):
            yield

    def evaluated(self, **figures: float) -> None:
        """Write figures of merit to evaluations.jsonl, as of this step: `evaluated(test_accuracy=0.93)`.

        Rank 0's count; on other ranks nothing happens.
        """
        loop = self._loop
        if self._world.is_root:
            values = {name: float(value) for name, value in figures.items()}
            line = {"iteration": self.iteration, "epoch": round(self.iteration / self._run.per_epoch, 6), **values}
            loop.evaluations.append(line)
            self._run.write_line("evaluations.jsonl", line)

    def finish(self) -> dict[str, Any]:
        """End the run, and write its summary; summary.json's object, on every rank. Collective.

        At the end of a script it is called if the script has not. There are no steps afterwards.
        """
        if self._summary is None:
            if trouble := self._loop.part("has ended"):
                raise self._ended(trouble)
            run = self._run
            self._loop.recorder.flush()
            if run.open_ended and self.iteration:
                run.iterations = self.iteration
                if run.folder is not None:
                    run.folder.write_json("config.json", run.settings())
            self._ended(None)
        assert self._summary is not None
        return self._summary

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises UsageError: the vector that ranks exchange has the parameters that there were."""
        raise UsageError(f"no parameter can be added later: give the optimizer all of them before {CALL}", CALL)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's, and this rank's state of the exchange, such as its error-feedback memory.

        A script saves it, and the model's, on every rank. With both loaded into the same script on as many ranks,
        after `distribute`, it goes on to the bit. The log of that launch has its own folder.
        """
        own = {name: torch.from_numpy(np.array(array)) for name, array in self._arrays().items()}
        about = {"iteration": self.iteration, "rank": self._world.rank, "ranks": self._world.size}
        return {
            **self.inner.state_dict(),
            STATE: {**about, "settings": self._settings(), "arrays": own},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, before the first step; of a plain optimizer's, the exchange begins anew.

        Collective.

        Raises:
            UsageError: it is of another run, rank or number of ranks, or there was a step. On all ranks alike.
        """
        self._world.collectively(lambda: self._load(dict(state_dict)))

    def _load(self, saved: dict[str, Any]) -> None:
        own = saved.pop(STATE, None)
        if self._loop.steps > self._loop.done:
            raise UsageError("there have been steps: load it before the first one", "load_state_dict")
        if own is not None:
            here = {**self._settings(), "ranks": self._world.size, "rank": self._world.rank}
            there = {**own["settings"], "ranks": own["ranks"], "rank": own["rank"]}
            for name, mine in here.items():
                if there.get(name) != mine:
                    raise UsageError(f"{name} is {there.get(name)!r} there, and {mine!r} here", "load_state_dict")
            arrays = {name: np.array(value.cpu().numpy()) for name, value in own["arrays"].items()}
            x = self._run.device.to_numpy(self._run.x)
            try:
                put_back(self._run, {**arrays, "x": np.array(x)})
            except Exception as error:
                raise UsageError(f"it is of another run: {error}", "load_state_dict") from error
            loop, iteration = self._loop, int(own["iteration"])
            loop.done = self._run.network.iteration = iteration
            loop.recorder.first = iteration + 1
            if iteration:
                loop.past.resumed_after.append(iteration)
        self.inner.load_state_dict(saved)
        self._share()

    def _settings(self) -> dict[str, Any]:
        """The settings that the state depends on."""
        settings = self._run.plan.as_json()
        return {name: settings[name] for name in _OF_STATE}

    def _arrays(self) -> dict[str, np.ndarray]:
        """This rank's state besides the parameters, on the host."""
        found = {name: value for name, value in self._run.carried.items() if name != "x"}
        return {name: value.get() if hasattr(value, "get") else np.asarray(value) for name, value in found.items()}

    def _take(self, loss: torch.Tensor | float | None, unscale: float | None) -> None:
        """One iteration. Raises what ended the run, on all ranks."""
        if self._summary is not None:
            raise UsageError("the run has ended", CALL)
        if self._alone:
            raise UsageError("there is no step within no_sync: it accumulates", "no_sync")
        loop = self._loop
        loop.gamma = float(self.param_groups[0]["lr"])
        loop.loss_told = float("nan") if loss is None else float(torch.as_tensor(loss).detach())
        loop.unscale = unscale
        if trouble := loop.take_step():
            raise self._ended(trouble)
        self._parameters.settle()

    @contextmanager
    def _aside(self, what: str) -> Iterator[None]:
        """A context for something that all ranks do, and that is no step; collective."""
        if trouble := self._loop.part(what):
            raise self._ended(trouble)
        with self._loop.away():
            yield

    def _any(self, mine: bool) -> bool:
        """True if it is so on one of the ranks, which all call this in their step; collective."""
        self._watchdog.beat()
        agreed = self._world.agree(int(mine))
        if agreed >= Signal.NONFINITE:
            trouble = self._loop.elsewhere()
            assert trouble is not None
            raise self._ended(trouble)
        self._watchdog.rest()
        return bool(agreed)

    def _mean(self, tensor: torch.Tensor) -> torch.Tensor:
        total = self._world.comm.allreduce(tensor.detach().cpu().numpy())
        return torch.from_numpy(np.asarray(total / self._world.size)).to(tensor.device, tensor.dtype)

    def _ended(self, trouble: Trouble | None) -> Exception:
        """Write how the run ended, which all ranks know, and let it go; the error to raise for a trouble."""
        atexit.unregister(self._at_exit)
        try:
            self._summary = conclude(self._loop, trouble)
        finally:
            self._watchdog.close()
            self._give_up_folder()
        return failure_of(trouble) or NonFiniteError(trouble.message if trouble else "")

    def _give_up_folder(self) -> None:
        if self._run.folder is not None:
            self._run.folder.close()
        self._run.hold.release()

    def _at_exit(self) -> None:
        """The script has come to its end, by itself or by an error, which Python has shown."""
        error = getattr(sys, "last_value", None)
        if error is not None and self._world.size > 1:
            # The others may wait for this rank, and its log is complete up to here.
            abort_others(ExitCode.FAILED)
        try:
            if isinstance(error, KeyboardInterrupt):
                self._loop.stopped_by = Signal.INTERRUPT
            if error is None or self._loop.stopped_by:
                self.finish()
            else:
                self._loop.recorder.flush()
                self._ended(Trouble(Signal.ERROR, self.iteration, f"the script ended by {error!r}"))
        except (RankFailureError, UsageError, OSError) as failure:
            print(f"mpisqueeze: {failure}", file=sys.stderr, flush=True)


def _script() -> str:
    """The name of the user's script, or of its like."""
    return re.sub("[:,].*", "", Path(sys.argv[0]).name) or "script"
