"""The model held against finished runs: the times that their logs measured, beside those that it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpisqueeze.comm.estimate import EAGER_BYTES, SLOW_BYTE_S
from mpisqueeze.costs.link import Link, parse_link
from mpisqueeze.errors import UsageError
from mpisqueeze.modelling.methods import Method
from mpisqueeze.modelling.predict import Prediction, Work, predict, terms_of, work_of
from mpisqueeze.record.calibration import Calibration
from mpisqueeze.record.reading import RunLog


@dataclass(frozen=True)
class Checked:
    """A run and its prediction.

    Attributes:
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
        """The time that the log books as communication: on a worker also the coding that its server does meanwhile."""
        return self.prediction.waited_s if self.kernels else self.prediction.wire_s


def check_runs(
    runs: Sequence[RunLog], given: Link | None, calibration: Calibration | None
) -> tuple[list[Checked], list[str]]:
    """Predict each run from its own config.json, with its median compute time.

    Args:
        given: the link by the command line or a calibration, for runs on no emulated one.

    Returns:
        the runs that could be predicted, and why each of the others could not.
    """
    checked, skipped = [], []
    for run in runs:
        times = run.summary["times"]
        if run.path is None or times["comm_s"]["median"] is None:
            skipped.append(f"{run.name}: no iteration was measured")
        elif run.summary["ranks"] == 1:
            skipped.append(f"{run.name}: one rank sends nothing")
        else:
            try:
                checked.append(_check(run, given, calibration))
            except UsageError as error:
                skipped.append(f"{run.name}: {error.message}")
    return checked, skipped


def _check(run: RunLog, given: Link | None, calibration: Calibration | None) -> Checked:
    config = run.config
    emulated = config.get("link")
    link = parse_link(emulated) if emulated else given
    if link is None:
        unknown = f"nothing says what its network was like ({run.network})"
        raise UsageError(f"{unknown}: give --calibration, or --latency and --bandwidth")
    method = Method.ran(config)
    traffic = method.traffic(config["ranks"], config["dimension"], config["dtype"])
    usable = calibration is not None and calibration.dtype == config["dtype"]
    work = work_of(method, traffic, calibration) if calibration and usable else None
    # This is the limit of comm.exchange.
    slow = not emulated and link.byte_s > SLOW_BYTE_S
    terms = terms_of(config["ranks"], link, config, EAGER_BYTES if slow else None)
    compute, comm, iteration = (run.summary["times"][key]["median"] for key in ("compute_s", "comm_s", "iteration_s"))
    prediction = predict(method, traffic, work or Work(), terms, compute)
    return Checked(run, emulated or run.network, link, work is not None, prediction, comm, iteration)
