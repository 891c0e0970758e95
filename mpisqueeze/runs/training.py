"""The loop: gradient, exchange, update, record."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import numpy as np

from mpisqueeze import __version__
from mpisqueeze.algorithms.base import Ready
from mpisqueeze.analysis.ranking import Target, lead
from mpisqueeze.comm.checksum import DamagedPayloadError
from mpisqueeze.comm.cuda_aware import cuda_awareness
from mpisqueeze.comm.exchange import HaltError, Network, Trouble
from mpisqueeze.comm.heartbeat import Heartbeat
from mpisqueeze.comm.interface import interface_meter
from mpisqueeze.comm.launched import tell_launch
from mpisqueeze.comm.pieces import gather
from mpisqueeze.comm.watchdog import Watchdog
from mpisqueeze.comm.world import RankFailureError, Signal, World
from mpisqueeze.compressors.base import is_finite
from mpisqueeze.devices.clock import Phase
from mpisqueeze.errors import UsageError
from mpisqueeze.kernels import kernels_for, threads_of, use_threads
from mpisqueeze.mpi import MPI
from mpisqueeze.parts.contracts import GradientCheck, broken, evaluation, keeps, loss_and_gradient
from mpisqueeze.parts.failing import shown_to_fail
from mpisqueeze.record.arrays import write_npz
from mpisqueeze.record.checkpoint import Past
from mpisqueeze.record.environment import collect_environment, crowding
from mpisqueeze.record.folder import sanitized
from mpisqueeze.record.iterations import Recorder
from mpisqueeze.record.reading import RunLog, read_run
from mpisqueeze.record.summary import summary_of
from mpisqueeze.runs.checkpointing import LOGS, LONG_S, Checkpointer, Start, load_latest, replay_doubts
from mpisqueeze.runs.interrupts import Interrupts, at_once, wish_of
from mpisqueeze.runs.plan import Plan
from mpisqueeze.runs.preparation import Run
from mpisqueeze.runs.stopwatch import Stopwatch
from mpisqueeze.runs.view import View
from mpisqueeze.settings import DEFAULT_HEARTBEAT, DEFAULT_TIMEOUT, parse_interval, parse_target, parse_timeout

#: Most iterations between two agreements of the ranks, without a barrier.
MEET_EVERY = 32
#: About the most seconds between them: a signal, or the log, may have to wait so long.
MEET_S = 0.2
#: In place of `keeps`; no iteration makes one of its own.
_UNWATCHED = contextlib.nullcontext()


class Loop:
    """The iterations of one run on this rank.

    Attributes:
        x: this rank's parameters (d).
        loss, lr, clock, counter, began, ended, elapsed: those of the current iteration or, between two, of the last
            one; `elapsed` also of earlier launches.
        stopped_by: the signal that ended the run before its last iteration, or Signal.NONE.
        at_target: an evaluation met the target that ends the run.
        evaluations: on rank 0, the lines of evaluations.jsonl.
        environment: environment.json's object.
        past: what came before, of a run that is continued.
    """

    run: Run
    began: float
    ended: float
    environment: Mapping[str, Any]

    def __init__(self, run: Run, recorder: Recorder, view: View, interrupts: Interrupts, watchdog: Watchdog) -> None:
        self.run, self.recorder, self.view = run, recorder, view
        self._interrupts, self.watchdog = interrupts, watchdog
        self.world, self.network, self.config = run.world, run.network, run.plan.config
        self.x = run.x
        self.clock, self.counter = run.network.clock, run.network.counter
        self.loss = self.lr = math.nan
        self.began = self.ended = self.elapsed = 0.0
        self.stopwatch = Stopwatch(run.world)
        self.stopped_by: int = Signal.NONE
        self._target = None if self.config.stop_at is None else Target(*parse_target(self.config.stop_at))
        self.at_target = False
        self.evaluations: list[dict[str, Any]] = []
        self.meter = interface_meter(run.world)
        #: The loops of this process; where a network is simulated, the first one is rank 0's.
        self.beside: list[Loop] = run.world.share(self)
        #: Times that decide what is done for whoever waits here for the run. Meetings take time on a simulated network,
        #: so there its clock decides, and how fast this process is changes no result.
        self._simulates: bool = getattr(run.world.comm, "simulates", False)
        self._pace = time.perf_counter if run.world.virtual and not self._simulates else run.world.now
        #: The last iteration's share of this process's time (s), or of the simulated network's.
        self._took_s = 0.0
        #: The iteration after which all loops of this process agree, by news of rank 0's; 0: none.
        self.soon = 0
        #: The last iteration of earlier launches, 0 without one.
        self.done = 0
        self.past = Past()
        self._since = time.perf_counter()
        self.checkpointer: Checkpointer | None = None
        #: The first of the gradient's elements that were reported to the algorithm.
        self._final = run.dimension
        self._check = GradientCheck(run.plan.problem, run.dimension, run.device.xp, run.plan.dtype)
        self._step = run.local.step if run.local else run.algorithm.step
        #: The optimizer if it acts on this rank's gradient.
        self._turns = run.optimizer if run.plan.optimizes == "gradient" else None

    @property
    def wall_s(self) -> float:
        """Seconds since the set-up, and those of the launches before."""
        return self.past.wall_s + time.perf_counter() - self._since

    @property
    def checkpointers(self) -> list[Checkpointer]:
        """The checkpointers of this process's loops."""
        return [loop.checkpointer for loop in self.beside if loop.checkpointer]

    def started(self) -> None:
        """Start the clock of `wall_s`."""
        self._since = time.perf_counter()

    def iterate(self) -> Trouble | None:
        """Run to the last iteration, an interruption (`stopped_by`), or the trouble that is returned; collective."""
        # A run that diverges says so itself, and NumPy need not.
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                with contextlib.suppress(HaltError):
                    self.meter.start()
                    if not self.done:
                        self._evaluate(0)
                    elif self._target:
                        self.at_target = self.world.comm.bcast(self._meets_target())
                    if not self.at_target:
                        self._iterations()
                self.recorder.flush()
            except (OSError, DamagedPayloadError) as error:
                # A full disk or a damaged payload is known to this rank alone.
                where = f"rank {self.world.rank}, iteration {self.network.iteration}"
                raise RankFailureError(f"{where}: {error}", alone=True) from error
        self.watchdog.beat()
        self.meter.stop()
        return self._worst_trouble()

    def _worst_trouble(self) -> Trouble | None:
        """The gravest of all ranks' troubles; collective."""
        troubles = [trouble for trouble in self.world.comm.allgather(self._located()) if trouble]
        return max(troubles, key=lambda trouble: trouble.signal, default=None)

    def _located(self) -> Trouble | None:
        trouble = self.network.trouble
        if trouble is None:
            return None
        where = f"rank {self.world.rank}, iteration {trouble.iteration}: {trouble.message}"
        return Trouble(trouble.signal, trouble.iteration, where, trouble.option, trouble.details)

    def _iterations(self) -> None:
        run = self.run
        if self.done >= run.iterations and not self._scheduled(self.done):
            self._evaluate(self.done)
        self._open()
        for t in range(self.done + 1, run.iterations + 1):
            if self._iteration(t):
                return

    def _open(self) -> None:
        """Start the clock, before the first iteration; collective."""
        #: Without a barrier: the iteration of the next agreement, and that and the time of the last one.
        self._meet_at, self._met, self._met_at = 0, self.done, self._pace()
        self.stopwatch.start(self.elapsed)

    def _rate(self, iteration: int) -> float:
        """γ of an iteration."""
        run = self.run
        return run.plan.lr * run.plan.schedule(iteration, run.iterations, run.per_epoch)

    def _start_clock(self) -> float:
        """Begin to time an iteration; the moment when it began."""
        return self.clock.start()

    def _iteration(self, t: int) -> bool:
        """Iteration t, its record, and what is due after it; True if it is the last. Raises HaltError. Collective."""
        run, network, recorder = self.run, self.network, self.recorder
        gate, root = network.gate, self.world.is_root
        meets = gate.barrier and not run.local
        network.iteration = t
        self.watchdog.beat()
        self.lr = lr = self._rate(t)
        self.counter.reset()
        gate.agreed, gate.met = Signal.NONE, False
        gate.tell(wish := self._wish())
        if wish >= Signal.CHECKPOINT and self._simulates and self.soon < t:
            # None of the loops has come to the end of this iteration.
            self.soon = 1 + max(loop.network.iteration for loop in self.beside)
        run.optimizer.begin()
        paced, began = self._pace(), self._start_clock()
        self._step(self.x, self._gradient, lr)
        self.began, self.ended = began, self.clock.stop(Phase.UPDATE)
        self.elapsed = self.stopwatch.at(self.ended)
        self._took_s = max(self.ended - began, self._pace() - paced)
        every = self.config.local_steps
        if t % every == 0 and t // every == self.done // every + 1:
            self._check_moved()
        network.settle()
        recorder.add(self)
        # An algorithm of a user's own may exchange nothing in an iteration.
        if not gate.met and (meets or t >= self._meet_at or t == self.beside[0].soon):
            gate.meet()
            if not meets:
                self._meet_again(t)
        agreed = gate.agreed
        if agreed >= Signal.NONFINITE:
            raise HaltError
        if gate.signal < Signal.NONFINITE:
            gate.signal = Signal.NONE
        if agreed or recorder.full:
            recorder.flush()
            if root and recorder.last:
                self.view.progress(recorder.last)
        last = t == run.iterations or agreed >= Signal.ENOUGH
        if self._scheduled(t):
            self._evaluate(t)
            last = last or self.at_target
        # An evaluation that only the end of this launch brings is not part of the checkpoint.
        self._save(t, last, agreed)
        if last and not self._scheduled(t):
            self._evaluate(t)
        if last:
            self.stopped_by = agreed if agreed >= Signal.ENOUGH else Signal.NONE
        return last

    def _wish(self) -> Signal:
        """The signal that this rank has for the others."""
        if self._interrupts.number:
            return self._interrupts.wish
        if not self.world.is_root:
            return Signal.NONE
        if self.view.enough:
            return Signal.ENOUGH
        if self.checkpointer and self.checkpointer.overdue:
            return Signal.CHECKPOINT
        is_long = self.checkpointer is not None and self._took_s >= LONG_S
        return Signal.FLUSH if self.recorder.overdue or is_long else Signal.NONE

    def _meet_again(self, iteration: int) -> None:
        """Choose when ranks that are without a barrier meet next; collective."""
        now = self._pace()
        each = self.world.comm.allreduce((now - self._met_at) / max(1, iteration - self._met), MPI.MAX)
        self._met, self._met_at = iteration, now
        self._meet_at = iteration + max(1, min(MEET_EVERY, int(MEET_S / max(each, 1e-9))))

    def _scheduled(self, iteration: int) -> bool:
        """True if an evaluation is due after this iteration, whenever the run ends."""
        return bool(self.run.eval_every) and iteration % self.run.eval_every == 0

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Neither the clock nor the interfaces count what is done in the block; collective."""
        with self.stopwatch.paused(), self.meter.paused():
            yield

    def _save(self, iteration: int, last: bool, agreed: int) -> None:
        """Save the run if that is due, and complete earlier saving; collective."""
        checkpointer = self.checkpointer
        if checkpointer is None:
            return
        due = last or agreed == Signal.CHECKPOINT or checkpointer.due(iteration)
        if not (due or agreed):
            return
        if due:
            self.watchdog.beat()
            # Without a barrier, a rank may have met an error that the others do not know of yet.
            self._meet()
            self.recorder.flush()
        with self._paused():
            if due:
                checkpointer.take(iteration)
            elif self.world.leads:
                checkpointer.keep(iteration, self._took_s, self.checkpointers)
            checkpointer.settle(wait=last)

    def _gradient(self, x: Any, ready: Ready | None = None) -> Any:
        """This rank's gradient at x, weighed, with clipping, weight decay and momentum; its loss is kept for the log.

        Momentum on each rank's own gradient is that of dist-EF-SGDM (arXiv 1905.10936): the algorithm exchanges u in
        place of g, or g + βu with Nesterov's look-ahead. The mean of the ranks' u is then the momentum of the mean
        gradient, so that without compression this is momentum SGD.

        With `ready`, its elements are reported as soon as they are final, the last ones first.

        After an error it is 0, so that this rank sends the payloads that the others wait for, and reports the error
        when they next meet: before the exchange or, without a barrier, at most MEET_EVERY iterations later.
        """
        network, part = self.network, self.run.plan.problem
        self.loss = math.nan
        if network.gate.signal >= Signal.ERROR:
            return self.run.device.xp.zeros_like(x)
        try:
            self.watchdog.busy = True
            self._final = self.run.dimension
            first = network.iteration == 1 and part.is_plugin
            if ready is None:
                with keeps(part, "gradient", x) if first else _UNWATCHED:
                    found = self.run.problem.gradient(x, network.iteration)
            else:
                tell = partial(self._tell_ready, x, ready)
                found = self.run.problem.gradient_in_parts(x, network.iteration, tell)
            loss, g = loss_and_gradient(part, found)
            # A gradient that has left in parts stays where it is.
            g = g if ready is not None and self._check.fits(g, x) else self._check(g, x)
            self.loss = loss * self.run.weight
            if first:
                self._check_first(g)
        except UsageError as error:
            network.complain(Signal.ERROR, error.message, option=error.option or "--problem")
            return self.run.device.xp.zeros_like(x)
        except (Exception, SystemExit) as error:
            network.complain(Signal.ERROR, repr(error), details=traceback.format_exc())
            return self.run.device.xp.zeros_like(x)
        finally:
            self.watchdog.busy = False
        self._adjust(x, g, slice(0, self._final))
        if not math.isfinite(self.loss):
            network.complain(Signal.NONFINITE, f"the loss was {self.loss}")
        network.clock.lap(Phase.COMPUTE)
        return g

    def _adjust(self, x: Any, g: Any, numbers: slice) -> None:
        """Apply clipping, this rank's weight, weight decay and the optimizer in place to a slice of the gradient.

        Clipping needs all of it. The order is that of torch's `clip_grad_norm_` before a step of its SGD.
        """
        config, g, run = self.config, g[numbers], self.run
        decouples = run.plan.optimizer.cls.decouples
        if config.clip_norm is not None:
            norm = math.sqrt(float(g.dot(g)))
            if norm > config.clip_norm:
                g *= g.dtype.type(config.clip_norm / norm)
        if run.weight != 1:
            g *= g.dtype.type(run.weight)
        if run.decay and not decouples:
            run.decay.add(run.optimizer.kernels, x, g, numbers.start)
        if self._turns:
            self._turns.turn(g, numbers.start)
        if run.decay and decouples:
            run.decay.add(run.optimizer.kernels, x, g, numbers.start)

    def _tell_ready(self, x: Any, ready: Ready, g: Any, start: int) -> None:
        """Hand the final elements g[start:] to the algorithm. Raises UsageError if a plug-in breaks its contract."""
        if not self._check.fits(g, x) or not 0 <= start <= self._final:
            what = f"gradient_in_parts told of {g.dtype} numbers from {start} on, after {self._final}"
            raise broken(self.run.plan.problem, "--problem", what)
        self._adjust(x, g, slice(start, self._final))
        self._final = start
        self.network.clock.lap(Phase.COMPUTE)
        self.watchdog.busy = False
        ready(g, start)
        self.watchdog.busy = True

    def distance(self) -> float:
        """‖x_i − x̄‖² in the iterations of --consensus-every, else NaN; collective."""
        every = self.run.consensus_every
        if self.run.consensus is None or not every or self.network.iteration % every:
            return math.nan
        with self._paused():
            return self.run.consensus.distance(self.run.device.to_numpy(self.x))

    def _check_first(self, g: Any) -> None:
        """Refuse a NaN at x₀, which is the plug-in's fault; a later one is a divergence."""
        if not (math.isfinite(self.loss) and is_finite(g, self.run.device.xp)):
            raise broken(self.run.plan.problem, "--problem", "gradient gave a NaN or an infinity at the initial point")

    def _check_moved(self) -> None:
        """Refuse a plug-in's algorithm that applies its answer itself where the optimizer should."""
        run, plan = self.run, self.run.plan
        optimizer = run.outer if plan.local else run.optimizer
        if optimizer and run.algorithm.setup.optimizer is optimizer and optimizer.moved != run.dimension:
            option = "--momentum-at" if plan.optimizer.cls.linear else "--optimizer"
            option = "--outer-momentum" if plan.local else option
            what = f"{plan.algorithm.spec} moves x by itself: in its `apply`, call section.descend(self.lr)"
            self.network.complain(Signal.ERROR, what, option=option)

    def _evaluate(self, iteration: int) -> None:
        """Evaluate the common x, or x̄, on rank 0, and check on each that x is finite; collective."""
        with self._paused():
            self._evaluate_here(iteration)

    def _evaluate_here(self, iteration: int) -> None:
        network, xp = self.network, self.run.device.xp
        self.watchdog.beat()
        if not is_finite(self.x, xp):
            network.complain(Signal.NONFINITE, "a parameter was NaN or infinite")
        self._meet()
        evaluate = getattr(self.run.problem, "evaluate", None)
        if evaluate is None:
            return
        x = self.x
        if self.run.consensus is not None:
            x = xp.asarray(self.run.consensus.mean(self.run.device.to_numpy(x)))
        if self.world.is_root:
            try:
                part = self.run.plan.problem
                with keeps(part, "evaluate", x) if iteration == 0 and part.is_plugin else _UNWATCHED:
                    found = self.run.evaluated if iteration == 0 and self.run.evaluated else evaluate(x)
                values = evaluation(part, found)
            except UsageError as error:
                network.complain(Signal.ERROR, error.message, option=error.option or "--problem")
                values = {}
            except (Exception, SystemExit) as error:
                network.complain(Signal.ERROR, repr(error), details=traceback.format_exc())
                values = {}
            if values:
                line = {"iteration": iteration, "epoch": round(iteration / self.run.per_epoch, 6), **values}
                self.evaluations.append(line)
                self.run.write_line("evaluations.jsonl", line)
                self.view.evaluation(line)
            if self._meets_target():
                network.gate.tell(Signal.TARGET)
        self.at_target = self._meet() == Signal.TARGET

    def _meets_target(self) -> bool:
        """On rank 0: the last evaluation meets the target that ends the run."""
        if self._target is None:
            return False
        values = [line[self._target.name] for line in self.evaluations if self._target.name in line]
        return bool((lead(np.array(values[:1] + values[-1:], float), self._target)[1:] >= 0).any())

    def _meet(self) -> int:
        """The agreement of the ranks. Raises HaltError on all of them if one cannot go on."""
        agreed = self.network.gate.meet()
        if agreed >= Signal.NONFINITE:
            raise HaltError
        return agreed


def failure_of(trouble: Trouble | None) -> UsageError | RankFailureError | None:
    """The error to raise on every rank for a trouble, unless it is a divergence or none."""
    if trouble is None or trouble.signal < Signal.ERROR:
        return None
    if trouble.option:
        return UsageError(trouble.message, trouble.option)
    return RankFailureError(trouble.message, trouble.details)


def train(plan: Plan, world: World, view: View, again: bool = False) -> dict[str, Any]:
    """One run on all ranks, from a checked plan to its summary, which every rank gets.

    Args:
        again: the run continues in its folder, from its latest checkpoint.

    Raises:
        UsageError, RankFailureError: on every rank alike; the run folder, if there is one yet, is complete up to there.
    """
    watchdog = Watchdog(world, parse_timeout(plan.config.timeout or DEFAULT_TIMEOUT))
    heartbeat = Heartbeat(world, parse_timeout(plan.config.heartbeat or DEFAULT_HEARTBEAT), watchdog.state)
    try:
        return _train(plan, world, view, again, watchdog)
    except OSError as error:
        # A full disk, or a folder that is gone, is seen by this rank alone.
        raise RankFailureError(f"rank {world.rank}: {error}", "", alone=True) from error
    finally:
        heartbeat.close()
        watchdog.close()


def _train(plan: Plan, world: World, view: View, again: bool, watchdog: Watchdog) -> dict[str, Any]:
    use_threads(plan.config.threads)
    run = Run(plan, world, again)
    try:
        summary = _carry_out(run, view, again, watchdog)
    finally:
        if run.folder is not None:
            run.folder.close()
    # After an error, a rank that ends all of them still has to give the folder up.
    run.hold.release()
    return summary


def _carry_out(run: Run, view: View, again: bool, watchdog: Watchdog) -> dict[str, Any]:
    interrupts = Interrupts(run.world.leads)
    loop = set_up(Loop, run, view, interrupts, watchdog, again)
    # A signal that comes when the iterations are done must not keep what they gave from being written.
    with interrupts:
        # Virtual workers share a process, and the first one has it save them all.
        with at_once(partial(_save_at_once, loop)) if run.world.leads else contextlib.nullcontext():
            trouble = loop.iterate()
        summary = conclude(loop, trouble)
    if loop.stopped_by < Signal.INTERRUPT:
        interrupts.hand_back()
    if failure := failure_of(trouble):
        raise failure
    return summary


L = TypeVar("L", bound=Loop)


def set_up(kind: type[L], run: Run, view: View, interrupts: Interrupts, watchdog: Watchdog, again: bool = False) -> L:
    """The loop of a run, with its folder's first files written; collective."""
    plan, world = run.plan, run.world
    watchdog.iteration = lambda: run.network.iteration
    kernels = kernels_for(run.device.xp, plan.dtype)
    environment = collect_environment(world.comm)
    labels = world.comm.gather(run.device.label)
    if world.is_root:
        environment |= {
            "device": run.device.kind,
            "devices": labels,
            "buffers": run.device.buffers,
            "buffers_reason": run.device.buffers_reason,
            "cuda_aware": cuda_awareness()[0],
            "kernels": kernels.name,
            "threads": threads_of(kernels),
            "gradient_threads": run.threads,
            "ranks_memory_bytes": run.memory_bytes,
            **link_facts(run.exchanging or run.network),
        }
    recorder = Recorder(world, run.folder, run.per_epoch, plan.config.log, plan.config.per_rank)
    loop = kind(run, recorder, view, interrupts, watchdog)
    loop.environment = environment
    loop.past, remarks = _resume(loop) if again else (Past(), [])
    watchdog.beat()
    if plan.config.checkpoint_every is not None:
        run.warnings += replay_doubts(run, min(loop.done + 1, run.iterations))
        watchdog.beat()
    if run.folder is not None:
        # Without checkpoints there is nothing to go on with after a power failure.
        durable = plan.config.checkpoint_every is not None
        run.folder.write_json("config.json", run.settings(), durable)
        run.folder.write_json("environment.json", environment, durable)
        run.warnings += crowding(environment)
        tell_launch(folder=run.path)
        view.start(run, environment)
        for remark in filter(None, (run.folder.hold.note, *remarks)):
            view.remark(remark)
    loop.started()
    if plan.config.checkpoint_every is not None:

        def until_now() -> Past:
            past = loop.past
            return Past(loop.wall_s, past.resumed_after, [(sent, got) for sent, got in recorder.by_rank.tolist()])

        loop.checkpointer = Checkpointer(run, parse_interval(plan.config.checkpoint_every), until_now)
    return loop


def conclude(loop: Loop, trouble: Trouble | None) -> dict[str, Any]:
    """Write the end of a run whose iterations are over; its summary, on every rank. Collective."""
    run, world, wall_s = loop.run, loop.world, loop.wall_s
    failed = failure_of(trouble) is not None
    status = "failed" if failed else "diverged" if trouble else "interrupted" if loop.stopped_by else "ok"
    if run.plan.config.save_model:
        _save_model(run, loop.x)
    run.algorithm.close()
    interfaces = loop.meter.by_host()
    summary = None
    if run.folder is not None:
        over = "its time was over" if loop.stopped_by == Signal.ENOUGH else None
        reason = trouble.message if trouble else over
        summary = _summarize(loop, status, reason, wall_s, interfaces, loop.stopped_by)
        run.folder.write_json("summary.json", summary)
        loop.view.finish(summary)
    # Loops that hold each other would keep their vectors until Python looks for such circles.
    loop.beside.clear()
    return world.comm.bcast(summary)


def _resume(loop: Loop) -> tuple[Past, list[str]]:
    """Put a run and its log back to its latest checkpoint; what came before, and remarks for the user; collective."""
    run, world = loop.run, loop.world
    start = load_latest(run)
    if start.iteration > run.iterations:
        raise UsageError(
            f"{run.path} is at iteration {start.iteration}, beyond {run.iterations}; --iterations may only be raised",
            "--iterations",
        )
    loop.done = start.iteration
    log = world.collectively(partial(_reopen_log, run, start) if world.is_root else lambda: None)
    past = start.manifest.record if start.manifest else Past()
    loop.recorder.restore(log.columns if log else {}, past.bytes_by_rank, start.iteration)
    loop.evaluations = log.evaluations if log else []
    loop.elapsed = world.comm.bcast(float(log.columns["elapsed_s"][-1]) if log and start.iteration else 0.0)
    resumed_after = [*past.resumed_after, start.iteration] if start.manifest else []
    return Past(past.wall_s, resumed_after), start.remarks


def _reopen_log(run: Run, start: Start) -> RunLog:
    """On rank 0: cut the logs back, and read what is left of them. Raises UsageError."""
    assert run.folder is not None
    path = run.folder.path
    (path / "summary.json").unlink(missing_ok=True)
    run.folder.cut(start.manifest.log if start.manifest else {}, LOGS)
    log = read_run(path)
    lines = log.columns["loss"].size
    if lines != start.iteration:
        raise UsageError(f"{path}/iterations.jsonl has {lines} lines for {start.iteration} iterations", "--resume")
    return log


def link_facts(network: Network) -> dict[str, Any]:
    """The ranks' link for environment.json: the real network, a lab's, an emulated one, or virtual workers' memory.

    `link_model` has the times that the cost model goes by: those that are emulated, or a rough estimate.
    """
    lab = os.environ.get("MPISQUEEZE_LAB")
    kind = "virtual" if network.world.virtual else "emulated" if network.emulated else "lab" if lab else "real"
    return {"link": kind, "lab": json.loads(lab) if lab else None, "link_model": asdict(network.link)}


def _save_model(run: Run, x: Any) -> None:
    """Write model.npz with `x`, every rank's parameters (ranks × d); collective."""
    comm, mine = run.world.comm, np.ascontiguousarray(run.device.to_numpy(x))
    everyone = np.empty((run.world.size if run.world.is_root else 0, run.dimension), mine.dtype)
    gather(comm, mine, everyone)
    if run.folder is not None:
        temporary = run.folder.path / "model.npz.part"
        write_npz(temporary, {"x": everyone})
        os.replace(temporary, run.folder.path / "model.npz")


def _save_at_once(loop: Loop, number: int, over: threading.Event) -> None:
    """Write the summary so far and what this process's ranks kept of the last iteration, from a thread, on a signal.

    A launcher may kill this process before its iteration ends; otherwise the run's end replaces both.
    """
    run = loop.run
    if run.folder is not None:
        with contextlib.suppress(OSError):
            summary = _summarize(loop, "interrupted", None, loop.wall_s, None, wish_of(number))
            run.folder.write_json("summary.json", summary, durable=False)
    if loop.checkpointer is not None:
        loop.checkpointer.save_early(over, loop.checkpointers)


def _by_rank(counts: list[list[int]]) -> list[dict[str, int]]:
    return [{"rank": rank, "bytes_sent": sent, "bytes_received": got} for rank, (sent, got) in enumerate(counts)]


def _summarize(
    loop: Loop,
    status: str,
    reason: str | None,
    wall_s: float,
    interfaces: list[dict[str, Any]] | None,
    stopped_by: int,
) -> dict[str, Any]:
    """summary.json's object, on rank 0; `interfaces` is what the hosts' network interfaces counted meanwhile.

    The busiest port's bytes are those that one rank sent or received, whichever is more.
    """
    run, recorder, environment = loop.run, loop.recorder, loop.environment
    plan, algorithm = run.plan, run.algorithm
    summary = summary_of(run.settings(), environment, recorder.columns, loop.evaluations, status, reason, run.path)
    done = summary["iterations"]
    full_vector = run.dimension * plan.dtype.itemsize
    schedule = getattr(algorithm, "schedule", None)
    payload = getattr(algorithm, "payload_bytes", None) or full_vector
    facts = {
        **summary,
        "mpisqueeze": __version__,
        "warnings": run.warnings,
        "stopped_at_target": loop.at_target,
        "shown_to_fail": shown_to_fail(plan.algorithm, plan.compressor),
        "signal": {Signal.INTERRUPT: "SIGINT", Signal.TERMINATE: "SIGTERM"}.get(Signal(stopped_by)),
        "server": run.server,
        "topology": None if run.centralized else plan.config.topology,
        "eta": getattr(algorithm, "eta", None),
        "link": environment["link"],
        "port_bytes_per_iteration": int(recorder.by_rank.max()) / done if done else None,
        "bytes_by_rank": _by_rank(recorder.by_rank.tolist()),
        "interface_bytes_by_host": interfaces,
        "chunks": schedule.sections if schedule else None,
        "tree": (schedule.way or None) if schedule else None,
        "payload_bytes": payload,
        "full_vectors_formula": getattr(algorithm, "formula", "") or None,
        "compression": payload / full_vector,
        "wall_s": wall_s,
        "resumed_after": loop.past.resumed_after,
    }
    return sanitized(facts)
