"""Plug-in parts, sound and broken, for the tests."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np


class Quadratic:
    """½‖x − b_r‖², b_r = (0, …, 6) + r, so that the minimum on 3 ranks is (1, …, 7)."""

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        self.rank, self.xp = rank, xp
        self.dimension = 7
        self.b = xp.arange(7, dtype=dtype) + rank

    def initial_point(self) -> Any:
        return self.xp.zeros_like(self.b)

    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        g = x - self.b
        return 0.5 * float(g @ g), g


class WrongShape(Quadratic):
    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        loss, g = super().gradient(x, iteration)
        return loss, g[:3]


class NaNAtStart(Quadratic):
    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        loss, g = super().gradient(x, iteration)
        g[2] = np.nan
        return loss, g


class GradientMovesX(Quadratic):
    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        x -= 1
        return super().gradient(x, iteration)


class EvaluateMovesX(Quadratic):
    def evaluate(self, x: Any) -> Any:
        x -= 1
        return {"sum": float(x.sum())}


class EvaluatesToText(Quadratic):
    def evaluate(self, x: Any) -> Any:
        return {"grade": "A"}


class NaNLater(Quadratic):
    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        loss, g = super().gradient(x, iteration)
        if iteration == 30 and self.rank == 2:
            g[2] = np.nan
        return loss, g


class RaisesLater(Quadratic):
    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        if iteration == 7 and self.rank == 1:
            raise ValueError("on purpose")
        return super().gradient(x, iteration)


class DifferentStarts(Quadratic):
    def initial_point(self) -> Any:
        return super().initial_point() + self.rank


class RaisesOnRank1(Quadratic):
    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        if rank == 1:
            raise KeyError("nothing")
        super().__init__(rank, size, seed, xp, dtype)


class Slow(Quadratic):
    """It leaves its process id in the current folder, so that a test can send a signal to a rank."""

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        super().__init__(rank, size, seed, xp, dtype)
        Path(f"pid.{rank}").write_text(str(os.getpid()))

    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        time.sleep(0.01)
        return super().gradient(x, iteration)


class Alone:
    """An algorithm with nothing but the contract's minimum: no rank tells another anything."""

    centralized = False

    def __init__(self, setup: Any) -> None:
        pass

    def step(self, x: Any, gradient: Any, lr: float) -> None:
        x -= lr * gradient(x)


class Summed:
    """SGD by an exchange of the package."""

    def __init__(self, setup: Any) -> None:
        from mpisqueeze.comm.allreduce import AllreduceExchange

        self.size = setup.size
        self.exchange = AllreduceExchange(setup.network, setup.dimension, setup.dtype)

    def step(self, x: Any, gradient: Any, lr: float) -> None:
        x -= lr / self.size * self.exchange.sum(gradient(x))


class Halves:
    """float32 of each number, with nothing but the contract's minimum."""

    unbiased = False

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        self.payload_bytes = 4 * dimension

    def encode(self, vector: Any, payload: Any) -> None:
        payload.view(np.float32)[:] = vector

    def decode(self, payload: Any, out: Any) -> None:
        out[:] = payload.view(np.float32)


class EverySecond:
    """Every second element as it is."""

    unbiased, linear = False, True

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        self.dtype = np.dtype(dtype)
        self.payload_bytes = (dimension + 1) // 2 * self.dtype.itemsize

    def encode(self, vector: Any, payload: Any) -> None:
        payload.view(self.dtype)[:] = vector[::2]

    def decode(self, payload: Any, out: Any) -> None:
        out[:] = 0
        out[::2] = payload.view(self.dtype)


class WrongPayload(Halves):
    def encode(self, vector: Any, payload: Any) -> None:
        payload[:] = np.zeros(3, np.uint8)


class NoPayloadSize(Halves):
    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        pass


class FailsLater(Halves):
    """Its first encoding is the trial before training."""

    def encode(self, vector: Any, payload: Any) -> None:
        if getattr(self, "iteration", 0) == 6:
            raise RuntimeError("on purpose")
        super().encode(vector, payload)
