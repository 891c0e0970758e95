"""The JSON object of `lab`: times beside their bound, and counted bytes beside those of the interfaces."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import mpisqueeze
from mpisqueeze.lab.cluster import TrialOutcome
from mpisqueeze.lab.shaping import host_name
from mpisqueeze.lab.trials import Trial
from mpisqueeze.record.figures import statistics
from mpisqueeze.record.reading import RunLog
from mpisqueeze.record.types import SCHEMA_VERSION


def lab_results(outcomes: Sequence[TrialOutcome]) -> dict[str, Any]:
    """The JSON object of `lab`, in bytes, seconds and bits per second.

    `results` has an object a run, whose `hosts` compare what the run counted with what its hosts' interfaces did over
    the same iterations, where the run has measured that. `bound_s` is the time of the run's own bytes through the
    busiest port; where they are by definition, some rank of any all-reduce sends as many. `interface_bound_s` is the
    time of the bytes that the busiest interface counted. `commands` has an object a trial, with the interfaces' bytes
    while its command ran.
    """
    links = outcomes[0].trial.links
    return {
        "schema_version": SCHEMA_VERSION,
        "context": {
            "rate": [outcome.trial.links.rate for outcome in outcomes],
            "delay": links.delay,
            "mtu": links.mtu,
            "hosts": links.hosts,
            "versions": {
                "mpisqueeze": mpisqueeze.__version__,
                "python": platform.python_version(),
                "kernel": platform.release(),
            },
        },
        "results": [_result(outcome.trial, run) for outcome in outcomes for run in outcome.runs],
        "commands": [
            {
                "rate": outcome.trial.links.rate,
                "exit_code": int(outcome.code),
                "run_folder": str(outcome.trial.folder) if outcome.trial.folder else None,
                "hosts": [
                    {"rank": rank, "host": host_name(rank), **counters} for rank, counters in enumerate(outcome.traffic)
                ],
            }
            for outcome in outcomes
        ],
    }


def _result(trial: Trial, run: RunLog) -> dict[str, Any]:
    summary = run.summary
    times = {name: summary["times"][name]["median"] for name in ("comm_s", "iteration_s")}
    port_bytes = summary.get("port_bytes_per_iteration")
    # Through an idle port the first bytes, as many as its burst, take no time.
    bound = None if port_bytes is None else 8 * max(0, port_bytes - trial.links.burst) / trial.links.rate
    hosts = _compared(summary)
    passed = [host[key] for host in hosts for key in host if key.startswith("interface_")]
    busiest = max(passed) / summary["iterations"] if summary["iterations"] and None not in passed else None
    columns = sum(run.columns[name] for name in ("encode_s", "comm_s", "decode_s"))
    exchange = statistics(columns[summary["warmup"] :])["median"]  # type: ignore[index]
    return {
        "name": run.name,
        "algorithm": summary["algorithm"],
        "server": summary["server"],
        "compressor": summary["compressor"],
        "ranks": summary["ranks"],
        "rate": trial.links.rate,
        "status": summary["status"],
        "comm_s": times["comm_s"],
        "bytes": summary["bytes"],
        "bound_s": bound,
        "interface_bound_s": None if busiest is None else 8 * busiest / trial.links.rate,
        # A rank that codes while messages travel waits for less than they take.
        "ratio": exchange / bound if exchange and bound else None,
        "exchange_s": exchange,
        "iteration_s": times["iteration_s"],
        "final_loss": summary["final_loss"],
        "hosts": hosts,
    }


def _compared(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Each rank's counted bytes beside those of its interface; None for what the run has not measured."""
    keys = ("bytes_sent", "bytes_received")
    counted = {entry["rank"]: entry for entry in summary.get("bytes_by_rank") or []}
    measured = {entry["rank"]: entry for entry in summary.get("interface_bytes_by_host") or []}
    return [
        {
            "rank": rank,
            "host": host_name(rank),
            **{key: counted.get(rank, {}).get(key) for key in keys},
            **{f"interface_{key}": measured.get(rank, {}).get(key) for key in keys},
        }
        for rank in range(summary["ranks"])
    ]
