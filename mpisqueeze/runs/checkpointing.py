"""Checkpoints of a run: when they are due, what belongs to them, and how a run is taken up again."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisqueeze.errors import UsageError
from mpisqueeze.mpi import MPI
from mpisqueeze.parts import contracts, state
from mpisqueeze.problems.base import copy_to
from mpisqueeze.record.checkpoint import (
    DamagedError,
    EarlyWriter,
    Manifest,
    Past,
    Writer,
    checkpoints,
    complete,
    complete_early,
    discard_unfinished,
    read_arrays,
    read_manifest,
)
from mpisqueeze.record.figures import BINARY_LOG
from mpisqueeze.record.reading import read_settings
from mpisqueeze.runs.plan import Plan, applies
from mpisqueeze.settings import EITHER, SETTINGS, Interval, Settings, upgraded, with_files

if TYPE_CHECKING:
    from mpisqueeze.runs.preparation import Run

#: Settings that a continued run may have of its own; `parts` says again what the specs of the parts say.
FREE = (
    "iterations",
    "epochs",
    "checkpoint_every",
    "data_dir",
    "out",
    "eval_every",
    "consensus_every",
    "timeout",
    "heartbeat",
    "parts",
)
#: Seconds of an iteration from which on each is kept, and how many times longer than the copy it must take. Open MPI's
#: mpirun gives ranks 0.3 s after a signal, in which a shorter iteration comes to its end.
LONG_S, COPY_SHARE = 0.1, 20
#: Seconds between two looks for other ranks' files.
_LOOK_S = 2e-3
#: Files that grow as a run goes.
LOGS = ("iterations.jsonl", BINARY_LOG, "ranks.jsonl", "evaluations.jsonl")


def check_state(run: Run) -> None:
    """Raise UsageError for a plug-in's algorithm that does not say what it remembers."""
    if not contracts.says_what_it_carries(run.plan.algorithm):
        raise UsageError(
            f"{run.plan.algorithm.name} does not say what it remembers from one iteration to the next: give it the "
            "attribute `memory`, the names of its arrays, or () for none",
            "--checkpoint-every",
        )


def _on_host(run: Run) -> dict[str, np.ndarray]:
    return {key: state.to_host(value) for key, value in run.carried.items()}


def put_back(run: Run, saved: dict[str, np.ndarray]) -> None:
    """Give a run what was saved. Raises DamagedError if that is not of this run."""
    vectors, parts = {"x": run.x}, run.carrying
    mine = {key: value for key, value in saved.items() if key.partition(".")[0] not in parts}
    try:
        state.check_same(vectors, mine)
        for prefix, part in parts.items():
            keys = [key for key in saved if key.startswith(f"{prefix}.")]
            state.put_back(part, {key.removeprefix(f"{prefix}."): saved[key] for key in keys})
    except ValueError as error:
        raise DamagedError(str(error)) from None
    for key, value in mine.items():
        copy_to(vectors[key], value)


def replay_doubts(run: Run, iteration: int) -> list[str]:
    """Sentences about a plug-in's problem or compressor that gives something else when it is asked again; collective.

    One that raises an error raises it in training, too.
    """
    plan, comm = run.plan, run.world.comm
    found = []
    for part, replayed in ((plan.problem, _other_result), (plan.compressor, _other_payload)):
        differs = None
        if part.is_plugin:
            with contextlib.suppress(Exception, SystemExit):
                differs = replayed(run, iteration)
        if differs := next(filter(None, comm.allgather(differs)), None):
            found.append(
                f"{part.spec}: iteration {iteration}, computed twice, gives another {differs}, so that a resumed run "
                "may not repeat this one to the bit: its randomness must be a function of (seed, rank, iteration), and "
                "what it carries over must be in `state`"
            )
    return found


def _other_result(run: Run, iteration: int) -> str | None:
    """The name of something that differs when a problem's iteration is computed twice."""
    before = state.copied(run.problem)
    first, second = (_computed(run, iteration, before) for _ in range(2))
    return next((key for key in sorted({*first, *second}) if first.get(key) != second.get(key)), None)


def _other_payload(run: Run, iteration: int) -> str | None:
    """`payload` if it differs when an iteration is encoded twice, by a compressor that the run does not use."""
    stateful, run.stateful = run.stateful, []
    try:
        compressor = run.make_compressor(run.dimension, 0)
    finally:
        run.stateful = stateful
    vector = run.device.xp.asarray(np.random.default_rng(0).standard_normal(run.dimension).astype(run.plan.dtype))
    return None if contracts.encoding_repeats(compressor, vector) else "payload"


def _computed(run: Run, iteration: int, before: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The bits of what an iteration computes at x; what the problem says that it carries over is put back."""
    loss, g = contracts.loss_and_gradient(run.plan.problem, run.problem.gradient(run.x, iteration))
    found = {"loss": np.float64(loss).tobytes(), "gradient": state.to_host(g).tobytes()}
    found |= {key: array.tobytes() for key, array in state.copied(run.problem).items()}
    state.put_back(run.problem, before)
    return found


class Checkpointer:
    """Saves a run now and then, from a thread of each rank. Its methods are collective, and come in lockstep.

    Args:
        past: on rank 0, what the summary needs of the iterations until now.
    """

    def __init__(self, run: Run, interval: Interval, past: Callable[[], Past]) -> None:
        self.run, self.interval = run, interval
        self._past = past
        path = run.world.comm.bcast(str(Path(run.path).resolve()))
        run.world.collectively(partial(_see, Path(path), run.world.rank))
        run.world.collectively(lambda: check_state(run))
        self._writer = Writer(Path(path), run.world.rank)
        self._early = EarlyWriter(Path(path), run.world.rank)
        self._kept: tuple[dict[str, Any], dict[str, int], Past] | None = None
        self._copying = threading.Lock()
        self._copy_s = 0.0
        self._last = time.monotonic()

    @property
    def overdue(self) -> bool:
        """It is time by the clock; rank 0 tells the others."""
        seconds = self.interval.seconds
        return seconds is not None and time.monotonic() - self._last >= seconds

    def due(self, iteration: int) -> bool:
        """It is time by the count."""
        count = self.interval.iterations
        return count is not None and iteration % count == 0

    def take(self, iteration: int) -> None:
        """Copy everything and have it written. Raises RankFailureError if what was begun before cannot be written."""
        self.settle(wait=True)
        self._publish = partial(self._writer.publish, *self._about())
        self._writer.begin(iteration, _on_host(self.run))
        self._last = time.monotonic()

    def keep(self, iteration: int, iteration_s: float, here: Sequence[Checkpointer]) -> None:
        """Copy everything, for `save_early`, if iterations are long enough for it; not collective.

        All rows up to here must be in the logs.

        Args:
            here: the checkpointers of this process's ranks, whose first this is. None of them is in an iteration.
        """
        if iteration_s < max(LONG_S, COPY_SHARE * self._copy_s):
            return
        began = time.perf_counter()
        if not self._copying.acquire(blocking=False):
            # What was kept is being written, as the run is about to end.
            return
        try:
            for one in here:
                one._early.copy(iteration, _on_host(one.run))
                one._kept = one._about()
        finally:
            self._copying.release()
        self._copy_s = time.perf_counter() - began

    def save_early(self, over: threading.Event, here: Sequence[Checkpointer]) -> None:
        """Write what was kept last, from a thread of each process and without MPI; gives up once `over` is set.

        There is a checkpoint once all ranks have written the same iteration. Rank 0, which waits for that, comes last.
        """
        with self._copying:
            for one in reversed(here):
                # Whatever keeps files from being written is reported where all ranks learn of it.
                with contextlib.suppress(OSError, UsageError):
                    one._write_early(over)

    def _write_early(self, over: threading.Event) -> None:
        if self._kept is None or over.is_set():
            return
        part = self._early.write(*self._kept, self.run.world.size)
        if part is not None and self.run.world.is_root:
            while not complete(part) and not over.wait(_LOOK_S):
                pass

    def _about(self) -> tuple[dict[str, Any], dict[str, int], Past]:
        """The contents of the manifest of a checkpoint at this moment, but for its files; for rank 0."""
        folder = self.run.folder
        return fixed_settings(self.run.plan), folder.sizes(LOGS) if folder else {}, self._past()

    def settle(self, wait: bool = False) -> None:
        """Make valid what all ranks have written by now; with `wait`, once they have. Raises RankFailureError."""
        writer, world = self._writer, self.run.world
        if writer.pending is None or (not wait and world.comm.allreduce(writer.busy, MPI.LOR)):
            return
        digests = world.comm.gather(world.collectively(writer.finish))
        world.collectively(partial(self._publish, digests) if world.is_root else lambda: None)
        writer.pending = None


def _see(path: Path, rank: int) -> None:
    if not path.is_dir():
        raise UsageError(
            f"rank {rank} does not see {path}; put --out on a file system that all hosts share", "--checkpoint-every"
        )


def fixed_settings(plan: Plan) -> dict[str, Any]:
    """The settings that a continued run must share; the folders of files may change."""
    settings = with_files({key: value for key, value in plan.as_json().items() if key not in FREE}, _name)
    return json.loads(json.dumps(settings, default=str))


def resumed_config(path: Path) -> Settings:
    """The settings of the run in a folder, as it was told them. Raises UsageError."""
    settings = read_settings(path, "--resume")
    missing = sorted(SETTINGS.keys() - settings)
    if missing:
        raise UsageError(f"{path}/config.json has no {missing[0]!r}: it is of another version", "--resume")
    # A setting that the run had no use for is null.
    values = {key: value for key, value in settings.items() if key in SETTINGS and value is not None}
    values = with_files(values, _moved) | {"out": str(path), "epochs": None}
    try:
        return Settings.of(values)
    except UsageError as error:
        raise UsageError(f"{path}/config.json: {error}", "--resume") from None


def _name(file: Path) -> Path:
    return Path(file.name)


def _moved(file: Path) -> Path:
    """The file, or the one of its name in the current folder where it is no longer there."""
    here = Path(file.name)
    return here if here.exists() and not file.exists() else file


def continued(config: Settings, given: Mapping[str, Any]) -> Settings:
    """The settings of a run with those that were given anew; a length that is given leaves no other."""
    lengths = dict.fromkeys(EITHER) if given.keys() & set(EITHER) else {}
    return replace(config, **{**lengths, **given})


@dataclass(frozen=True)
class Start:
    """The place in a run where its iterations begin.

    Attributes:
        iteration: the last one that is done; 0 for a run from the start.
        manifest: on rank 0, the checkpoint's, or None.
        remarks: what the user should know, on rank 0.
    """

    iteration: int
    manifest: Manifest | None
    remarks: list[str]


def load_latest(run: Run) -> Start:
    """Take up a run's latest sound checkpoint; collective.

    A run that was killed before its first one begins anew.

    Raises:
        UsageError: on all ranks alike: there is none, or it is of another run.
    """
    world, path = run.world, Path(run.path)
    found: list[Path] = world.on_root(partial(_candidates, path, run.plan))
    remarks: list[str] = []
    for folder in found:
        problem, manifest = None, None
        try:
            manifest = read_manifest(folder)
            check_same(manifest, run.plan)
            if manifest.ranks == world.size:
                put_back(run, read_arrays(manifest, world.rank))
        except DamagedError as error:
            problem = str(error)
        ranks = world.comm.bcast(manifest.ranks if manifest else None)
        if ranks is not None and ranks != world.size:
            raise UsageError(f"{path} is a run of {ranks} ranks, and these are {world.size}", "--resume")
        problems = [text for text in world.comm.allgather(problem) if text]
        if not problems:
            assert manifest is not None
            return Start(manifest.iteration, manifest, [*remarks, f"resumed after iteration {manifest.iteration}"])
        remarks.append(f"checkpoint {folder.name} cannot be used: {problems[0]}")
    if found:
        raise UsageError(f"{path} has no sound checkpoint: {'; '.join(remarks)}", "--resume")
    return Start(0, None, ["there was no checkpoint yet: begun anew"])


def _candidates(path: Path, plan: Plan) -> list[Path]:
    complete_early(path)
    discard_unfinished(path)
    found = checkpoints(path)
    if not found and plan.config.checkpoint_every is None:
        raise UsageError(f"{path} has no checkpoint: it was run without --checkpoint-every", "--resume")
    return found


def check_same(manifest: Manifest, plan: Plan) -> None:
    """Raise UsageError, on all ranks alike, for a checkpoint of another run."""
    wanted = fixed_settings(plan)
    # Former versions noted what the algorithm has no use for, too.
    used = {key: value for key, value in upgraded(manifest.settings).items() if applies(key, plan.algorithm)}
    saved = with_files({key: value for key, value in used.items() if key not in FREE}, _name)
    for key in sorted({*wanted, *saved}):
        if wanted.get(key) != saved.get(key):
            raise UsageError(
                f"config.json has {key} = {wanted.get(key)!r}, and its checkpoint {saved.get(key)!r}",
                "--resume",
            )
