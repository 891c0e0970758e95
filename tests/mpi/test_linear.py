"""The mean of linear payloads by MPI_Allreduce (`--server allreduce`), and an all-reduce that overlaps the gradient."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from parts import DIMENSIONS, make_algorithm, payload_bytes, run_steps, start_at
from test_identities import STEPS, serially

from mpisqueeze.comm.world import World
from mpisqueeze.modelling.methods import Method
from mpisqueeze.mpi import MPI
from mpisqueeze.parts import registry

if TYPE_CHECKING:
    from conftest import Finished

Run = Callable[..., "Finished"]
PLUGINS, OVERLAPPING = (Path(__file__).with_name(name) for name in ("plugins.py", "overlapping.py"))
SHARED = ("randomk:0.3,shared", "randomk:0.2,unbiased,shared", f"{PLUGINS}:EverySecond")
EVERY_RANKS = pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.slow), 3, 4])


class Spy:
    """A communicator that notes the elements of every sum that it is handed, and whether it was waited for."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.sums, self.early = comm, list[int](), list[int]()

    def Allreduce(self, send: Any, receive: Any, op: Any) -> None:  # noqa: N802
        self.sums += [receive[1]] if op == MPI.SUM else []
        self.comm.Allreduce(send, receive, op)

    def Iallreduce(self, send: Any, receive: Any, op: Any) -> Any:  # noqa: N802
        self.early += [receive[1]] if op == MPI.SUM else []
        return self.comm.Iallreduce(send, receive, op)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)


def linear_payloads_are_averaged() -> None:
    world = World()
    spy, size = Spy(world.comm), world.size
    world.comm = spy  # type: ignore[assignment]

    def x_of(name: str, spec: str, d: int, dtype: Any, **options: Any) -> tuple[Any, np.ndarray]:
        spy.sums.clear()
        algorithm = make_algorithm(name, spec, d, dtype, world, **options)
        return algorithm, run_steps(algorithm, start_at(d, dtype), STEPS)

    for dtype, d in product((np.float32, np.float64), DIMENSIONS):
        _, expected = x_of("allreduce", "identity", d, dtype)
        for name, spec in product(("sgd", "csgd", "memsgd"), ("identity", "randomk:1,shared")):
            if spec == "identity" or name != "sgd":
                _, x = x_of(name, spec, d, dtype, server="allreduce")
                assert np.array_equal(x, expected), (name, spec, d)
    for name, spec, d in product(("csgd", "memsgd", "memsgd:lr=inside"), SHARED, DIMENSIONS):
        algorithm, x = x_of(name, spec, d, np.float32, server="allreduce")
        np.testing.assert_allclose(x, serially(name, spec, d, size), rtol=1e-5, atol=1e-5, err_msg=f"{name} {spec} {d}")
        values = (d + 1) // 2 if spec == SHARED[2] else payload_bytes(spec, d, 4) // 4
        assert spy.sums == ([values] * STEPS if size > 1 else [])
        counter = algorithm.setup.network.counter
        # Bytes that N does not divide go to the first ranks.
        assert abs(counter.bytes_sent - STEPS * 2 * (size - 1) / size * 4 * values) < STEPS
        total = sum(world.comm.allgather(counter.bytes_sent))
        assert total == STEPS * 2 * (size - 1) * 4 * values == STEPS * algorithm.bytes_per_iteration()
        assert counter.bytes_are == ("by definition" if size > 1 else "counted")
        method = Method.of(*(p.find(s) for p, s in ((registry.algorithms, name), (registry.compressors, spec))),
                           "allreduce", "ring")  # fmt: skip
        assert method.traffic(size, d, "float32").total * STEPS == total


def payloads_go_in_messages_over_an_emulated_link() -> None:
    world, spec, d = World(), SHARED[0], 1031
    algorithm = make_algorithm("memsgd", spec, d, np.float32, world, server="allreduce", link="latency=100us")
    x = run_steps(algorithm, start_at(d, np.float32), STEPS)
    np.testing.assert_allclose(x, serially("memsgd", spec, d, world.size), rtol=1e-5, atol=1e-5)
    counter = algorithm.setup.network.counter
    assert counter.bytes_are == "counted"
    assert sum(world.comm.allgather(counter.bytes_sent)) == STEPS * algorithm.bytes_per_iteration()


def test_payloads_go_in_messages_over_an_emulated_link(on_ranks: Callable[..., None]) -> None:
    on_ranks(3, payloads_go_in_messages_over_an_emulated_link)


@EVERY_RANKS
def test_linear_payloads_are_averaged(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, linear_payloads_are_averaged)


def buckets_leave_before_the_gradient_ends() -> None:
    """They are those of the whole sum, to the bit, where no order of additions can show: gradients on a grid."""
    world, d, lr = World(), 4099, 0.1
    spy, me = Spy(world.comm), world.rank
    world.comm = spy  # type: ignore[assignment]
    rng = np.random.default_rng([5, me])
    draws = [np.rint(1024 * rng.standard_normal(d)).astype(np.float32) / 1024 for _ in range(4)]
    start = start_at(d, np.float32)
    for name, chunk in (("allreduce", 1024), ("sgd", 4096), ("csgd", None)):
        plain: Any = make_algorithm(name, "identity", d, np.float32, world, server="allreduce")
        # Those of the elements from 2000 on.
        first = -(-4 * d // chunk) - -(-4 * 2000 // chunk) if chunk and world.size > 1 else 0
        cut: Any = make_algorithm(name, "identity", d, np.float32, world, server="allreduce", chunk=chunk, overlap=True)
        assert cut.bytes_per_iteration() == plain.bytes_per_iteration()
        xs = start.copy(), start.copy()
        for t, drawn in enumerate(draws, 1):
            spy.early.clear()

            def gradient(
                x: Any, ready: Callable[[Any, int], None], drawn: np.ndarray = drawn, first: int = first
            ) -> Any:
                g = np.full(d, np.nan, np.float32)
                g[2000:] = drawn[2000:]
                deadline = time.monotonic() + 30
                while True:
                    ready(g, 2000)
                    if len(spy.early) == first:
                        break
                    assert time.monotonic() < deadline, spy.early
                g[:2000] = drawn[:2000]
                return g

            cut.setup.network.iteration = plain.setup.network.iteration = t
            plain.step(xs[0], lambda _, drawn=drawn: drawn.copy(), lr)
            cut.step(xs[1], gradient, lr)
            assert xs[0].tobytes() == xs[1].tobytes(), (name, t)
            assert sum(spy.early) == (d if world.size > 1 else 0)
        counters = [algorithm.setup.network.counter for algorithm in (plain, cut)]
        assert counters[0].bytes_sent == counters[1].bytes_sent
        plain.close()
        cut.close()


@EVERY_RANKS
def test_buckets_leave_before_the_gradient_ends(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, buckets_leave_before_the_gradient_ends, timeout=60)


def test_runs_by_allreduce_are_those_of_the_baseline(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """To the bit, on three ranks; and with --overlap on two, where the order of additions cannot show."""
    common = ("--problem", "mlp:64x48", "--iterations", "5", "--lr", "0.05", "--save-model")
    pairs = ("allreduce", "sgd", "csgd/randomk:1,shared", "memsgd/randomk:1,shared")
    for n, more in ((3, ()), (2, ("--chunk", "1Ki", "--overlap"))):
        out = tmp_path / f"n{n}"
        mpisqueeze_run(n, "compare", *pairs, "--server", "allreduce", *common, *more, "--out", str(out)).well()
        runs = sorted(out.glob("*/model.npz"))
        assert len(runs) == 4
        models = [np.load(path)["x"].tobytes() for path in runs]
        if n == 2:
            plain = mpisqueeze_run(n, "train", "--algorithm", "allreduce", *common, "--out", str(tmp_path / "plain"))
            plain.well()
            models.append(np.load(tmp_path / "plain" / "model.npz")["x"].tobytes())
        assert len(set(models)) == 1, n
        summary = json.loads((runs[1].parent / "summary.json").read_text())
        assert (summary["server"], summary["bytes"], summary["tree"]) == ("allreduce", "by definition", None)


def test_a_run_goes_on_to_the_bit(mpisqueeze_run: Run, tmp_path: Path) -> None:
    from test_checkpoint import same_runs, whole_and_part

    method = ("--algorithm", "memsgd", "--compressor", "randomk:0.1,shared", "--server", "allreduce")
    same_runs(*whole_and_part(mpisqueeze_run, tmp_path, 3, *method, "--problem", "mlp:16", "--lr", "0.05", saved=4))
    summary = json.loads((tmp_path / "part" / "summary.json").read_text())
    assert summary["bytes_sent"] == 9 * 2 * 2 * 4 * math.ceil(summary["dimension"] / 10)


@pytest.mark.parametrize(("fault", "code"), [("Raises", 4), ("NotANumber", 3)])
def test_a_fault_behind_the_first_bucket_ends_all_ranks(mpisqueeze_run: Run, fault: str, code: int) -> None:
    options = ("--algorithm", "allreduce", "--overlap", "--chunk", "64", "--iterations", "50", "--lr", "0.1")
    finished = mpisqueeze_run(3, "train", "--problem", f"{OVERLAPPING}:{fault}", *options, "--out", "run", timeout=30)
    assert finished.code == code, finished.err
    assert "iteration 5" in finished.err + finished.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("train --algorithm doublesqueeze", "allreduce, csgd, memsgd, sgd, not doublesqueeze"),
        ("train --algorithm csgd-double --compressor identity", "not csgd-double"),
        ("train --algorithm dpsgd", "not dpsgd"),
        ("train --algorithm csgd --compressor qsgd:4", "identity and randomk:RATIO,shared, not qsgd:4"),
        ("train --algorithm memsgd", "identity and randomk:RATIO,shared, not onebit"),
        ("train --algorithm csgd --compressor randomk:0.1", "not randomk:0.1"),
        ("compare sgd csgd/topk:0.1", "not topk:0.1"),
        ("predict csgd/onebit -n 4 --dimension 1M --latency 1ms --bandwidth 1gbit", "not onebit"),
    ],
)
def test_what_is_not_linear_is_refused(refused: Callable[..., str], arguments: str, says: str) -> None:
    error = refused(*arguments.split(), "--server", "allreduce")
    assert "--server" in error
    assert says in error
