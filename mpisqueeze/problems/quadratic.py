"""A quadratic of any dimension with a known minimum, for exact checks and for timing communication."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.data.seeding import Stream, generator
from mpisqueeze.language import integer, real
from mpisqueeze.problems.base import Array, Problem, copy_to

_BLOCK = 1 << 20


class Quadratic(Problem):
    """f_r(x) = ½ Σ_i a_i (x_i − b_{r,i})² with curvatures a_i falling from 1 to 1/condition, log-spaced.

    b_r = b + spread·c_r·u, with b and u standard normal and c_r evenly spaced such that Σ c_r = 0 and mean c_r² = 1
    (c = 0 on a single rank). Hence, up to rounding, the mean of the f_r is minimal at b for any number of ranks, and no
    rank needs another's b_r:

        f(x) = ½ Σ a_i (x_i − b_i)² + ½ spread² Σ a_i u_i² [N > 1],   ∇f_r(b) = −spread·c_r·a·u

    x₀ = 0. a, b and u are made in double precision, so that float32 and float64 runs pose the same problem.

    Args:
        dimension: d ≥ 1.
        condition: largest over smallest curvature, ≥ 1.
        noise: standard deviation of the normal noise on each element of the gradient, drawn on the host from (seed,
            rank, iteration); the loss has none.
        spread: root mean square distance of the ranks' minima from the common one, per element.
    """

    name = "quadratic"
    summary = "strongly convex with a known minimum: quadratic:DIM[,condition=K][,noise=S][,spread=S]"

    def __init__(
        self,
        *run: Any,
        dimension: Annotated[int, integer(1, 2**31 - 1, accepts="a size from 1 to 2³¹ − 1 such as 10M")],
        condition: Annotated[float, real(1)] = 10.0,
        noise: Annotated[float, real(0)] = 0.0,
        spread: Annotated[float, real(0)] = 1.0,
    ) -> None:
        super().__init__(*run)
        xp, rank, size = self.xp, self.rank, self.size
        self.dimension = dimension
        self._noise = noise
        a, b = (np.empty(dimension, self.dtype) for _ in range(2))
        spread_out = size > 1 and spread > 0
        b_rank = np.empty(dimension, self.dtype) if spread_out else b
        shift = spread * (2 * rank - (size - 1)) / math.sqrt((size * size - 1) / 3) if spread_out else 0.0
        b_draws = generator(self.seed, Stream.QUADRATIC, 0)
        u_draws = generator(self.seed, Stream.QUADRATIC, 1)
        decay = -math.log(condition) / max(1, dimension - 1)
        self._floor = 0.0
        for start in range(0, dimension, _BLOCK):
            block = slice(start, min(start + _BLOCK, dimension))
            curvature = np.exp(decay * np.arange(block.start, block.stop))
            centre = b_draws.standard_normal(len(curvature))
            a[block], b[block] = curvature, centre
            if spread_out:
                u = u_draws.standard_normal(len(curvature))
                b_rank[block] = centre + shift * u
                self._floor += 0.5 * spread**2 * float(np.vdot(curvature, u * u))
        self._a, self._b = xp.asarray(a), xp.asarray(b)
        self._b_rank = xp.asarray(b_rank) if spread_out else self._b
        self._difference = xp.empty(dimension, self.dtype)
        self._gradient = xp.empty(dimension, self.dtype)
        if noise:
            self._host_noise: NDArray[Any] = np.empty(dimension, self.dtype)
            self._device_noise = self._host_noise if xp is np else xp.empty(dimension, self.dtype)

    @classmethod
    def needs(cls, size: int, **options: Any) -> tuple[int, int]:
        apart = size > 1 and options.get("spread", 1.0) > 0
        # a, b, x − b and the gradient; this rank's b; noise.
        return options["dimension"], 4 + apart + (options.get("noise", 0.0) > 0)

    def initial_point(self) -> Array:
        return self.xp.zeros(self.dimension, self.dtype)

    def gradient(self, x: Array, iteration: int) -> tuple[float, Array]:
        xp = self.xp
        with np.errstate(all="ignore"):
            xp.subtract(x, self._b_rank, out=self._difference)
            xp.multiply(self._a, self._difference, out=self._gradient)
            loss = 0.5 * float(xp.vdot(self._difference, self._gradient))
            if self._noise:
                self._draw_noise(iteration)
                xp.add(self._gradient, self._device_noise, out=self._gradient)
        return loss, self._gradient

    def evaluate(self, x: Array) -> dict[str, float]:
        """`objective`, f(x), the mean over ranks of f_r, and `distance`, ‖x − b‖₂."""
        xp, squares = self.xp, self._difference
        with np.errstate(all="ignore"):
            xp.subtract(x, self._b, out=squares)
            xp.multiply(squares, squares, out=squares)
            objective = 0.5 * float(xp.vdot(self._a, squares)) + self._floor
            distance = float(xp.sum(squares)) ** 0.5
        return {"objective": objective, "distance": distance}

    def _draw_noise(self, iteration: int) -> None:
        noise = self._host_noise
        generator(self.seed, Stream.GRADIENT_NOISE, self.rank, iteration).standard_normal(out=noise, dtype=noise.dtype)
        noise *= self._noise
        if self._device_noise is not noise:
            copy_to(self._device_noise, noise)
