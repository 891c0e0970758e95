"""The model held against finished runs: what their logs measured, beside what it says of the same exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpisqueeze.comm.estimate import EAGER_BYTES, SLOW_BYTE_S
from mpisqueeze.costs.link import Link, parse_link
from mpisqueeze.errors import UsageError
from mpisqueeze.modelling.predict import Coding, Method, Prediction, Told, predict
from mpisqueeze.parts import registry
from mpisqueeze.record.calibration import Calibration
from mpisqueeze.record.reading import RunLog


@dataclass(frozen=True)
class Checked:
    """A run and its prediction.

    Attributes:
        link_text: how the run's link is called.
        link: what was predicted for.
        kernels: whether coding is in the prediction.
        comm_s, iteration_s: measured, medians over iterations of the slowest rank's time.
    """

    run: RunLog
    link_text: str
    link: Link
    kernels: bool
    prediction: Prediction
    comm_s: float
    iteration_s: float

    @property
    def predicted_comm_s(self) -> float:
        """What the log books as communication: on a worker also the coding that its server does meanwhile."""
        return self.prediction.waited_s if self.kernels else self.prediction.wire_s


def check_runs(
    runs: Sequence[RunLog], given: Link | None, calibration: Calibration | None
) -> tuple[list[Checked], list[str]]:
    """Predict each run from its own config.json, with its median compute time.

    Args:
        given: the link by the command line or a calibration, for runs on a real network.

    Returns:
        the runs that could be predicted, and why each of the others could not.

    Raises:
        UsageError: a run was on a real network and nothing says what that was like, or its parts are not found.
    """
    checked, skipped = [], []
    for run in runs:
        times = run.summary["times"]
        if run.path is None or times["comm_s"]["median"] is None:
            skipped.append(f"{run.name}: no iteration was measured")
        elif run.summary["ranks"] == 1:
            skipped.append(f"{run.name}: one rank sends nothing")
        else:
            checked.append(_check(run, run.config, given, calibration))
    return checked, skipped


def _check(run: RunLog, config: dict[str, Any], given: Link | None, calibration: Calibration | None) -> Checked:
    emulated = config.get("link")
    link = parse_link(emulated) if emulated else given
    if link is None:
        raise UsageError(
            f"{run.path} ran on a real network: give --calibration, or --latency and --bandwidth", "--check"
        )
    algorithm = registry.algorithms.find(config["algorithm"])
    compressor = registry.compressors.find(config["compressor"])
    method = Method.of(algorithm, compressor, config.get("server", "root"), config.get("topology", "ring"))
    dtype = config["dtype"]
    traffic = method.traffic(config["ranks"], config["dimension"], dtype)
    usable = calibration is not None and calibration.dtype == dtype
    coding = method.coding(traffic, calibration) if calibration and usable else None
    # As comm.exchange limits messages.
    slow = not emulated and link.byte_s > SLOW_BYTE_S
    told = Told(config.get("chunk"), config.get("tree"), EAGER_BYTES if slow else None)
    times = run.summary["times"]
    compute = times["compute_s"]["median"]
    prediction = predict(method, traffic, coding or Coding(), link, compute, told)
    return Checked(
        run, emulated or "real", link, coding is not None, prediction, times["comm_s"]["median"],
        times["iteration_s"]["median"],
    )  # fmt: skip
