"""What the commands do once their options are parsed; imported by the command that runs, as is what it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpisqueeze.cli.output import check_color, check_targets
from mpisqueeze.comm.signals import Signal
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.files import write_text
from mpisqueeze.language import suggestion
from mpisqueeze.report.terminal import choose_terminal, make_console

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World
    from mpisqueeze.runs.sources import Asked

#: What `reproduce` leaves beside its runs.
PAGE = "report.html"
#: What `report --plot` takes in place of a file.
TERMINAL = "terminal"
STATUS_CODES = {"ok": ExitCode.OK, "diverged": ExitCode.DIVERGED}


def run_train(asked: Asked, resume: Path | None, json_to: str | None, color: str) -> int:
    """`mpisqueeze train`, on every rank; the exit code. A run that is resumed asks neither environment nor file."""
    from mpisqueeze.comm.world import World
    from mpisqueeze.report.json_export import write_json
    from mpisqueeze.runs.checkpointing import continued, resumed_config
    from mpisqueeze.runs.plan import TrainConfig, plan
    from mpisqueeze.runs.sources import Settings, resolve
    from mpisqueeze.runs.training import train
    from mpisqueeze.runs.view import View

    def settings() -> Settings:
        if resume is None:
            return resolve(asked, os.environ)
        return Settings(continued(resumed_config(resume), TrainConfig(**asked.given)))

    world = World()
    check_launch(world)
    # Other hosts may see neither rank 0's variables nor its files.
    found = world.on_root(settings)
    with found.blamed():
        planned = world.collectively(lambda: plan(found.config))
        world.on_root(lambda: check_output(json_to, color))
        view = View()
        if world.is_root:
            from mpisqueeze.report.training_view import TrainingView

            choice = choose_terminal(color, stdout_is_json=json_to == "-")  # type: ignore[arg-type]
            view = TrainingView(make_console(choice, stderr=json_to == "-"), choice.live)
        summary = train(planned, world, view, again=resume is not None)
    if world.is_root and json_to:
        write_json(summary, json_to)
    if summary["status"] == "interrupted":
        return ExitCode.INTERRUPTED if summary["signal"] == "SIGINT" else ExitCode.TERMINATED
    return STATUS_CODES[summary["status"]]


def run_dump_config(asked: Asked, about: Mapping[str, tuple[str, str]], color: str) -> int:
    """`mpisqueeze train --dump-config`, on every rank; the exit code.

    Args:
        about: as `as_toml` takes it.
    """
    from mpisqueeze.comm.world import World
    from mpisqueeze.runs.plan import plan
    from mpisqueeze.runs.sources import as_toml, resolve

    world = World()
    check_color(color)
    found = world.on_root(lambda: resolve(asked, os.environ))
    with found.blamed():
        text = world.on_root(lambda: as_toml(plan(found.config), about))
    if world.is_root:
        write_text(text, "-")
    return ExitCode.OK


def run_compare(
    pairs: Sequence[str],
    preset: str | None,
    sweeps: Sequence[str],
    target_loss: float | None,
    asked: Asked,
    json_to: str | None,
    color: str,
) -> int:
    """`mpisqueeze compare`, on every rank; the exit code."""
    from mpisqueeze.comm.world import Signal, World
    from mpisqueeze.record.folder import check_path, timed_path
    from mpisqueeze.report.compare_view import CompareView
    from mpisqueeze.report.comparison_table import comparison_report
    from mpisqueeze.report.json_export import write_json
    from mpisqueeze.runs import pairs as methods
    from mpisqueeze.runs.comparing import Ledger, check_entries, compare
    from mpisqueeze.runs.interrupts import Interrupts
    from mpisqueeze.runs.sources import resolve

    def plan_all() -> list[methods.Entry]:
        check_target_loss(target_loss)
        texts = [*([] if preset is None else methods.preset(preset)), *pairs]
        asked_for = [methods.parse_pair(text) for text in texts]
        return methods.expand(asked_for, [methods.parse_sweep(text) for text in sweeps], config)

    world = World()
    check_launch(world)
    found = world.on_root(lambda: resolve(asked, os.environ))
    config = found.config
    with found.blamed():
        entries = world.collectively(plan_all)
        world.on_root(lambda: check_output(json_to, color))
        world.on_root(lambda: check_path(config.out) if config.out else None)
    ledger: Ledger | None = None
    view: CompareView | None = None
    choice = choose_terminal(color, stdout_is_json=json_to == "-")  # type: ignore[arg-type]
    console = make_console(choice, stderr=json_to == "-")

    def open_ledger() -> str:
        nonlocal ledger
        ledger = Ledger(config.out or timed_path("compare", world.size), entries, world.size, target_loss)
        return str(ledger.folder.path)

    with Interrupts() as interrupts:
        with found.blamed():
            check_entries(entries, world)
            path = world.on_root(open_ledger)
        if ledger:
            names = [entry.name for entry in entries]
            view = CompareView(console, choice.live, names, path, interrupts.hand_on)
        try:
            outcome = compare(entries, world, Path(path), interrupts, ledger, view)
        finally:
            if view:
                view.close()
    if ledger:
        console.print(comparison_report(ledger.ranking(), console))
        console.print(f"comparison: {path}", style="dim", soft_wrap=True)
        if json_to:
            write_json(ledger.summaries(), json_to)
    if outcome.stopped_by:
        return ExitCode.INTERRUPTED if outcome.stopped_by == Signal.INTERRUPT else ExitCode.TERMINATED
    if "ok" in outcome.statuses:
        return ExitCode.OK
    return ExitCode.DIVERGED if "diverged" in outcome.statuses else ExitCode.FAILED


def run_reproduce(
    wanted: Sequence[str],
    scale: str,
    data_dir: Path | None,
    device: str,
    out: Path | None,
    json_to: str | None,
    color: str,
) -> int:
    """`mpisqueeze reproduce`, on every rank; the exit code, 0 whatever the verdicts are."""
    from mpisqueeze.comm.world import Signal, World
    from mpisqueeze.record.claims import read_claims
    from mpisqueeze.record.folder import RunFolder, check_path, timed_path
    from mpisqueeze.report.claims_view import ClaimsView, claims_report
    from mpisqueeze.report.html.page import render
    from mpisqueeze.report.html.reproduction_page import reproduction_page
    from mpisqueeze.report.json_export import write_json
    from mpisqueeze.reproduce.claims import select
    from mpisqueeze.reproduce.engine import check_claims, check_tasks, plan_tasks
    from mpisqueeze.runs.interrupts import Interrupts

    world = World()
    check_launch(world)
    tasks = world.collectively(lambda: plan_tasks(select(wanted, scale), world.size, data_dir, device))
    world.on_root(lambda: check_output(json_to, color))
    world.on_root(lambda: check_path(out) if out else None)
    choice = choose_terminal(color, stdout_is_json=json_to == "-")  # type: ignore[arg-type]
    console = make_console(choice, stderr=json_to == "-")
    folder: RunFolder | None = None
    view: ClaimsView | None = None

    def open_folder() -> str:
        nonlocal folder
        folder = RunFolder(out or timed_path("reproduce", world.size))
        return str(folder.path)

    with Interrupts() as interrupts:
        check_tasks(tasks, world)
        path = world.on_root(open_folder)
        if world.is_root:
            view = ClaimsView(console, choice.live, len(tasks), interrupts.hand_on)
        try:
            verdicts, stopped = check_claims(tasks, world, Path(path), scale, interrupts, folder, view)
        finally:
            if view:
                view.close()
    if world.is_root:
        if verdicts:
            console.print(claims_report(verdicts))
            write_text(render(reproduction_page(Path(path), read_claims(Path(path)))), f"{path}/{PAGE}")
            console.print(f"page: {path}/{PAGE}", style="dim", soft_wrap=True)
        console.print(f"folder: {path}", style="dim", soft_wrap=True)
        if json_to:
            write_json(verdicts, json_to)
    if stopped:
        return ExitCode.INTERRUPTED if stopped == Signal.INTERRUPT else ExitCode.TERMINATED
    return ExitCode.OK


def run_claims(json_to: str | None, color: str) -> int:
    """`mpisqueeze reproduce` without a claim: what there is to choose from."""
    from rich import box
    from rich.table import Table

    from mpisqueeze.report.json_export import write_json
    from mpisqueeze.reproduce.claims import SCALES, names, select

    check_output(json_to, color)
    found = select(names(), SCALES[0])
    if json_to:
        write_json([{"claim": claim.name, "title": claim.title, "says": claim.says} for claim in found], json_to)
    if json_to != "-":
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("claim", style="bold", no_wrap=True)
        table.add_column("says")
        for claim in found:
            table.add_row(claim.name, claim.says)
        make_console(choose_terminal(color)).print(table)  # type: ignore[arg-type]
    return ExitCode.OK


@dataclass(frozen=True)
class ReportTargets:
    """Where `report` writes besides the screen, each a file or `-` for stdout alone; None: nowhere.

    Attributes:
        plot: a file, or `terminal`.
        plot_kind: what it shows.
    """

    json: str | None
    csv: str | None
    markdown: str | None
    html: str | None
    plot: str | None
    plot_kind: str

    def checked(self) -> bool:
        """Whether one of them takes stdout. Raises UsageError."""
        from mpisqueeze.report.plot import check_plot
        from mpisqueeze.report.run_charts import KINDS

        alone = check_targets(
            {"--json": self.json, "--csv": self.csv, "--markdown": self.markdown, "--html": self.html}
        )
        if self.plot_kind not in KINDS:
            near = suggestion(self.plot_kind, KINDS)
            raise UsageError(f"{self.plot_kind!r} is not one of {', '.join(KINDS)}{near}", "--plot-kind")
        if self.plot and self.plot != TERMINAL:
            check_targets({"--plot": f"./{self.plot}" if self.plot == "-" else self.plot})
            check_plot(self.plot)
        return alone


def run_report(
    paths: Sequence[Path],
    target_loss: float | None,
    targets: ReportTargets,
    calibration_from: Path | None,
    color: str,
) -> int:
    """`mpisqueeze report`; no MPI. Under a launcher every rank finds the same errors, and only rank 0 writes."""
    from mpisqueeze.analysis.ranking import rank_runs, summaries_of
    from mpisqueeze.comm.launched import launched_rank
    from mpisqueeze.record.calibration import read_calibration
    from mpisqueeze.record.claims import CLAIMS
    from mpisqueeze.record.reading import read_runs
    from mpisqueeze.report.closing import closing
    from mpisqueeze.report.comparison_table import comparison_report
    from mpisqueeze.report.csv_export import write_csv
    from mpisqueeze.report.html.page import render
    from mpisqueeze.report.html.run_page import runs_page
    from mpisqueeze.report.json_export import write_json
    from mpisqueeze.report.markdown_export import write_markdown
    from mpisqueeze.report.plot import draw
    from mpisqueeze.report.run_charts import charts_of
    from mpisqueeze.report.terminal_plot import terminal_plot

    check_color(color)
    check_target_loss(target_loss)
    alone = targets.checked()
    reproductions = [path for path in paths if os.path.isfile(path / CLAIMS)]
    if reproductions:
        if len(paths) > 1:
            raise UsageError(f"{reproductions[0]} is a reproduction, which is reported by itself", "RUN")
        return _report_claims(reproductions[0], target_loss, targets, color)
    calibration = read_calibration(calibration_from) if calibration_from else None
    runs, comparisons = read_runs(paths)
    if target_loss is None and len(comparisons) == 1:
        target_loss = comparisons[0].target_loss
    ranking = rank_runs(runs, target_loss)
    # Drawn before anything is shown, and by all ranks alike, for it may turn out that there is nothing to draw.
    page = render(runs_page(runs, ranking, calibration)) if targets.html else ""
    charts = charts_of(targets.plot_kind, runs, ranking, calibration) if targets.plot else []
    if launched_rank():
        return ExitCode.OK
    choice = choose_terminal(color, stdout_is_json=alone)  # type: ignore[arg-type]
    console = make_console(choice, stderr=alone)
    if len(runs) == 1:
        console.print(closing(runs[0].summary))
    console.print(comparison_report(ranking, console))
    if targets.json:
        single = len(runs) == 1 and not comparisons
        write_json(runs[0].summary if single else summaries_of(runs, ranking), targets.json)
    if targets.csv:
        write_csv(ranking, targets.csv)
    if targets.markdown:
        write_markdown(ranking, targets.markdown)
    if targets.html:
        write_text(page, targets.html)
    if targets.plot == TERMINAL:
        console.print(terminal_plot(charts, console), soft_wrap=True)
    elif targets.plot:
        draw(charts, targets.plot)
    return ExitCode.OK


def _report_claims(path: Path, target_loss: float | None, targets: ReportTargets, color: str) -> int:
    """`mpisqueeze report` of what `reproduce` left."""
    from mpisqueeze.comm.launched import launched_rank
    from mpisqueeze.record.claims import read_claims
    from mpisqueeze.report.claims_view import claims_report
    from mpisqueeze.report.html.page import render
    from mpisqueeze.report.html.reproduction_page import reproduction_page
    from mpisqueeze.report.json_export import write_json

    for option, given in (
        ("--csv", targets.csv), ("--markdown", targets.markdown), ("--plot", targets.plot),
        ("--target-loss", target_loss),
    ):  # fmt: skip
        if given is not None:
            raise UsageError(f"is for runs: {path} is a reproduction; report one of its folders", option)
    about = read_claims(path)
    page = render(reproduction_page(path, about)) if targets.html else ""
    if launched_rank():
        return ExitCode.OK
    alone = "-" in (targets.json, targets.html)
    console = make_console(choose_terminal(color, stdout_is_json=alone), stderr=alone)  # type: ignore[arg-type]
    console.print(claims_report(about["claims"]))
    if targets.json:
        write_json(about["claims"], targets.json)
    if targets.html:
        write_text(page, targets.html)
    return ExitCode.OK


@dataclass(frozen=True)
class Question:
    """What `predict` is asked, its options parsed; None for what was not given.

    Attributes:
        latency, gap, compute: s.
        bandwidth: bits/s.
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


def run_predict(
    pairs: Sequence[str],
    question: Question,
    json_to: str | None,
    csv_to: str | None,
    plot_to: str | None,
    color: str,
) -> int:
    """`mpisqueeze predict`; no MPI. Under a launcher only rank 0 writes."""
    from mpisqueeze.comm.launched import launched_rank
    from mpisqueeze.modelling.asking import forecast
    from mpisqueeze.report import predict_view
    from mpisqueeze.report.json_export import write_json
    from mpisqueeze.report.plot import check_plot
    from mpisqueeze.runs.pairs import parse_pair

    check_color(color)
    alone = check_targets({"--json": json_to, "--csv": csv_to})
    if plot_to:
        check_targets({"--plot": f"./{plot_to}" if plot_to == "-" else plot_to})
        check_plot(plot_to)
    made = forecast([parse_pair(text) for text in pairs], question)
    if launched_rank():
        return ExitCode.OK
    calibration = str(question.calibration) if question.calibration else None
    facts = predict_view.forecast_facts(made, calibration, question.compute is not None)
    console = make_console(choose_terminal(color, stdout_is_json=alone), stderr=alone)  # type: ignore[arg-type]
    console.print(predict_view.forecast_report(facts, console))
    if json_to:
        write_json(facts, json_to)
    if csv_to:
        predict_view.write_csv(facts, csv_to)
    if plot_to:
        predict_view.draw_map(made, facts, plot_to)
    return ExitCode.OK


def run_check_model(
    paths: Sequence[Path],
    question: Question,
    json_to: str | None,
    csv_to: str | None,
    plot_to: str | None,
    color: str,
) -> int:
    """`mpisqueeze predict --check`; no MPI. Under a launcher only rank 0 writes."""
    from mpisqueeze.comm.launched import launched_rank
    from mpisqueeze.modelling.asking import check, refuse_for_check
    from mpisqueeze.report import predict_view
    from mpisqueeze.report.json_export import write_json

    check_color(color)
    alone = check_targets({"--json": json_to, "--csv": csv_to})
    refuse_for_check(question, plot_to)
    checked, skipped = check(paths, question)
    if launched_rank():
        return ExitCode.OK
    calibration = str(question.calibration) if question.calibration else None
    facts = predict_view.check_facts(checked, skipped, calibration)
    console = make_console(choose_terminal(color, stdout_is_json=alone), stderr=alone)  # type: ignore[arg-type]
    console.print(predict_view.check_report(facts))
    if json_to:
        write_json(facts, json_to)
    if csv_to:
        predict_view.write_csv(facts, csv_to)
    return ExitCode.OK


def run_calibrate(
    out: Path,
    link: str | None,
    compressors: Sequence[str],
    max_size: int,
    quick: bool,
    dtype: str,
    device: str,
    json_to: str | None,
    color: str,
) -> int:
    """`mpisqueeze calibrate`, on every rank; the exit code."""
    from rich.text import Text

    from mpisqueeze.comm.watchdog import watched
    from mpisqueeze.comm.world import World
    from mpisqueeze.modelling.calibrate import Request, calibrate
    from mpisqueeze.record.folder import write_json as write_atomically
    from mpisqueeze.report.calibration_view import calibration_report
    from mpisqueeze.report.json_export import write_json

    world = World()
    check_launch(world)
    request = world.collectively(lambda: Request.checked(link, compressors, max_size, quick, dtype, device))
    world.on_root(lambda: check_output(json_to, color))
    world.on_root(lambda: check_targets({"--out": str(out)}))
    choice = choose_terminal(color, stdout_is_json=json_to == "-")  # type: ignore[arg-type]
    console = make_console(choice, stderr=json_to == "-")

    with watched(world, "a stage of the calibration") as begin:

        def say(stage: str) -> None:
            begin()
            if world.is_root:
                console.print(Text(stage, style="dim"), soft_wrap=True)

        outcome = calibrate(request, world, say)
    if outcome.stopped_by:
        return ExitCode.INTERRUPTED if outcome.stopped_by == Signal.INTERRUPT else ExitCode.TERMINATED
    if world.is_root:
        write_atomically(out, outcome.facts)
        console.print(calibration_report(outcome.facts))
        console.print(f"calibration: {out}", style="dim", soft_wrap=True)
        if json_to:
            write_json(outcome.facts, json_to)
    return ExitCode.OK


def run_bench_kernels(
    compressors: Sequence[str],
    options: dict[str, Any],
    json_to: str | None,
    csv_to: str | None,
    markdown_to: str | None,
    color: str,
) -> int:
    """`mpisqueeze bench kernels`, on this process alone; the exit code.

    Args:
        options: what `bench.kernels.Request.checked` takes besides.
    """
    from mpisqueeze.bench.alone import on_root_alone
    from mpisqueeze.bench.kernels import SCHEMA_VERSION, Request, context, measure, with_memory
    from mpisqueeze.report import bench_view
    from mpisqueeze.report.json_export import write_json

    def work() -> int:
        check_color(color)
        alone = check_targets({"--json": json_to, "--csv": csv_to, "--markdown": markdown_to})
        request = Request.checked(compressors, **options)
        choice = choose_terminal(color, stdout_is_json=alone)  # type: ignore[arg-type]
        columns = bench_view.kernel_columns([part.spec for part in request.compressors])
        view = bench_view.BenchView(make_console(choice, stderr=alone), choice.live, columns, request.rounds)
        facts, results, variant = context(request), [], None
        try:
            view.start(bench_view.kernel_header(facts))
            for row in measure(request, view.tick):
                if row["variant"] != variant:
                    variant = row["variant"]
                    view.section(variant)
                results.append(row)
                for line in bench_view.kernel_lines(row):
                    view.line(line)
        finally:
            view.close()
        facts = with_memory(facts, results)
        failed = bench_view.failures(results, ("compressor", "variant", "size"))
        view.comments(bench_view.kernel_footer(facts))
        view.comments(failed, "bold red")
        if json_to:
            write_json({"schema_version": SCHEMA_VERSION, "context": facts, "results": results}, json_to)
        if csv_to:
            bench_view.write_csv(results, csv_to)
        if markdown_to:
            lines = [line for row in results for line in bench_view.kernel_lines(row)]
            about = [*bench_view.kernel_header(facts), *bench_view.kernel_footer(facts)]
            bench_view.write_markdown(about, [bench_view.VARIANT, *columns], lines, markdown_to)
        return ExitCode.FAILED if failed else ExitCode.OK

    return on_root_alone(work)


def run_bench_comm(
    exchanges: Sequence[str],
    compressors: Sequence[str],
    options: dict[str, Any],
    json_to: str | None,
    csv_to: str | None,
    markdown_to: str | None,
    color: str,
) -> int:
    """`mpisqueeze bench comm`, on every rank; the exit code.

    Args:
        options: what `bench.comm.Request.checked` takes besides.
    """
    from mpisqueeze.bench.comm import SCHEMA_VERSION, Bench, Request
    from mpisqueeze.comm.watchdog import watched
    from mpisqueeze.comm.world import World
    from mpisqueeze.report import bench_view
    from mpisqueeze.report.json_export import write_json

    def check_all() -> bool:
        check_color(color)
        return check_targets({"--json": json_to, "--csv": csv_to, "--markdown": markdown_to})

    world = World()
    check_launch(world)
    request = world.collectively(lambda: Request.checked(exchanges, compressors, **options))
    alone = world.on_root(check_all)
    bench = Bench(request, world)
    facts = bench.context()
    choice = choose_terminal(color, stdout_is_json=alone)  # type: ignore[arg-type]
    columns = bench_view.comm_columns(request.cases)
    live = choice.live and world.is_root
    view = bench_view.BenchView(make_console(choice, stderr=alone), live, columns, request.rounds)
    try:
        if world.is_root:
            view.start(bench_view.comm_header(facts))
        with watched(world, "a round of the benchmark") as begin:

            def tick(what: str) -> None:
                begin()
                if world.is_root:
                    view.tick(what)

            outcome = bench.run(view.line, tick)
    finally:
        view.close()
    if outcome.stopped_by:
        return ExitCode.INTERRUPTED if outcome.stopped_by == Signal.INTERRUPT else ExitCode.TERMINATED
    failed = bench_view.failures(outcome.results, ("exchange", "compressor", "size"))
    if world.is_root:
        view.comments(failed, "bold red")
        if json_to:
            write_json({"schema_version": SCHEMA_VERSION, "context": facts, "results": outcome.results}, json_to)
        if csv_to:
            bench_view.write_csv(outcome.results, csv_to)
        if markdown_to:
            bench_view.write_markdown(bench_view.comm_header(facts), columns, outcome.results, markdown_to)
    return ExitCode.FAILED if world.comm.bcast(bool(failed)) else ExitCode.OK


def run_data_get(names: Sequence[str], data_dir: Path | None, mirror: str | None, force: bool, color: str) -> int:
    """`mpisqueeze data get`, on this process alone; the exit code, 4 where a data set could not be had."""
    import signal
    import sys

    from mpisqueeze.bench.alone import on_root_alone
    from mpisqueeze.data.files import data_folder
    from mpisqueeze.data.getting import choose_mirror, find_published, get
    from mpisqueeze.data.published import DownloadError
    from mpisqueeze.report.download_view import DownloadView

    def work() -> int:
        check_color(color)
        sources, chosen, root = [find_published(name) for name in names], choose_mirror(mirror), data_folder(data_dir)
        choice = choose_terminal(color)  # type: ignore[arg-type]
        view = DownloadView(make_console(choice), choice.live)
        stopped_by = ExitCode.INTERRUPTED

        def terminate(number: int, frame: Any) -> None:
            nonlocal stopped_by
            stopped_by = ExitCode.TERMINATED
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, terminate)
        try:
            for source in dict.fromkeys(sources):
                received = get(source, root, chosen, force, view)
                view.done(source.name, root / source.name, len(source.files), received)
        except DownloadError as error:
            view.close()
            print(f"mpisqueeze: error: {error}", file=sys.stderr, flush=True)
            return ExitCode.FAILED
        except KeyboardInterrupt:
            view.close()
            print("mpisqueeze: stopped; the same command goes on from here", file=sys.stderr, flush=True)
            return stopped_by
        finally:
            view.close()
            signal.signal(signal.SIGTERM, before)
        return ExitCode.OK

    return on_root_alone(work)


def run_data_list(data_dir: Path | None, json_to: str | None, color: str) -> int:
    """`mpisqueeze data list`; no MPI. Under a launcher only rank 0 writes."""
    from mpisqueeze.comm.launched import launched_rank
    from mpisqueeze.data.files import data_folder
    from mpisqueeze.data.getting import present
    from mpisqueeze.data.published import PUBLISHED
    from mpisqueeze.report.download_view import listing
    from mpisqueeze.report.json_export import write_json

    check_output(json_to, color)
    root = data_folder(data_dir)
    rows = [
        {
            "name": source.name,
            "summary": source.summary,
            "page": source.page,
            "download_bytes": sum(file.size for file in source.downloads),
            "folder": str((root / source.name).absolute()),
            "files": len(source.files),
            "files_present": present(source, root),
        }
        for source in PUBLISHED.values()
    ]
    if launched_rank():
        return ExitCode.OK
    if json_to != "-":
        make_console(choose_terminal(color)).print(listing(rows, root))  # type: ignore[arg-type]
    if json_to:
        write_json({"data_dir": str(root.absolute()), "data_sets": rows}, json_to)
    return ExitCode.OK


def check_launch(world: World) -> None:
    """Follow the launcher from now on.

    Raises UsageError where a launcher started ranks that MPI takes for so many worlds of one.
    """
    from mpisqueeze.comm.library import launched_apart, library_version, short_name
    from mpisqueeze.comm.watchdog import follow_launcher

    follow_launcher()
    wanted = os.environ.get("MPISQUEEZE_LAUNCHED_RANKS", "")
    advice = "they do not match; {} the launcher that belongs to this MPI (under SLURM, srun may need --mpi=pmix)"
    if wanted.isdigit() and int(wanted) != world.size:
        name = short_name(library_version())
        raise UsageError(
            f"launch started {wanted} ranks, but the MPI that mpi4py loads, {name}, sees {world.size}: "
            + advice.format("name"),
            "--launcher",
        )
    if wrong := launched_apart(world.size, os.environ):
        raise UsageError(f"{wrong}: {advice.format('use')}; `mpisqueeze info` shows what is here")


def check_output(json_to: str | None, color: str) -> None:
    """Raise UsageError for a --json or --color that cannot be."""
    check_color(color)
    check_targets({"--json": json_to})


def check_target_loss(target_loss: float | None) -> None:
    """Raise UsageError for a --target-loss that no loss can be compared with."""
    import math

    if target_loss is not None and not math.isfinite(target_loss):
        raise UsageError(f"must be a number, got {target_loss}", "--target-loss")


def run_check(text: str, color: str) -> int:
    """`mpisqueeze check`: the conformance tests of a part; exit code 2 if one fails."""
    from rich.text import Text

    from mpisqueeze.parts.conformance import examine, find_part

    check_color(color)
    kind, part = find_part(text)
    console = make_console(choose_terminal(color))  # type: ignore[arg-type]
    console.print(Text.assemble(f"{kind} ", (part.spec, "bold")), soft_wrap=True)
    marks = {"passed": ("passed  ", "green"), "failed": ("FAILED  ", "bold red"), "doubtful": ("doubtful", "yellow")}
    counts = dict.fromkeys(marks, 0)
    for finding in examine(kind, part):
        counts[finding.outcome] += 1
        detail = f": {finding.detail}" if finding.detail else ""
        console.print(Text.assemble("  ", marks[finding.outcome], f" {finding.check}{detail}"), soft_wrap=True)
    console.print(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    return ExitCode.USAGE if counts["failed"] else ExitCode.OK


def run_lab(
    hosts: int,
    rate: str | None,
    rates: str | None,
    delay: str,
    mtu: int,
    command: Sequence[str],
    any_program: bool,
    json_to: str | None,
    color: str,
) -> int:
    """`mpisqueeze lab`; the exit code of the command, at several rates the first that is not 0."""
    from mpisqueeze.lab.cluster import Outcome, check_machine, run_trial
    from mpisqueeze.lab.results import lab_results
    from mpisqueeze.lab.trials import plan_trials
    from mpisqueeze.quantities import format_rate
    from mpisqueeze.report.json_export import write_json
    from mpisqueeze.report.lab_view import lab_report

    check_output(json_to, color)
    alone = json_to == "-"
    trials = plan_trials(hosts, rate, rates, delay, mtu, command, any_program, color)
    machine = check_machine()
    console = make_console(choose_terminal(color, stdout_is_json=alone), stderr=alone)  # type: ignore[arg-type]
    outcomes: list[Outcome] = []
    for number, trial in enumerate(trials, 1):
        if len(trials) > 1:
            console.print(f"[{number}/{len(trials)}] {format_rate(trial.links.rate)}", style="bold")
        outcomes.append(run_trial(trial, machine, to_stderr=alone))
        if outcomes[-1].code not in (ExitCode.OK, ExitCode.DIVERGED):
            break
    facts = lab_results(outcomes)
    if facts["results"] or outcomes[0].code != ExitCode.USAGE:
        console.print(lab_report(facts))
    if json_to:
        write_json(facts, json_to)
    return next((outcome.code for outcome in outcomes if outcome.code), ExitCode.OK)


def run_info(json_to: str | None, color: str) -> int:
    """`mpisqueeze info`."""
    from mpisqueeze.comm.world import World
    from mpisqueeze.report.info import collect_info, info_report
    from mpisqueeze.report.json_export import write_json

    world = World()
    world.on_root(lambda: check_output(json_to, color))
    facts: dict[str, Any] = collect_info(world)
    if world.is_root:
        if json_to != "-":
            make_console(choose_terminal(color)).print(info_report(facts))  # type: ignore[arg-type]
        if json_to:
            write_json(facts, json_to)
    return ExitCode.OK


def run_topology(
    spec: str,
    ranks: int,
    self_weight: float | None,
    dimension: int | None,
    compressor: str,
    json_to: str | None,
    color: str,
) -> int:
    """`mpisqueeze info --topology`, without MPI."""
    from mpisqueeze.report.json_export import write_json
    from mpisqueeze.report.topology import topology_facts, topology_report

    check_output(json_to, color)
    if dimension is not None and dimension < 1:
        raise UsageError(f"must be at least 1, got {dimension}", "--dimension")
    facts = topology_facts(spec, ranks, self_weight, dimension, compressor)
    if json_to != "-":
        make_console(choose_terminal(color)).print(topology_report(facts))  # type: ignore[arg-type]
    if json_to:
        write_json(facts, json_to)
    return ExitCode.OK
