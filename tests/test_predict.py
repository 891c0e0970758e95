"""`mpisqueeze predict`: its numbers by hand, break-even points, a hundred thousand ranks, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
from parts import make_algorithm
from test_report import edit, write_run

from mpisqueeze.algorithms.base import Algorithm
from mpisqueeze.cli.app import run
from mpisqueeze.comm.world import World
from mpisqueeze.costs import exchanges as cost
from mpisqueeze.costs.link import Link, Processor, network_name, parse_link
from mpisqueeze.errors import UsageError
from mpisqueeze.lab.shaping import Links
from mpisqueeze.modelling.checking import SLICE_S
from mpisqueeze.modelling.forecast import Forecast, wins
from mpisqueeze.modelling.methods import Method, degrees, methods_for
from mpisqueeze.modelling.predict import Work, predict, terms_of, work_of
from mpisqueeze.parts import registry
from mpisqueeze.parts.registry import Part
from mpisqueeze.record.calibration import Calibration, Kernel
from mpisqueeze.runs.pairs import parse_pair
from mpisqueeze.topology import Topology

NETWORK = ["--latency", "50us", "--bandwidth", "10gbit"]
D = 1_000_000
HOCKNEY = Link.hockney(50e-6, 1e10)


pytestmark = pytest.mark.usefixtures("empty_folder")


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The JSON of a prediction on 8 ranks unless told otherwise."""
    ranks = [] if {"-n", "--check", "--calibration"} & {*arguments} else ["-n", "8"]
    dimension = [] if {"--dimension", "--check"} & {*arguments} else ["--dimension", "1M"]
    assert run(["predict", *ranks, *dimension, *arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def method(text: str, server: str = "root", topology: str = "ring") -> Method:
    algorithm, _, compressor = text.partition("/")
    found = registry.algorithms.find(algorithm)
    return Method.of(found, registry.compressors.find(compressor or "identity"), server, topology)


def predicted(text: str, server: str = "root", ranks: int = 8, link: Link = HOCKNEY, topology: str = "ring") -> Any:
    chosen = method(text, server, topology)
    return predict(chosen, chosen.traffic(ranks, D, "float32"), Work(), terms_of(ranks, link), 0.0)


FULL, SIGNS, TENTH = 4 * D, D // 8 + 4 * math.ceil(D / 1024), 8 * D // 100


def test_rows_are_what_the_cost_model_says_of_payloads() -> None:
    assert predicted("allreduce").wire_s == cost.allreduce(HOCKNEY, 8, FULL).seconds
    for made, degree, nbytes in (
        (predicted("dpsgd"), 2, FULL),
        (predicted("choco/topk:0.01", topology="complete"), 7, TENTH),
        (predicted("choco/topk:0.01", ranks=2), 1, TENTH),
    ):
        assert made.wire_s == cost.neighbours(HOCKNEY, degree, nbytes).seconds
    # What cannot be cut travels whole.
    whole = [cost.through_root(HOCKNEY, 8, TENTH, TENTH, 1, way) for way in ("flat", "binomial")]
    assert predicted("doublesqueeze/topk:0.01").wire_s == min(schedule.seconds for schedule in whole)
    for text, up, down in (("doublesqueeze/onebit", SIGNS, SIGNS), ("memsgd/onebit", SIGNS, FULL)):
        row = predicted(text).schedule
        assert row == cost.through_root(HOCKNEY, 8, up, down, row.sections, row.way)
    for text, nbytes in (("sgd", FULL), ("memsgd/randomk:0.01,shared", D // 25)):
        made = predicted(text, "allreduce")
        assert made.wire_s == cost.allreduce(HOCKNEY, 8, nbytes).seconds
        assert made.traffic.total == 14 * nbytes
    row = predicted("sgd", "sharded").schedule
    assert row == cost.sharded(HOCKNEY, 8, FULL, FULL, row.sections)


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("sgd", 14 * FULL), ("allreduce", 14 * FULL), ("csgd/onebit", 7 * (SIGNS + FULL)),
        ("csgd-double/onebit", 14 * SIGNS), ("memsgd/onebit", 7 * (SIGNS + FULL)),
        ("ef21/onebit", 7 * (SIGNS + FULL)), ("ef21-bc/onebit", 14 * SIGNS), ("dgc/topk:0.01", 7 * (TENTH + FULL)),
        ("signum/onebit:scale=none", 14 * (D // 8)), ("onebit-adam/onebit", 14 * SIGNS),
        ("doublesqueeze/onebit", 14 * SIGNS), ("dpsgd", 16 * FULL), ("choco/onebit", 16 * SIGNS),
    ],
)  # fmt: skip
def test_bytes_are_those_that_runs_count(text: str, total: int) -> None:
    assert predicted(text).traffic.total == total


def test_parts_that_ranks_do_not_divide() -> None:
    traffic = method("doublesqueeze/onebit", "sharded").traffic(3, 10, "float32")
    # Parts of 4, 3 and 3 elements: a byte of signs and a scale each.
    assert (traffic.up, traffic.down, traffic.total) == (15, 15, 60)
    assert method("doublesqueeze/onebit", "sharded").traffic(5, 3, "float64").total == 4 * 2 * 3 * 9


def runs_as_predicted() -> None:
    """On ranks: what an algorithm chose for its exchange is what is predicted."""
    world, d = World(), 100_003
    for text in ("sgd", "doublesqueeze/onebit", "memsgd/topk:0.01", "csgd-double/qsgd:4,bucket=64"):
        for server in ("root", "sharded"):
            for link in ("latency=1ms,bandwidth=1gbit", "latency=5ms,bandwidth=100mbit,gap=20us"):
                name, _, compressor = text.partition("/")
                algorithm: Any = make_algorithm(
                    name, compressor or "identity", d, "float32", world, link=link, server=server
                )
                schedule = algorithm.schedule
                traffic = method(text, server).traffic(world.size, d, "float32")
                mine = traffic.schedule(terms_of(world.size, parse_link(link)))
                assert (mine.sections, mine.way) == (schedule.sections, schedule.way)
                # Bytes of parts round up one by one, where the run's choice is by the whole vector's.
                assert math.isclose(mine.seconds, schedule.seconds, rel_tol=1e-3)
                assert traffic.total == algorithm.bytes_per_iteration()
                algorithm.close()


def test_a_run_chooses_the_schedule_that_is_predicted(on_ranks: Callable[..., None]) -> None:
    on_ranks(3, runs_as_predicted)


def test_json_has_what_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    facts = asked(capsys, *NETWORK, "--compute", "30ms", "sgd", "doublesqueeze", "choco/topk:0.01")
    context = facts["context"]
    assert facts["schema_version"] == 1
    assert facts["modelled"] is True
    assert (context["ranks"], context["dimension"], context["kernels"]) == (8, 1_000_000, "not included")
    assert (context["latency_s"], context["bandwidth"], context["compute_s"]) == pytest.approx((50e-6, 1e10, 0.03))
    kernels, gossip = context["notes"]
    assert kernels == "kernel time not included: give --calibration"
    assert "gossip on ring wins by the time of an iteration alone: at ρ = 0.8047" in gossip
    rows = {(row["algorithm"], row["server"], row["compressor"]): row for row in facts["results"]}
    assert set(rows) == {
        ("allreduce", None, "identity"), ("sgd", "root", "identity"), ("sgd", "sharded", "identity"),
        ("doublesqueeze", "root", "onebit"), ("doublesqueeze", "sharded", "onebit"), ("choco", None, "topk:0.01"),
    }  # fmt: skip
    times = [row["iteration_s"] for row in facts["results"]]
    assert times == sorted(times)
    base = rows["allreduce", None, "identity"]
    for row in facts["results"]:
        assert row["ranks"] == 8
        assert row["iteration_s"] == pytest.approx(0.03 + row["comm_s"])
        assert row["bound_s"] == pytest.approx(row["port_bytes"] * 8 / 1e10)
        assert row["bound_s"] <= row["comm_s"]
        assert row["speedup_vs_allreduce"] == pytest.approx(base["iteration_s"] / row["iteration_s"])
        assert row["full_vectors_per_iteration"] == pytest.approx(row["bytes_per_iteration"] / 4e6)
    assert rows["choco", None, "topk:0.01"]["topology"] == "ring"
    assert base["break_even_bandwidth"] is None
    assert {cell["bandwidth"] for cell in facts["cells"]} >= {1e7, 1e10, 4e11}
    assert {row["ranks"] for row in facts["growth"]} >= {2, 4, 65_536, 100_000}
    for cell in facts["cells"]:
        assert cell["speedup_vs_allreduce"] >= 1


def test_break_even_is_where_the_winner_changes(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = ["doublesqueeze/onebit", "memsgd/onebit", "choco/topk:0.01", "dpsgd", "sgd"]
    facts = asked(capsys, *NETWORK, "--compute", "1ms", *pairs)
    seen = set()
    for row in facts["results"]:
        text = f"{row['algorithm']}/{row['compressor']}"
        at = row["break_even_bandwidth"]
        if at is None:
            seen.add("always" if row["wins_between"] else "never")
            continue
        seen.add("crosses")
        sides = []
        for bandwidth in (at / 1.01, at * 1.01):
            link = Link.hockney(50e-6, bandwidth)
            mine, base = (predicted(name, row["server"] or "root", link=link).wire_s for name in (text, "allreduce"))
            sides.append(mine < base)
        assert sides[0] != sides[1], (text, at)
    assert seen >= {"crosses", "always"}


def test_several_crossings_make_several_intervals() -> None:
    inside = wins(lambda b: 1.0 if 1e5 < b < 1e7 else -1.0)
    ((low, high),) = inside.between
    assert low == pytest.approx(1e5, rel=1e-3)
    assert high == pytest.approx(1e7, rel=1e-3)
    assert inside.break_even == high
    outside = wins(lambda b: -1.0 if 1e5 < b < 1e7 else 1.0)
    assert [(low is None, high is None) for low, high in outside.between] == [(True, False), (False, True)]
    assert outside.break_even == pytest.approx(1e7, rel=1e-3)
    assert wins(lambda b: 1.0).between == [(None, None)]
    assert wins(lambda b: -1.0).between == []
    assert wins(lambda b: -1.0).break_even is None


KERNEL = Kernel("onebit", encode=1e-9, encode_feedback=2e-9, decode_add=0.5e-9)
CALIBRATION = Calibration(Path("c.json"), 4, None, 0.25e-9, "float32", {"identity": KERNEL, "onebit": KERNEL})


@pytest.mark.parametrize(
    ("text", "server", "expected"),
    [
        # A worker's encoding, eight payloads added and a division at the root, its encoding, and the answer decoded.
        ("doublesqueeze/onebit", "root",
         Work(4e-3, 8 * 0.5e-3 + 0.25e-3 + 0.5e-3, 8 * 0.5e-3 + 0.25e-3 + 2e-3)),
        ("doublesqueeze/onebit,block=1024", "sharded",
         Work(2e-3 + 2e-3 / 8, 0.5e-3 + 0.25e-3 / 8 + 0.5e-3, 0.5e-3 + 0.25e-3 / 8 + 2e-3 / 8)),
        # No error feedback, and full vectors come down.
        ("csgd/onebit", "root", Work(1e-3, 8 * 0.5e-3 + 0.25e-3 + 0.5e-3, 8 * 0.5e-3 + 0.25e-3)),
        # Own payload and two neighbours'; two passes for the update.
        ("choco/onebit", "root", Work(1e-3, 3 * 0.5e-3, 0.0, 0.5e-3)),
        # MPI adds up what it receives in place of the gradient; the sum is added to the model in one pass.
        ("allreduce", "root", Work(0.0, 0.25e-3 * 7 / 8, 0.25e-3 * 7 / 8, 0.5e-3)),
    ],
)  # fmt: skip
def test_work_by_hand(text: str, server: str, expected: Work) -> None:
    chosen = method(text, server)
    found = work_of(chosen, chosen.traffic(8, D, "float32"), CALIBRATION)
    assert found is not None
    assert astuple(found) == pytest.approx(astuple(expected))


def test_kernels_overlap_with_the_wire() -> None:
    root = method("doublesqueeze/onebit")
    traffic = root.traffic(8, D, "float32")
    work = work_of(root, traffic, CALIBRATION)
    assert work is not None
    made = predict(root, traffic, work, terms_of(8, HOCKNEY), 0.0)
    codec, wire, sections = work.encode + work.decode, made.schedule.seconds, made.schedule.sections
    assert made.exchange_s == pytest.approx(max(codec, wire) + min(codec, wire) / sections)
    assert made.iteration_s == made.exchange_s
    forecast = Forecast([method("allreduce"), root, method("csgd/fp16")], 8, D, "float32", HOCKNEY, 0.0, CALIBRATION)
    assert forecast.missing == ["fp16"]
    assert all(prediction.work == Work() for prediction in forecast.results)


def test_short_vectors_are_added_as_fast_as_they_were_measured() -> None:
    measured = replace(CALIBRATION, adds=((1e4, 1e-10), (1e6, 3e-10)))
    assert [measured.add(n) for n in (100, 1e4, 1e5, 1e6, 1e9)] == pytest.approx([1e-10, 1e-10, 2e-10, 3e-10, 3e-10])
    assert CALIBRATION.add(100) == CALIBRATION.add_s


def test_each_section_takes_its_time() -> None:
    """20 µs on a rank that sends, serves and applies it; sharded over 8, a rank serves one of eight that it sends."""
    slow = replace(CALIBRATION, add_s=0.0, kernels={"onebit": Kernel("onebit", 0, 0, 0)}, section_s=20e-6)
    slow.kernels["identity"] = slow.kernels["onebit"]
    for server, each in (("root", 1), ("sharded", 4.5)):
        chosen = method("doublesqueeze/onebit", server)
        traffic = chosen.traffic(8, D, "float32")
        work = work_of(chosen, traffic, slow)
        assert work is not None
        schedule = traffic.cost(Link(0.0, 0.0, 0.0), 100, "flat")
        made = predict(chosen, traffic, work, terms_of(8, HOCKNEY), 0.0, schedule)
        assert made.exchange_s == pytest.approx(100 * each * 20e-6)
        assert made.waited_s() == pytest.approx(50 * each * 20e-6)


def test_work_of_ranks_that_share_a_core_adds_up() -> None:
    """Two ranks a core: twice the coding and the update, and a worker's log books waiting as communication."""
    chosen = method("doublesqueeze/topk:0.01", "sharded")
    work = Work(2e-3, 1e-3, 0.5e-3, 4e-3)
    made = [
        predict(chosen, chosen.traffic(8, D, "float32"), work, terms_of(8, link), 1e-3)
        for link in (HOCKNEY, replace(HOCKNEY, processor=Processor(ranks=4, cores=2)))
    ]
    alone, shared = made
    assert alone.schedule == shared.schedule
    assert alone.iteration_s == pytest.approx(1e-3 + alone.wire_s + 3e-3 + 4e-3)
    assert shared.iteration_s == pytest.approx(1e-3 + alone.wire_s + 6e-3 + 8e-3)
    assert alone.waited_s() == pytest.approx(alone.wire_s + 0.5e-3)
    assert shared.waited_s() == pytest.approx(alone.wire_s + 0.5e-3 + 3e-3)
    assert shared.waited_s(7e-3) == pytest.approx(alone.wire_s + 0.5e-3 + 7e-3)


def test_what_messages_cost_processors_moves_break_even_points() -> None:
    """Small payloads gain less where messages cost 20 µs of a core, and where a byte costs 1 ns no network is so fast
    that full vectors win."""
    link = Link(10e-6, 1e-6, 8.4e-9)
    busy = replace(link, processor=Processor(20e-6, 1e-9, ranks=4, cores=2))
    small, signs = method("choco/topk:0.01"), method("doublesqueeze/onebit")
    gains, wins = [], []
    for each in (link, busy):
        few = Forecast([method("allreduce"), small], 4, 20_000, "float32", each, 0.0, None)
        gains.append(few.results[0].iteration_s / few.results[1].iteration_s)
        wins.append(Forecast([method("allreduce"), signs], 4, 300_000, "float32", each, 0.0, None).wins(1).between)
    assert gains[1] < 0.5 * gains[0]
    ((low, high),) = wins[0]
    assert low is None
    assert high is not None
    assert wins[1] == [(None, None)]


def test_the_library_is_as_fast_as_it_was_measured() -> None:
    """MPI_Allreduce took twice the model's time for small vectors and four times for large ones."""
    link = Link(1e-5, 1e-6, 1e-9)
    modelled = [(size, cost.allreduce(link, 4, size).seconds) for size in (1e3, 1e5, 1e7)]
    slower = tuple((size, seconds * factor) for (size, seconds), factor in zip(modelled, (2, 2, 4), strict=True))
    calibration = replace(CALIBRATION, link=link, allreduce=slower)
    assert [calibration.library(size) for size in (10, 1e3, 1e4, 1e7, 1e9)] == pytest.approx([2, 2, 2, 4, 4])
    assert calibration.library(1e6) == pytest.approx(math.sqrt(8))
    assert replace(calibration, link=None).library(1e3) is None
    chosen = method("allreduce")
    traffic = chosen.traffic(4, D, "float32")
    work = work_of(chosen, traffic, calibration)
    assert work is not None
    made = predict(chosen, traffic, work, terms_of(4, link), 0.0)
    assert made.wire_s == pytest.approx(made.schedule.seconds * calibration.library(FULL))


def test_a_hundred_thousand_ranks_take_no_time() -> None:
    program = (
        "import sys; from mpisqueeze.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "from mpi4py import MPI; heavy = ['cupy' in sys.modules, 'vl_convert' in sys.modules]\n"
        "print(code, MPI.Is_initialized(), *heavy, file=sys.stderr)"
    )
    arguments = ["predict", "-n", "100000", "--dimension", "25M", *NETWORK]
    began = time.monotonic()
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    # 0.7 s on an idle machine.
    assert time.monotonic() - began < 10
    assert finished.stderr.splitlines()[-1] == "0 False False False"
    assert "100 000 ranks" in finished.stdout


@pytest.mark.parametrize("graph", ["ring", "torus", "complete", "exponential", "star"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 12, 17])
def test_degrees_are_the_graphs(graph: str, ranks: int) -> None:
    topology = Topology(graph, ranks)
    all_ = [topology.degree(rank) for rank in range(ranks)]
    assert degrees(graph, ranks) == (max(all_), sum(all_))


def test_every_algorithm_is_in_the_default_table() -> None:
    methods, left_out = methods_for([], [], ("root", "sharded"), "ring")
    assert {chosen.algorithm.name for chosen in methods} == set(registry.algorithms.builtins()) - {"dpsgd-naive"}
    assert not any(chosen.shown_to_fail for chosen in methods)
    biased = [f"{name}/{spec}" for name in ("csgd", "csgd-double") for spec in ("onebit", "topk:0.01")]
    assert left_out == [*biased, *(f"dpsgd-naive/{spec}" for spec in ("onebit", "qsgd:4", "topk:0.01"))]
    assert methods[0].algorithm.name == "allreduce"
    assert len(set(map(repr, methods))) == len(methods)
    named, left_out = methods_for([parse_pair("csgd")], ["fp16", "bf16"], ("root",), "ring")
    assert not left_out, "who names a pair gets it"
    assert [chosen.compressor_name for chosen in named] == ["identity", "fp16", "bf16"]


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("csgd/topk:0.01", True), ("csgd/randomk:0.1", True), ("csgd/randomk:0.1,unbiased", False),
        ("csgd/qsgd:4", False), ("csgd-double/onebit", True), ("csgd-double/identity", False),
        ("dpsgd-naive/qsgd:8", True), ("dpsgd-naive/identity", False), ("memsgd/topk:0.01", False),
        ("doublesqueeze/onebit", False), ("dcd/qsgd:4", False), ("allreduce", False),
    ],
)  # fmt: skip
def test_what_the_talks_show_to_fail_is_flagged(text: str, fails: bool) -> None:
    assert method(text).shown_to_fail is fails


def test_a_plugin_inherits_or_declares_its_failing() -> None:
    source = "from mpisqueeze.algorithms.{} import {}\n\nclass Mine({}):\n    {}\n"
    for name, base, line, found in (
        ("csgd", "CSGD", "pass", True), ("memsgd", "MemSGD", "fails_with = 'biased'", True),
        ("csgd", "CSGD", "fails_with = ''", False),
    ):  # fmt: skip
        Path(f"{found}{name}.py").write_text(source.format(name, base, base, line))
        assert method(f"{found}{name}.py:Mine/onebit").shown_to_fail is found
    Path("wrong.py").write_text(source.format("csgd", "CSGD", "CSGD", "fails_with = 'always'"))
    with pytest.raises(UsageError, match="fails_with must be biased, lossy or empty"):
        method("wrong.py:Mine")


def test_no_failing_method_wins_unless_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    facts = asked(capsys, *NETWORK)
    assert not any(row["shown_to_fail"] for row in facts["results"])
    winners = {(cell["algorithm"], cell["compressor"]) for cell in facts["cells"]}
    assert not any(method("/".join(names)).shown_to_fail for names in winners)
    assert "dpsgd-naive/topk:0.01" in facts["context"]["left_out"]
    facts = asked(capsys, *NETWORK, "dpsgd-naive/topk:0.01")
    assert facts["results"][0]["algorithm"] == "dpsgd-naive"
    assert facts["results"][0]["shown_to_fail"] is True
    assert any("shown to fail, however fast" in note for note in facts["context"]["notes"])


def finished_runs() -> list[str]:
    """Runs on 2 ranks: sgd reaches 0.5 of 4.0 after 3 iterations, choco after 9 and 6, ecd never: it diverges."""
    write_run(Path("r/a"), [4.0, 2, 0.5, 0.4])
    write_run(Path("r/b"), [4.0] * 8 + [0.5], algorithm="choco", compressor="topk:0.5")
    write_run(Path("r/c"), [4.0] * 5 + [0.5], algorithm="choco", compressor="topk:0.5")
    write_run(Path("r/d"), [4.0, 0.1, 4.0], algorithm="ecd", compressor="qsgd:4", status="diverged")
    return [word for name in "abcd" for word in ("--runs", f"r/{name}")]


def test_with_runs_time_to_target_counts(capsys: pytest.CaptureFixture[str]) -> None:
    facts = asked(capsys, "-n", "2", *NETWORK, *finished_runs(), "--target-loss", "0.5", "--compute", "1ms")
    rows = {row["algorithm"]: row for row in facts["results"]}
    assert {name: row["iterations_to_target"] for name, row in rows.items()} == {
        "allreduce": 3, "sgd": 3, "choco": 6, "ecd": None,
    }  # fmt: skip
    assert rows["ecd"]["time_to_target_s"] is None
    assert facts["results"][-1] is rows["ecd"]
    for name in ("allreduce", "sgd", "choco"):
        row = rows[name]
        assert row["time_to_target_s"] == pytest.approx(row["iterations_to_target"] * row["iteration_s"])
        base = rows["allreduce"]["time_to_target_s"]
        assert row["speedup_vs_allreduce"] == pytest.approx(base / row["time_to_target_s"])
    assert rows["ecd"]["speedup_vs_allreduce"] == 0
    assert rows["ecd"]["wins_between"] == []
    # An iteration of choco's is the quickest somewhere, and yet two of them take longer than one of an all-reduce.
    assert {cell["algorithm"] for cell in facts["cells"]} == {"allreduce"}
    assert facts["context"]["target"] == {"name": "smoothed_loss", "value": 0.5}


def test_runs_tell_ranks_dimension_and_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", *NETWORK, *finished_runs(), "--target-loss", "0.5", "--json"]
    assert run([*command, "-"]) == 0
    context = json.loads(capsys.readouterr().out)["context"]
    assert (context["ranks"], context["dimension"], context["compute_s"]) == (2, 10, 0.1)
    assert context["notes"] == ["kernel time not included: give --calibration"]
    assert run([*command, "x.json", "-n", "64"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("modelled, iterations measured; target: loss 0.5000 (given)", "missed",
                 "iterations were measured on 2 ranks with d = 10", "at ρ = 0.9968 a difference between models",
                 "and ρ was 0 in the runs", "fastest to the target by latency"):  # fmt: skip
        assert text in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sgd", "--runs", "r/a"], "PAIR: does not go with --runs"),
        (["--runs", "r/a", "--compressor", "onebit"], "--compressor: does not go"),
        (["--runs", "r/b"], "no run of allreduce or sgd reached"),
        (["--runs", "r/a", "--target-loss", "0.1"], "no run of allreduce or sgd reached"),
        (["--runs", "r/a", "--target", "bleu=1"], "no run evaluates 'bleu'"),
        (["--target-loss", "0.1", "-n", "2", "--dimension", "10"], "name them by --runs"),
        (["--check", "r/a", "--runs", "r/a"], "--runs: does not go with --check"),
        (["--runs", "r/a", "--runs", "r/e"], "the runs differ in ranks: 2, 3"),
    ],
)
def test_runs_that_do_not_go_together(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    finished_runs()
    edit(write_run(Path("r/e"), [4.0, 0.1]) / "config.json", ranks=3)
    assert run(["predict", *NETWORK, *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("server", ["root", "sharded", "allreduce"])
def test_local_steps_and_groups_spread_an_exchange_over_iterations(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exchange of 8 groups' leaders, and one inside each group, every 5 iterations; the baseline has neither."""
    inside = "latency=2us,bandwidth=100gbit"
    base, local = asked(
        capsys, "-n", "32", *NETWORK, "--compute", "3ms", "--server", server, "--local-steps", "5", "--group", "4",
        "--inside", inside, "memsgd/identity",
    )["results"]  # fmt: skip
    if base["algorithm"] != "allreduce":
        base, local = local, base
    plain = predicted("memsgd", server).wire_s
    assert local["comm_s"] == pytest.approx(plain)
    assert base["comm_s"] == pytest.approx(predicted("allreduce", ranks=32).wire_s)
    link = Link.hockney(2e-6, 1e11)
    # Two parts of 3/4 of a vector each way, in 2·2 messages, and in 2 + 3.
    assert local["inside_s"] == pytest.approx(9 * 2e-6 + 4 * 3 / 4 * FULL * link.byte_s)
    assert local["iteration_s"] == pytest.approx(3e-3 + (plain + local["inside_s"]) / 5)
    assert local["bytes_per_iteration"] == 2 * 7 * FULL / 5
    assert (local["ranks"], local["local_steps"], local["group"]) == (32, 5, 4)
    assert (base["ranks"], base["local_steps"], base["group"], base["inside_s"]) == (32, 1, 1, 0)


def test_what_an_exchange_costs_a_rank_besides_is_in_the_model() -> None:
    """A pass in each local step, two for its exchange, one of a leader; BEER codes twice; PowerGossip multiplies."""
    registry_of = registry.algorithms.find
    plain, local = (
        Method.of(registry_of("sgd"), registry.compressors.find("identity"), "root", "ring", every, every)
        for every in (1, 4)
    )
    add = CALIBRATION.add(D) * D
    first, second = (work_of(chosen, chosen.traffic(8, D, "float32"), CALIBRATION) for chosen in (plain, local))
    assert first is not None
    assert second is not None
    assert (first.step, second.step) == (0, pytest.approx(add))
    assert second.update - first.update == pytest.approx(3 * add)
    beer, choco = (
        work_of(m, m.traffic(8, D, "float32"), CALIBRATION) for m in map(method, ("beer/onebit", "choco/onebit"))
    )
    assert beer is not None
    assert choco is not None
    assert beer.decode == pytest.approx(2 * choco.decode)
    assert beer.encode > 2 * choco.encode
    # A product takes as long where a cache holds the vectors, a sum does not.
    powers, cached = method("powergossip:3"), replace(CALIBRATION, adds=((D, CALIBRATION.add_s / 4),))
    found = work_of(powers, powers.traffic(8, D, "float32"), cached)
    before, after = powers.algorithm.cls.products(rank=3)
    assert found is not None
    assert found.update == pytest.approx(add / 2)
    assert (found.encode, found.decode) == (pytest.approx(2 * before * add), pytest.approx(2 * after * add))


def test_gossip_of_one_peer_or_of_two_payloads(capsys: pytest.CaptureFixture[str]) -> None:
    assert predicted("dpsgd", topology="one-peer").wire_s == cost.neighbours(HOCKNEY, 1, FULL).seconds
    assert predicted("beer/onebit").wire_s == cost.neighbours(HOCKNEY, 2, 2 * SIGNS, 2).seconds
    facts = asked(capsys, *NETWORK, "--topology", "one-peer")
    assert {row["algorithm"] for row in facts["results"] if row["topology"]} == {"dpsgd"}


def test_an_algorithm_that_names_no_route_is_refused() -> None:
    mine = Part("mine.py:Mine", type("Mine", (Algorithm,), {}), {}, "mine.py")
    with pytest.raises(UsageError, match="what it sends is not known"):
        Method.of(mine, registry.compressors.find("onebit"), "root", "ring").traffic(8, D, "float32")


def test_one_rank_is_all_compute(capsys: pytest.CaptureFixture[str]) -> None:
    facts = asked(capsys, "-n", "1", *NETWORK, "--compute", "2ms")
    assert {row["iteration_s"] for row in facts["results"]} == {0.002}
    assert all(row["speedup_vs_allreduce"] == 1 for row in facts["results"])


def test_the_screen_says_that_it_is_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", "-n", "8", "--dimension", "1M", *NETWORK, "--color", "never"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "modelled" in shown.splitlines()[0]
    for text in ("doublesqueeze", "fastest by latency and bandwidth", "comm by ranks", "kernel time not included"):
        assert text in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert run([*command, "--csv", "table.csv", "--plot", "map.svg"]) == 0
    rows = list(csv.DictReader(io.StringIO(Path("table.csv").read_text())))
    assert {row["algorithm"] for row in rows} == set(registry.algorithms.builtins()) - {"dpsgd-naive"}
    assert "left out, since shown to fail: csgd/onebit" in shown
    assert "<svg" in Path("map.svg").read_text()


def calibration_file(**changes: Any) -> Path:
    facts: dict[str, Any] = {
        "schema_version": 1, "ranks": 6, "dtype": "float32",
        "link": {"alpha_s": 1e-4, "gap_s": 1e-5, "bandwidth": 1e9},
        "memory": {"add_s_per_element": 1e-10},
        "kernels": [
            {"compressor": spec, "encode_s_per_element": 1e-9, "plain_encode_s_per_element": 1e-9,
             "decode_add_s_per_element": 1e-10}
            for spec in ("identity", "onebit", "qsgd:4", "topk:0.01", "uniform:8")
        ],
    }  # fmt: skip
    path = Path("c.json")
    path.write_text(json.dumps({key: value for key, value in (facts | changes).items() if value != "gone"}))
    return path


def test_a_calibration_gives_network_ranks_and_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    calibration_file()
    facts = asked(capsys, "--calibration", "c.json")
    context = facts["context"]
    assert (context["ranks"], context["kernels"]) == (6, "measured")
    assert (context["latency_s"], context["gap_s"], context["bandwidth"]) == pytest.approx((1e-4, 1e-5, 1e9))
    assert all((row["encode_s"] > 0) == (row["algorithm"] != "allreduce") for row in facts["results"])
    facts = asked(capsys, "--calibration", "c.json", "--bandwidth", "100mbit", "csgd/onebit")
    assert facts["context"]["bandwidth"] == pytest.approx(1e8)
    facts = asked(capsys, "--calibration", "c.json", "--latency", "1ms", "csgd/clip:12")
    assert facts["context"]["gap_s"] == pytest.approx(1e-3)
    assert "c.json has none of clip:12 for float32" in facts["context"]["notes"][1]
    facts = asked(capsys, "--calibration", "c.json", "--dtype", "float64")
    assert facts["context"]["kernels"] == "not included"


SIZE = "-n 8 --dimension 1M"
ENOUGH = f"{SIZE} --latency 50us --bandwidth 10gbit"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (SIZE, "--latency: |--calibration FILE"),
        (f"{SIZE} --latency 1ms", "--bandwidth: |--calibration FILE"),
        ("-n 8 --latency 1ms --bandwidth 1gbit", "--dimension: "),
        ("--dimension 1M --latency 1ms --bandwidth 1gbit", "-n: "),
        (f"{ENOUGH} -n 2M", "-n: |1 to 1000000"),
        (f"{ENOUGH} --dimension 0", "--dimension: "),
        (f"{ENOUGH} --dimension big", "--dimension: |size"),
        (f"{ENOUGH} --latency 5", "--latency: |5ms"),
        (f"{ENOUGH} --bandwidth fast", "--bandwidth: |100mbit"),
        (f"{ENOUGH} --compute 1day", "--compute: |time"),
        (f"{ENOUGH} --gap 1ms", "--gap: |latency"),
        (f"{ENOUGH} --server shard", "--server: |sharded"),
        (f"{ENOUGH} --dtype half", "--dtype: |float64"),
        (f"{ENOUGH} --topology rign", "--topology: |did you mean 'ring'"),
        (f"{ENOUGH} doublesqueze", "PAIR doublesqueze: |did you mean 'doublesqueeze'"),
        (f"{ENOUGH} csgd/onebti", "PAIR csgd/onebti: |did you mean 'onebit'"),
        (f"{ENOUGH} sgd/onebit", "PAIR sgd/onebit: |takes no compressor"),
        (f"{ENOUGH} --compressor qsgd", "--compressor: |needs bits"),
        (f"{ENOUGH} --plot map.txt", "--plot: |.png"),
        (f"{ENOUGH} --json no/such/x.json", "--json: "),
        (f"{ENOUGH} --group 3", "--group: |3 does not divide 8 ranks"),
        (f"{ENOUGH} --group host", "--group: |how many ranks"),
        (f"{ENOUGH} --inside latency=1us,bandwidth=1gbit", "--inside: |no --group"),
        (f"{ENOUGH} --group 2 --inside 5ms", "--inside: |latency=5ms"),
        (f"{ENOUGH} --local-steps 4 choco", "--local-steps: |choco gossips"),
        (f"{ENOUGH} --topology one-peer choco", "--topology: |needs a W that is symmetric"),
        (f"{SIZE} --calibration nowhere.json", "--calibration: |nowhere.json"),
        ("--check", "--check: |RUN"),
        ("--check nowhere", "RUN: |nowhere"),
        ("--check nowhere -n 8", "-n: |--check"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(arguments: str, says: str, refused: Callable[..., str]) -> None:
    line = refused("predict", *arguments.split())
    assert all(text in line for text in says.split("|")), line


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema_version": 7}, "schema_version 7"),
        ({"schema_version": "gone"}, "is no calibration"),
        ({"link": {"gap_s": 0, "bandwidth": 1e9}}, "'link.alpha_s'"),
        ({"link": {"alpha_s": 1e-4, "gap_s": 0, "bandwidth": 0}}, "'link.bandwidth'"),
        ({"link": {"alpha_s": "fast", "gap_s": 0, "bandwidth": 1e9}}, "'fast' as 'link.alpha_s'"),
        ({"link": 3}, "3 as 'link'"),
        ({"link": None}, "single rank"),
        ({"memory": "gone"}, "'memory'"),
        ({"kernels": [{"compressor": "onebit"}]}, "'kernels[0].plain_encode_s_per_element'"),
        ({"ranks": 0}, "0 as 'ranks'"),
    ],
)
def test_a_damaged_calibration_is_named(changes: dict[str, Any], says: str, refused: Callable[..., str]) -> None:
    calibration_file(**changes)
    command = ("predict", *SIZE.split(), "--calibration", "c.json")
    line = refused(*command)
    assert line.startswith("mpisqueeze: error: --calibration: c.json")
    assert says in line
    Path("c.json").write_text("{")
    assert "is not JSON" in refused(*command)


def timed_run(path: Path, comm_s: float, compute_s: float = 0.01, **changes: Any) -> None:
    """A finished run whose ten iterations took the same time each."""
    path.mkdir(parents=True)
    config = {
        "algorithm": "doublesqueeze", "compressor": "onebit", "server": "root", "topology": "ring", "dtype": "float32",
        "warmup": 0, "ranks": 4, "dimension": D, "iterations": 10, "iterations_per_epoch": 10,
        "link": "latency=1ms,bandwidth=1gbit", "chunk": None, "tree": None, **changes,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    times = dict.fromkeys(("wait_s", "encode_s", "decode_s", "update_s"), 0.0)
    line = {"loss": 1.0, "bytes_sent": 100, "messages": 2, **times, "compute_s": compute_s, "comm_s": comm_s}
    line["iteration_s"] = 0.02 + comm_s
    lines = [json.dumps({"iteration": t, **line}) for t in range(1, 11)]
    (path / "iterations.jsonl").write_text("\n".join(lines) + "\n")


def test_check_holds_the_model_against_runs(capsys: pytest.CaptureFixture[str]) -> None:
    link = Link.hockney(1e-3, 1e9)
    expected = predicted("doublesqueeze/onebit", ranks=4, link=link).wire_s
    timed_run(Path("a"), expected * 1.25)
    timed_run(Path("b"), expected, algorithm="choco", compressor="topk:0.01")
    timed_run(Path("c"), expected, ranks=1)
    timed_run(Path("flat"), expected, tree="flat", chunk=20_000)
    facts = asked(capsys, "--check", "a", "b", "c", "flat")
    first, second, third = facts["results"]
    assert first["comm_s"] == pytest.approx(expected)
    assert first["measured_comm_s"] == pytest.approx(1.25 * expected)
    assert first["comm_difference_percent"] == pytest.approx(-20)
    assert first["compute_s"] == pytest.approx(0.01)
    assert first["iteration_s"] is None
    assert (first["link"], first["ranks"], first["server"]) == ("latency=1ms,bandwidth=1gbit", 4, "root")
    assert second["comm_s"] == pytest.approx(cost.neighbours(link, 2, 8 * D // 100).seconds)
    assert (second["server"], second["topology"]) == (None, "ring")
    assert third["way"] == "flat"
    assert third["chunks"] > 6
    assert any("one rank sends nothing" in note for note in facts["context"]["notes"])
    calibration_file()
    (row,) = asked(capsys, "--check", "a", "--calibration", "c.json")["results"]
    assert row["latency_s"] == pytest.approx(1e-3), "the run's own link rules"
    assert row["iteration_s"] > row["compute_s"] + expected
    assert run(["predict", "--check", "a", "b"]) == 0
    assert "-20 %" in capsys.readouterr().out


LAB = {"hosts": ["host0", "host1", "host2", "host3"], "rate": 1e9, "delay": 0.0, "mtu": 1500}


@pytest.mark.parametrize("cores", [2, 4])
def test_check_knows_a_labs_burst_and_the_ranks_that_share_its_cores(
    cores: int, capsys: pytest.CaptureFixture[str]
) -> None:
    timed_run(Path("a"), 0.005, link=None)
    Path("a/environment.json").write_text(json.dumps({"lab": LAB}))
    processor = {"message_s": 4e-6, "byte_s": 1e-9, "wake_s": 5e-5, "ranks": 4, "cores": cores}
    calibration_file(link={"alpha_s": 1e-5, "gap_s": 1e-6, "bandwidth": 0.95e9, "processor": processor})
    (row,) = asked(capsys, "--check", "a", "--calibration", "c.json")["results"]
    link = Link(9e-6, 1e-6, 8 / 0.95e9, processor=Processor(**processor))
    schedule = cost.through_root(link, 4, SIGNS, SIGNS, row["chunks"], row["way"])
    # The last answer, small beside a burst, takes no time either.
    sends, _ = cost.Tree(row["way"], 4).paths[0]
    wire = schedule.seconds - (Links(4, 1e9).burst + sends * SIGNS / row["chunks"]) * link.byte_s
    load, codec = 4 / cores, row["encode_s"] + row["decode_s"]
    exchange = max(wire, load * codec) + min(wire, load * codec) / row["chunks"]
    assert row["exchange_s"] == pytest.approx(exchange)
    barrier = cost.allreduce(link, 4, 16).seconds
    # A gradient of 10 ms was measured in turns with others; a log books no more than a slice of it as waiting.
    assert row["iteration_s"] == pytest.approx(barrier + 10e-3 + exchange)
    server = row["decode_s"] - 1e-10 * D + 1e-9 * D
    quiet = max(wire, codec) + min(wire, codec) / row["chunks"]
    assert row["comm_s"] == pytest.approx(quiet - codec + server + (load - 1) * SLICE_S)
    assert row["bound_s"] == pytest.approx((row["port_bytes"] - Links(4, 1e9).burst) * link.byte_s)


def test_check_knows_who_waits_for_local_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """Of two ranks on a core the first one does all its steps until the next exchange while the other one waits."""
    own, add = 2e-4, 1e-10 * D
    for name, steps in (("one", 1), ("three", 3)):
        timed_run(Path(name), 0.005, own, link=None, local_steps=steps, dtype="float32")
        Path(f"{name}/environment.json").write_text(json.dumps({"lab": LAB}))
    processor = {"message_s": 4e-6, "byte_s": 1e-9, "wake_s": 5e-5, "ranks": 4, "cores": 2}
    calibration_file(link={"alpha_s": 1e-5, "gap_s": 1e-6, "bandwidth": 0.95e9, "processor": processor})
    one, three = asked(capsys, "--check", "one", "three", "--calibration", "c.json")["results"]
    # A pass in each step; and two more for the exchange, by both ranks of the core.
    assert three["update_s"] - one["update_s"] == pytest.approx(2 * add)
    assert three["comm_s"] - one["comm_s"] == pytest.approx(2 * (own + add) + add + 2 * add)
    assert three["iteration_s"] - one["iteration_s"] == pytest.approx(2 * (own + add) + 2 * (add + 2 * add))


def test_check_knows_groups_that_span_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    """A group's sums cross the network where its ranks are on several hosts, else memory; `--inside` says otherwise."""
    facts = {"memory": [4], "network": [1, 1, 1, 1]}
    for name, ranks in facts.items():
        timed_run(Path(name), 0.005, link=None, group="2", groups=2)
        hosts = [{"ranks": count} for count in ranks]
        Path(f"{name}/environment.json").write_text(json.dumps({"hosts": hosts}))
    network = ["--latency", "1ms", "--bandwidth", "1gbit"]
    memory, crossing = asked(capsys, "--check", *facts, *network)["results"]
    assert crossing["inside_s"] == pytest.approx(cost.inside_group(Link.hockney(1e-3, 1e9), 2, FULL).seconds)
    assert memory["inside_s"] < crossing["inside_s"] / 10
    assert crossing["comm_s"] - memory["comm_s"] == pytest.approx(crossing["inside_s"] - memory["inside_s"])
    told = asked(capsys, "--check", *facts, *network, "--inside", "latency=5ms,bandwidth=1gbit")["results"]
    assert {row["inside_s"] for row in told} == {cost.inside_group(Link.hockney(5e-3, 1e9), 2, FULL).seconds}
    timed_run(Path("alone"), 0.005, link=None)
    assert run(["predict", "--check", "alone", *network, "--inside", "latency=5ms"]) == 2
    assert "--inside: is the link between ranks of a group, and none of these runs" in capsys.readouterr().err


def test_runs_on_a_real_network_need_to_be_told_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    timed_run(Path("a"), 0.01, link=None)
    assert run(["predict", "--check", "a"]) == 2
    assert "what its network was like (real network): give --calibration" in capsys.readouterr().err
    (row,) = asked(capsys, "--check", "a", "--latency", "1ms", "--bandwidth", "1gbit")["results"]
    assert row["link"] == "real network"
    # As the exchange limits messages on a slow network.
    assert row["chunks"] >= row["port_bytes"] / 3 / (16 << 10)


@pytest.mark.parametrize(
    ("kind", "hosts", "details", "name"),
    [
        ("real", 1, {}, "shared memory of one host"),
        ("real", 4, {}, "network between 4 hosts"),
        ("real", None, {}, "real network"),
        ("lab", 4, {"lab": {"rate": 1e8, "delay": 5e-3}}, "lab, 100 Mbit/s, 5.00 ms delay"),
        ("lab", 4, {}, "lab"),
        ("emulated", 1, {"given": "latency=1ms"}, "emulated, latency=1ms"),
    ],
)
def test_a_network_is_called_what_it_is(kind: str, hosts: int | None, details: dict[str, Any], name: str) -> None:
    assert network_name(kind, hosts, **details) == name


def test_a_run_of_a_lab_is_checked_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    timed_run(Path("a"), 0.01, link=None)
    environment = {"link": "lab", "lab": {"rate": 1e9, "delay": 0.0, "mtu": 1500, "hosts": ["host0"]}}
    Path("a/environment.json").write_text(json.dumps(environment))
    (row,) = asked(capsys, "--check", "a", "--latency", "1ms", "--bandwidth", "1gbit")["results"]
    assert row["link"] == "lab, 1 Gbit/s"


def test_kernels_have_a_column_where_they_take_time(capsys: pytest.CaptureFixture[str]) -> None:
    """The columns add up: without sections nothing is hidden, and an iteration is compute, comm and kernels."""
    calibration_file()
    command = ["predict", "dpsgd", "-n", "8", "--dimension", "1M", "--latency", "1ms", "--bandwidth", "1gbit"]
    assert run([*command, "--compute", "30ms"]) == 0
    assert "kernels " not in capsys.readouterr().out
    assert run([*command, "--compute", "30ms", "--calibration", "c.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("kernels" in line and "iteration" in line for line in lines)
    for row in asked(capsys, *command[1:], "--compute", "30ms", "--calibration", "c.json")["results"]:
        parts = ("compute_s", "comm_s", "encode_s", "decode_s", "update_s")
        assert row["iteration_s"] == pytest.approx(sum(row[part] for part in parts))
