"""A run whose iterations are the steps of a user's own script: its problem, its optimizer, its loop."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from mpisqueeze.algorithms.base import Ready
from mpisqueeze.comm.checksum import DamagedPayloadError
from mpisqueeze.comm.exchange import HaltError, Trouble
from mpisqueeze.comm.world import RankFailureError, Signal
from mpisqueeze.compressors.base import is_finite
from mpisqueeze.devices.clock import Phase
from mpisqueeze.errors import UsageError
from mpisqueeze.optimizers.base import Optimizer, Recipe
from mpisqueeze.problems.base import Array, Problem
from mpisqueeze.problems.neural.parts import Frontier
from mpisqueeze.runs.plan import OF_SCRIPTS
from mpisqueeze.runs.training import Loop
from mpisqueeze.settings import SETTINGS
from mpisqueeze.torch.parameters import CALL, Parameters

#: Settings that say something about such a run besides those that it may be given.
_KNOWN = (*OF_SCRIPTS, "problem", "dtype", "device")


class ScriptProblem(Problem):
    """The parameters of a script's optimizer, and whatever gradients the script left in them.

    Attributes:
        parameters, start: the class's, as a run makes the instance itself: the parameters, and x₀ (d).
        loss: with `--overlap`, the tensor whose gradient is exchanged.
    """

    open_ended: ClassVar[bool] = True
    leaves_out: ClassVar[tuple[str, ...]] = tuple(name for name in SETTINGS if name not in _KNOWN)
    parameters: ClassVar[Parameters]
    start: ClassVar[np.ndarray]
    epoch: ClassVar[int]

    def __init__(self, *run: Any) -> None:
        super().__init__(*run)
        self.dimension, self.shapes = self.parameters.dimension, self.parameters.shapes
        self.iterations_per_epoch = self.epoch
        self.loss: Any = None
        self._frontier: Frontier | None = None

    def initial_point(self) -> Array:
        return self.xp.asarray(self.start)

    def gradient(self, x: Array, iteration: int) -> tuple[float, Array]:
        """The gradient that the script's backward passes left; the loss is the script's affair."""
        self.parameters.gather()
        return math.nan, self.parameters.gradient

    def gradient_in_parts(self, x: Array, iteration: int, ready: Ready) -> tuple[float, Array]:
        """The gradient of the loss that `backward` has got, reported from its end on while it is computed."""
        parameters = self.parameters
        parameters.check()
        if self._frontier is None:
            self._frontier = Frontier(parameters.slots, parameters.dimension)
        parameters.accumulate()
        self._frontier.open(ready, parameters.gradient)
        try:
            self.loss.backward()
        finally:
            self._frontier.close()
        parameters.check_grads()
        return math.nan, parameters.gradient


class TorchOptimizer(Optimizer):
    """A step by a torch optimizer: it gets the answer of the exchange as its parameters' `.grad`.

    With gossip it steps along the rank's own gradient, and how far it went is what the ranks mix. Plain SGD, with one
    γ for all parameters and nothing else, is x ← x − γp by this package's kernels, which round as `train` does: torch's
    rounds a multiplication and an addition at once.

    Attributes:
        inner, parameters: the class's, as a run makes the instance itself.
        answer: (d,), what the parameters' `.grad` are views of in a step.
        x: (d,), what the parameters are views of.
        defers: the script takes the step itself, from the parameters' `.grad`.
    """

    inner: ClassVar[torch.optim.Optimizer]
    parameters: ClassVar[Parameters]
    x: Array

    def __init__(self, dimension: int, xp: Any, dtype: Any, recipe: Recipe) -> None:
        super().__init__(dimension, xp, dtype, recipe)
        self.answer = self.zeros()
        self._grads = self.parameters.views_of(self.answer)
        self._before: Array | None = None
        self._finite = True
        self.defers = False

    @property
    def gamma(self) -> float | None:
        """γ where the step is plain SGD; else None."""
        groups = self.inner.param_groups
        rates = {float(group["lr"]) for group in groups}
        if self.defers or len(rates) > 1 or not is_plain(self.inner):
            return None
        return rates.pop()

    def begin(self) -> None:
        super().begin()
        self._finite = True

    def apply(self, span: slice, p: Any, x: Any | None, lr: float, count: int, decay: float) -> bool:
        if x is None:
            self._went(p)
            return True
        if self.gamma is not None:
            return self.kernels.copy_decode(p.view(np.uint8), x, True, -lr / count)
        answer = self.answer[span]
        self.xp.divide(p, self.dtype.type(count), out=answer)
        finite = is_finite(answer, self.xp)
        self._finite &= finite
        if self.moved == self.dimension and self._finite:
            self._step()
        return finite

    def _step(self) -> None:
        for tensor, grad in zip(self.parameters.tensors, self._grads, strict=True):
            tensor.grad = grad
        self.parameters.settle()
        if not self.defers:
            self.inner.step()
            self.parameters.settle()

    def _went(self, g: Any) -> None:
        """g ← x − x⁺, where x⁺ is x after a step along g; x stays."""
        if self._before is None:
            self._before = self.xp.empty_like(self.x)
        self._before[:] = self.x
        self.answer[:] = g
        self._step()
        self.xp.subtract(self._before, self.x, out=g)
        self.x[:] = self._before


def is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """A step of each group is x ← x − γp, and nobody hooks into it."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return type(optimizer) is torch.optim.SGD and not (
        hooks or any(group[key] for group in optimizer.param_groups for key in ("momentum", "weight_decay", "maximize"))
    )


class ScriptLoop(Loop):
    """The iterations of a script: each begins where the one before ended, with the script's own work as its gradient.

    Attributes:
        gamma: γ of the next step.
        loss_told: this rank's loss of the next step, NaN if the script does not tell it.
        unscale: what the next gradient is multiplied by, where the script has scaled its loss.
        resting: what this rank does while it takes no step, for errors; empty in a step.
    """

    gamma = math.nan
    loss_told = math.nan
    unscale: float | None = None
    resting = ""
    _left = 0.0

    @property
    def steps(self) -> int:
        """The number of steps taken so far, earlier launches included."""
        return self.network.iteration

    def open(self) -> None:
        """Begin; collective."""
        self.meter.start()
        self._open()
        self._left = time.perf_counter()
        self.watchdog.rest()

    def take_step(self) -> Trouble | None:
        """One iteration; the trouble that ends the run, or None. Collective."""
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                self._iteration(self.steps + 1)
            except HaltError:
                return self._worst_trouble()
            except (OSError, DamagedPayloadError) as error:
                raise RankFailureError(f"rank {self.world.rank}, step {self.steps}: {error}", alone=True) from error
        self._left = time.perf_counter()
        self.watchdog.rest()
        return None

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """A context in which all ranks do something that is no step, and the clock stands still; collective."""
        came = time.perf_counter()
        with self._paused():
            self.watchdog.rest()
            yield
            self.watchdog.beat()
        self._left += time.perf_counter() - came
        self.watchdog.rest()

    def part(self, what: str) -> Trouble | None:
        """Agree that no rank is in a step, but all at the same place; the trouble if they are not. Collective."""
        self.watchdog.beat()
        self.resting = what
        world = self.world
        # Blocking agreements and others do not meet.
        world.proposed(world.propose(Signal.ASIDE)) if self.config.overlap else world.agree(Signal.ASIDE)
        trouble = self._worst_trouble()
        self.resting = ""
        return trouble

    def elsewhere(self) -> Trouble | None:
        """The gravest trouble of all ranks, which one of them met outside of its step; collective."""
        return self._worst_trouble()

    def _worst_trouble(self) -> Trouble | None:
        """The gravest trouble of all ranks, or that they are not at the same place; collective."""
        where = self.resting or "is in step"
        steps = self.steps
        everyone: list[tuple[str, int, Trouble | None]] = self.world.comm.allgather((where, steps, self._located()))
        if len({(where, steps) for where, steps, _ in everyone}) > 1:
            told = [
                f"rank {rank} {where} {steps}" if where == "is in step" else f"rank {rank} {where} after {steps} steps"
                for rank, (where, steps, _) in enumerate(everyone)
            ]
            parted = next(i for i, one in enumerate(everyone) if one[:2] != everyone[0][:2])
            message = f"{told[0]}, and {told[parted]}: every rank has to take every step"
            return Trouble(Signal.ERROR, self.steps, message, CALL)
        return max((trouble for *_, trouble in everyone if trouble), key=lambda t: t.signal, default=None)

    def _rate(self, iteration: int) -> float:
        # What a torch optimizer's step came to has its γ in it.
        return 1.0 if self._turned else self.gamma

    @property
    def _turned(self) -> TorchOptimizer | None:
        """With gossip, the optimizer that this rank's gradient becomes a step of; None where it is plain SGD."""
        turns = self._turns
        return turns if isinstance(turns, TorchOptimizer) and turns.gamma is None else None

    def _start_clock(self) -> float:
        now = self.clock.start()
        self.clock.seconds[Phase.COMPUTE] += now - self._left
        return self._left

    def _gradient(self, x: Any, ready: Ready | None = None) -> Any:
        network = self.network
        self.loss = self.loss_told
        self.lr = self.gamma
        if network.gate.signal >= Signal.ERROR:
            return self.run.device.xp.zeros_like(x)
        try:
            if ready is None:
                _, g = self.run.problem.gradient(x, network.iteration)
            else:
                self._final = self.run.dimension
                tell = partial(self._tell_ready, x, ready)
                _, g = self.run.problem.gradient_in_parts(x, network.iteration, tell)
        except UsageError as error:
            network.complain(Signal.ERROR, error.message, option=error.option)
            return self.run.device.xp.zeros_like(x)
        except Exception as error:
            network.complain(Signal.ERROR, repr(error), details=traceback.format_exc())
            return self.run.device.xp.zeros_like(x)
        if self.unscale is not None:
            g *= g.dtype.type(self.unscale)
        if self._turned:
            self._turned.turn(g)
        network.clock.lap(Phase.COMPUTE)
        return g

    def _evaluate(self, iteration: int) -> None:
        """The script evaluates."""
