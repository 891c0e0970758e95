"""`mpisqueeze bench`: what is written, that errors are found, and that what is timed is what training does."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parts import payload_bytes

from mpisqueeze.bench import kernels
from mpisqueeze.bench.exchanges import EXCHANGES, gradient_of
from mpisqueeze.bench.timing import Repetitions, TimeStatistics, parse_sizes, rotated
from mpisqueeze.cli.app import run
from mpisqueeze.devices.device import Device
from mpisqueeze.errors import UsageError
from mpisqueeze.launch import Launcher, make_plan
from mpisqueeze.parts import registry
from mpisqueeze.quantities import grouped

HAS_NATIVE = kernels._native_kernels(np.dtype(np.float32)) is not None
PLUGINS = '''
import numpy as np
from mpisqueeze.compressors.onebit import OneBit


class Halves:
    """Sound: float32 of each number."""

    unbiased = False

    def __init__(self, dimension, xp, dtype, seed):
        self.payload_bytes = 4 * dimension

    def encode(self, vector, payload):
        payload.view(np.float32)[:] = vector

    def decode(self, payload, out):
        out[:] = payload.view(np.float32)


class LeavesOneUnset(Halves):
    def decode(self, payload, out):
        out[1:] = payload.view(np.float32)[1:]


class LeavesBytesUnset(Halves):
    def encode(self, vector, payload):
        payload.view(np.float32)[1:] = vector[1:]


class TwoSeeds(Halves):
    def __init__(self, dimension, xp, dtype, seed):
        super().__init__(dimension, xp, dtype, seed)
        self.seed = seed

    def decode(self, payload, out):
        super().decode(payload, out)
        out += self.seed


class AddsTooMuch(OneBit):
    def decode_add(self, payload, out, factor=1.0):
        super().decode_add(payload, out, factor)
        out[-1] += 1


class ForgetsFactor(OneBit):
    def decode_add(self, payload, out, factor=1.0):
        super().decode_add(payload, out)


class LosesResidual(OneBit):
    def encode_feedback(self, vector, residual, payload):
        super().encode_feedback(vector, residual, payload)
        residual[0] = 0


class Raises(Halves):
    def encode(self, vector, payload):
        raise RuntimeError("on purpose")


class WrongOnRank1(Halves):
    def decode(self, payload, out):
        from mpi4py import MPI
        super().decode(payload, out)
        if MPI.COMM_WORLD.rank == 1:
            out[3] += 1


class WrongLater(Halves):
    """Its first decodings are those that are compared with the equations."""

    decoded = 0

    def decode(self, payload, out):
        from mpi4py import MPI
        super().decode(payload, out)
        WrongLater.decoded += 1
        if MPI.COMM_WORLD.rank == 1 and WrongLater.decoded > 40:
            out[3] += 1


class FailsLater(Halves):
    encoded = 0

    def encode(self, vector, payload):
        from mpi4py import MPI
        FailsLater.encoded += 1
        if MPI.COMM_WORLD.rank == 1 and FailsLater.encoded > 20:
            raise RuntimeError("on purpose")
        super().encode(vector, payload)
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with `mine.py`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUGINS)
    return tmp_path


def spec(name: str) -> str:
    """A plug-in of this test's own file, since modules are loaded once a process by their path."""
    return f"{Path('mine.py').resolve()}:{name}"


# -- sizes and statistics


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("4Mi", [4 << 20]),
        ("64Ki:16Mi", [2**16, 2**18, 2**20, 2**22, 2**24]),
        ("1:5", [1, 4, 5]),
        ("7:7", [7]),
        ("1k:1Ki", [1000, 1024]),
    ],
)
def test_sizes_grow_by_four_and_end_at_the_last(text: str, sizes: list[int]) -> None:
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "0", "0:4", "4:1", "4k:2:1", "x", "-3", "1:", "2Gi", "1.5"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_sizes(text)
    assert raised.value.option == "-m"


def test_statistics_of_samples() -> None:
    samples = [float(x) for x in np.random.default_rng(1).exponential(1, 57)]
    found = TimeStatistics.of(samples)
    assert found.median == statistics.median(samples)
    assert found.mean == pytest.approx(statistics.fmean(samples))
    assert found.std == pytest.approx(statistics.stdev(samples))
    assert found.p99 == pytest.approx(np.quantile(samples, 0.99))
    assert TimeStatistics.of([3.0]).named("x") == {
        "x_s": 3, "x_mean_s": 3, "x_std_s": 0, "x_p99_s": 3, "x_fastest_s": 3,
    }  # fmt: skip


def test_every_item_comes_first_in_turn() -> None:
    rounds = [list(rotated("abcd", number)) for number in range(-3, 9)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert {order[0] for order in rounds[:4]} == set("abcd")


def test_repetitions_are_more_for_small_sizes_unless_told() -> None:
    default = Repetitions(None, 3)
    assert default.of(16 << 20) == 20 < default.of(256 << 10) < default.of(1) == 200
    assert list(Repetitions(2, 3).rounds(1)) == [-3, -2, -1, 0, 1]


# -- kernels


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All compressors, both kernel sets, at three sizes."""
    path = tmp_path_factory.mktemp("bench") / "kernels.json"
    options = ["-m", "100:1500", "-i", "5", "-x", "1", "--kernels", "all", "--device", "cpu", "--json", str(path)]
    assert run(["bench", "kernels", *options]) == 0
    return json.loads(path.read_text())


def test_kernels_json_has_every_field(facts: dict[str, Any]) -> None:
    assert facts["schema_version"] == 1
    context = facts["context"]
    assert context["versions"]["numpy"] == np.__version__
    assert (context["memory_gb_s"]["cpu"] > 0, context["threads"]) == (True, 1)
    assert {"cpu", "cores", "kernels", "command"} <= context.keys()
    sets = ["native", "numpy"] if HAS_NATIVE else ["numpy"]
    expected = [(k, c, s) for k in sets for c in kernels.COMPRESSORS for s in (100, 400, 1500)]
    assert [(row["kernels"], row["compressor"], row["size"]) for row in facts["results"]] == expected
    for row in facts["results"]:
        assert (row["device"], row["wrong"], row["iterations"]) == ("cpu", 0, 5)
        for name in kernels.OPERATIONS:
            samples = row["samples"][f"{name}_s"]
            assert len(samples) == 5
            assert row[f"{name}_s"] == statistics.median(samples) > 0
        assert row["encode_ratio"] == pytest.approx(row["encode_s"] / row["add_s"])
        assert row["encode_gb_s"] == pytest.approx(4e-9 * row["size"] / row["encode_s"])
        assert row["decode_ns"] == pytest.approx(1e9 * row["decode_s"] / row["size"])
        if row["compressor"] == "identity":
            # Read g and δ, write δ and the payload; an add reads two vectors and writes one.
            assert row["encode_memory_percent"] == pytest.approx(100 * 4 / 3 * row["add_s"] / row["encode_s"])
            assert row["decode_memory_percent"] == pytest.approx(100 * row["add_s"] / row["decode_s"])


def test_wire_bits_and_errors_are_those_of_the_definition(facts: dict[str, Any]) -> None:
    for row in facts["results"]:
        nbytes = payload_bytes(row["compressor"], row["size"], 4)
        assert (row["payload_bytes"], row["wire_bits"]) == (nbytes, pytest.approx(8 * nbytes / row["size"]))
        part = registry.compressors.find(row["compressor"])
        bound = part.cls(row["size"], np, np.float32, 0, **part.options).bound()
        error = row["relative_error"]
        assert bound is None or error**2 <= 1.1 * bound + 1e-12
        assert (error == 0) == (row["compressor"] == "identity")


def test_kernels_in_double_precision_and_of_a_single_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "kernels", "-m", "1:33", "-i", "1", "-x", "0", "--dtype", "float64", "--json", "-"]) == 0
    for row in json.loads(capsys.readouterr().out)["results"]:
        assert (row["dtype"], row["wrong"]) == ("float64", 0)
        assert row["payload_bytes"] == payload_bytes(row["compressor"], row["size"], 8)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("LeavesOneUnset", "decode"), ("LeavesBytesUnset", "encode"), ("TwoSeeds", "decode"),
        ("AddsTooMuch", "decode"), ("ForgetsFactor", "decode"), ("LosesResidual", "encode"),
    ],
)  # fmt: skip
def test_a_wrong_compressor_is_found(name: str, operation: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "kernels", spec(name), "-m", "64", "-i", "1", "--json", "out.json"]) == 4
    (row,) = json.loads(Path("out.json").read_text())["results"]
    assert row["wrong"] > 0
    assert row[f"wrong_{operation}"] > 0
    assert "FAILED" in capsys.readouterr().out


def test_a_sound_plug_in_passes_and_nothing_is_checked_where_checks_are_off() -> None:
    assert run(["bench", "kernels", spec("Halves"), "-m", "64", "-i", "1"]) == 0
    assert run(["bench", "kernels", spec("AddsTooMuch"), "-m", "64", "-i", "1", "-c", "off", "--json", "out.json"]) == 0
    (row,) = json.loads(Path("out.json").read_text())["results"]
    assert row["wrong"] is None
    assert row["relative_error"] > 0


@pytest.mark.skipif(not HAS_NATIVE, reason="the extension is not built")
def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from mpisqueeze.kernels.native import NativeKernels

    def flipped(self: Any, vector: Any, residual: Any, payload: Any, *arguments: Any) -> bool:
        done = super(NativeKernels, self).signs_encode(vector, residual, payload, *arguments)
        payload[-1] ^= 1
        return done

    monkeypatch.setattr(NativeKernels, "signs_encode", flipped)
    assert run(["bench", "kernels", "onebit", "-m", "1000", "-i", "1", "--kernels", "native"]) == 4


def test_a_device_is_waited_for_before_a_clock_is_read() -> None:
    events: list[str] = []

    class Gpu(Device):
        def synchronize(self) -> None:
            events.append("synchronize")

    device = Gpu()
    variant = kernels.Variant(device, "cuda")
    dtype = np.dtype(np.float32)
    for text in ("onebit", "topk:0.1"):
        part = registry.compressors.find(text)
        assert sum(kernels.count_wrong(part, 1000, variant, dtype).values()) == 0
        workload = kernels.Workload(part, variant.compressor(part, 1000, dtype), device)
        events.clear()
        assert workload.round(0).keys() == set(kernels.OPERATIONS)
        assert events == ["synchronize"] * 2 * len(kernels.OPERATIONS)


def test_kernels_on_a_gpu_are_those_of_the_reference(
    mpisqueeze_run: Callable[..., Any], cuda_variables: dict[str, str]
) -> None:
    options = ["-m", "1500", "-i", "1", "-x", "0", "--device", "cuda", "--json", "-"]
    finished = mpisqueeze_run(1, "bench", "kernels", *options, **cuda_variables).well()
    rows = finished.json["results"]
    assert [row["compressor"] for row in rows] == list(kernels.COMPRESSORS)
    assert all((row["device"], row["kernels"], row["wrong"]) == ("cuda", "cuda", 0) for row in rows)


@pytest.mark.parametrize(("buffers", "told"), [("staged", "HOST-STAGED"), ("device", "DEVICE")])
def test_exchanges_on_a_gpu_follow_their_equations(
    mpisqueeze_run: Callable[..., Any],
    cuda_variables: dict[str, str],
    need_device_memory: Callable[[], None],
    buffers: str,
    told: str,
) -> None:
    if buffers == "device":
        need_device_memory()
    options = ["-m", "1500", "-i", "2", "--device", "cuda", "--buffers", buffers, "--json", "-"]
    finished = mpisqueeze_run(2, "bench", "comm", *options, **cuda_variables).well()
    assert finished.json["context"]["buffers"] == told
    assert all(row["wrong"] == 0 for row in finished.json["results"])


def test_the_table_csv_and_markdown_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-m", "1Ki:4Ki", "-i", "3", "--csv", "out.csv", "--markdown", "out.md", "--json", "out.json"]
    assert run(["bench", "kernels", "onebit", "qsgd:4", *options, "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    assert "\x1b" not in table
    rows = json.loads(Path("out.json").read_text())["results"]
    written = list(csv.DictReader(io.StringIO(Path("out.csv").read_text())))
    for row, line in zip(rows, written, strict=True):
        assert line == {key: str(value) for key, value in row.items() if key != "samples"}
    lines = [line.split() for line in table.splitlines() if not line.startswith("#")]
    assert [line[:3] for line in lines] == [
        [spec, size, operation]
        for spec in ("onebit", "qsgd:4")
        for size in ("1Ki", "4Ki")
        for operation in ("encode+δ", "encode", "decode+=")
    ]
    markdown = [line for line in Path("out.md").read_text().splitlines() if line.startswith("|")]
    assert len(markdown) == 2 + len(lines)
    for line, cells in zip(lines, markdown[2:], strict=True):
        assert [cell.strip() for cell in cells.strip("|").split("|")][1:] == line


@pytest.mark.parametrize("target", ["--json", "--csv", "--markdown", "--latex"])
def test_stdout_carries_nothing_else(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "kernels", "onebit", "-m", "100", "-i", "1", target, "-"]) == 0
    out, err = capsys.readouterr()
    assert "bench kernels" in err
    first = {
        "--json": "{",
        "--csv": "compressor,device,",
        "--markdown": "| device | compressor |",
        "--latex": "% needs",
    }
    assert out.startswith(first[target])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("kernels qsdg:4", "COMPRESSOR: |did you mean 'qsgd'"),
        ("kernels qsgd:9", "COMPRESSOR: |2 to 8"),
        ("kernels nowhere.py:Thing", "COMPRESSOR: |nowhere.py"),
        ("kernels mine.py:Raises -m 10 --json -", "COMPRESSOR: |on purpose"),
        ("kernels -m small", "-m: |MIN:MAX"),
        ("kernels -m 2147483647 --dtype float64", "-m: |GB"),
        ("kernels -i 0", "-i: |from 1 to"),
        ("kernels -x -1", "-x: |from 0 to"),
        ("kernels -c maybe", "-c: |on nor off"),
        ("kernels --device gpu", "--device: |cuda"),
        ("kernels --kernels cuda", "--kernels: |native"),
        ("kernels --dtype float16", "--dtype: |float32"),
        ("kernels --csv - --json -", "--csv: |stdout"),
        ("kernels --markdown no/such/x.md", "--markdown: "),
        ("comm rot", "EXCHANGE: |did you mean 'root'|sharded"),
        ("comm --compressor onebti", "--compressor: |did you mean 'onebit'"),
        ("comm --compressor mine.py:Raises", "--compressor: |on purpose"),
        ("comm --tree oak", "--tree: |binary"),
        ("comm --chunk 0", "--chunk: "),
        ("comm --threads 65", "--threads: |1 to 64"),
        ("comm --link latency=1", "--link: |latency"),
        ("comm mpi-allreduce --link latency=1ms", "--link: |mpi-allreduce"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(arguments: str, says: str, refused: Callable[..., str]) -> None:
    line = refused("bench", *arguments.split())
    assert all(text in line for text in says.split("|")), line


def test_kernels_under_a_launcher_are_timed_once(mpisqueeze_run: Callable[..., Any]) -> None:
    finished = mpisqueeze_run(2, "bench", "kernels", "onebit", "-m", "1Ki", "-i", "2", "--json", "-").well()
    assert len(finished.json["results"]) == 1
    assert finished.err.count("bench kernels\n") == 1
    finished = mpisqueeze_run(2, "bench", "kernels", "mine.py:Raises", "-m", "1Ki", timeout=30)
    assert finished.code == 2
    assert finished.err.count("mpisqueeze: error:") == 1


# -- comm

COMPRESSED = ["identity", "onebit", "topk:0.1", "qsgd:4"]


def moved(exchange: str, compressor: str, ranks: int, d: int) -> int:
    """Bytes that all ranks together send in a step, by docs/methods.md."""
    full = 4 * d
    shards = [part.size for part in np.array_split(np.arange(d), ranks)]
    if exchange == "mpi-alltoall-allgather":
        return 2 * (ranks - 1) * ranks * 4 * -(-d // ranks)
    if exchange == "root":
        return 2 * (ranks - 1) * payload_bytes(compressor, d, 4)
    if exchange == "sharded":
        return 2 * (ranks - 1) * sum(payload_bytes(compressor, n, 4) for n in shards if n)
    if exchange == "ring":
        return ranks * min(2, ranks - 1) * payload_bytes(compressor, d, 4)
    return 2 * (ranks - 1) * full


@pytest.mark.parametrize("n", [1, 2, 3])
def test_comm_is_right_and_counts_what_is_sent(mpisqueeze_run: Callable[..., Any], folder: Path, n: int) -> None:
    options = [option for text in COMPRESSED for option in ("--compressor", text)]
    targets = ["--json", "out.json", "--csv", "out.csv", "--markdown", "out.md"]
    finished = mpisqueeze_run(n, "bench", "comm", *options, "-m", "5:5000", "-i", "4", "-x", "1", *targets).well()
    value = json.loads((folder / "out.json").read_text())
    assert value["context"]["ranks"] == n
    rows = value["results"]
    cases = [(e, c) for e in EXCHANGES for c in (COMPRESSED if e in ("sharded", "root", "ring") else ["identity"])]
    sizes = [5, 20, 80, 320, 1280, 5000]
    assert [(row["size"], row["exchange"], row["compressor"]) for row in rows] == [
        (s, *case) for s in sizes for case in cases
    ]
    base = {row["size"]: row["time_s"] for row in rows if row["exchange"] == "allreduce"}
    for row in rows:
        exchange, compressor, d = row["exchange"], row["compressor"], row["size"]
        assert row["wrong"] == 0, row
        assert row["ranks"] == n
        assert row["time_s"] == statistics.median(row["samples"]["time_s"]) > 0
        assert len(row["samples"]["time_s"]) == row["iterations"] == 4
        assert row["payload_bytes_all"] == moved(exchange, compressor, n, d)
        assert row["payload_bytes"] == round(row["payload_bytes_all"] / n)
        factor = min(2, n - 1) if exchange == "ring" else 2 * (n - 1) / n
        assert row["busbw"] == pytest.approx(factor * row["algbw"])
        assert row["effective_algbw"] == pytest.approx(4e-9 * d / row["time_s"])
        assert row["effective_busbw"] == pytest.approx(factor * row["effective_algbw"])
        assert row["algbw"] == pytest.approx(1e-9 * row["vector_payload_bytes"] / row["time_s"])
        assert row["ratio"] == pytest.approx(row["time_s"] / base[d])
        if compressor == "identity":
            assert row["kernels_s"] is row["kernels_ratio"] is None
        else:
            assert row["kernels_ratio"] == pytest.approx(row["time_s"] / row["kernels_s"])
    lines = [line for line in finished.out.splitlines() if not line.startswith("#")]
    assert len(lines) == len(rows)
    assert len((folder / "out.csv").read_text().splitlines()) == 1 + len(rows)
    assert sum(line.startswith("|") for line in (folder / "out.md").read_text().splitlines()) == 2 + len(rows)


def test_comm_of_one_number_in_double_precision(mpisqueeze_run: Callable[..., Any]) -> None:
    """Shards may be empty, and payloads go in many messages."""
    finished = mpisqueeze_run(
        3, "bench", "comm", "--dtype", "float64", "-m", "1:40", "-i", "1", "--chunk", "64", "--threads", "2",
        "--json", "-",
    )  # fmt: skip
    assert finished.well().json["context"]["threads"] == (2 if HAS_NATIVE else 1)
    assert all(row["wrong"] == 0 for row in finished.json["results"])


def test_gradients_add_up_exactly_in_any_order() -> None:
    vectors = [gradient_of(rank, 1000, np.dtype(np.float32)) for rank in range(300)]
    forth = sum(vectors[1:], vectors[0])
    back = sum(vectors[-2::-1], vectors[-1])
    assert np.array_equal(forth, back)
    assert 0.9 < np.std(vectors) < 1.1


@pytest.mark.parametrize("name", ["WrongOnRank1", "WrongLater"])
def test_a_rank_that_decodes_wrongly_is_found(mpisqueeze_run: Callable[..., Any], name: str) -> None:
    finished = mpisqueeze_run(
        2, "bench", "comm", "root", "sharded", "allreduce", "--compressor", f"mine.py:{name}", "-m", "100", "-i", "60",
        "--json", "out.json",
    )  # fmt: skip
    assert finished.code == 4, finished.err
    rows = json.loads(Path("out.json").read_text())["results"]
    wrong = {row["exchange"]: row["wrong"] for row in rows}
    assert wrong["allreduce"] == 0
    assert wrong["root"] > 0
    assert wrong["sharded"] > 0
    assert f"FAILED: root, mine.py:{name}, 100: {grouped(wrong['root'])} wrong" in finished.out


def test_a_rank_that_fails_alone_ends_all(mpisqueeze_run: Callable[..., Any]) -> None:
    finished = mpisqueeze_run(2, "bench", "comm", "root", "--compressor", "mine.py:FailsLater", "-m", "100", timeout=30)
    assert finished.code == 4
    assert "rank 1" in finished.err
    assert "on purpose" in finished.err


def test_an_emulated_link_holds_every_exchange(mpisqueeze_run: Callable[..., Any]) -> None:
    finished = mpisqueeze_run(
        2, "bench", "comm", "-m", "64Ki", "-i", "3", "-x", "1", "--link", "latency=2ms,bandwidth=200mbit", "--json", "-"
    )
    rows = finished.well().json["results"]
    assert {row["exchange"] for row in rows} == {"allreduce", "sharded", "root", "ring"}
    for row in rows:
        assert row["wrong"] == 0
        # A server answers once it has heard all; both ports of two ranks are busy at a time.
        least = 0.002 * (2 if row["exchange"] in ("root", "sharded") else 1)
        assert row["time_s"] >= least + 8 * row["payload_bytes_busiest"] / 200e6 * 0.9, row


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_a_rank_ends_all(launcher: Launcher, tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "mine.py").write_text(
        PLUGINS + "import os\nfrom pathlib import Path\nPath(f'pid.{os.getpid()}').touch()\n"
    )
    arguments = ["bench", "comm", "root", "--compressor", "mine.py:Halves", "-m", "64Ki", "-i", "1M"]
    plan = make_plan(launcher, 2, [sys.executable, "-m", "mpisqueeze", *arguments], os.environ)
    process = subprocess.Popen(
        plan.arguments,
        env={**os.environ, **plan.settings},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = [""]
        while "#wrong" not in said[-1].split():  # the titles: ranks are about to begin
            said.append(process.stdout.readline())
            assert said[-1], f"ended with {process.wait(20)} before it began: {''.join(said)}"
        time.sleep(0.5)
        rank = next(tmp_path.glob("pid.*"))
        os.kill(int(rank.suffix[1:]), number)
        assert process.wait(timeout=20) == code
    finally:
        process.kill()
