"""DCD-PSGD: difference compression."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, Setup, bias_doubt
from mpisqueeze.algorithms.decentralized import GossipAlgorithm


class DCD(GossipAlgorithm):
    """z = Σ_j W_ij x̂_j − γ g_i − x_i; send C(z_i); x_i ← x_i + C(z_i), x̂_j ← x̂_j + C(z_j).

    Source: Tang, Gan, Zhang, Zhang & Liu, arXiv 1803.06443, Algorithm 1. C must be unbiased, and precise enough that
    (1 − ρ)² > 4μ²α².

    State: a replica x̂_j (d) for each neighbour, which equals the neighbour's x_j to the bit.
    """

    name = "dcd"
    summary = "gossip of compressed differences, replicas of the neighbours"
    memory = ("x_hat", "_started")
    default_compressor = "uniform:8"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, setup.worker_codec())
        self.x_hat = [setup.zeros() for _ in self.shares]
        self._started = False

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        if not self._started:
            for replica in self.x_hat:
                replica[:] = x
            self._started = True
        self.exchange.expect()
        z = gradient(x)
        z *= -x.dtype.type(lr)
        self.add_weighted(z, self.w, x)
        for weight, replica in zip(self.shares, self.x_hat, strict=True):
            self.add_weighted(z, weight, replica)
        z -= x
        self.booked()
        self.codec.encode(z, self.exchange.out)
        self.exchange.send()
        self.codec.decode_add(self.exchange.out, x)
        for index, payload in self.exchange.receive():
            self.codec.decode_add(payload, self.x_hat[index])

    def doubts(self) -> list[str]:
        """Theorem 1's condition, with C's bound for α² where it states one."""
        spectrum = self.setup.topology.spectrum()
        bound = self.codec.compressor.bound()
        error = self.setup.compressor_error if bound is None else bound
        doubts = bias_doubt(self, self.codec, "arXiv 1803.06443, Assumption 1.5")
        left, right = spectrum.gap**2, 4 * spectrum.mu**2 * error
        if self.setup.size > 1 and left <= right:
            doubts.append(
                f"dcd needs (1 − ρ)² > 4μ²α², and here {left:.3g} ≤ {right:.3g} with α² = {error:.3g} "
                "(arXiv 1803.06443, Theorem 1)"
            )
        return doubts
