"""1-bit compression: signs, and one scale for each block."""

from __future__ import annotations

from typing import Annotated, Any

from mpisqueeze.compressors.base import Block, Compressor, block_grain
from mpisqueeze.kernels.reference import blocks_of
from mpisqueeze.language import choice

Scale = Annotated[str, choice("l1", "l2", "two", "none")]


class OneBit(Compressor):
    """C(v) = sign(v) by one or two scales for each block of n elements, or by none, sign(0) = +1.

    `scale=l1`: s·sign(v), s = ‖v‖₁/n, the minimiser of ‖C(v) − v‖ over s (the scaled sign of Karimireddy et al., arXiv
    1901.09847, Algorithm 3).
    `scale=l2`: s = ‖v‖₂/√n, which keeps the norm, as in the experiments of DoubleSqueeze (arXiv 1905.05957) and 1-bit
    Adam (arXiv 2102.02888).
    `scale=two`: the mean of the elements ≥ 0 for these, and the mean of those < 0 for those: 1-bit SGD (Seide et al.,
    Interspeech 2014) with blocks in place of columns, and with `onebit:0` the `onebit` of GRACE. Of all C(v) that are
    constant on either it is the nearest to v.
    `scale=none`: ±1, the sign of signSGD (arXiv 1802.04434), which no bound relates to v.

    Payload: the scales of each block (s, or the mean of those ≥ 0 and then that of those < 0, or none), then ⌈d/8⌉
    bytes of signs, 1 = negative.
    """

    name = "onebit"
    draws = False
    kernel = "signs"
    summary = (
        "signs and a scale or two a block: onebit[:BLOCK][,scale=l1|l2|two|none]; d/8 + 4⌈d/BLOCK⌉ bytes, two: 8, "
        "none: 0"
    )

    def __init__(
        self, dimension: int, xp: Any, dtype: Any, seed: int, *, block: Block = 1024, scale: Scale = "l1"
    ) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.scales, self.l2 = {"two": 2, "none": 0}.get(scale, 1), scale == "l2"
        self.layout = block, self.scales
        self.length, blocks = blocks_of(dimension, block)
        self.grain = block_grain(block, dimension) if self.scales else 8
        self.payload_bytes = -(-dimension // 8) + self.scales * blocks * self.dtype.itemsize

    def bound(self) -> float | None:
        """l1 and two: 1 − 1/n, since ‖v‖₁ ≥ ‖v‖₂. l2: 2(1 − 1/√n), which is no contraction on sparse v. none: None."""
        if not self.scales:
            return None
        return 2 * (1 - self.length**-0.5) if self.l2 else 1 - 1 / self.length

    def _rounding(self) -> tuple[Any, ...]:
        return (self.l2,)
