"""D-PSGD: SGD with gossip averaging."""

from __future__ import annotations

from typing import Annotated, Any

from mpisqueeze.algorithms.base import Gradient, Setup
from mpisqueeze.algorithms.decentralized import GossipAlgorithm
from mpisqueeze.language import choice


class DPSGD(GossipAlgorithm):
    """Decentralized parallel SGD with full vectors.

    `dpsgd:order=atc` (adapt, then combine; the default): x_i ← Σ_j W_ij (x_j − γ g_j).
    `dpsgd:order=awc` (adapt while combining; Lian et al., arXiv 1705.09056, Algorithm 1): x_i ← Σ_j W_ij x_j − γ g_i,
    where the models travel while the gradient is computed, so that only what it does not hide counts as comm_s.
    """

    name = "dpsgd"
    summary = "gossip SGD with full vectors: dpsgd[:order=atc|awc]"
    compresses = False
    directed = True
    formula = "2N on a ring"

    def __init__(self, setup: Setup, *, order: Annotated[str, choice("atc", "awc")] = "atc") -> None:
        super().__init__(setup, setup.identity_codec())
        self.while_combining = order == "awc"

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        gamma = x.dtype.type(lr)
        self.exchange.expect()
        if not self.while_combining:
            g = gradient(x)
            self.add_weighted(x, -gamma, g)
            self.combine(x)
        else:
            self.codec.encode(x, self.exchange.out)
            self.exchange.send(overlap=True)
            g = gradient(x)
            self.check_finite(g)
            x *= self.w
            self.booked()
            self.add_decoded(x)
            self.add_weighted(x, -gamma, g)
            self.booked()
