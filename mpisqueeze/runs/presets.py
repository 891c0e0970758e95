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
