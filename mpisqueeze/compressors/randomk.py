"""Random-k sparsification."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from mpisqueeze.compressors.base import Compressor
from mpisqueeze.compressors.topk import Ratio, count_of


class RandomK(Compressor):
    """k = max(1, ⌈RATIO·d⌉) positions drawn without replacement; `unbiased` scales their values by d/k.

    Source: Stich et al., arXiv 1809.07599. The payload has the key from which positions are drawn instead of positions.
    With `shared` all ranks draw the same, by the run's seed and the iteration alone, so that payloads are values only
    and add up: C is linear, and can be averaged by MPI_Allreduce. Where k = d they are the vector in its own order.

    Payload: the key (8 bytes), then k values in the order of drawing; with `shared` the values alone.
    """

    name = "randomk"
    sparsifies = True
    summary = "seeded random positions: randomk:RATIO[,unbiased][,shared]; 4k + 8 bytes, shared: 4k, k = ⌈RATIO·d⌉"

    def __init__(
        self,
        dimension: int,
        xp: Any,
        dtype: Any,
        seed: int,
        *,
        ratio: Ratio,
        unbiased: bool = False,
        shared: bool = False,
    ) -> None:
        self.ratio, self.k = ratio, count_of(dimension, ratio)
        whole = self.k == dimension
        self.kernel = "randomk" if not shared else "copy" if whole else "positions"
        super().__init__(dimension, xp, dtype, seed)
        self.scaled, self.linear = unbiased, shared
        self.unbiased = unbiased or whole
        self.payload_bytes = 8 * (not shared) + self.k * self.dtype.itemsize
        self._taken: Any = None

    @property
    def layout(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The arguments of decoding; where positions are shared, with the iteration's key."""
        return {"copy": (), "randomk": (self.k,), "positions": (self.k, self.key)}[self.kernel]

    def at(self, ratio: Fraction) -> RandomK:
        return RandomK(
            self.dimension, self.xp, self.dtype, self.seed, ratio=ratio, unbiased=self.scaled, shared=self.linear
        )

    def clear(self, payload: Any, out: Any) -> None:
        if self.kernel == "randomk":
            super().clear(payload, out)
        elif self.kernel == "copy":
            out.fill(0)
        else:
            # Elements are cleared by taking them from themselves.
            if self._taken is None:
                self._taken = self.xp.empty_like(payload)
            self._encoder(out, None, self._taken, *self.layout, False)
            self._decoder(self._taken, out, *self.layout, True, -1.0)

    def bound(self) -> float:
        return self.dimension / self.k - 1 if self.scaled else 1 - self.k / self.dimension

    def _rounding(self) -> tuple[Any, ...]:
        return {"copy": (), "randomk": (self.key, self.scaled), "positions": (self.scaled,)}[self.kernel]
