"""`mpisqueeze bench kernels`."""

from __future__ import annotations

from typing import Annotated

from mpisqueeze.cli.bench import CheckOption, IterationsOption, SizesOption, WarmupOption, timing
from mpisqueeze.cli.completion import parts
from mpisqueeze.cli.options import arguments, command, in_run
from mpisqueeze.cli.output import Output
from mpisqueeze.errors import ExitCode
from mpisqueeze.settings import Settings


@command(("dtype", "threads"), to=("json", "csv", "markdown", "latex"))
def bench_kernels(
    settings: Settings,
    output: Output,
    compressors: Annotated[
        list[str] | None,
        arguments("COMPRESSOR…", "SPEC or FILE.py:Class. Default: all built-in ones.", parts("compressors")),
    ] = None,
    sizes: SizesOption = "64Ki:16Mi",
    iterations: IterationsOption = None,
    warmup: WarmupOption = 3,
    check: CheckOption = "on",
    device: Annotated[str, in_run(help="cpu, cuda, auto (a GPU where there is one) or all.", metavar="NAME")] = "all",
    kernels: Annotated[
        str, in_run(help="On the CPU: auto (the compiled ones if built), native, numpy or all.", metavar="NAME")
    ] = "auto",
) -> int:
    """Time encoding and decoding: GB/s, ns an element and the part of the memory's bandwidth; needs no MPI.

    [bold]mpisqueeze bench kernels onebit topk:0.01 -m 1Mi:16Mi[/]
    """
    from mpisqueeze.bench.alone import on_root_alone
    from mpisqueeze.bench.kernels import KernelRequest, context, measure, with_memory
    from mpisqueeze.bench.timing import benchmark_facts
    from mpisqueeze.report import bench_view

    def work() -> int:
        output.check()
        asked = timing(sizes, iterations, warmup, check)
        request = KernelRequest.checked(compressors or [], **asked, device=device, kernels=kernels, settings=settings)
        columns = bench_view.kernel_columns([part.spec for part in request.compressors])
        view = bench_view.BenchView(output.console, output.live, columns, request.rounds)
        facts, results, variant = context(request), [], None
        try:
            view.start(bench_view.kernel_header(facts))
            for row in measure(request, view.tick):
                if row.variant != variant:
                    variant = row.variant
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
        output.json(benchmark_facts(facts, results))
        output.csv(bench_view.plain_rows(results))
        lines = [line for row in results for line in bench_view.kernel_lines(row)]
        about = [*bench_view.kernel_header(facts), *bench_view.kernel_footer(facts)]
        output.table([bench_view.VARIANT, *columns], lines, about)
        return ExitCode.FAILED if failed else ExitCode.OK

    return on_root_alone(work)
