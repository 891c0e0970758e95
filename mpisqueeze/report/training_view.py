"""The terminal's view of a run: a header, a progress bar or sparse lines, the closing tables."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from mpisqueeze.costs.link import network_name
from mpisqueeze.quantities import clock, counted, duration, format_rate, grouped, ratio, significant, size
from mpisqueeze.record.environment import ranks_on_hosts
from mpisqueeze.record.iterations import Progress
from mpisqueeze.record.summary import sgd_bytes
from mpisqueeze.report.closing import closing
from mpisqueeze.report.live import Drawing, bar
from mpisqueeze.report.tables import defined, panel
from mpisqueeze.runs.plan import Plan
from mpisqueeze.runs.preparation import Run
from mpisqueeze.runs.view import View

#: In a log: a line for each tenth of the run, and one after so many seconds without any.
LOG_PARTS = 10
LOG_SECONDS = 30.0


class TrainingView(View):
    """Writes to `console`; `live` draws a progress bar that updates in place."""

    def __init__(self, console: Console, live: bool) -> None:
        self.console = console
        self._drawing = Drawing(console, live)
        self._iterations = 0
        self._began = self._said = 0.0
        self._next = 0
        self._evaluated: list[str] = []
        self._defined = ""

    def start(self, run: Run, environment: dict[str, Any]) -> None:
        self._iterations, self._defined = run.iterations, defined(run.network.counter.bytes_are)
        self._began = self._said = time.monotonic()
        self.console.print(header(run, environment))
        for warning in run.warnings:
            self.console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
        self._drawing.show(lambda: bar(0, run.iterations, f"0/{run.iterations}"))

    def progress(self, progress: Progress) -> None:
        done, now = progress.iteration, time.monotonic()
        eta = (now - self._began) / done * (self._iterations - done)
        loss, sent = f"loss {significant(progress.loss)}", f"{size(progress.bytes_sent)} sent{self._defined}"
        pace = [f"{duration(progress.seconds_per_iteration)}/it", f"ETA {clock(eta)}"]
        evaluated = [Text(text, "cyan") for text in self._evaluated]
        words = [Text(loss, "bold"), *evaluated, Text(sent, "green"), *map(Text, pace)]
        self._drawing.show(lambda: bar(done, self._iterations, f"{done}/{self._iterations}", *words))
        if not self._drawing and (done >= self._next or now - self._said > LOG_SECONDS):
            parts = [f"iteration {done}/{self._iterations}", loss, *self._evaluated, sent, *pace]
            self.console.print("  ".join(parts), soft_wrap=True)
            self._said = now
            step = max(1, self._iterations // LOG_PARTS)
            self._next = (done // step + 1) * step

    def remark(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def evaluation(self, line: dict[str, Any]) -> None:
        values = {key: value for key, value in line.items() if key not in ("iteration", "epoch")}
        self._evaluated = [f"{key} {significant(value)}" for key, value in values.items()]

    def finish(self, summary: dict[str, Any]) -> None:
        self._drawing.close()
        self.console.print(closing(summary), crop=False)


def header(run: Run, environment: dict[str, Any]) -> Panel:
    """The run's settings, its machines, and what it will send."""
    plan, config = run.plan, run.plan.config
    plain = sgd_bytes(run.groups.count if run.groups else run.world.size, run.dimension * plan.dtype.itemsize)
    expected = run.algorithm.bytes_per_iteration()
    kernels = f", {environment['kernels']} kernels"
    if environment["threads"] > 1:
        kernels += f" on {environment['threads']} threads a rank"
    buffers = run.device.buffers + (f" ({run.device.buffers_reason})" if run.device.buffers_reason else "")
    where = "no server" if run.server is None else f"server {run.server}"
    if run.server == "sharded" and plan.compressor.name != "identity":
        where += ", each shard compressed by itself"
    if run.groups:
        where += f", between {counted(run.groups.count, 'group')} of ranks"
    where = where if run.centralized else gossip(run)
    method = Text.assemble((plan.algorithm.label, "bold"), " with ", (plan.compressor.label, "bold"), f", {where}")
    entries: list[tuple[str, str | Text]] = [
        ("MPI", ranks_on_hosts(environment)),
        ("device", f"{run.device.label}{kernels}; buffers: {buffers}"),
        ("problem", problem(run)),
        *([("shares", shares(run))] if shares(run) else []),
        ("method", method),
        ("run", f"{counted(run.iterations, 'iteration')} ({significant(run.iterations / run.per_epoch)} epochs), "
                f"batch {config.batch_size} a rank, lr {plan.lr:g} {config.lr_schedule}{recipe(plan)}, seed "
                f"{config.seed}"),
    ]  # fmt: skip
    entries[1:1] = [("link", text) for text in link(run, environment)]
    if expected is not None:
        each = f", {size(expected)} every {steps}" if (steps := config.local_steps) > 1 else ""
        mean = expected / steps
        marked = defined(run.network.counter.bytes_are)
        wire = Text(f"{size(mean)} an iteration{marked}{each}, plain sgd {size(plain)}")
        if 0 < mean < plain:
            wire.append(", ").append(f"{ratio(plain / mean)} fewer", "bold green")
        entries.append(("wire", wire))
    return panel("train", [*entries, ("folder", run.path)])


def recipe(plan: Plan) -> str:
    """The optimizer, momentum and weight decay, as far as they are not plain SGD; begins with a comma."""
    config, found = plan.config, []
    if plan.optimizer.name != "sgd":
        found.append(f"{plan.optimizer.name} β {config.betas} ε {config.eps:g}")
    if config.momentum:
        kind = "Nesterov momentum" if config.nesterov else "momentum"
        found.append(f"{kind} {config.momentum:g}" + (" at the update" if config.momentum_at == "update" else ""))
    if plan.local:
        outer = f", outer lr {config.outer_lr:g}"
        if config.outer_momentum:
            kind = "Nesterov momentum" if config.outer_nesterov else "momentum"
            outer += f", {kind} {config.outer_momentum:g}"
        found.append(f"{config.local_steps} local steps{outer}")
    if config.weight_decay:
        spared = " of matrices" if config.weight_decay_on == "matrices" else ""
        found.append(f"weight decay {config.weight_decay:g}{spared}")
    return "".join(f", {text}" for text in found)


def problem(run: Run) -> str:
    """The problem, its data and its size."""
    plan, config = run.plan, run.plan.config
    data = ""
    if getattr(plan.problem.cls, "needs_data", False):
        data = f" on {config.data}" if config.samples is None else f" on {grouped(config.samples)} of {config.data}"
    floor = getattr(getattr(run, "problem", None), "floor", None)
    least = "" if floor is None else f", expected loss ≥ {significant(floor)}, the source's entropy"
    return f"{plan.problem.label}{data}, d = {grouped(run.dimension)} {config.dtype}, partition {plan.partition}{least}"


def shares(run: Run) -> str:
    """The smallest and the largest number of samples on a rank, where they differ by more than one; else empty."""
    if None in run.samples or max(run.samples) - min(run.samples) < 2:
        return ""
    return f"{grouped(min(run.samples))} to {grouped(max(run.samples))} samples a rank, which weigh its gradient"


def link(run: Run, environment: dict[str, Any]) -> list[str]:
    """The emulated link, that of virtual workers, or those of a virtual cluster; nothing for a real network."""
    if environment["link"] == "real":
        return []
    if environment["link"] == "virtual":
        return [f"{network_name('virtual', 1, given=run.plan.config.link)}; times are virtual"]
    return [f"{environment['link']}: {run.plan.config.link or lab_link(environment['lab'])}"]


def lab_link(lab: dict[str, Any]) -> str:
    """The links of a virtual cluster, as `MPISQUEEZE_LAB` tells of them."""
    delay = f", {duration(lab['delay'])} delay" if lab.get("delay") else ""
    return f"{format_rate(lab['rate'])} each way{delay}, MTU {lab['mtu']}, TCP"


def gossip(run: Run) -> str:
    """The graph, its spectral gap, and the gossip step where the algorithm has one."""
    eta = getattr(run.algorithm, "eta", None)
    step = f", η = {eta:g}" if eta is not None else ""
    return f"{run.topology.spec}, 1 − ρ = {significant(run.topology.spectrum().gap)}{step}"
