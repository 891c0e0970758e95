"""The contract of an objective that N ranks minimise together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

Array = Any
"""A `numpy.ndarray`, or a `cupy.ndarray` where the problem was made with xp = cupy."""


class Problem(ABC):
    """min over x of f(x) = mean over ranks of w_r·f_r(x); an instance is one rank's f_r.

    w_r is 1, or n_r·N/Σ n where each of N ranks says that its f_r is a mean over n_r samples of its own: f is then the
    mean over the samples of all. The caller of `gradient` multiplies by w_r.

    A plug-in need not derive from this class: `__init__`, `dimension`, `initial_point` and `gradient` as described here
    are enough. `iterations_per_epoch` and `evaluate` are optional, and so is `doubts()`, sentences about what a user
    should know before training. What a problem carries from one iteration to the next besides x is `state`, a
    dictionary of arrays by name, see `parts.state`. Optional, too, are two class methods: `check_installed()`
    raises UsageError if a package that the problem needs is missing, and `limit_threads(count)` is called before
    construction with the number of threads that this rank may use.

    With `--overlap`, `gradient_in_parts(x, iteration, ready)` is called instead of `gradient` if it exists. It does the
    same, and in the calling thread calls ready(gradient, start) whenever the elements from `start` on are final; these
    then belong to the caller, which overwrites them. `start` only falls, and elements not yet reported are final when
    the method returns. The class method `check_parts(options)` may refuse options of the problem that do not work with
    this, by a UsageError.

    Args:
        rank: this rank, 0 … size − 1.
        size: number of ranks.
        seed: the run's seed, ≥ 0. All randomness must be a function of (seed, rank, iteration), so that a run can be
            repeated, and resumed at any iteration.
        xp: array module of all arguments and results, `numpy` or `cupy`.
        dtype: float32 or float64; dtype of x, of the gradient and of intermediate results.

    The parameters of a spec (`NAME:ARG,key=value`) are further arguments, by keyword only, see `language`.

    Attributes:
        name: name of a built-in problem for `--problem`.
        summary: a line about it for `info`.
        needs_data: whether it takes the keywords `dataset`, `batch_size` and `partition`, see `samples.training_share`.
        takes_batch_size: whether it takes the keyword `batch_size`.
        dimension: d ≥ 1, the length of x; the same on every rank.
        default_lr: default of `--lr`; 0.3 if missing.
        default_data: default of `--data`; digits if missing.
        iterations_per_epoch: iterations in an epoch, ≥ 1; where ranks differ, the smallest counts.
        training_samples: n_r ≥ 1, the samples that f_r is the mean over, or None.
        shapes: of the parameters that make up x, in its order, the same on every rank; d elements in all. A complex
            parameter's last dimension counts twice, since each of its numbers is two elements. None: x is one vector.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    needs_data: ClassVar[bool] = False
    takes_batch_size: ClassVar[bool] = False
    dimension: int
    iterations_per_epoch: int = 100
    training_samples: int | None = None
    shapes: Sequence[tuple[int, ...]] | None = None

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: DTypeLike) -> None:
        self.rank = rank
        self.size = size
        self.seed = seed
        self.xp = xp
        self.dtype = np.dtype(dtype)

    @classmethod
    def needs(cls, size: int, **options: Any) -> tuple[int, int] | None:
        """(d, vectors of d elements that an instance holds, its gradient's among them), if `options` tell; else None.

        Args:
            size: number of ranks.
            options: the parameters of a spec.
        """
        return None

    @abstractmethod
    def initial_point(self) -> Array:
        """x₀, (d,), C-contiguous, of the run's dtype, equal on every rank to the bit; owned by the caller."""

    @abstractmethod
    def gradient(self, x: Array, iteration: int) -> tuple[float, Array]:
        """This rank's stochastic loss and gradient at x.

        Args:
            x: (d,), C-contiguous, of the run's dtype; neither written nor kept. Each call may pass another array.
            iteration: 1, 2, …; it may jump, since a resumed run starts anywhere.

        Returns:
            The loss f_r(x; batch) as a Python float, and its gradient, (d,), of the run's dtype. The gradient's buffer
            belongs to the problem and is valid until the next call, and the caller overwrites it: what it holds after
            the call is lost. The same buffer each time saves a copy. Where x has diverged, both are inf or NaN, without
            an exception or a warning.
        """

    def evaluate(self, x: Array) -> dict[str, float]:
        """Figures of merit at x, (d,), for the log; the same on every rank for the same x. The default is none.

        Neither x nor the gradient's buffer is changed.
        """
        return {}


def address_of(array: Array) -> int:
    """The address of an array's first element in its device's memory."""
    return array.data.ptr if hasattr(array.data, "ptr") else array.ctypes.data


def copy_to(buffer: Array, host: np.ndarray) -> None:
    """Copy a host array into a host or device buffer of the same shape and dtype."""
    if hasattr(buffer, "set"):
        buffer.set(host)
    else:
        buffer[...] = host
