"""`mpisqueeze train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from mpisqueeze.cli.completion import pairs as complete_pairs
from mpisqueeze.cli.options import ConfigOption, arguments, command, in_run
from mpisqueeze.cli.output import Output
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.files import write_text
from mpisqueeze.settings import SETTINGS, option_of

#: Settings that may be given beside --resume, as they change how the run goes on and not what it is.
_WITH_RESUME = ("iterations", "epochs", "checkpoint_every", "timeout", "heartbeat", "data_dir")


@command(SETTINGS)
def train(
    given: dict[str, Any],
    output: Output,
    pair: Annotated[
        str | None,
        arguments("PAIR", "ALGORITHM or ALGORITHM/COMPRESSOR, in place of these options.", complete_pairs),
    ] = None,
    resume: Annotated[
        Path | None,
        in_run(
            help="Go on with the run in this folder, with its own settings, from its latest checkpoint; "
            "--iterations or --epochs may be raised.",
            metavar="RUN",
        ),
    ] = None,
    config: ConfigOption = None,
    dump_config: Annotated[
        bool, in_run("--dump-config", help="Print the settings as --config takes them, and end.")
    ] = False,
) -> int:
    """Train once, under mpirun or alone: a run folder, and a summary of what compression saved.

    [bold]mpirun -n 8 mpisqueeze train --algorithm doublesqueeze --compressor onebit[/]
    """
    if pair is not None:
        given |= _chosen(pair, given)
    if resume is not None:
        for name in (*given, *(["config"] if config else []), *(["dump_config"] if dump_config else [])):
            if name not in _WITH_RESUME:
                allowed = ", ".join(option_of(other) for other in _WITH_RESUME)
                raise UsageError(
                    f"the run has its own settings: leave out {option_of(name)}; beside it go {allowed}", "--resume"
                )
    from mpisqueeze.cli.exit import status_code
    from mpisqueeze.cli.ranks import join
    from mpisqueeze.runs.checkpointing import continued, resumed_config
    from mpisqueeze.runs.plan import plan
    from mpisqueeze.runs.sources import Resolved, as_toml, resolve
    from mpisqueeze.runs.training import train
    from mpisqueeze.runs.view import View
    from mpisqueeze.virtual.workers import on_workers

    def settings() -> Resolved:
        if resume is None:
            return resolve(given, os.environ, config)
        # A run that is resumed asks neither environment nor file.
        return Resolved(continued(resumed_config(resume), given))

    world = join()
    # Other hosts may see neither rank 0's variables nor its files.
    found = world.on_root(settings)
    with found.blamed():
        planned = world.collectively(lambda: plan(found.config))
        world.on_root(output.check)
        if dump_config:
            text = world.on_root(lambda: as_toml(planned))
            if world.is_root:
                write_text(text, "-")
            return ExitCode.OK
        view = View()
        if world.is_root:
            from mpisqueeze.report.training_view import TrainingView

            view = TrainingView(output.console, output.live)
        again = resume is not None
        summary = on_workers(world, found.config.workers, lambda workers: train(planned, workers, view, again))
    output.json(summary)
    if summary["status"] == "interrupted":
        return ExitCode.INTERRUPTED if summary["signal"] == "SIGINT" else ExitCode.TERMINATED
    return status_code(summary["status"])


def _chosen(text: str, given: dict[str, Any]) -> dict[str, str]:
    """The settings that a pair stands for. Raises UsageError where they are given by options, too."""
    from mpisqueeze.runs.pairs import parse_pair

    pair = parse_pair(text)
    chosen = {"algorithm": pair.algorithm, **({"compressor": pair.compressor} if pair.compressor else {})}
    for name in chosen.keys() & given.keys():
        raise UsageError(f"{text} names it already: leave one out", option_of(name))
    return chosen
