"""The contract of an objective that N ranks minimise together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

Array = Any
"""A `numpy.ndarray`, or a `cupy.ndarray` where the problem was made with xp = cupy."""


class Problem(ABC):
    """min over x of f(x) = mean over ranks of f_r(x); an instance is one rank's view, f_r.

    A problem of one's own need not derive from this class: `__init__`, `dimension`, `initial_point` and
    `gradient` as described here are enough. `iterations_per_epoch` and `evaluate` are optional, and so are two class
    methods: `check_installed()`, which raises UsageError where something that the problem needs is not installed, and
    `limit_threads(count)`, which is told before construction how many threads this rank may compute with.

    With `--overlap` the gradient is asked for by `gradient_in_parts(x, iteration, ready)`, where there is one: as
    `gradient`, and on the way, in the calling thread, it calls ready(gradient, start) whenever the numbers from `start`
    on are final. They are then no longer the problem's: what is sent is made of them in place. The last numbers come
    first, starts only fall, and what was not told of is taken to be final at the end. The class method
    `check_parts(options)` may refuse, with a UsageError, some of the problem's parameters together with that.

    Args:
        rank: this rank, 0 … size − 1.
        size: number of ranks.
        seed: the run's seed, ≥ 0. All randomness must be a function of (seed, rank, iteration), so that a run
            can be repeated, and resumed at any iteration.
        xp: the array module, `numpy` or `cupy`; every array that is taken or given is one of its arrays.
        dtype: float32 or float64; the dtype of x, of the gradient, and of what lies between them.
        and, by keyword alone, the parameters that stand behind its name in a spec, see `language`.

    Attributes:
        name, summary: a built-in problem's name for `--problem`, and a line about it.
        needs_data: it takes the keywords `dataset`, `batch_size` and `partition` too, see `samples.TrainingShare`.
        takes_batch_size: it takes the keyword `batch_size`.
        dimension: d, the number of parameters, ≥ 1; the same on every rank, fixed from construction on.
        default_lr: what `--lr` is unless given; 0.3 without it.
        iterations_per_epoch: what `--epochs` counts, ≥ 1; where ranks differ, the fewest count.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    needs_data: ClassVar[bool] = False
    takes_batch_size: ClassVar[bool] = False
    dimension: int
    iterations_per_epoch: int = 100

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: DTypeLike) -> None:
        self.rank = rank
        self.size = size
        self.seed = seed
        self.xp = xp
        self.dtype = np.dtype(dtype)

    @abstractmethod
    def initial_point(self) -> Array:
        """x₀, (d,), C-contiguous, of the run's dtype, equal on every rank to the bit; owned by the caller."""

    @abstractmethod
    def gradient(self, x: Array, iteration: int) -> tuple[float, Array]:
        """This rank's stochastic loss and gradient at x.

        Args:
            x: (d,), C-contiguous, of the run's dtype; read and neither written nor kept. It may be another
                array, at another address, in each call.
            iteration: 1, 2, …; may jump, since a resumed run starts anywhere.

        Returns:
            The loss f_r(x; batch) as a Python float, and its gradient, (d,), of the run's dtype. The
            gradient's buffer belongs to the problem and holds until the next call of `gradient`; the caller
            may overwrite it. Where x has diverged, both are inf or NaN; nothing is raised or warned of.
        """

    def evaluate(self, x: Array) -> dict[str, float]:
        """Figures of merit at x, (d,), for the log; the same on every rank for the same x. By default none.

        It neither writes x nor touches the gradient's buffer.
        """
        return {}


def copy_to(buffer: Array, host: np.ndarray) -> None:
    """Copy a host array into a host or device buffer of the same shape and dtype."""
    if hasattr(buffer, "set"):
        buffer.set(host)
    else:
        buffer[...] = host
