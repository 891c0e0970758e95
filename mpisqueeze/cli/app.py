"""The commands: parse, check, hand over. This module knows no algorithm by name and loads nothing heavy by itself."""

from __future__ import annotations

import errno
import inspect
import io
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional, TypeVar

import typer

from mpisqueeze import __version__
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.quantities import parse_rate, parse_size, parse_time
from mpisqueeze.runs.presets import PRESETS

app = typer.Typer(
    name="mpisqueeze",
    help="Does compressed or decentralized SGD pay off on this cluster, which variant, and by how much?",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

bench = typer.Typer(name="bench", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(bench, help="Time the kernels, or the exchanges, and check that what they give is right.")

data_app = typer.Typer(name="data", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(data_app, help="Download public data sets, and list them.")

METHOD, PROBLEM, RUN, OUTPUT, COMPARISON = "Method", "Problem and data", "Run", "Output", "Comparison"
NETWORK = "Network"
#: Seconds between ranks that each end all of them.
TURN_S = 0.2
#: Commands that need no MPI, though modules that they load would start it.
_WITHOUT_MPI = (["predict"], ["lab"], ["data"], ["bench", "kernels"])

Command = TypeVar("Command", bound=Callable[..., int])


def _size(option: str, text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(str(error), option) from None


def _quantity(option: str, parse: Callable[[str], float], text: str | None) -> float | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise UsageError(str(error), option) from None


#: Settings that take suffixes.
_SIZES = ("iterations", "batch_size", "samples", "test_samples", "eval_every", "chunk")


def _typed(context: typer.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's options that were typed, though it be their default; by name, which is TrainConfig's."""
    return {
        name: _size(f"--{name.replace('_', '-')}", value) if name in _SIZES else value
        for name, value in options.items()
        if getattr(context.get_parameter_source(name), "name", None) == "COMMANDLINE"
    }


def _about_settings() -> dict[str, tuple[str, str]]:
    """The heading and the help of each setting of `train`, by name."""
    about = {}
    for name, parameter in inspect.signature(train, eval_str=True).parameters.items():
        option = next(iter(getattr(parameter.annotation, "__metadata__", ())), None)
        if option is not None and name not in _NO_SETTINGS:
            about[name] = (option.rich_help_panel, option.help.replace("\\[", "["))
    return about


def _with_options_of(source: Callable[..., int], but: tuple[str, ...]) -> Callable[[Command], Command]:
    """Give a command that takes `**options` those of `source` that it does not declare itself, `but` some."""

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters
        theirs = inspect.signature(source, eval_str=True).parameters
        first = [p for name, p in own.items() if name not in theirs and p.kind is not p.VAR_KEYWORD]
        rest = [own.get(name, parameter) for name, parameter in theirs.items() if name not in but]
        parameters = [*first, *(parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in rest)]
        command.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


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

DataDirOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Where data files are. Default: $MPISQUEEZE_DATA, else ./data.", rich_help_panel=PROBLEM),
]

ConfigOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        help="Settings from a TOML file, or a run's config.json. Options come before $MPISQUEEZE_<OPTION>, and that "
        "before the file.",
        metavar="FILE",
        rich_help_panel=RUN,
    ),
]

LinkOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Emulate a network between the ranks of this host: latency=5ms,bandwidth=100mbit\\[,gap=20us].",
        metavar="SPEC",
        rich_help_panel=RUN,
    ),
]

SizesOption = Annotated[
    str,
    typer.Option(
        "-m",
        "--sizes",
        help="Numbers in a vector: one size, or a range, each 4 times the one before.",
        metavar="MIN:MAX",
        rich_help_panel=RUN,
    ),
]
IterationsOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "-i",
        "--iterations",
        help="Timed repetitions. Default: 20 of large sizes, up to 200 of small ones.",
        metavar="COUNT",
        rich_help_panel=RUN,
    ),
]
SkipOption = Annotated[
    int, typer.Option("-x", "--warmup", help="Repetitions before them, not timed.", rich_help_panel=RUN)
]
CheckOption = Annotated[
    str,
    typer.Option(
        "-c", "--check", help="Compare results with the reference, to the bit.", metavar="on|off", rich_help_panel=RUN
    ),
]
CsvOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--csv", help="Write the results as CSV.", metavar="FILE|-", rich_help_panel=OUTPUT),
]
MarkdownOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--markdown", help="Write the table as Markdown.", metavar="FILE|-", rich_help_panel=OUTPUT),
]
ChunkOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Bytes of a message in a pipelined exchange. Default: by the cost model.",
        metavar="SIZE",
        rich_help_panel=RUN,
    ),
]
TreeOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="How a root's answer reaches all: flat, chain, binary, binomial. Default: by the cost model.",
        rich_help_panel=RUN,
    ),
]

ThreadsOption = Annotated[
    int,
    typer.Option(
        help="Threads a rank for the compiled CPU kernels; those of NumPy and CUDA take no notice.",
        metavar="COUNT",
        rich_help_panel=RUN,
    ),
]

TargetLossOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        help="Count bytes and time up to this smoothed loss. Default: 95 % of the first run's progress.",
        metavar="LOSS",
        rich_help_panel=COMPARISON,
    ),
]


@app.command()
def train(
    context: typer.Context,
    algorithm: Annotated[
        str, typer.Option(help="How to train; `mpisqueeze info` lists them.", rich_help_panel=METHOD)
    ] = "doublesqueeze",
    compressor: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="NAME\\[:ARG]\\[,key=value…] or FILE.py:Class. Default: onebit; uniform:8 for dcd and ecd.",
            metavar="SPEC",
            rich_help_panel=METHOD,
        ),
    ] = None,
    server: Annotated[
        str,
        typer.Option(
            help="root: rank 0 is the server. sharded: every rank, of 1/N of the vector.", rich_help_panel=METHOD
        ),
    ] = "root",
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
            help="mlp\\[:H1xH2…], logistic, quadratic:DIM, resnet18, resnet20, cnn, FILE.py:Class or FILE.py:function.",
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
    data_dir: DataDirOption = None,
    samples: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Train on so many samples, drawn once from the training set by the seed. Default: all.",
            metavar="COUNT",
            rich_help_panel=PROBLEM,
        ),
    ] = None,
    test_samples: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Evaluate on so many of the test set, drawn likewise. Default: all.",
            metavar="COUNT",
            rich_help_panel=PROBLEM,
        ),
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
    lr: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Learning rate γ. Default: 0.3; 0.05 for problems that need torch.", rich_help_panel=RUN),
    ] = None,
    lr_schedule: Annotated[
        str, typer.Option(help="constant, step:EPOCHS:FACTOR or cosine.", rich_help_panel=RUN)
    ] = "constant",
    momentum: Annotated[
        float,
        typer.Option(
            help="β of heavy-ball momentum on each rank's gradient: m ← βm + g, and m is exchanged in place of g.",
            rich_help_panel=RUN,
        ),
    ] = 0.0,
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
    threads: ThreadsOption = 1,
    warmup: Annotated[
        int,
        typer.Option(help="First iterations that the summary leaves out of its times.", rich_help_panel=RUN),
    ] = 3,
    link: LinkOption = None,
    chunk: ChunkOption = None,
    tree: TreeOption = None,
    barrier: Annotated[
        bool,
        typer.Option(
            help="Meet before each exchange, so that waiting is not booked as communication.",
            rich_help_panel=RUN,
        ),
    ] = True,
    overlap: Annotated[
        bool,
        typer.Option(
            "--overlap/--no-overlap",
            help="sgd … doublesqueeze: send each section of the gradient while the rest of it is computed.",
            rich_help_panel=RUN,
        ),
    ] = False,
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
    consensus_every: Annotated[
        int,
        typer.Option(
            help="Gossip: iterations between measurements of the consensus distance; 0: never.", rich_help_panel=OUTPUT
        ),
    ] = 1,
    per_rank: Annotated[
        bool, typer.Option("--per-rank/--no-per-rank", help="Log every rank in ranks.jsonl.", rich_help_panel=OUTPUT)
    ] = False,
    save_model: Annotated[
        bool,
        typer.Option(
            "--save-model/--no-save-model", help="Write model.npz: x, every rank's parameters.", rich_help_panel=OUTPUT
        ),
    ] = False,
    timeout: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="End all ranks when an iteration takes longer: 30s, 10min; 0: wait for ever. Default: 30min.",
            metavar="TIME",
            rich_help_panel=RUN,
        ),
    ] = None,
    checksum: Annotated[
        bool,
        typer.Option(
            "--checksum/--no-checksum",
            help="Send each message's CRC-32 behind it, and check it; 4 bytes more.",
            rich_help_panel=RUN,
        ),
    ] = False,
    checkpoint_every: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Save what --resume needs, in the run folder: after so many iterations, or 10min.",
            metavar="COUNT|TIME",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    resume: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Go on with the run in this folder, with its own settings, from its latest checkpoint; "
            "--iterations or --epochs may be raised.",
            metavar="RUN",
            rich_help_panel=RUN,
        ),
    ] = None,
    config: ConfigOption = None,
    dump_config: Annotated[
        bool,
        typer.Option("--dump-config", help="Print the settings as --config takes them, and end.", rich_help_panel=RUN),
    ] = False,
    color: ColorOption = "auto",
) -> int:
    """Train once, under mpirun or alone: a run folder, and a summary of what compression saved.

    [bold]mpirun -n 8 mpisqueeze train --algorithm doublesqueeze --compressor onebit[/]
    """
    given = _typed(context, dict(locals()))
    if resume is not None:
        _refuse_with_resume(given)
    from mpisqueeze.cli.commands import run_dump_config, run_train
    from mpisqueeze.runs.sources import Asked

    asked = Asked({name: value for name, value in given.items() if name not in _NO_SETTINGS}, config)
    if dump_config:
        return run_dump_config(asked, _about_settings(), color)
    return run_train(asked, resume, json_to, color)


#: Options of `train` that say nothing of the run itself.
_NO_SETTINGS = ("json_to", "resume", "config", "dump_config", "color")
#: What may be given beside --resume that changes how the run goes on, and what it shows.
_WITH_RESUME = ("iterations", "epochs", "checkpoint_every", "timeout", "data_dir")
_SHOWN_WITH_RESUME = ("json_to", "resume", "color")


def _refuse_with_resume(given: dict[str, Any]) -> None:
    """Raise UsageError for a setting that a continued run has already."""
    for name in given:
        if name not in (*_WITH_RESUME, *_SHOWN_WITH_RESUME):
            option = f"--{name.replace('_', '-')}"
            allowed = ", ".join(f"--{other.replace('_', '-')}" for other in _WITH_RESUME)
            raise UsageError(f"the run has its own settings: leave out {option}; beside it go {allowed}", "--resume")


#: Settings that a comparison has no use for: its pairs name the methods.
_NOT_COMPARED = ("algorithm", "compressor", "checkpoint_every")


@app.command()
@_with_options_of(train, but=(*_NOT_COMPARED, "resume", "dump_config"))
def compare(
    context: typer.Context,
    pairs: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="PAIR…",
            help="ALGORITHM or ALGORITHM/COMPRESSOR; either may be FILE.py:Class.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help=f"Pairs to start with: {', '.join(PRESETS)}.", metavar="NAME", rich_help_panel=COMPARISON),
    ] = None,
    sweep: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Every pair with every value of an option; repeat for a grid. V1;V2 where values hold commas.",
            metavar="OPTION=V1,V2,…",
            rich_help_panel=COMPARISON,
        ),
    ] = None,
    target_loss: TargetLossOption = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder, new or empty, with a run folder for each. Default: results/<time>-compare-n<N>.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    **options: Any,
) -> int:
    """Train with several methods in one launch, from the same start, data order and seed, and rank them.

    [bold]mpirun -n 8 mpisqueeze compare sgd doublesqueeze/onebit memsgd/topk:0.01 --sweep lr=0.1,0.3[/]
    """
    json_to, color, config = options.pop("json_to"), options.pop("color"), options.pop("config")
    given = _typed(context, {**options, "out": out})
    from mpisqueeze.cli.commands import run_compare
    from mpisqueeze.runs.sources import Asked

    asked = Asked(given, config, _NOT_COMPARED)
    return run_compare(pairs or [], preset, sweep or [], target_loss, asked, json_to, color)


@app.command()
def reproduce(
    claims: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="CLAIM…",
            help="Names, FILE.toml, or all. Without any: a list of them.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="laptop: minutes on two cores. gpu: the talks' own sizes.", rich_help_panel=RUN)
    ] = "laptop",
    data_dir: DataDirOption = None,
    device: Annotated[
        str, typer.Option(help="auto (a GPU where every rank has one), cpu or cuda.", rich_help_panel=RUN)
    ] = "auto",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder, new or empty, with one for each claim. Default: results/<time>-reproduce-n<N>.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json_to: JsonOption = None,
    color: ColorOption = "auto",
) -> int:
    """Put the talks' claims to the test here: for each its runs, what decides, and a verdict.

    [bold]mpirun -n 8 mpisqueeze reproduce all[/]
    """
    from mpisqueeze.cli.commands import run_claims, run_reproduce

    if not claims:
        return run_claims(json_to, color)
    return run_reproduce(claims, scale, data_dir, device, out, json_to, color)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…",
            help="Run folders; a comparison's folder stands for its runs, a reproduction's for its claims.",
        ),
    ],
    target_loss: TargetLossOption = None,
    json_to: JsonOption = None,
    csv_to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--csv", help="Write the ranking as CSV.", metavar="FILE|-", rich_help_panel=OUTPUT),
    ] = None,
    markdown_to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--markdown", help="Write the ranking as Markdown.", metavar="FILE|-", rich_help_panel=OUTPUT),
    ] = None,
    html_to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--html",
            help="Write a page of tables and plots, complete in itself.",
            metavar="FILE|-",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    plot_to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--plot",
            help="Draw into a .png, .svg or .pdf file, or in this terminal.",
            metavar="FILE|terminal",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    plot_kind: Annotated[
        str,
        typer.Option(
            help="loss (by iteration, bytes and time), loss-by-…, test-by-iteration|bytes|time, phases, "
            "time-by-bandwidth.",
            metavar="KIND",
            rich_help_panel=OUTPUT,
        ),
    ] = "loss",
    calibration: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="What `calibrate` wrote: the latency that times by bandwidth are modelled for.",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    color: ColorOption = "auto",
) -> int:
    """Show, rank, export and draw finished runs; needs no MPI.

    [bold]mpisqueeze report results/* --html report.html --plot loss.pdf[/]
    """
    from mpisqueeze.cli.commands import ReportTargets, run_report

    targets = ReportTargets(json_to, csv_to, markdown_to, html_to, plot_to, plot_kind)
    return run_report(runs, target_loss, targets, calibration, color)


@app.command()
def calibrate(
    out: Annotated[
        Path, typer.Option(help="Where to write what was measured; an older one is replaced.", rich_help_panel=OUTPUT)
    ] = Path("calibration.json"),
    link: LinkOption = None,
    compressor: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Measure these compressors instead of all; repeat it.", metavar="SPEC", rich_help_panel=RUN),
    ] = None,
    max_size: Annotated[
        str, typer.Option(help="Bytes of the largest message.", metavar="SIZE", rich_help_panel=RUN)
    ] = "16Mi",
    quick: Annotated[
        bool, typer.Option("--quick", help="A rougher answer in a few seconds.", rich_help_panel=RUN)
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel=RUN)] = "float32",
    device: Annotated[
        str, typer.Option(help="auto (a GPU where every rank has one), cpu or cuda.", rich_help_panel=RUN)
    ] = "auto",
    json_to: JsonOption = None,
    color: ColorOption = "auto",
) -> int:
    """Measure latency, bandwidth and gap of this network, memory and kernel rates; `predict` starts from them.

    [bold]mpirun -n 4 mpisqueeze calibrate[/]
    """
    from mpisqueeze.cli.commands import run_calibrate

    return run_calibrate(
        out, link, compressor or [], _size("--max-size", max_size), quick, dtype, device, json_to, color
    )


@app.command()
def predict(
    pairs: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="PAIR…",
            help="ALGORITHM or ALGORITHM/COMPRESSOR. Default: all. With --check: run folders.",
            show_default=False,
        ),
    ] = None,
    ranks: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("-n", "--ranks", help="Ranks, up to a million.", metavar="N", rich_help_panel=NETWORK),
    ] = None,
    latency: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="α of a message's α + mβ: 20us, 5ms.", metavar="TIME", rich_help_panel=NETWORK),
    ] = None,
    bandwidth: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="8/β: 100mbit, 10gbit.", metavar="RATE", rich_help_panel=NETWORK),
    ] = None,
    gap: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="The part of the latency in which a port is busy. Default: all of it.",
            metavar="TIME",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    calibration: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="What `calibrate` wrote: network, kernel rates and ranks, where not given here.",
            metavar="FILE",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    dimension: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Parameters of the model.", metavar="D", rich_help_panel=METHOD),
    ] = None,
    compute: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of a gradient: 30ms. Default: 0.", metavar="TIME", rich_help_panel=METHOD),
    ] = None,
    compressor: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="For pairs that name none; repeat it.", metavar="SPEC", rich_help_panel=METHOD),
    ] = None,
    server: Annotated[str, typer.Option(help="root, sharded or both.", rich_help_panel=METHOD)] = "both",
    topology: Annotated[
        str,
        typer.Option(
            help="Gossip graph: ring, torus, complete, exponential, star or file:EDGES.",
            metavar="SPEC",
            rich_help_panel=METHOD,
        ),
    ] = "ring",
    dtype: Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel=METHOD)] = "float32",
    check: Annotated[
        bool,
        typer.Option("--check", help="Hold the model against finished runs.", rich_help_panel=COMPARISON),
    ] = False,
    json_to: JsonOption = None,
    csv_to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--csv", help="Write the table as CSV.", metavar="FILE|-", rich_help_panel=OUTPUT),
    ] = None,
    plot_to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--plot",
            help="Draw the map of the fastest methods: .png, .svg or .pdf.",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    color: ColorOption = "auto",
) -> int:
    """What an iteration would cost on another network: a model, with break-even points; needs no MPI and no run.

    [bold]mpisqueeze predict -n 64 --dimension 25M --latency 50us --bandwidth 10gbit --compute 30ms[/]
    """
    from mpisqueeze.cli.commands import Question, run_check_model, run_predict

    question = Question(
        ranks=None if ranks is None else _size("-n", ranks),
        dimension=None if dimension is None else _size("--dimension", dimension),
        latency=_quantity("--latency", parse_time, latency),
        bandwidth=_quantity("--bandwidth", parse_rate, bandwidth),
        gap=_quantity("--gap", parse_time, gap),
        compute=_quantity("--compute", parse_time, compute),
        calibration=calibration,
        compressors=compressor or [],
        server=server,
        topology=topology,
        dtype=dtype,
    )
    if check:
        return run_check_model([Path(run) for run in pairs or []], question, json_to, csv_to, plot_to, color)
    return run_predict(pairs or [], question, json_to, csv_to, plot_to, color)


@bench.command("kernels")
def bench_kernels(
    compressors: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="COMPRESSOR…", help="SPEC or FILE.py:Class. Default: all built-in ones.", show_default=False
        ),
    ] = None,
    sizes: SizesOption = "64Ki:16Mi",
    iterations: IterationsOption = None,
    warmup: SkipOption = 3,
    check: CheckOption = "on",
    dtype: Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel=RUN)] = "float32",
    device: Annotated[
        str, typer.Option(help="cpu, cuda, auto (a GPU where there is one) or all.", rich_help_panel=RUN)
    ] = "all",
    kernels: Annotated[
        str,
        typer.Option(help="On the CPU: auto (the compiled ones if built), native, numpy or all.", rich_help_panel=RUN),
    ] = "auto",
    threads: ThreadsOption = 1,
    json_to: JsonOption = None,
    csv_to: CsvOption = None,
    markdown_to: MarkdownOption = None,
    color: ColorOption = "auto",
) -> int:
    """Encoding and decoding: GB/s, ns a number and the part of the memory's bandwidth; needs no MPI.

    [bold]mpisqueeze bench kernels onebit topk:0.01 -m 1Mi:16Mi[/]
    """
    from mpisqueeze.cli.commands import run_bench_kernels

    options = {
        **_bench_options(sizes, iterations, warmup, check),
        "dtype": dtype,
        "device": device,
        "kernels": kernels,
        "threads": threads,
    }
    return run_bench_kernels(compressors or [], options, json_to, csv_to, markdown_to, color)


@bench.command("comm")
def bench_comm(
    exchanges: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="EXCHANGE…",
            help="allreduce, sharded, root, ring; MPI alone: mpi-allreduce, mpi-gather-bcast, mpi-alltoall-allgather. "
            "Default: all.",
            show_default=False,
        ),
    ] = None,
    compressor: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="For sharded, root and ring; repeat it. Default: identity and onebit.",
            metavar="SPEC",
            rich_help_panel=METHOD,
        ),
    ] = None,
    sizes: SizesOption = "1Ki:4Mi",
    iterations: IterationsOption = None,
    warmup: SkipOption = 3,
    check: CheckOption = "on",
    dtype: Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel=RUN)] = "float32",
    device: Annotated[
        str, typer.Option(help="auto (a GPU where every rank has one), cpu or cuda.", rich_help_panel=RUN)
    ] = "auto",
    buffers: Annotated[
        str, typer.Option(help="auto, device or staged: whether MPI is handed GPU memory.", rich_help_panel=RUN)
    ] = "auto",
    threads: ThreadsOption = 1,
    link: LinkOption = None,
    chunk: ChunkOption = None,
    tree: TreeOption = None,
    json_to: JsonOption = None,
    csv_to: CsvOption = None,
    markdown_to: MarkdownOption = None,
    color: ColorOption = "auto",
) -> int:
    """A whole step through each exchange, by the vector's size, beside MPI_Allreduce and its update in the same run.

    [bold]mpirun -n 8 mpisqueeze bench comm allreduce sharded root --compressor onebit -m 4Mi[/]
    """
    from mpisqueeze.cli.commands import run_bench_comm

    options = {
        **_bench_options(sizes, iterations, warmup, check),
        "dtype": dtype,
        "device": device,
        "buffers": buffers,
        "threads": threads,
        "link": link,
        "chunk": None if chunk is None else _size("--chunk", chunk),
        "tree": tree,
    }
    return run_bench_comm(exchanges or [], compressor or [], options, json_to, csv_to, markdown_to, color)


def _bench_options(sizes: str, iterations: str | None, warmup: int, check: str) -> dict[str, Any]:
    """What both benchmarks take."""
    known = {"on": True, "1": True, "off": False, "0": False}
    if check not in known:
        raise UsageError(f"{check!r} is neither on nor off", "-c")
    count = None if iterations is None else _size("-i", iterations)
    return {"sizes": sizes, "iterations": count, "warmup": warmup, "check": known[check]}


@data_app.command("get")
def data_get(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME…", help="mnist, fashion-mnist or cifar10.", show_default=False)
    ],
    data_dir: DataDirOption = None,
    mirror: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Ask this address alone, for NAME/FILE below it. Default: $MPISQUEEZE_MIRROR, else public servers.",
            metavar="URL",
            rich_help_panel=RUN,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that are not the published ones.", rich_help_panel=RUN)
    ] = False,
    color: ColorOption = "auto",
) -> int:
    """Download data sets into the data folder; go on where it stopped before, and check every file's SHA-256.

    [bold]mpisqueeze data get mnist --data-dir ~/data[/]
    """
    from mpisqueeze.cli.commands import run_data_get

    return run_data_get(names, data_dir, mirror, force, color)


@data_app.command("list")
def data_list(data_dir: DataDirOption = None, json_to: JsonOption = None, color: ColorOption = "auto") -> int:
    """What can be downloaded, and what of it is in the data folder."""
    from mpisqueeze.cli.commands import run_data_list

    return run_data_list(data_dir, json_to, color)


@app.command()
def info(
    context: typer.Context,
    topology: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Show a gossip graph instead: W, its spectral gap, what it sends.", metavar="SPEC"),
    ] = None,
    ranks: Annotated[str, typer.Option("-n", "--ranks", help="Ranks of the graph.", metavar="N")] = "8",
    self_weight: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="W_ii of every rank of the graph."),
    ] = None,
    dimension: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Length of the vectors, for the bytes of an iteration.", metavar="D"),
    ] = None,
    compressor: Annotated[str, typer.Option(help="What they are compressed by.", metavar="SPEC")] = "identity",
    json_to: JsonOption = None,
    color: ColorOption = "auto",
) -> int:
    """Show MPI, CUDA-awareness, devices, versions, and every algorithm, compressor, problem and data set."""
    if topology is not None:
        from mpisqueeze.cli.commands import run_topology

        length = None if dimension is None else _size("--dimension", dimension)
        return run_topology(topology, _size("-n", ranks), self_weight, length, compressor, json_to, color)
    graphs = {"ranks": ranks, "self_weight": self_weight, "dimension": dimension, "compressor": compressor}
    for name in _typed(context, graphs):
        raise UsageError("goes with --topology", f"--{name.replace('_', '-')}")
    from mpisqueeze.cli.commands import run_info

    return run_info(json_to, color)


@app.command()
def check(
    part: Annotated[str, typer.Argument(metavar="FILE.py:Class", help="A problem, a compressor or an algorithm.")],
    color: ColorOption = "auto",
) -> int:
    """Run the conformance tests that the built-in parts pass on a part of your own."""
    from mpisqueeze.cli.commands import run_check

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


@app.command(
    context_settings={"allow_extra_args": True, "allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--] COMMAND…",
)
def lab(
    context: typer.Context,
    ranks: Annotated[int, typer.Option("-n", "--ranks", metavar="N", help="Number of hosts, of one rank each.")],
    rate: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of every host's link, each way: 100mbit, 2.5gbit.", metavar="RATE", rich_help_panel=NETWORK),
    ] = None,
    rates: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Run COMMAND once at each.", metavar="RATE,RATE,…", rich_help_panel=NETWORK),
    ] = None,
    delay: Annotated[
        str, typer.Option(help="From host to host: 5ms, 20us.", metavar="TIME", rich_help_panel=NETWORK)
    ] = "0s",
    mtu: Annotated[
        int, typer.Option(help="Bytes of the largest packet.", metavar="BYTES", rich_help_panel=NETWORK)
    ] = 1500,
    any_program: Annotated[
        bool, typer.Option("--exec", help="COMMAND is any program with its arguments, and every rank runs it.")
    ] = False,
    json_to: JsonOption = None,
    color: ColorOption = "auto",
) -> int:
    """Run COMMAND on a virtual cluster: N hosts in namespaces of this Linux machine, shaped links, real TCP, no root.

    [bold]mpisqueeze lab -n 8 --rates 1gbit,100mbit train --algorithm doublesqueeze --server sharded[/]
    """
    from mpisqueeze.cli.commands import run_lab

    return run_lab(ranks, rate, rates, delay, mtu, list(context.args), any_program, json_to, color)


def main(arguments: list[str] | None = None) -> None:
    """The console script: run a command and exit with its code; no rank is left waiting for another."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Open MPI does not start without, and services and containers may have none.
    home = os.path.expanduser("~")
    os.environ.setdefault("HOME", "/" if home == "~" else home)
    if any(arguments[: len(command)] == command for command in _WITHOUT_MPI):
        from mpisqueeze.comm.launched import launched_rank

        if launched_rank() is None:
            import mpi4py

            # Starting MPI takes longer than the command, and nothing in this process will miss it.
            mpi4py.rc.initialize = False
    code = run(arguments)
    from mpisqueeze.comm.launched import end_in_time

    end_in_time()
    sys.exit(code)


#: What a file system says of what it cannot hold; nothing in the program is at fault.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def run(arguments: list[str]) -> int:
    """Run a command; its exit code. Errors are reported by rank 0, once."""
    from mpisqueeze.comm.launched import abort_others, launched_rank, leave_together
    from mpisqueeze.comm.library import unsuited_launcher
    from mpisqueeze.files import discard

    rank = launched_rank()
    speaks = not rank
    for stream in (sys.stdout, sys.stderr):
        # An ASCII terminal shows \u2014 for a dash, and any shows what is no text in a file's name.
        if getattr(stream, "errors", "") == "strict" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    stdout = sys.stdout
    if speaks and (wrong := unsuited_launcher(os.environ)):
        print(f"mpisqueeze: warning: {wrong}", file=sys.stderr, flush=True)
    if not speaks:
        # Help and version come from the parser, on every rank.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = app(arguments, standalone_mode=False)
        return int(code or ExitCode.OK)
    except UsageError as error:
        return leave_together(_complain(str(error), speaks))
    except KeyboardInterrupt:
        # The others may be waiting for this rank, and MPI's own end would wait for them.
        return abort_others(ExitCode.INTERRUPTED)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            # The help's reader is gone.
            return ExitCode.OK
        print(f"mpisqueeze: rank {rank or 0}: a plug-in ended the program: {error!r}", file=sys.stderr, flush=True)
        return abort_others(ExitCode.FAILED)
    except Exception as error:
        if hasattr(error, "format_message"):
            return leave_together(_complain(error.format_message(), speaks, getattr(error, "ctx", None)))
        details = getattr(error, "details", None)
        if details is not None:
            alone = getattr(error, "alone", False)
            if alone:
                # Where several ranks find out at once, the lowest one speaks, and ends the others.
                time.sleep(min(TURN_S * (rank or 0), 5 * TURN_S))
            if speaks or alone:
                print(f"{details}mpisqueeze: {error}", file=sys.stderr, flush=True)
            return abort_others(ExitCode.FAILED) if alone else leave_together(ExitCode.FAILED)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            where = f"{error.filename}: " if error.filename else ""
            print(f"mpisqueeze: rank {rank or 0}: {where}{error.strerror}", file=sys.stderr, flush=True)
            try:
                stdout.flush()
            except OSError:
                # It would fail once more when Python ends.
                discard(stdout)
            return abort_others(ExitCode.FAILED)
        traceback.print_exc()
        print(f"mpisqueeze: rank {rank or 0} failed: {error!r}", file=sys.stderr, flush=True)
        return abort_others(ExitCode.FAILED)
    finally:
        sys.stdout = stdout


def _complain(message: str, speaks: bool, context: Any = None) -> int:
    # Where no command is named, the parser has shown the help and has nothing to add.
    if speaks and message:
        command = getattr(context, "command_path", "mpisqueeze") if context else "mpisqueeze"
        hint = f"\nTry '{command} --help'." if context else ""
        print(f"mpisqueeze: error: {message}{hint}", file=sys.stderr, flush=True)
    return ExitCode.USAGE
