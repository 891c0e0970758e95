"""The commands: parse, check, hand over. This module knows no algorithm by name and loads nothing heavy by itself."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from mpisqueeze import __version__
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.specs import parse_size

app = typer.Typer(
    name="mpisqueeze",
    help="Does compressed or decentralized SGD pay off on this cluster, which variant, and by how much?",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

METHOD, PROBLEM, RUN, OUTPUT = "Method", "Problem and data", "Run", "Output"


def _size(option: str, text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(str(error), option) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mpisqueeze {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


ColorOption = Annotated[
    str, typer.Option("--color", help="auto, always or never.", metavar="WHEN", rich_help_panel=OUTPUT)
]
JsonOption = Annotated[
    Optional[str],  # noqa: UP045 - typer evaluates the annotation on Python 3.10
    typer.Option(
        "--json",
        help="Write the result as JSON to FILE, or alone to stdout for -.",
        metavar="FILE|-",
        rich_help_panel=OUTPUT,
    ),
]


@app.command()
def train(
    algorithm: Annotated[
        str, typer.Option(help="How to train; `mpisqueeze info` lists them.", rich_help_panel=METHOD)
    ] = "doublesqueeze",
    compressor: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="NAME\\[:ARG]\\[,key=value…] or FILE.py:Class. Default: onebit, or identity for full vectors.",
            metavar="SPEC",
            rich_help_panel=METHOD,
        ),
    ] = None,
    server: Annotated[str, typer.Option(help="root: rank 0 is the server.", rich_help_panel=METHOD)] = "root",
    memory_lr: Annotated[
        str, typer.Option(help="memsgd: γ outside or inside the memory.", rich_help_panel=METHOD)
    ] = "outside",
    topology: Annotated[
        str,
        typer.Option(
            help="Gossip graph: ring, torus, complete, exponential, star or file:EDGES.",
            metavar="SPEC",
            rich_help_panel=METHOD,
        ),
    ] = "ring",
    self_weight: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Gossip: every rank's weight on itself, W_ii. Default: the graph's.", rich_help_panel=METHOD),
    ] = None,
    order: Annotated[
        str,
        typer.Option(
            help="dpsgd: atc mixes after the gradient step, awc while the gradient is computed.",
            rich_help_panel=METHOD,
        ),
    ] = "atc",
    eta: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="deepsqueeze, choco: the gossip step η. Default: by compressor.", rich_help_panel=METHOD),
    ] = None,
    problem: Annotated[
        str,
        typer.Option(
            help="mlp\\[:H1xH2…], logistic, quadratic:DIM or FILE.py:Class.",
            metavar="SPEC",
            rich_help_panel=PROBLEM,
        ),
    ] = "mlp",
    data: Annotated[
        str,
        typer.Option(
            help="digits (embedded), mnist, fashion-mnist, cifar10, synthetic:FEATURESxSAMPLES.",
            metavar="SPEC",
            rich_help_panel=PROBLEM,
        ),
    ] = "digits",
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where data files are. Default: $MPISQUEEZE_DATA, else ./data.", rich_help_panel=PROBLEM),
    ] = None,
    partition: Annotated[
        str,
        typer.Option(help="iid, label or dirichlet:ALPHA: how samples spread over ranks.", rich_help_panel=PROBLEM),
    ] = "iid",
    iterations: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Length of the run.", metavar="COUNT", rich_help_panel=RUN),
    ] = None,
    epochs: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Length of the run. Default: 10.", rich_help_panel=RUN),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Samples a rank and iteration.", metavar="COUNT", rich_help_panel=RUN)
    ] = "16",
    lr: Annotated[float, typer.Option(help="Learning rate γ.", rich_help_panel=RUN)] = 0.3,
    lr_schedule: Annotated[
        str, typer.Option(help="constant, step:EPOCHS:FACTOR or cosine.", rich_help_panel=RUN)
    ] = "constant",
    weight_decay: Annotated[float, typer.Option(help="λ: adds λx to each gradient.", rich_help_panel=RUN)] = 0.0,
    clip_norm: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Scale each rank's gradient down to this l2 norm.", rich_help_panel=RUN),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of data order, initial point and compressors.", rich_help_panel=RUN)] = 1,
    dtype: Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel=RUN)] = "float32",
    device: Annotated[
        str, typer.Option(help="auto (a GPU where every rank has one), cpu or cuda.", rich_help_panel=RUN)
    ] = "auto",
    buffers: Annotated[
        str,
        typer.Option(help="auto, device or staged: whether MPI is handed GPU memory.", rich_help_panel=RUN),
    ] = "auto",
    warmup: Annotated[
        int,
        typer.Option(help="First iterations that the summary leaves out of its times.", rich_help_panel=RUN),
    ] = 3,
    barrier: Annotated[
        bool,
        typer.Option(
            help="Meet before each exchange, so that waiting is not booked as communication.",
            rich_help_panel=RUN,
        ),
    ] = True,
    eval_every: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Iterations between evaluations; 0: only before and after. Default: an epoch.",
            metavar="COUNT",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Run folder, new or empty. Default: results/<time>-<algorithm>-<compressor>-n<N>.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json_to: JsonOption = None,
    per_rank: Annotated[
        bool, typer.Option("--per-rank", help="Log every rank in ranks.jsonl.", rich_help_panel=OUTPUT)
    ] = False,
    save_model: Annotated[
        bool,
        typer.Option("--save-model", help="Write model.npz: x, every rank's parameters.", rich_help_panel=OUTPUT),
    ] = False,
    color: ColorOption = "auto",
) -> int:
    """Train once, under mpirun or alone: a run folder, and a summary of what compression saved.

    [bold]mpirun -n 8 mpisqueeze train --algorithm doublesqueeze --compressor onebit[/]
    """
    from mpisqueeze.config import TrainConfig

    config = TrainConfig(
        algorithm=algorithm,
        compressor=compressor,
        server=server,
        memory_lr=memory_lr,
        topology=topology,
        self_weight=self_weight,
        order=order,
        eta=eta,
        problem=problem,
        data=data,
        data_dir=data_dir,
        partition=partition,
        iterations=None if iterations is None else _size("--iterations", iterations),
        epochs=epochs,
        batch_size=_size("--batch-size", batch_size),
        lr=lr,
        lr_schedule=lr_schedule,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        seed=seed,
        dtype=dtype,
        device=device,
        buffers=buffers,
        warmup=warmup,
        barrier=barrier,
        per_rank=per_rank,
        save_model=save_model,
        eval_every=None if eval_every is None else _size("--eval-every", eval_every),
        out=out,
    )
    from mpisqueeze.commands import run_train

    return run_train(config, json_to, color)


@app.command()
def info(json_to: JsonOption = None, color: ColorOption = "auto") -> int:
    """Show MPI, CUDA-awareness, devices, versions, and every algorithm, compressor, problem and data set."""
    from mpisqueeze.commands import run_info

    return run_info(json_to, color)


@app.command()
def check(
    part: Annotated[str, typer.Argument(metavar="FILE.py:Class", help="A problem, a compressor or an algorithm.")],
    color: ColorOption = "auto",
) -> int:
    """Run the conformance tests that the built-in parts pass on a part of your own."""
    from mpisqueeze.commands import run_check

    return run_check(part, color)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    }
)
def launch(
    context: typer.Context,
    ranks: Annotated[int, typer.Option("-n", "--ranks", metavar="N", help="Number of ranks.")],
    launcher: Annotated[str, typer.Option(help="auto, mpirun, mpiexec, srun or a path.", metavar="NAME")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command instead of running it.")] = False,
) -> int:
    """Start COMMAND on N ranks with the MPI launcher that is found, and what a laptop, a container or root needs.

    [bold]mpisqueeze launch -n 8 train --algorithm memsgd --compressor topk:0.01[/]
    """
    from mpisqueeze.launch import launch as start

    return start(ranks, list(context.args), launcher, dry_run)


def main(arguments: list[str] | None = None) -> None:
    """The console script: run a command and exit with its code; no rank is left waiting for another."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run a command; its exit code. Errors are reported by rank 0, once."""
    from mpisqueeze.comm.launched import launched_rank, leave_together

    rank = launched_rank()
    speaks = not rank
    stdout = sys.stdout
    if not speaks:
        # Help and version come from the parser, on every rank.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = app(arguments, standalone_mode=False)
        return int(code or ExitCode.OK)
    except UsageError as error:
        return leave_together(_complain(str(error), speaks))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        from mpisqueeze.comm.launched import abort_others

        if hasattr(error, "format_message"):
            return leave_together(_complain(error.format_message(), speaks, getattr(error, "ctx", None)))
        details = getattr(error, "details", None)
        if details is not None:
            alone = getattr(error, "alone", False)
            if speaks or alone:
                print(f"{details}mpisqueeze: {error}", file=sys.stderr, flush=True)
            return abort_others(ExitCode.FAILED) if alone else leave_together(ExitCode.FAILED)
        traceback.print_exc()
        print(f"mpisqueeze: rank {rank or 0} failed: {error!r}", file=sys.stderr, flush=True)
        return abort_others(ExitCode.FAILED)
    finally:
        sys.stdout = stdout


def _complain(message: str, speaks: bool, context: Any = None) -> int:
    if speaks:
        command = getattr(context, "command_path", "mpisqueeze") if context else "mpisqueeze"
        hint = f"\nTry '{command} --help'." if context else ""
        print(f"mpisqueeze: error: {message}{hint}", file=sys.stderr, flush=True)
    return ExitCode.USAGE
