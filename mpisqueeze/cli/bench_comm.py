"""`mpisqueeze bench comm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from mpisqueeze.cli.bench import CheckOption, IterationsOption, SizesOption, WarmupOption, timing
from mpisqueeze.cli.completion import offering
from mpisqueeze.cli.options import arguments, command, compressors
from mpisqueeze.cli.output import Output
from mpisqueeze.errors import ExitCode
from mpisqueeze.settings import METHOD, Settings

if TYPE_CHECKING:
    from mpisqueeze.bench.comm import ExchangeRow
    from mpisqueeze.comm.world import World

_OURS = ("allreduce", "sharded", "root", "ring")
_MPIS = ("by-hand", "mpi-allreduce", "mpi-gather-bcast", "mpi-alltoall-allgather")


@command(
    ("workers", "dtype", "device", "buffers", "threads", "link", "chunk", "tree"),
    to=("json", "csv", "markdown", "latex"),
)
def bench_comm(
    settings: Settings,
    output: Output,
    exchanges: Annotated[
        list[str] | None,
        arguments(
            "EXCHANGE…",
            f"{', '.join(_OURS)}; by MPI directly: {', '.join(_MPIS)}. Default: all.",
            offering((*_OURS, *_MPIS)),
        ),
    ] = None,
    compressor: Annotated[
        list[str] | None,
        compressors(
            METHOD,
            "For sharded, root and ring, and linear ones for allreduce; repeat it. Default: identity and onebit.",
        ),
    ] = None,
    sizes: SizesOption = "1Ki:4Mi",
    iterations: IterationsOption = None,
    warmup: WarmupOption = 3,
    check: CheckOption = "on",
) -> int:
    """Time a whole step through each exchange, by size, beside MPI_Allreduce and its update in the same run.

    [bold]mpirun -n 8 mpisqueeze bench comm allreduce sharded root --compressor onebit -m 4Mi[/]
    """
    from mpisqueeze.bench.comm import Bench, CommRequest
    from mpisqueeze.bench.timing import benchmark_facts
    from mpisqueeze.cli.ranks import join
    from mpisqueeze.comm.placement import quota_doubts
    from mpisqueeze.comm.watchdog import watched
    from mpisqueeze.report import bench_view
    from mpisqueeze.virtual.workers import on_workers

    asked = timing(sizes, iterations, warmup, check)
    world = join()
    request = world.collectively(
        lambda: CommRequest.checked(exchanges or [], compressor or [], **asked, settings=settings)
    )
    world.on_root(output.check)
    columns = bench_view.comm_columns(request.cases)
    view = bench_view.BenchView(output.console, output.live, columns, request.rounds)

    def measure(world: World) -> tuple[dict[str, Any], list[str], list[ExchangeRow]]:
        """On rank 0 the facts, the header and the rows; on workers or on ranks."""
        bench = Bench(request, world)
        facts = bench.context()
        header = bench_view.comm_header(facts) if world.is_root else []
        if world.is_root:
            view.start(header)
            view.comments([f"warning: {doubt}" for doubt in quota_doubts(world, facts["threads"])], "yellow")
        with watched(world, "a round of the benchmark") as begin:

            def tick(what: str) -> None:
                begin()
                if world.is_root:
                    view.tick(what)

            return facts, header, bench.run(view.line, tick)

    try:
        facts, header, results = on_workers(world, settings.workers, measure)
    finally:
        view.close()
    failed = bench_view.failures(results, ("exchange", "compressor", "size"))
    if world.is_root:
        view.comments(failed, "bold red")
    output.json(benchmark_facts(facts, results))
    output.csv(bench_view.plain_rows(results))
    output.table(columns, results, header)
    return ExitCode.FAILED if world.comm.bcast(bool(failed)) else ExitCode.OK
