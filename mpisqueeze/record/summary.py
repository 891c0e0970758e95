"""The summary of a run: totals, medians, and what was saved against plain SGD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mpisqueeze.comm.counters import BytesAre
from mpisqueeze.language import label_of
from mpisqueeze.record.figures import Floats, summarized
from mpisqueeze.record.folder import finite
from mpisqueeze.record.types import SCHEMA_VERSION


def sgd_bytes(ranks: int, full_vector: int) -> int:
    """Bytes that plain `sgd` sends in an iteration: N − 1 full vectors of so many bytes up, and N − 1 down."""
    return 2 * (ranks - 1) * full_vector


def traffic(sent: int, messages: int, iterations: int, ranks: int, full_vector: int) -> dict[str, Any]:
    """Bytes that all ranks sent in a run, beside those of plain `sgd`, between groups where there are some.

    Args:
        ranks: of groups, their number.
        full_vector: bytes of x.
    """
    plain = sgd_bytes(ranks, full_vector) * iterations
    return {
        "bytes_sent": sent,
        "messages": messages,
        "bytes_sent_per_iteration": sent / iterations if iterations else None,
        "sgd_bytes_sent": plain,
        "bytes_saved_vs_sgd": plain - sent,
        "percent_saved_vs_sgd": 100 * (1 - sent / plain) if plain else None,
        "ratio_vs_sgd": plain / sent if sent else None,
        "full_vectors_per_iteration": sent / (full_vector * iterations) if full_vector and iterations else None,
    }


def workers_of(about: Mapping[str, Any]) -> int:
    """N, the number of those that train: a run's virtual workers, or its ranks; of its settings or its summary."""
    return int(about.get("workers") or about["ranks"])


def label_in(config: Mapping[str, Any], kind: str) -> Any:
    """The label in tables of a run's `algorithm`, `compressor` or `problem`."""
    name, spec = config.get("parts", {}).get(kind, {}).get("name"), config.get(kind)
    return label_of(name, spec) if name and spec else spec


def bytes_are(config: Mapping[str, Any]) -> BytesAre:
    """The source of a run's bytes; former versions did not say it, and knew one algorithm that counts nothing."""
    former = label_in(config, "algorithm") == "allreduce" and not config.get("link")
    return config.get("bytes", "by definition" if former else "counted")


def summary_of(
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    columns: Mapping[str, Floats],
    evaluations: Sequence[Mapping[str, Any]],
    status: str,
    reason: str | None,
    path: str | None,
) -> dict[str, Any]:
    """summary.json's object as far as the log tells it; None for what only the run itself knows.

    Times are of the slowest rank in each phase and iteration, without the warm-up; bytes are of all ranks and
    iterations.
    """
    losses = columns["loss"]
    done = losses.size
    workers, groups, dimension = workers_of(config), config.get("groups"), config.get("dimension")
    full_vector = (dimension or 0) * np.dtype(config["dtype"]).itemsize
    warmup = config.get("warmup", 0)
    skipped = warmup if done > warmup else 0
    final = evaluations[-1] if evaluations else {}
    figures = summarized(columns, skipped)
    return {
        "schema_version": SCHEMA_VERSION,
        "mpisqueeze": environment.get("versions", {}).get("mpisqueeze"),
        "status": status,
        "reason": reason,
        "signal": None,
        "algorithm": label_in(config, "algorithm"),
        "compressor": label_in(config, "compressor"),
        "server": config.get("server"),
        "problem": label_in(config, "problem"),
        "data": config.get("data"),
        "ranks": config["ranks"],
        "workers": workers,
        "virtual": config.get("workers") is not None,
        "groups": groups,
        "hosts": len(environment.get("hosts", ())) or None,
        "dimension": dimension,
        "dtype": config["dtype"],
        "device": environment.get("device"),
        "buffers": environment.get("buffers"),
        "seed": config.get("seed"),
        "iterations": done,
        "epochs": done / config["iterations_per_epoch"] if done else 0.0,
        "warmup": skipped,
        "bytes": bytes_are(config),
        **traffic(figures["bytes_sent"], figures["messages"], done, groups or workers, full_vector),
        "payload_bytes": None,
        "full_vectors_formula": None,
        "compression": None,
        "final_loss": finite(float(losses[-1])) if done else None,
        "evaluation": {key: value for key, value in final.items() if key not in ("iteration", "epoch")} or None,
        "test_loss": final.get("test_loss"),
        "test_accuracy": final.get("test_accuracy"),
        **figures,
        "wall_s": None,
        "run_folder": path,
    }
