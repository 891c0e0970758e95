"""The objects that `predict --json` writes, and that its tables, map and CSV are drawn from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mpisqueeze import __version__
from mpisqueeze.modelling.checking import Checked
from mpisqueeze.modelling.forecast import Forecast, Wins
from mpisqueeze.modelling.methods import BASELINE, spectrum_of
from mpisqueeze.modelling.predict import Prediction
from mpisqueeze.quantities import grouped, significant
from mpisqueeze.topology import Spectrum

SCHEMA_VERSION = 1
#: The map's bandwidths (bits/s), across, and latencies (s), down.
BANDWIDTHS = (1e7, 2.5e7, 1e8, 2.5e8, 1e9, 2.5e9, 1e10, 2.5e10, 1e11, 4e11)
LATENCIES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def forecast_facts(forecast: Forecast, calibration: str | None) -> dict[str, Any]:
    """The object for a forecast: modelled from measured rates, and from the iterations that runs needed, if any."""
    link, measured = forecast.link, forecast.measured
    rows = [_row(forecast, index) for index in range(len(forecast.results))]
    cells = map_cells(forecast, BANDWIDTHS, LATENCIES)
    cost = "time_to_target_s" if measured else "iteration_s"
    rows.sort(key=lambda row: math.inf if row[cost] is None else row[cost])
    return _modelled(
        {
            "ranks": forecast.ranks,
            "dimension": forecast.dimension,
            "dtype": forecast.dtype,
            "latency_s": link.latency + link.gap,
            "gap_s": link.gap,
            "bandwidth": 8 / link.byte_s,
            "compute_s": forecast.compute_s,
            "local_steps": max(method.every for method in forecast.methods),
            "group": max(method.group for method in forecast.methods),
            "kernels": "measured" if forecast.timed else "not included",
            "calibration": calibration,
            "baseline": BASELINE,
            "target": measured.target.as_json() if measured else None,
            "target_is": measured.target.source if measured else None,
            "left_out": list(forecast.left_out),
            "notes": [*_unknown(forecast, calibration), *_cautions(forecast, [rows[0], *cells])],
        },
        rows,
        cells=cells,
        growth=[{**_names(made), **_some(_costs(made), _GROWTH)} for made in forecast.growth()],
    )


def _unknown(forecast: Forecast, calibration: str | None) -> Iterator[str]:
    """Warnings of what the times leave out or take for granted."""
    if not forecast.shapes and (by_shapes := [method.name for method in forecast.methods if method.by_shapes]):
        yield f"for {', '.join(by_shapes)} the parameters are taken as 32 square matrices: --runs knows their shapes"
    if not forecast.computes:
        yield "compute time not included: give --compute"
    if forecast.inside is None and any(method.group > 1 for method in forecast.methods):
        yield "time inside groups not included: give --inside"
    if calibration is None:
        yield "kernel time not included: give --calibration"
    elif not forecast.timed:
        missing = ", ".join(forecast.missing)
        yield (
            f"kernel time not included: {calibration} has none of {missing} for {forecast.dtype}; "
            "measure it with calibrate --compressor"
        )


def _cautions(forecast: Forecast, winners: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Warnings of what the time of an iteration does not say about convergence."""
    if forecast.left_out:
        yield f"left out, since shown to fail: {', '.join(forecast.left_out)}; name a pair to see it"
    measured, ranks = forecast.measured, forecast.ranks
    if measured is None and (every := max(method.every for method in forecast.methods)) > 1:
        yield f"with {every} local steps a target may take more iterations: --runs counts them"
    graphs = dict.fromkeys(row["topology"] for row in winners if row["topology"] and ranks > 1)
    spectra = {graph: spectrum for graph in graphs if (spectrum := spectrum_of(graph, ranks))}
    if measured is None:
        failing = [method.name for method in forecast.methods if method.shown_to_fail]
        if failing:
            yield f"shown to fail, however fast an iteration is: {', '.join(dict.fromkeys(failing))}"
        for graph, spectrum in spectra.items():
            yield (
                f"gossip on {graph} wins by the time of an iteration alone: at {_mixing(spectrum)}, and iterations to "
                "a target grow with 1/(1 − ρ), most where ranks' data differ (arXiv 2003.10422); --runs counts them"
            )
    elif (measured.ranks, measured.dimension) != (ranks, forecast.dimension):
        yield (
            f"iterations were measured on {grouped(measured.ranks)} ranks with d = {grouped(measured.dimension)}; "
            "others may take more or fewer"
        )
        for graph, spectrum in spectra.items():
            before = spectrum_of(graph, measured.ranks)
            was = f", and ρ was {significant(before.rho)} in the runs" if before else ""
            yield f"gossip on {graph} wins with the runs' iterations: here, at {_mixing(spectrum)}{was}"


def _mixing(spectrum: Spectrum) -> str:
    """The consequence of ρ for the models."""
    iterations, gap = max(1.0, spectrum.mixing_time), spectrum.gap
    rho = significant(spectrum.rho, 4) if gap > 1e-3 else f"1 − {significant(gap)}"
    return f"ρ = {rho} a difference between models takes {significant(iterations)} iterations to fall to 1/e"


def check_facts(checked: Sequence[Checked], skipped: Sequence[str], calibration: str | None) -> dict[str, Any]:
    """The object for `predict --check`: modelled times, and what was measured under `measured_…`."""
    notes = list(skipped)
    if not all(item.kernels for item in checked):
        notes.append(
            "kernel time not included: give --calibration"
            if calibration is None
            else f"kernel time not included everywhere: {calibration} has not all of these compressors in their dtype"
        )
    return _modelled({"check": True, "calibration": calibration, "notes": notes}, [_checked(item) for item in checked])


def map_cells(forecast: Forecast, bandwidths: Iterable[float], latencies: Iterable[float]) -> list[dict[str, Any]]:
    """The fastest method for each latency and bandwidth, in this order."""
    bandwidths = list(bandwidths)
    return [_cell(forecast, bandwidth, latency) for latency in latencies for bandwidth in bandwidths]


def alike(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows of `results` in groups that differ by nothing but the algorithm's name."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        # An all-reduce of full vectors is not a gossip of them, though a number may agree.
        key = (
            row["server"], row["topology"], row["compressor"], row["iteration_s"], row["bytes_per_iteration"],
            row["iterations_to_target"],
        )  # fmt: skip
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _modelled(context: dict[str, Any], results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    about = {"schema_version": SCHEMA_VERSION, "mpisqueeze": __version__, "modelled": True}
    return {**about, "context": context, "results": results, **more}


_GROWTH = ("comm_s", "bound_s", "chunks", "way")


def _some(values: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: values[key] for key in keys}


def _names(prediction: Prediction) -> dict[str, Any]:
    """The method of a prediction."""
    method = prediction.method
    return {
        "algorithm": method.algorithm.label,
        "server": method.server,
        "topology": method.topology,
        "compressor": method.compressor_name,
        "ranks": prediction.traffic.everyone,
        "local_steps": method.every,
        "group": method.group,
    }


def _costs(prediction: Prediction) -> dict[str, Any]:
    """The time of a prediction and what it is made of, in seconds and bytes."""
    schedule, work = prediction.schedule, prediction.work
    return {
        "comm_s": prediction.wire_s,
        "inside_s": prediction.inside_s,
        "bound_s": prediction.bound_s,
        "encode_s": work.encode,
        "decode_s": work.decode,
        "exchange_s": prediction.exchange_s,
        "update_s": work.update,
        "compute_s": prediction.compute_s,
        "iteration_s": prediction.iteration_s,
        "comm_share": _share(prediction),
        "bytes_per_iteration": prediction.traffic.per_iteration,
        "port_bytes": schedule.port_bytes,
        "chunks": schedule.sections,
        "way": schedule.way or None,
    }


def _share(prediction: Prediction) -> float:
    """The part of an iteration that is communication."""
    comm = (prediction.inside_s + prediction.wire_s) / prediction.traffic.every
    return comm / prediction.iteration_s if prediction.iteration_s else 0.0


def _row(forecast: Forecast, index: int) -> dict[str, Any]:
    prediction = forecast.results[index]
    won = forecast.wins(index) if index else Wins([])
    method, measured = prediction.method, forecast.measured
    spectrum = spectrum_of(method.topology, forecast.ranks) if method.topology else None
    count = measured.iterations[index] if measured else math.inf
    reached = math.isfinite(count)
    return {
        **_names(prediction),
        **_costs(prediction),
        "shown_to_fail": method.shown_to_fail,
        "rho": spectrum.rho if spectrum else None,
        "iterations_to_target": count if reached else None,
        "time_to_target_s": forecast.cost(index, prediction) if reached else None,
        "full_vectors_per_iteration": prediction.traffic.per_iteration / forecast.vector_bytes,
        "speedup_vs_allreduce": forecast.speedup(index),
        "break_even_bandwidth": won.break_even,
        "wins_between": [list(interval) for interval in won.between] if index else None,
    }


def _cell(forecast: Forecast, bandwidth: float, latency_s: float) -> dict[str, Any]:
    best, speedup = forecast.fastest(bandwidth, latency_s)
    return {
        "bandwidth": bandwidth,
        "latency_s": latency_s,
        **_names(best),
        "comm_s": best.wire_s,
        "iteration_s": best.iteration_s,
        "speedup_vs_allreduce": speedup,
    }


def _checked(item: Checked) -> dict[str, Any]:
    prediction, link = item.prediction, item.link
    modelled = item.predicted_iteration_s
    return {
        "run": item.run.name,
        "run_folder": str(item.run.path),
        **_names(prediction),
        "dimension": prediction.traffic.dimension,
        "link": item.link_text,
        "latency_s": link.latency + link.gap,
        "gap_s": link.gap,
        "bandwidth": 8 / link.byte_s if link.byte_s else None,
        "kernels": "measured" if item.kernels else "not included",
        **_costs(prediction),
        "comm_s": item.predicted_comm_s,
        "iteration_s": modelled,
        "measured_comm_s": item.comm_s,
        "comm_difference_percent": _percent(item.predicted_comm_s, item.comm_s),
        "measured_iteration_s": item.iteration_s,
        "iteration_difference_percent": None if modelled is None else _percent(modelled, item.iteration_s),
    }


def _percent(modelled: float, measured: float) -> float | None:
    return 100 * (modelled / measured - 1) if measured else None
