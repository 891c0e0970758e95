"""Parts that each break their contract in one way, and the line that `mpisqueeze check` has for it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from mpi4py import MPI

from mpisqueeze.algorithms.base import Gradient, Setup
from mpisqueeze.algorithms.centralized import ServerAlgorithm, worker_vector
from mpisqueeze.algorithms.decentralized import GossipAlgorithm
from mpisqueeze.algorithms.sections import Section
from mpisqueeze.comm.allreduce import AllreduceExchange

#: The outcome and a part of the line of the first check that does not pass, by the part's name.
SAYS: dict[str, tuple[str, str]] = {}


def says(outcome: str, text: str) -> Any:
    def note(cls: Any) -> Any:
        SAYS[cls.__name__] = (outcome, text)
        return cls

    return note


class Halves:
    """Sound: float32 of each element."""

    unbiased = False

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        self.dimension, self.seed, self.iteration = dimension, seed, 0
        self.payload_bytes = 4 * dimension

    def bound(self) -> float:
        return 1e-6

    def encode(self, vector: Any, payload: Any) -> None:
        payload.view(np.float32)[:] = vector

    def decode(self, payload: Any, out: Any) -> None:
        out[:] = payload.view(np.float32)


@says("failed", "could not broadcast input array from shape (2,) into shape (1,) (broken_parts.py, line ")
class WrongSize(Halves):
    """Its payload is half as long as what it writes."""

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.payload_bytes = 2 * (dimension + dimension % 2)


@says("failed", "payload_bytes depends on the seed")
class SizeBySeed(Halves):
    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.payload_bytes += seed % 2


@says("failed", "encode wrote beyond the 4 bytes of its payload")
class WritesBeyond(Halves):
    def encode(self, vector: Any, payload: Any) -> None:
        beyond = np.lib.stride_tricks.as_strided(payload, (payload.size + 4,))
        beyond[:-4].view(np.float32)[:] = vector
        beyond[-4:] = 0


@says("failed", "linear, but a payload is no array of float64")
class SaysLinear(Halves):
    linear = True


@says("failed", "encode changed the vector")
class ChangesVector(Halves):
    def encode(self, vector: Any, payload: Any) -> None:
        super().encode(vector, payload)
        vector *= 0.5


@says("failed", "decode left elements of out unset")
class DecodesLess(Halves):
    def decode(self, payload: Any, out: Any) -> None:
        out[:-1] = payload.view(np.float32)[:-1]


@says("failed", "element 0 of 1 never arrives, in 40 rounds with error feedback")
class ForgetsLast(Halves):
    def decode(self, payload: Any, out: Any) -> None:
        super().decode(payload, out)
        out[-1] = 0


@says("failed", "leaves byte 0 of its payload unset")
class LeavesUnset(Halves):
    def encode(self, vector: Any, payload: Any) -> None:
        payload.view(np.float32)[1:] = vector[1:]


@says("failed", "depends on something else, such as a generator of the whole process")
class GlobalGenerator(Halves):
    def encode(self, vector: Any, payload: Any) -> None:
        payload.view(np.float32)[:] = vector * (1 + 1e-4 * np.random.random(vector.size))  # noqa: NPY002


@says("doubtful", "it carries something from one encoding to the next")
class OwnGenerator(Halves):
    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.generator = np.random.default_rng(seed)

    def encode(self, vector: Any, payload: Any) -> None:
        payload.view(np.float32)[:] = vector * (1 + 1e-4 * self.generator.random(vector.size))


class Counts(Halves):
    """Sound: what it carries over is in its `state`."""

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.state = {"count": np.zeros(1, np.int64)}

    def encode(self, vector: Any, payload: Any) -> None:
        self.state["count"] += 1
        payload.view(np.float32)[:] = vector * (1 + 1e-7 * (self.state["count"] % 3))


@says("failed", "a replay with its state.other put back gives another payload")
class StateOfSomethingElse(OwnGenerator):
    state = {"other": np.zeros(1)}  # noqa: RUF012


@says("doubtful", "it draws the same random numbers in each iteration")
class IgnoresIteration(Halves):
    def encode(self, vector: Any, payload: Any) -> None:
        draws = np.random.default_rng(self.seed % 2**32).random(vector.size)
        payload.view(np.float32)[:] = vector * (1 + 1e-4 * draws)


@says("failed", "ValueError: on purpose (broken_parts.py, line ")
class RaisesAlways(Halves):
    def encode(self, vector: Any, payload: Any) -> None:
        raise ValueError("on purpose")


@says("failed", "another rank's instance decodes something else")
class DecodesBySeed(Halves):
    def decode(self, payload: Any, out: Any) -> None:
        out[:] = payload.view(np.float32) * (self.seed % 5)


@says("failed", "standard errors off")
class NotUnbiased(Halves):
    unbiased = True

    def encode(self, vector: Any, payload: Any) -> None:
        payload.view(np.float32)[:] = 0.9 * vector


@says("failed", "its bound 1e-06")
class BoundTooSmall(Halves):
    def encode(self, vector: Any, payload: Any) -> None:
        payload.view(np.float32)[:] = 0.9 * vector


class Bowl:
    """Sound: ½‖x − b_r‖², b_r of the rank."""

    dimension = 5

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        self.rank, self.seed, self.dtype = rank, seed, dtype
        self.g = np.empty(self.dimension, dtype)

    def initial_point(self) -> Any:
        return np.ones(self.dimension, self.dtype)

    def gradient(self, x: Any, iteration: int) -> Any:
        np.subtract(x, self.rank + 2, out=self.g)
        return 0.5 * float(self.g @ self.g), self.g

    def evaluate(self, x: Any) -> dict[str, float]:
        return {"norm": float(x @ x)}


@says("doubtful", "along the gradient the loss changes by 10, not by ‖g‖² = 20")
class OtherGradient(Bowl):
    def gradient(self, x: Any, iteration: int) -> Any:
        loss, g = super().gradient(x, iteration)
        g *= 2
        return loss, g


@says("failed", "initial_point differs between ranks 0 and 1")
class OtherStart(Bowl):
    def initial_point(self) -> Any:
        return super().initial_point() + self.rank


@says("failed", "the shape of initial_point differs by rank: (5,), (6,), (7,)")
class OtherDimension(Bowl):
    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        self.dimension = 5 + rank
        super().__init__(rank, size, seed, xp, dtype)


@says("doubtful", "computed again gives another gradient")
class DrawsOnAndOn(Bowl):
    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        super().__init__(rank, size, seed, xp, dtype)
        self.generator = np.random.default_rng([seed, rank])

    def gradient(self, x: Any, iteration: int) -> Any:
        loss, g = super().gradient(x, iteration)
        g += 1e-6 * self.generator.standard_normal(g.size)
        return loss, g


@says("failed", "gradient changed x")
class ChangesX(Bowl):
    def gradient(self, x: Any, iteration: int) -> Any:
        found = super().gradient(x, iteration)
        x *= 0.5
        return found


@says("failed", "shape (3,), not an array of shape (5,)")
class WrongShape(Bowl):
    def gradient(self, x: Any, iteration: int) -> Any:
        loss, g = super().gradient(x, iteration)
        return loss, g[:3]


@says("failed", "KeyError: 'nothing' (broken_parts.py, line ")
class NoGradient(Bowl):
    def gradient(self, x: Any, iteration: int) -> Any:
        raise KeyError("nothing")


@says("failed", "no rank sends anything, and x differs by rank after each iteration, though `centralized` is True")
class NeverSends:
    memory = ()

    def __init__(self, setup: Setup) -> None:
        self.g = setup.zeros()

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        np.multiply(gradient(x), lr, out=self.g)
        x -= self.g


@says("failed", "no rank sends anything, and ranks do not mix: E‖x_r − x̄‖² is 2")
class NeverMixes(NeverSends):
    centralized = False


@says("failed", "ranks do not mix: E‖x_r − x̄‖² is 2")
class MixesInVain(GossipAlgorithm):
    """It sends x to its neighbours, and forgets what they sent."""

    memory = ()

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, setup.identity_codec())

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        x -= lr * gradient(x)
        self.exchange.expect()
        self.codec.encode(x, self.exchange.out)
        self.exchange.send()
        for _ in self.exchange.receive():
            pass


@says("failed", "x differs by rank after each iteration, though `centralized` is True")
class OwnStep(ServerAlgorithm):
    """Each rank takes a step of its own length."""

    memory = ()

    def apply(self, section: Section) -> None:
        section.decode_add(section.x, -self.lr * (1 + 0.1 * self.setup.rank))


@says("failed", "x goes to the minimum of rank 0's function alone")
class RootAlone(ServerAlgorithm):
    memory = ()

    def send(self, section: Section) -> None:
        section.g *= self.setup.size * (self.setup.rank == 0)
        super().send(section)


@says("doubtful", "no byte is counted, so that a run reads as 100 % saved")
class CountsNothing(NeverSends):
    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        MPI.COMM_WORLD.Allreduce(gradient(x), self.g)
        x -= lr / MPI.COMM_WORLD.size * self.g


@says("failed", "bytes_per_iteration gives 5, and the ranks send ")
class StatesOtherBytes(NeverSends):
    def __init__(self, setup: Setup) -> None:
        self.exchange, self.size = AllreduceExchange(setup.network, setup.dimension, setup.dtype), setup.size

    def bytes_per_iteration(self) -> int:
        return 5

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        x -= lr / self.size * self.exchange.sum(gradient(x))


@says(
    "failed",
    "a run that is resumed after iteration 7 goes elsewhere: `memory` names velocity, and something is missing",
)
class ForgetsOnResume(ServerAlgorithm):
    velocity = worker_vector()

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.count = 0

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.count += 1
        super().step(x, gradient, lr / self.count**0.1)


@says("failed", "`linear` is True, but with identity it goes elsewhere by --server allreduce than by a root")
class AnswersMore(ServerAlgorithm):
    memory = ()
    linear = True

    def answer(self, section: Section) -> None:
        section.mean *= 1.1
        section.encode(section.mean)


@says("failed", "the same steps end elsewhere the second time")
class Unseeded(ServerAlgorithm):
    memory = ()

    def apply(self, section: Section) -> None:
        section.decode_add(section.x, -self.lr * (1 + 1e-3 * int.from_bytes(os.urandom(1), "big")))


@says("failed", "60 steps on a quadratic go from distance")
class WrongSign(ServerAlgorithm):
    memory = ()

    def apply(self, section: Section) -> None:
        section.decode_add(section.x, 0.01 * self.lr)


@says("failed", "ZeroDivisionError: division by zero (broken_parts.py, line ")
class RaisesInStep(ServerAlgorithm):
    memory = ()

    def apply(self, section: Section) -> None:
        section.decode_add(section.x, 1 / 0)


@says("failed", "iteration 1 ended in an error: a number was NaN")
class EncodesNaN(ServerAlgorithm):
    memory = ()

    def send(self, section: Section) -> None:
        section.g[0] = np.nan
        super().send(section)


@says("failed", "rank 1: ZeroDivisionError: division by zero (broken_parts.py, line ")
class RaisesOnRank1(ServerAlgorithm):
    """The others wait for its payload."""

    memory = ()

    def send(self, section: Section) -> None:
        super().send(section)
        1 / (self.setup.rank != 1)
