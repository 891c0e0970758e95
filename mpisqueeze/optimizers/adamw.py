"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from mpisqueeze.optimizers.adam import Adam


class AdamW(Adam):
    """x ← (1 − γλ)x, then Adam's step, whose moments know nothing of λ.

    Source: Loshchilov & Hutter, arXiv 1711.05101, as `torch.optim.AdamW`.
    """

    name = "adamw"
    summary = "Adam with decoupled --weight-decay (Loshchilov & Hutter, arXiv 1711.05101)"
    decouples = True
