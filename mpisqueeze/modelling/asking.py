"""The answer to the options of `predict`; errors say what is missing and what does not go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpisqueeze.analysis.ranking import Target
from mpisqueeze.costs.link import Link
from mpisqueeze.errors import UsageError
from mpisqueeze.language import check_choice
from mpisqueeze.modelling.checking import Checked, check_runs
from mpisqueeze.modelling.forecast import Forecast
from mpisqueeze.modelling.methods import methods_for
from mpisqueeze.modelling.targets import NeededIterations, measure
from mpisqueeze.quantities import counted
from mpisqueeze.record.calibration import Calibration, read_calibration
from mpisqueeze.record.reading import read_runs, sift
from mpisqueeze.runs.pairs import Pair
from mpisqueeze.settings import ALLREDUCE, DTYPES, MAX_RANKS, SERVERS, parse_group

_BOTH = "both"
MAX_DIMENSION = 10**12
_NO_GROUP = "is the link between ranks of a group, and "
_LACKING = "give --latency and --bandwidth, or --calibration FILE"


@dataclass(frozen=True)
class Question:
    """The parsed options of `predict`; None for what was not given.

    Attributes:
        latency, gap, compute: s.
        bandwidth: bits/s.
        runs: folders of runs whose iterations to `target` are counted.
        inside: the link between ranks of a group.
    """

    ranks: int | None
    dimension: int | None
    latency: float | None
    bandwidth: float | None
    gap: float | None
    compute: float | None
    calibration: Path | None
    compressors: Sequence[str]
    server: str
    topology: str
    dtype: str
    runs: Sequence[Path] = ()
    target: Target | None = None
    local_steps: int = 1
    group: str | None = None
    inside: Link | None = None


def forecast(pairs: Sequence[Pair], question: Question) -> Forecast:
    """The answer to `predict`. Raises UsageError."""
    check_choice("--server", question.server, (*SERVERS, ALLREDUCE, _BOTH))
    check_choice("--dtype", question.dtype, DTYPES)
    calibration = read_calibration(question.calibration) if question.calibration else None
    measured = _measured(pairs, question)
    ranks = _known(
        "-n", "how many ranks, such as -n 64", MAX_RANKS,
        question.ranks,
        measured.ranks if measured else None, calibration.ranks if calibration else None,
    )  # fmt: skip
    dimension = _known(
        "--dimension", "how many parameters the model has, such as --dimension 25M", MAX_DIMENSION,
        question.dimension, measured.dimension if measured else None,
    )  # fmt: skip
    link = link_of(question, calibration)
    if link is None and calibration and calibration.link is None:
        raise UsageError(f"{calibration.path} was measured on a single rank and knows no network: {_LACKING}",
                         "--calibration")  # fmt: skip
    if link is None:
        raise UsageError(_LACKING, "--latency" if question.latency is None else "--bandwidth")
    dtype, compute = question.dtype, question.compute
    left_out: list[str] = []
    if measured:
        methods, dtype = measured.methods, measured.dtype
        compute = measured.compute_s if compute is None else compute
    else:
        servers = SERVERS if question.server == _BOTH else (question.server,)
        group = _group_of(question, ranks)
        methods, left_out = methods_for(
            pairs, question.compressors, servers, question.topology, question.local_steps, group
        )
    usable = calibration if calibration and calibration.dtype == dtype else None
    return Forecast(methods, ranks, dimension, dtype, link, compute, usable, left_out, measured, question.inside)


def _group_of(question: Question, ranks: int) -> int:
    """The ranks of a group. Raises UsageError."""
    size = 1 if question.group is None else parse_group(question.group)
    if size is None:
        raise UsageError("host has no size here: say how many ranks are on one", "--group")
    if ranks % size:
        raise UsageError(f"{size} does not divide {counted(ranks, 'rank')}", "--group")
    if question.inside and size == 1:
        raise UsageError(f"{_NO_GROUP}there is no --group", "--inside")
    return size


def _measured(pairs: Sequence[Pair], question: Question) -> NeededIterations | None:
    """The iterations of runs, if there are some. Raises UsageError for options that these answer."""
    if not question.runs:
        if question.target:
            raise UsageError("is what runs have to reach: name them by --runs", "--target")
        return None
    for option, given in (
        ("PAIR", bool(pairs)),
        ("--compressor", bool(question.compressors)),
        ("--server", question.server != _BOTH),
        ("--local-steps", question.local_steps > 1),
        ("--group", question.group is not None),
    ):
        if given:
            raise UsageError("does not go with --runs, which takes the methods from the runs", option)
    return measure(question.runs, question.target)


def link_of(question: Question, calibration: Calibration | None) -> Link | None:
    """The network: what the options say of it, and of the rest what was measured; None where both say too little.

    A latency that is given is a message's whole α, all of it with the port busy unless there is a gap, too. Raises
    UsageError.
    """
    measured = calibration.link if calibration else None
    bandwidth = question.bandwidth
    if bandwidth is None and measured and measured.byte_s:
        bandwidth = 8 / measured.byte_s
    if question.latency is not None:
        alpha, gap = question.latency, question.latency
    elif measured is not None:
        alpha, gap = measured.latency + measured.gap, measured.gap
    else:
        return None
    if question.gap is not None:
        if question.gap > alpha:
            raise UsageError(f"is a part of the latency, {alpha:g} s, and cannot be {question.gap:g} s", "--gap")
        gap = question.gap
    if bandwidth is None:
        return None
    return Link(alpha - gap, gap, 8 / bandwidth, processor=measured.processor if measured else None)


def _known(option: str, what: str, most: int, *values: int | None) -> int:
    """The first value that there is. Raises UsageError where there is none, or it is not 1 to `most`."""
    value = next((value for value in values if value is not None), None)
    if value is None:
        raise UsageError(f"is needed: {what}", option)
    if not 1 <= value <= most:
        raise UsageError(f"must be 1 to {most}, got {value}", option)
    return value


def refuse_for_check(question: Question, plot_to: str | None) -> None:
    """Raise UsageError for options that a finished run answers itself."""
    for option, given in (
        ("-n", question.ranks is not None),
        ("--dimension", question.dimension is not None),
        ("--compute", question.compute is not None),
        ("--compressor", bool(question.compressors)),
        ("--plot", plot_to is not None),
        ("--runs", bool(question.runs)),
        ("--target", question.target is not None),
        ("--local-steps", question.local_steps > 1),
        ("--group", question.group is not None),
    ):
        if given:
            raise UsageError("does not go with --check, which takes it from the runs", option)


def check(paths: Sequence[Path], question: Question) -> tuple[list[Checked], list[str]]:
    """The answer to `predict --check`: the runs with their predictions, and why some have none. Raises UsageError."""
    if not paths:
        raise UsageError("name run folders to check: predict --check RUN…", "--check")
    calibration = read_calibration(question.calibration) if question.calibration else None
    folders, notes = sift(paths)
    runs, _ = read_runs(folders)
    checked, skipped = check_runs(runs, link_of(question, calibration), calibration, question.inside)
    skipped += notes
    if question.inside and not any(each.prediction.inside for each in checked):
        raise UsageError(f"{_NO_GROUP}none of these runs has groups", "--inside")
    if not checked:
        raise UsageError(f"there is nothing to check: {'; '.join(skipped)}", "--check")
    return checked, skipped
