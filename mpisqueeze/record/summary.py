"""The summary of a run: totals, medians, and what was saved against plain SGD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mpisqueeze import __version__
from mpisqueeze.comm.signals import Signal
from mpisqueeze.record.iterations import TIMES, Recorder

if TYPE_CHECKING:
    from mpisqueeze.runs.preparation import Run

SCHEMA_VERSION = 1


def sgd_bytes(ranks: int, full_vector: int) -> int:
    """What plain `sgd` sends in an iteration: N − 1 full vectors of so many bytes up, and N − 1 down."""
    return 2 * (ranks - 1) * full_vector


def traffic(sent: int, messages: int, iterations: int, ranks: int, full_vector: int) -> dict[str, Any]:
    """What all ranks sent in a run, beside what plain `sgd` would have sent; bytes, `full_vector` that of x."""
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


def statistics(seconds: np.ndarray) -> dict[str, float | None]:
    """Median, 99th percentile and total of times (s)."""
    if not seconds.size:
        return {"median": None, "p99": None, "total": 0.0}
    median, p99 = np.percentile(seconds, [50, 99])
    return {"median": float(median), "p99": float(p99), "total": float(seconds.sum())}


def _by_rank(counts: list[list[int]]) -> list[dict[str, int]]:
    return [{"rank": rank, "bytes_sent": sent, "bytes_received": got} for rank, (sent, got) in enumerate(counts)]


def summarize(
    run: Run,
    recorder: Recorder,
    evaluations: list[dict[str, Any]],
    status: str,
    reason: str | None,
    stopped_by: int,
    wall_s: float,
    environment: dict[str, Any],
    interfaces: list[list[int]] | None,
) -> dict[str, Any]:
    """summary.json's object, on rank 0.

    Times are of the slowest rank in each phase and iteration, without the warm-up; bytes are of all ranks and
    iterations; the busiest port's are those that one rank sent or received, whichever is more. `interfaces` is what
    each rank's network interface itself counted meanwhile, if it was asked, sent and received.
    """
    plan, ranks, dimension = run.plan, run.world.size, run.dimension
    done = len(recorder.times["iteration_s"])
    full_vector = dimension * plan.dtype.itemsize
    skipped = plan.config.warmup if done > plan.config.warmup else 0
    final = evaluations[-1] if evaluations else {}
    schedule = getattr(run.algorithm, "schedule", None)
    payload = getattr(run.algorithm, "payload_bytes", None) or full_vector
    return {
        "schema_version": SCHEMA_VERSION,
        "mpisqueeze": __version__,
        "status": status,
        "reason": reason,
        "warnings": run.warnings,
        "signal": {Signal.INTERRUPT: "SIGINT", Signal.TERMINATE: "SIGTERM"}.get(Signal(stopped_by)),
        "algorithm": plan.algorithm.label,
        "compressor": plan.compressor.spec,
        "server": plan.config.server if run.centralized else None,
        "topology": None if run.centralized else plan.config.topology,
        "eta": getattr(run.algorithm, "eta", None),
        "problem": plan.config.problem,
        "data": plan.config.data if getattr(plan.problem.cls, "needs_data", False) else None,
        "ranks": ranks,
        "hosts": len(environment["hosts"]),
        "link": environment["link"],
        "dimension": dimension,
        "dtype": plan.config.dtype,
        "device": run.device.kind,
        "buffers": run.device.buffers,
        "seed": plan.config.seed,
        "iterations": done,
        "epochs": done / run.per_epoch,
        "warmup": skipped,
        **traffic(recorder.bytes_sent, recorder.messages, done, ranks, full_vector),
        "port_bytes_per_iteration": int(recorder.by_rank.max()) / done if done else None,
        "bytes_by_rank": _by_rank(recorder.by_rank.tolist()),
        "interface_bytes_by_rank": None if interfaces is None else _by_rank(interfaces),
        "chunks": schedule.chunks if schedule else None,
        "tree": (schedule.way or None) if schedule else None,
        "payload_bytes": payload,
        "full_vectors_formula": getattr(run.algorithm, "formula", "") or None,
        "compression": payload / full_vector,
        "final_loss": recorder.last.loss if recorder.last else None,
        "evaluation": {key: value for key, value in final.items() if key not in ("iteration", "epoch")} or None,
        "test_loss": final.get("test_loss"),
        "test_accuracy": final.get("test_accuracy"),
        "times": {name: statistics(np.frombuffer(recorder.times[name])[skipped:]) for name in TIMES},
        "wall_s": wall_s,
        "run_folder": run.path,
    }
