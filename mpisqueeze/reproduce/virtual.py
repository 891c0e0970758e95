"""A claim's runs in a virtual cluster: `mpisqueeze lab`, started by rank 0 while the others wait."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mpisqueeze import launch
from mpisqueeze.errors import UsageError
from mpisqueeze.record.reading import RunLog, read_runs
from mpisqueeze.reproduce.claims import ClaimRun, StatedClaim
from mpisqueeze.runs.sources import CONFIG_VARIABLE, VARIABLES
from mpisqueeze.settings import SETTINGS, Settings

#: Seconds between two looks at the cluster.
_PAUSE = 0.05
#: Prefixes of the variables by which a launcher tells a process its place; another launcher must not see them.
_PLACE = (
    *("OMPI_", "PMIX_", "PRTE_", "PMI_", "OPAL_", "PRRTE_", "HYDRA_", "HYDI_", "MPI_", "MV2_"),
    "MPISQUEEZE_LAUNCHED",
)


class LabError(Exception):
    """There was no lab, or it failed; says why."""


def run_in_lab(claim: StatedClaim, trials: Sequence[ClaimRun], path: Path, wanted: Callable[[], bool]) -> list[RunLog]:
    """The runs of a claim, in the order of `trials`; a lab for each seed. Raises LabError.

    Args:
        path: where a folder for each seed is made, with `runs`, a folder for each bandwidth in it, and `lab.log`.
        wanted: whether to stop it and come back.
    """
    found: dict[tuple[str, str, int], RunLog] = {}
    for seed in claim.file.seeds:
        own = [trial for trial in trials if trial.config.seed == seed]
        ran = _one_lab(claim, own, path / f"seed={seed}", wanted)
        if ran is None:
            return []
        found |= {(trial.run, trial.point.label, seed): run for trial, run in zip(own, ran, strict=True)}
    return [found[trial.run, trial.point.label, trial.config.seed] for trial in trials]


def _one_lab(
    claim: StatedClaim, trials: Sequence[ClaimRun], path: Path, wanted: Callable[[], bool]
) -> list[RunLog] | None:
    """The runs of a seed, in the order of `trials`, which is by bandwidth; None where they were not wanted."""
    path.mkdir(parents=True)
    labels = list(dict.fromkeys(trial.point.label for trial in trials))
    log = path / "lab.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            _command(claim, trials, labels, path / "runs"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(os.environ),
            start_new_session=True,
        )
        while process.poll() is None:
            if wanted():
                process.send_signal(signal.SIGTERM)
                process.wait()
                return None
            time.sleep(_PAUSE)
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
        said = next((line for line in reversed(lines) if line.startswith(("Error: ", "mpisqueeze: "))), lines[-1])
        raise LabError(said.removeprefix("Error: ").removeprefix("mpisqueeze: "))
    runs: list[RunLog] = []
    try:
        for label in labels:
            runs += read_runs([path / "runs" / label])[0]
    except UsageError as error:
        raise LabError(str(error)) from None
    if len(runs) != len(trials):
        raise LabError(f"the lab left {len(runs)} runs and not {len(trials)}; see {log}")
    return runs


def _command(claim: StatedClaim, trials: Sequence[ClaimRun], labels: Sequence[str], path: Path) -> list[str]:
    first = trials[0]
    pairs = []
    for trial in trials:
        if trial.point == first.point:
            compressor = trial.config.compressor
            pairs.append(trial.config.algorithm + (f"/{compressor}" if compressor else ""))
    lab = ["lab", "-n", str(claim.hosts), "--rates", ",".join(labels)]
    return [*launch.program(), *lab, "compare", *pairs, *_options(first.config), "--out", str(path), "--color", "never"]


def _options(config: Settings) -> Iterator[str]:
    """The settings that differ from their defaults, as `compare` takes them."""
    for name, setting in SETTINGS.items():
        value = getattr(config, name)
        if name not in ("algorithm", "compressor", "out") and value != setting.default:
            yield from setting.typed(value)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Ours, as it was before a launcher made this process a rank, and without settings: a claim has its own."""
    settings = {*VARIABLES, CONFIG_VARIABLE}
    return {name: value for name, value in variables.items() if not name.startswith(_PLACE) and name not in settings}
