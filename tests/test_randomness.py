"""Random numbers: the definition in docs/methods.md, exact probabilities, and no stream that is another one's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kernel_cases import DTYPES, Case, natural, on_host, quantize, uniform
from parts import make_compressor
from random_numbers import (
    FIRST_BITS,
    SERVER,
    SHARED,
    WORKER,
    hash32,
    is_below,
    key_of,
    key_that_hashes,
    positions,
    quantized,
    splitmix64,
    stream,
    unpacked,
)
from random_numbers import natural as natural_bytes
from random_numbers import uniform as uniform_codes

from mpisqueeze.algorithms.base import Codec, Setup
from mpisqueeze.devices.device import Device
from mpisqueeze.kernels import random
from mpisqueeze.kernels.cuda import CudaKernels
from mpisqueeze.kernels.reference import ReferenceKernels
from mpisqueeze.topology import Topology

try:
    from mpisqueeze.kernels import _native
    from mpisqueeze.kernels.native import NativeKernels

    INSTRUCTION_SETS = _native.instruction_sets()
except ImportError:
    INSTRUCTION_SETS = ()

PLUGINS = Path(__file__).parent / "mpi" / "plugins.py"
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def test_splitmix64_is_the_published_one() -> None:
    """The first numbers of the generator that is seeded with 1234567, as its author's C program prints them."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = [1234567 + n * 0x9E3779B97F4A7C15 for n in range(4)]
    assert [splitmix64(state) for state in states] == published
    assert [random.splitmix64(state % 2**64) for state in states] == published


Coder = Callable[[Case, np.ndarray], np.ndarray]
"""(case, vector) ↦ payload, by kernels of some kind."""


def coder_of(kernels: Callable[[Any], Any], xp: Any) -> Coder:
    made = {dtype: kernels(dtype) for dtype in DTYPES}

    def payload(case: Case, v: np.ndarray) -> np.ndarray:
        filled = xp.empty(case.payload_bytes(v.size, v.itemsize), np.uint8)
        assert case.encode(made[v.dtype], xp.asarray(v), None, filled)[0]
        return on_host(filled)

    return payload


@pytest.fixture(params=["numpy", *(INSTRUCTION_SETS or ["native"])])
def coder(request: pytest.FixtureRequest) -> Iterator[Coder]:
    """NumPy's kernels, and the native ones for each instruction set of this machine."""
    if request.param == "native":
        pytest.skip("the native kernels were not built")
    elif request.param == "numpy":
        yield coder_of(ReferenceKernels, np)
    else:
        _native.use_instruction_set(request.param)
        yield coder_of(NativeKernels, np)
        _native.use_instruction_set(INSTRUCTION_SETS[-1])


@each_dtype
def test_codes_are_those_of_the_definition(coder: Coder, dtype: np.dtype[Any]) -> None:
    codes_are_those_of_the_definition(coder, dtype)


def codes_are_those_of_the_definition(coder: Coder, dtype: np.dtype[Any]) -> None:
    v = np.random.default_rng(4).standard_normal(70).astype(dtype)
    v[[3, 40]] *= dtype.type(1e-9)
    for key in (0, 2**64 - 1, key_of(stream(5, WORKER, 2), 7), key_of(stream(5, SERVER, part=3), 1, first=1024)):
        for bits in (2, 3, 8):
            for norm in ("l2", "max"):
                payload = coder(quantize(bits, 0, norm, key), v)
                assert unpacked(payload, bits, v.size) == quantized(v, bits, norm, key), (bits, norm, key)
        for bits in (1, 4, 8):
            payload = coder(uniform(bits, 0, key), v)
            assert unpacked(payload, bits, v.size) == uniform_codes(v, bits, key), (bits, key)
        wide = np.append(v, v[:9] * dtype.type(1e-33))
        assert coder(natural(key), wide).tolist() == natural_bytes(wide, key)


#: (key ^ index, splitmix64 of it) where the first bits of u are 0: u is about 1e-20 and 1e-12.
BEGINS_WITH_ZEROS = [(0xD8C33C1453683116, 1449294), (0xA17FF3A7B89884FD, 154742506783507)]


@each_dtype
@pytest.mark.parametrize(("state", "second"), BEGINS_WITH_ZEROS)
def test_rounding_looks_at_as_many_bits_as_it_takes(
    coder: Coder, dtype: np.dtype[Any], state: int, second: int
) -> None:
    rounding_looks_at_as_many_bits_as_it_takes(coder, dtype, state, second)


def rounding_looks_at_as_many_bits_as_it_takes(coder: Coder, dtype: np.dtype[Any], state: int, second: int) -> None:
    """Of neighbouring floating-point numbers, those above u round up, and those below it down."""
    index, third = 5, splitmix64(second)
    assert hash32(index, state ^ index) < 2 ** (32 - FIRST_BITS)
    assert splitmix64(state) == second
    u = Fraction(second * 2**64 + third, 2 ** (FIRST_BITS + 128))
    below = dtype.type(float(u))
    if Fraction(float(below)) > u:
        below = np.nextafter(below, dtype.type(0))
    v = np.zeros(20, dtype)
    v[0] = 1
    for step, up in ((-9, 0), (-1, 0), (0, 0), (1, 1), (2, 1), (9, 1)):
        x = below
        for _ in range(abs(step)):
            x = np.nextafter(x, dtype.type(step))
        v[index] = x
        assert is_below(Fraction(float(x)), index, state ^ index) == up
        for case, bits in ((quantize(2, 0, "max", state ^ index), 2), (uniform(1, 0, state ^ index), 1)):
            assert unpacked(coder(case, v), bits, v.size)[index] == up, (case, step)
        # u is about 1e-20 or 1e-12, and the smallest power of two 2^-108.
        if dtype == np.float64:
            assert coder(natural(state ^ index), v * 2.0**-108)[index] == up, step


@each_dtype
@pytest.mark.parametrize("value", [3.6e-8, 1e-8, 3e-9, 0.01, 0.3])
def test_small_probabilities_are_right(coder: Coder, dtype: np.dtype[Any], value: float) -> None:
    """Draws whose first 23 bits are those of the number round up as often as its further bits say."""
    x, index, draws = dtype.type(value), 3, 800
    first, rest = divmod(Fraction(float(x)) * 2**FIRST_BITS, 1)
    v = np.array([1, 0, 0, x], dtype)
    highs = np.random.default_rng(int(1 / value)).integers(2**32, size=(draws, 2))
    ups = 0
    for high, tail in highs.tolist():
        key = key_that_hashes(index, int(first) << (32 - FIRST_BITS) | tail >> FIRST_BITS, high)
        ups += unpacked(coder(quantize(2, 0, "max", key), v), 2, 4)[index]
    chance = float(rest)
    assert abs(ups - draws * chance) <= 5 * math.sqrt(draws * chance * (1 - chance)), (ups / draws, chance)


@each_dtype
def test_cuda_rounds_by_the_definition(cuda: Any, dtype: np.dtype[Any]) -> None:
    coder = coder_of(CudaKernels, cuda)
    codes_are_those_of_the_definition(coder, dtype)
    for state, second in BEGINS_WITH_ZEROS:
        rounding_looks_at_as_many_bits_as_it_takes(coder, dtype, state, second)


# -- streams: a change of seed, role, rank, part, iteration or section gives other numbers


def codec(spec: str, d: int, role: int = WORKER, seed: int = 3, rank: int = 1, part: int = 2) -> Codec:
    """The codec that an algorithm on this rank gets from its Setup, in float64."""
    network: Any = SimpleNamespace(
        world=SimpleNamespace(rank=rank, size=8),
        device=Device(),
        clock=SimpleNamespace(lap=lambda phase: None),
        complain=pytest.fail,
        iteration=0,
    )
    setup = Setup(network, d, DTYPES[1], seed, make_compressor(spec, DTYPES[1]), Topology("ring", 8))
    return setup.worker_codec(part, d) if role == WORKER else setup.server_codec(part, d)


def decoded(codec: Codec, v: np.ndarray, iteration: int = 4, first: int = 0) -> np.ndarray:
    payload, out = np.empty(codec.payload_bytes, np.uint8), np.empty_like(v)
    codec.network.iteration = iteration
    codec.encode(v, payload, first)
    codec.decode(payload, out)
    return out


D = 1024
#: A compressor and a vector that it sends as one random bit an element, but for the last two.
COIN, HALVES = "uniform:1,bucket=0", np.append(np.full(D - 2, 0.5), [0.0, 1.0])
#: D(C(v)) of draw n, where only the one coordinate counts up; `part` from 1 on, since 0 is not in a worker's key.
COORDINATES: dict[str, Callable[[str, np.ndarray, int], np.ndarray]] = {
    "iteration": lambda spec, v, n: decoded(codec(spec, v.size), v, iteration=n),
    "iteration of a server": lambda spec, v, n: decoded(codec(spec, v.size, SERVER), v, iteration=n),
    "seed": lambda spec, v, n: decoded(codec(spec, v.size, seed=n), v),
    "seed of a server": lambda spec, v, n: decoded(codec(spec, v.size, SERVER, seed=n), v),
    "rank": lambda spec, v, n: decoded(codec(spec, v.size, rank=n), v),
    "part": lambda spec, v, n: decoded(codec(spec, v.size, part=n), v),
    "part of a server": lambda spec, v, n: decoded(codec(spec, v.size, SERVER, part=n), v),
    "section": lambda spec, v, n: decoded(codec(spec, v.size), v, first=D * n),
}
each_coordinate = pytest.mark.parametrize("draw", COORDINATES.values(), ids=COORDINATES)


def test_the_streams_of_a_run_are_those_of_the_definition() -> None:
    """All of them, on a vector that is sent as bits: seed, role, rank, part, iteration and section make the key."""
    v = np.append(np.random.default_rng(1).random(62), [0, 1])

    def expected(compressor_seed: int, iteration: int, first: int) -> list[int]:
        return uniform_codes(v, 1, key_of(compressor_seed, iteration, first))

    for seed, part, iteration, first in ((0, 0, 1, 0), (7, 0, 2, 64), (2**62 + 1, 1, 1, 128), (7, 3, 10**6, 2**30)):
        server = decoded(codec("uniform:1", v.size, SERVER, seed, part=part), v, iteration, first)
        assert server.tolist() == expected(stream(seed, SERVER, part=part), iteration, first)
        for rank in (0, 1, 7):
            worker = decoded(codec("uniform:1", v.size, WORKER, seed, rank, part), v, iteration, first)
            assert worker.tolist() == expected(stream(seed, WORKER, rank, part), iteration, first)


@each_coordinate
def test_a_coordinate_gives_independent_draws(draw: Callable[[str, np.ndarray, int], np.ndarray]) -> None:
    """Of an element between two levels, any two draws agree as often as they differ, within 5 standard deviations."""
    draws = np.array([draw(COIN, HALVES, n)[:-2] for n in range(1, 25)])
    agreements = [(a == b).mean() for n, a in enumerate(draws) for b in draws[:n]]
    assert np.abs(np.array(agreements) - 0.5).max() < 5 * 0.5 / math.sqrt(D - 2)
    along = [(draws[:, lag:] == draws[:, :-lag]).mean() for lag in (1, 2, 3, 4, 8, 16, 64, 512)]
    assert np.abs(np.array(along) - 0.5).max() < 5 * 0.5 / math.sqrt(draws.size / 2)


def test_workers_and_servers_draw_other_numbers() -> None:
    """Also where rank, part and iteration of one are those of the other, in any order."""
    streams = [
        decoded(codec(COIN, D, role, 1, rank, part), HALVES, iteration)[:-2]
        for role, ranks in ((WORKER, range(3)), (SERVER, range(1)))
        for rank in ranks
        for part in range(3)
        for iteration in (1, 2, 3)
    ]
    agreements = [(a == b).mean() for n, a in enumerate(streams) for b in streams[:n]]
    assert np.abs(np.array(agreements) - 0.5).max() < 5 * 0.5 / math.sqrt(D - 2)


@each_coordinate
@pytest.mark.parametrize(
    "spec", ["qsgd:2", "qsgd:4,bucket=64", "uniform:3", "ternary", "randomk:0.3,unbiased", "natural"]
)
def test_the_mean_of_the_draws_tends_to_the_vector(
    draw: Callable[[str, np.ndarray, int], np.ndarray], spec: str
) -> None:
    """‖mean C(v) − v‖² over T draws is E‖C(v) − v‖²/T: 1/T if draws are independent and unbiased."""
    v, count = np.random.default_rng(8).standard_normal(D), 200
    draws = np.array([draw(spec, v, n) for n in range(1, count + 1)])
    errors = draws - v
    single = (errors**2).sum(axis=1).mean()
    for part in (errors[: count // 8], errors):
        # A mean of D independent errors has a relative deviation of √(2/D); elements of a bucket differ in size.
        assert (part.mean(axis=0) ** 2).sum() * len(part) / single == pytest.approx(1, abs=7 * math.sqrt(2 / D))
    off = draws.mean(axis=0) - v
    assert abs(off.sum()) < 5 * math.sqrt((errors.sum(axis=1) ** 2).mean() / count)
    assert abs(off @ v) < 5 * math.sqrt(((errors @ v) ** 2).mean() / count)


# -- positions


def test_positions_are_those_of_the_definition() -> None:
    for d, count in ((1, 1), (2, 2), (3, 2), (1000, 90), (65_537, 50), (2**31 - 1, 20)):
        for key in (0, 2**64 - 1, key_of(stream(1, WORKER, 3), 9)):
            assert random.random_positions(key, count, d).tolist() == positions(key, count, d), (d, key)


@pytest.mark.parametrize(("d", "k"), [(2, 1), (3, 1), (5, 2), (8, 3), (13, 4), (37, 9)])
def test_positions_and_pairs_of_them_are_equally_likely(d: int, k: int) -> None:
    """Over iterations: each element k/d, in each place 1/d, and each pair k(k−1)/(d(d−1))."""
    keys = 1500
    places, pairs = np.zeros((k, d)), np.zeros((d, d))
    for iteration in range(1, keys + 1):
        drawn = random.random_positions(key_of(stream(1, WORKER), iteration), k, d)
        places[np.arange(k), drawn] += 1
        pairs[drawn[:, None], drawn] += 1

    def agrees(counts: np.ndarray, chance: float) -> None:
        allowed = 5 * math.sqrt(keys * chance * (1 - chance))
        assert np.abs(counts - keys * chance).max() <= allowed, (np.abs(counts - keys * chance).max(), allowed)

    agrees(places, 1 / d)
    agrees(np.diagonal(pairs), k / d)
    if k > 1:
        agrees(pairs[~np.eye(d, dtype=bool)], k * (k - 1) / (d * (d - 1)))


def test_shared_positions_depend_on_seed_part_and_iteration_alone() -> None:
    v, spec = np.arange(1.0, 102.0), "randomk:0.3,shared"
    for seed, part, iteration in ((3, 0, 1), (3, 1, 1), (3, 0, 2), (2**40 + 1, 0, 1)):
        drawn = positions(key_of(stream(seed, SHARED, part=part), iteration), 31, v.size)
        expected = np.zeros_like(v)
        expected[drawn] = v[drawn]
        for role, rank in ((WORKER, 0), (WORKER, 5), (SERVER, 0)):
            one = codec(spec, v.size, role, seed, rank, part)
            assert one.payload_bytes == 8 * 31
            assert np.array_equal(decoded(one, v, iteration), expected)


def test_a_run_draws_the_numbers_of_the_definition(mpisqueeze_run: Callable[..., Any], tmp_path: Path) -> None:
    """The model after some iterations of `csgd-double` on 3 ranks, with the seed of the command line."""
    seed, steps, ranks, lr, d = 2**40 + 7, 9, 3, 0.3, 7
    problem = ("--problem", f"{PLUGINS}:Quadratic", "--lr", str(lr), "--iterations", str(steps), "--seed", str(seed))
    method = ("--algorithm", "csgd-double", "--compressor", "uniform:1", "--dtype", "float64", "--save-model")
    mpisqueeze_run(ranks, "train", *problem, *method, "--out", "run").well()

    def compressed(v: np.ndarray, compressor_seed: int, iteration: int) -> np.ndarray:
        return v.min() + (v.max() - v.min()) * np.array(uniform_codes(v, 1, key_of(compressor_seed, iteration)))

    x = np.zeros(d)
    for t in range(1, steps + 1):
        sent = [compressed(x - np.arange(d) - rank, stream(seed, WORKER, rank), t) for rank in range(ranks)]
        x = x - lr * compressed(sum(sent) / ranks, stream(seed, SERVER), t)
    model = np.load(tmp_path / "run" / "model.npz")["x"]
    np.testing.assert_allclose(model, np.tile(x, (ranks, 1)), rtol=1e-12)
