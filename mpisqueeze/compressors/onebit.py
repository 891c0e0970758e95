"""1-bit compression: signs, and one scale for each block."""

from __future__ import annotations

from typing import Annotated, Any

from mpisqueeze.compressors.base import Compressor, block_grain
from mpisqueeze.kernels.reference import blocks_of
from mpisqueeze.language import choice, integer


class OneBit(Compressor):
    """C(v) = s·sign(v), sign(0) = +1, one s for each block of n elements.

    `scale=l1`: s = ‖v‖₁/n, the minimiser of ‖C(v) − v‖ (Seide et al. 2014; Karimireddy et al., arXiv 1901.09847).
    `scale=l2`: s = ‖v‖₂/√n, which keeps the norm, as in the experiments of DoubleSqueeze (arXiv 1905.05957) and 1-bit
    Adam (arXiv 2102.02888).

    Payload: ⌈d/block⌉ scales, then ⌈d/8⌉ bytes of signs, 1 = negative.
    """

    name = "onebit"
    kernel = "signs"
    summary = "signs and a scale a block: onebit[:BLOCK][,scale=l1|l2]; d/8 + 4⌈d/BLOCK⌉ bytes"

    def __init__(
        self,
        dimension: int,
        xp: Any,
        dtype: Any,
        seed: int,
        *,
        block: Annotated[int, integer(0, accepts="a block length ≥ 1, or 0 for the whole vector")] = 1024,
        scale: Annotated[str, choice("l1", "l2")] = "l1",
    ) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.layout, self.l2 = (block,), scale == "l2"
        self.length, blocks = blocks_of(dimension, block)
        self.grain = block_grain(block, dimension)
        self.payload_bytes = -(-dimension // 8) + blocks * self.dtype.itemsize

    def bound(self) -> float:
        """l1: 1 − 1/n, since ‖v‖₁ ≥ ‖v‖₂. l2: 2(1 − 1/√n), which is no contraction on sparse v."""
        return 2 * (1 - self.length**-0.5) if self.l2 else 1 - 1 / self.length

    def _rounding(self) -> tuple[Any, ...]:
        return (self.l2,)
