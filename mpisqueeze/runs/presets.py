"""Ready-made comparisons: ALGORITHM/COMPRESSOR pairs, the first being what the others are measured against."""

from __future__ import annotations

PRESETS: dict[str, tuple[str, ...]] = {
    "centralized": (
        "sgd",
        "allreduce",
        "csgd/qsgd:4",
        "csgd-double/qsgd:4",
        "memsgd/onebit",
        "memsgd/topk:0.01",
        "doublesqueeze/onebit",
        "doublesqueeze/topk:0.01",
    ),
    "decentralized": (
        "sgd",
        "dpsgd",
        "dpsgd-naive/qsgd:8",
        "dcd/qsgd:8",
        "ecd/qsgd:8",
        "deepsqueeze/uniform:2",
        "choco/topk:0.01",
    ),
    # What a user would pick among: the usual baseline, and a method of each kind that is in use.
    "field": (
        "allreduce",
        "sgd",
        "powersgd",
        "doublesqueeze/onebit",
        "doublesqueeze/bf16",
        "memsgd/topk:0.01",
        "ef21-bc/topk:0.01",
        "dgc/topk:0.01",
        "onebit-adam/onebit",
        "dpsgd",
        "choco/topk:0.01",
    ),
    "talks": (
        "sgd",
        "csgd/qsgd:4",
        "csgd/topk:0.01",
        "memsgd/onebit",
        "doublesqueeze/onebit",
        "dpsgd",
        "dpsgd-naive/qsgd:8",
        "dcd/qsgd:8",
        "ecd/qsgd:8",
        "deepsqueeze/uniform:2",
        "choco/topk:0.01",
    ),
}
