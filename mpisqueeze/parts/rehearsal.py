"""The checks of an algorithm: on a rank alone, and on all ranks together, each with a function of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mpisqueeze.algorithms.base import Setup
from mpisqueeze.comm.consensus import Consensus
from mpisqueeze.comm.exchange import HaltError, Network
from mpisqueeze.comm.world import World
from mpisqueeze.devices.device import Device
from mpisqueeze.mpi import MPI
from mpisqueeze.parts import contracts, registry, state
from mpisqueeze.parts.allocation import DIMENSION, allocates_nothing
from mpisqueeze.parts.findings import Check, Doubt
from mpisqueeze.parts.registry import Part
from mpisqueeze.settings import ALLREDUCE
from mpisqueeze.topology import Topology

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
#: Elements of the ranks' quadratics; no multiple of a block, or of the number of servers.
ELEMENTS = 37
#: Iterations with γ = 0.1, and those that follow with nearly none, in which ranks only mix.
STEPS, MIXING = 60, 20
#: Largest distance of x̄ to the minimum, of that at the start: a failure, and a remark.
FAR, NEAR = 0.3, 0.05
#: Least consensus distance, of that without any mixing, that counts as no mixing.
APART = 0.5
#: Largest difference of the ranks' x, of its largest element, for which they count as the same: sums by
#: MPI_Allreduce may differ in their order.
ALIKE = 1e-4


class Rehearsal:
    """An algorithm on ranks of its own: `step` moves x by an iteration. A context that closes it where all went well.

    Args:
        compressor: of some text. Default: one that loses nothing.

    Attributes:
        algorithm: the part's instance.
        network: with the counter of the last iteration's bytes.
    """

    def __init__(
        self,
        part: Part,
        world: World,
        dtype: np.dtype[Any],
        dimension: int = ELEMENTS,
        compressor: str | None = None,
        per_epoch: int = STEPS // 2,
        server: str = "root",
    ) -> None:
        self.network = Network(world, Device())
        compressors = registry.compressors.find(compressor or lossless(part))
        setup = Setup(
            self.network,
            dimension,
            dtype,
            1,
            lambda d, seed: contracts.make_compressor(compressors, d, np, dtype, seed),
            Topology("ring", world.size),
            server,
            shapes=_shapes(dimension),
            per_epoch=per_epoch,
        )
        self.algorithm = part.cls(setup, **part.options)
        contracts.check_algorithm(part, self.algorithm)

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            getattr(self.algorithm, "close", lambda: None)()

    def step(self, t: int, x: np.ndarray, gradient: Callable[[Any], Any], lr: float = 0.5) -> None:
        """Iteration t. Raises AssertionError if it came to an error that ends a run."""
        self.network.iteration = t
        self.network.counter.reset()
        try:
            self.algorithm.step(x, gradient, lr)
            trouble = self.network.trouble
        except HaltError:
            # All ranks are here, and one of them knows why.
            troubles = self.network.world.comm.allgather(self.network.trouble)
            trouble = next(filter(None, troubles), None)
        assert trouble is None, f"iteration {t} ended in an error: {trouble.message}" if trouble else ""

    @property
    def centralized(self) -> bool:
        return bool(getattr(self.algorithm, "centralized", True))


def _shapes(dimension: int) -> list[tuple[int, ...]]:
    """Parameters of so many elements: a square matrix, and a vector of what is left."""
    side = math.isqrt(dimension)
    return [(side, side), (dimension - side**2,)]


def lossless(part: Part) -> str:
    """The compressor that an algorithm takes and that loses nothing, or the only one that it sends with."""
    if not getattr(part.cls, "compresses", True):
        return contracts.default_compressor(part)
    return getattr(part.cls, "lossless", "identity")


def falling(part: Part, lr: float, t: int) -> float:
    """γ of iteration t of STEPS: `lr` or, for an algorithm that needs it, twice as much at first and then less."""
    return 2 * lr * (1 - (t - 1) / STEPS) ** 2 if getattr(part.cls, "falling_lr", False) else lr


# -- on a rank alone


def _descent(part: Part, world: World, dtype: np.dtype[Any], iterations: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """(problem, x₀, x) after some iterations on a quadratic."""
    problem = registry.problems.find(f"quadratic:{ELEMENTS}").cls(0, 1, 1, np, dtype, dimension=ELEMENTS)
    start = problem.initial_point()
    x = start.copy()
    with Rehearsal(part, world, dtype) as found:
        for t in range(1, iterations + 1):
            lr = falling(part, 0.5, t)
            found.step(t, x, lambda point: problem.gradient(point, found.network.iteration)[1], lr)
    return problem, start, x


def _step_descends(part: Part, world: World) -> None:
    for dtype in DTYPES:
        problem, start, x = _descent(part, world, dtype, STEPS)
        before, after = problem.evaluate(start)["distance"], problem.evaluate(x)["distance"]
        assert after < 0.1 * before, _way(STEPS, before, after, dtype)


def _way(steps: int, before: float, after: float, dtype: np.dtype[Any]) -> str:
    return f"{steps} steps on a quadratic go from distance {before:.3g} of its minimum to {after:.3g} ({dtype})"


def _steps_repeat(part: Part, world: World) -> None:
    for dtype in DTYPES:
        _need_same(np.array_equal(_descent(part, world, dtype, 5)[2], _descent(part, world, dtype, 5)[2]))


def _need_same(same: bool) -> None:
    assert same, "the same steps end elsewhere the second time"


def _step_allocates_nothing(part: Part, world: World) -> None:
    dtype = DTYPES[0]
    vector = np.random.default_rng(DIMENSION).standard_normal(DIMENSION).astype(dtype)
    g, x = np.empty_like(vector), vector.copy()

    def gradient(point: np.ndarray) -> np.ndarray:
        np.copyto(g, vector)
        return g

    usual = contracts.default_compressor(part)
    others = getattr(part.cls, "takes", ()) or not getattr(part.cls, "compresses", True)
    for compressor in dict.fromkeys((lossless(part), usual if others else "onebit")):
        with Rehearsal(part, world, dtype, DIMENSION, compressor) as found:
            work = partial(found.step, x=x, gradient=gradient)
            allocates_nothing(part, {f"a step with {compressor}": work}, vector.nbytes)


# -- on all ranks together


def _target(rank: int) -> np.ndarray:
    """b_r, the minimum of a rank's function ½‖x − b_r‖²."""
    return np.random.default_rng([7, rank]).standard_normal(ELEMENTS)


def _gradient(target: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """x ↦ x − b_r, in the same array each time."""
    g = np.empty_like(target)
    return lambda x: np.subtract(x, target, out=g)


@dataclass(frozen=True)
class _Course:
    """The outcome of STEPS + MIXING iterations without compression.

    Attributes:
        x: this rank's parameters (d) in the end.
        centralized: what the algorithm says.
        alike: after how many iterations all ranks had the same x.
        apart: mean ‖x_r − x̄‖² over ranks in the end; `alone`: the same where no rank tells another anything.
        sent: bytes that all ranks counted, by iteration.
        stated: what `bytes_per_iteration` says.
    """

    x: np.ndarray
    centralized: bool
    alike: int
    apart: float
    alone: float
    sent: list[int]
    stated: int | None


def _course(part: Part, world: World, dtype: np.dtype[Any]) -> _Course:
    target = _target(world.rank).astype(dtype)
    x, alone = np.full(ELEMENTS, 3, dtype), np.full(ELEMENTS, 3, dtype)
    everyone = np.empty((world.size, ELEMENTS), dtype)
    alike, sent, gradient = 0, [], _gradient(target)
    with Rehearsal(part, world, dtype) as found:
        for t in range(1, STEPS + MIXING + 1):
            lr = falling(part, 0.1, t) if t <= STEPS else 1e-3
            found.step(t, x, gradient, lr)
            alone -= dtype.type(lr) * (alone - target)
            sent.append(found.network.counter.bytes_sent)
            world.comm.Allgather(x, everyone)
            # A NaN is not alike.
            alike += bool(np.ptp(everyone, axis=0).max() <= ALIKE * np.abs(everyone).max())
        stated = getattr(found.algorithm, "bytes_per_iteration", lambda: None)()
        consensus = Consensus(world, ELEMENTS, dtype)
        apart, without = (world.comm.allreduce(consensus.distance(point)) / world.size for point in (x, alone))
        return _Course(
            x, found.centralized, alike, apart, without, world.comm.allreduce(np.array(sent)).tolist(), stated
        )


def _several(world: World) -> None:
    if world.size == 1:
        raise Doubt("untried on one rank: start it as `mpirun -n 3 mpisqueeze check …`")


def _need_together(found: _Course) -> None:
    """Raise AssertionError, or Doubt, unless ranks have the same x or mix theirs."""
    steps = len(found.sent)
    assert np.isfinite(found.apart), f"x holds a NaN or an infinity after {steps} iterations"
    nothing = "" if any(found.sent) else "no rank sends anything, and "
    if not found.centralized:
        assert found.apart < APART * found.alone, (
            f"{nothing}ranks do not mix: E‖x_r − x̄‖² is {found.apart:.3g} after {steps} iterations, and "
            f"{found.alone:.3g} without any exchange"
        )
        return
    assert found.alike, f"{nothing}x differs by rank after each iteration, though `centralized` is True"
    if found.alike < steps:
        raise Doubt(f"x is the same on all ranks after {found.alike} of {steps} iterations; rank 0's is evaluated")


def _ranks_work_together(part: Part, world: World) -> None:
    _several(world)
    for dtype in DTYPES:
        found = _course(part, world, dtype)
        _need_together(found)
        targets = np.array([_target(rank) for rank in range(world.size)])
        mean = world.comm.allreduce(found.x.astype(np.float64)) / world.size
        ends = (np.full(ELEMENTS, 3.0), mean)
        start, end = (float(np.linalg.norm(point - targets.mean(axis=0))) for point in ends)
        each = np.linalg.norm(mean - targets, axis=1)
        nearest = int(each.argmin())
        assert not each[nearest] < min(end, FAR * start), f"x goes to the minimum of rank {nearest}'s function alone"
        assert end < FAR * start, _way(STEPS, start, end, dtype)
        if end > NEAR * start:
            raise Doubt(_way(STEPS, start, end, dtype))


def _bytes_are_counted(part: Part, world: World) -> None:
    _several(world)
    found = _course(part, world, DTYPES[0])
    if not any(found.sent):
        _need_together(found)
        raise Doubt("no byte is counted, so that a run reads as 100 % saved: send by an exchange of `setup.network`")
    assert found.stated is None or found.stated in found.sent, (
        f"bytes_per_iteration gives {found.stated}, and the ranks send {found.sent[1]}"
    )


def _walk(
    part: Part,
    world: World,
    steps: int,
    again_after: int | None = None,
    compressor: str | None = None,
    server: str = "root",
) -> np.ndarray:
    """x (d) after some iterations.

    Args:
        again_after: the iteration after which another instance goes on, with x and what the part says that it carries.
        compressor: default: the algorithm's own.
    """
    dtype, compressor = DTYPES[0], compressor or contracts.default_compressor(part)
    gradient, x = _gradient(_target(world.rank).astype(dtype)), np.full(ELEMENTS, 3, dtype)
    saved: dict[str, np.ndarray] = {}
    for first, last in ((1, steps),) if again_after is None else ((1, again_after), (again_after + 1, steps)):
        with Rehearsal(part, world, dtype, ELEMENTS, compressor, per_epoch=5, server=server) as found:
            if first > 1:
                state.put_back(found.algorithm, saved)
            for t in range(first, last + 1):
                found.step(t, x, gradient, 0.05)
            saved = state.copied(found.algorithm)
    return x


def _same(world: World, first: np.ndarray, second: np.ndarray) -> bool:
    """Two vectors are the same on each rank; collective."""
    return bool(world.comm.allreduce(bool(np.array_equal(first, second)), MPI.LAND))


def _ranks_repeat(part: Part, world: World) -> None:
    _need_same(_same(world, _walk(part, world, 12), _walk(part, world, 12)))


def _resumes(part: Part, world: World) -> None:
    whole = _walk(part, world, 12)
    try:
        same = _same(world, whole, _walk(part, world, 12, 7))
    except ValueError as error:
        raise AssertionError(f"what it carries cannot be put back: {error}") from None
    if same:
        return
    _ranks_repeat(part, world)
    carried = ", ".join(getattr(part.cls, "memory", ())) or "nothing"
    assert not contracts.says_what_it_carries(part), (
        f"a run that is resumed after iteration 7 goes elsewhere: `memory` names {carried}, and something is missing"
    )
    raise Doubt("it carries something over and does not say what: name it in `memory`, or no run has checkpoints")


def _answers_are_means(part: Part, world: World) -> None:
    if not getattr(part.cls, "linear", False):
        return
    for compressor in ("identity", "randomk:0.3,shared") if getattr(part.cls, "compresses", True) else ("identity",):
        by_root, by_all = (_walk(part, world, 12, None, compressor, server) for server in ("root", ALLREDUCE))
        assert np.allclose(by_root, by_all, rtol=ALIKE, atol=ALIKE), (
            f"`linear` is True, but with {compressor} it goes elsewhere by --server {ALLREDUCE} than by a root"
        )


#: On a rank alone, in a world of its own.
ALONE: list[tuple[str, Check]] = [
    ("on one rank, without compression, it minimises a quadratic", _step_descends),
    ("its steps are reproducible", _steps_repeat),
    ("an iteration allocates no vector", _step_allocates_nothing),
]
#: Collective.
TOGETHER: list[tuple[str, Check]] = [
    ("ranks minimise the mean of their functions together", _ranks_work_together),
    ("it counts what it sends", _bytes_are_counted),
    ("with compression it is reproducible over ranks", _ranks_repeat),
    ("it goes on from what it carries over, to the bit", _resumes),
    ("its server answers with the mean if it says so", _answers_are_means),
]
