"""BEER: gossip with gradient tracking, of which both models and directions are compressed."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, Setup, feedback_doubt
from mpisqueeze.algorithms.decentralized import GossipAlgorithm, GossipStep


class Beer(GossipAlgorithm):
    """v_i follows the mean gradient, x_i moves along v_i, and both are mixed by estimates that all neighbours share.

    v_i ← v_i + η Σ_j W_ij (ĝ_j − ĝ_i) + g_i − g_i,prev; q = C(v_i − ĝ_i); ĝ_i ← ĝ_i + q;
    x_i ← x_i + η Σ_j W_ij (x̂_j − x̂_i) − γ v_i; q′ = C(x_i − x̂_i); x̂_i ← x̂_i + q′.

    Source: Zhao, Li, Li, Richtárik & Chi, arXiv 2201.13320, Algorithm 1, in the order of its authors' code, by which
    a rank needs one gradient and one exchange an iteration: q and q′ travel together. The mean of all v_i is the mean
    of all g_i at all times. With C = identity it is gradient tracking. C may be biased. `beer:eta=0.3` sets η; it
    defaults to `Setup.gossip_step`.

    State: v_i, g_i,prev, x̂_i, ĝ_i, and s_i = Σ_j W_ij x̂_j, r_i = Σ_j W_ij ĝ_j (d each), all 0 at the start.
    """

    name = "beer"
    summary = "gossip with gradient tracking, both compressed: beer[:eta=η] (arXiv 2201.13320)"
    memory = ("v", "g_prev", "x_hat", "g_hat", "s", "r")
    payloads = 2
    formula = "4cN on a ring"
    passes = (12, 0)

    def __init__(self, setup: Setup, *, eta: GossipStep = None) -> None:
        super().__init__(setup, setup.worker_codec())
        self._tracking = setup.worker_codec(part=1)
        self.v, self.g_prev = setup.zeros(), setup.zeros()
        self.x_hat, self.g_hat = setup.zeros(), setup.zeros()
        self.s, self.r = setup.zeros(), setup.zeros()
        self._step = setup.zeros()
        self.eta = setup.gossip_step() if eta is None else eta

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.exchange.expect()
        g = gradient(x)
        models, directions = self.exchange.outs
        self._mix(self.v, self.r, self.g_hat)
        self.v += g
        self.v -= self.g_prev
        self.g_prev[:] = g
        difference = g
        self.setup.network.device.xp.subtract(self.v, self.g_hat, out=difference)
        self.booked()
        self._tracking.encode(difference, directions)
        self._mix(x, self.s, self.x_hat)
        self.add_weighted(x, -x.dtype.type(lr), self.v)
        self.setup.network.device.xp.subtract(x, self.x_hat, out=difference)
        self.booked()
        self.codec.encode(difference, models)
        self.exchange.send()
        self._take(models, self.codec, self.w, self.s, self.x_hat)
        self._take(directions, self._tracking, self.w, self.r, self.g_hat)
        for index, model, direction in self.exchange.receive():
            self._take(model, self.codec, self.shares[index], self.s)
            self._take(direction, self._tracking, self.shares[index], self.r)

    def _mix(self, vector: Any, mixed: Any, own: Any) -> None:
        """vector ← vector + η (mixed − own)."""
        step = self._step
        self.setup.network.device.xp.subtract(mixed, own, out=step)
        self.add_weighted(vector, vector.dtype.type(self.eta), step)

    def _take(self, payload: Any, codec: Any, weight: Any, mixed: Any, own: Any = None) -> None:
        """mixed ← mixed + W_ij D(payload), and for this rank's own payload own ← own + D(payload)."""
        if own is not None:
            codec.decode_add(payload, own)
        codec.decode_add(payload, mixed, weight)

    def doubts(self) -> list[str]:
        return feedback_doubt(self, self.codec)
