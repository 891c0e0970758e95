"""SGD by MPI_Allreduce."""

from __future__ import annotations

from mpisqueeze.algorithms.sgd import SGD


class Allreduce(SGD):
    """x ← x − (γ/N)·Σ g_r, the sum by MPI_Allreduce: what a user would otherwise pick.

    It is summed in place of the gradient, and x is moved in one pass, so that the baseline is as fast as a loop written
    by hand. No rank looks at its gradient alone: a NaN is found in the sum, by all ranks.
    """

    name = "allreduce"
    summary = "SGD by MPI_Allreduce, the usual baseline"
    route = "allreduce"
    formula = "2(N−1), no server"
