"""Problems on torch modules: flat and shared with x, exact gradients, repeatable augmentation, pure evaluation."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished
from problem_cases import images, make

from mpisqueeze.cli.app import run
from mpisqueeze.data import load_dataset
from mpisqueeze.data.augmentation import crop_and_flip
from mpisqueeze.data.partition import parse_partition
from mpisqueeze.data.seeding import Stream, generator
from mpisqueeze.errors import UsageError
from mpisqueeze.parts import registry
from mpisqueeze.parts.state import copied, put_back

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")

PLUGINS = Path(__file__).with_name("torch_plugins.py")
FUNCTIONS = [f"{PLUGINS}:classes", f"{PLUGINS}:regression"]
IMAGES = ["cnn", "resnet20", "resnet18"]


def address(array: np.ndarray) -> int:
    return array.ctypes.data


@pytest.mark.parametrize(
    ("text", "channels", "side", "parameters"),
    [
        ("resnet18", 3, 32, 11_173_962),
        ("resnet20", 3, 32, 269_722),
        ("resnet20", 1, 28, 269_434),
        ("cnn", 1, 28, 105_866),
        ("cnn", 3, 32, 136_874),
    ],
)
def test_the_number_of_parameters_is_that_of_the_papers(text: str, channels: int, side: int, parameters: int) -> None:
    assert make(text, dataset=images(channels, side, samples=4), dtype=np.float32).dimension == parameters


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (slice(0, 20), slice(19, 40), True),
        (slice(0, 20), slice(20, 40), False),
        (slice(0, 40, 2), slice(2, 40, 2), True),
        (slice(0, 40, 2), slice(1, 40, 2), False),
    ],
)
def test_tensors_of_one_storage_meet_where_they_have_an_element_in_common(
    one: slice, other: slice, common: bool
) -> None:
    from mpisqueeze.problems.neural.tensors import meet

    whole = torch.zeros(40)
    assert meet(whole[one], whole[other]) is meet(whole[other], whole[one]) is common


@pytest.mark.parametrize("text", [*IMAGES, *FUNCTIONS])
def test_parameters_are_views_of_x_and_gradients_of_one_buffer(text: str) -> None:
    problem = make(text, dtype=np.float32)
    x = problem.initial_point()
    second = x.copy()
    for point in (x, second, x):
        _, gradient = problem.gradient(point, 1)
        start = 0
        trained = [p for p in problem._network.module.parameters() if p.requires_grad]
        for parameter in trained:
            assert parameter.data_ptr() == address(point) + 4 * start
            assert parameter.grad.data_ptr() == address(gradient) + 4 * start
            start += parameter.numel()
        assert start == problem.dimension == point.size
    assert problem.shapes == [tuple(parameter.shape) for parameter in trained]
    assert np.array_equal(x, second)
    assert address(problem.gradient(x, 2)[1]) == address(gradient)


@pytest.mark.parametrize("text", [*IMAGES, "resnet20,bf16", *FUNCTIONS])
def test_x_may_change_in_place_come_elsewhere_and_be_read_only(text: str) -> None:
    problem, fresh = make(text, dtype=np.float32), make(text, dtype=np.float32)
    x = problem.initial_point()
    problem.gradient(x, 1)[1][:] = np.nan
    x *= np.float32(0.9)
    loss, gradient = problem.gradient(x, 2)
    elsewhere = x.copy()
    elsewhere.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again_loss, again = fresh.gradient(elsewhere, 2)
    assert again_loss == loss
    assert np.array_equal(again, gradient)
    assert np.isfinite(gradient).all()


def test_the_initial_point_is_the_seeds_alone() -> None:
    def start(text: str, **options: Any) -> np.ndarray:
        return make(text, **options).initial_point()

    for text in ("resnet20", "cnn", FUNCTIONS[0]):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        first = start(text, rank=1, size=3)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(6)
        assert np.array_equal(first, start(text))
        assert not np.array_equal(first, start(text, seed=1))
        assert np.array_equal(start(text, dtype=np.float32), first.astype(np.float32))
    problem = make("cnn")
    x = problem.initial_point()
    x += 1
    problem.gradient(x, 1)
    assert np.array_equal(problem.initial_point(), x - 1)


def test_an_iteration_allocates_nothing_of_the_vectors_size() -> None:
    """NumPy's memory is traced; the module is wide, so that its parameters outweigh a batch's images."""
    problem = make("resnet18", dtype=np.float32, batch_size=2)
    x = problem.initial_point()
    problem.gradient(x, 1)
    tracemalloc.start()
    for iteration in range(2, 5):
        problem.gradient(x, iteration)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < problem.dimension * 4 / 50


def test_crops_and_mirrors_are_windows_of_the_padded_image() -> None:
    rng = np.random.default_rng(0)
    stored = rng.integers(1, 256, (300, 3, 8, 8)).astype(np.uint8)
    out = np.empty_like(stored)
    crop_and_flip(stored, out, np.random.default_rng(7))
    padded = np.pad(stored, ((0, 0), (0, 0), (4, 4), (4, 4)))
    seen = set()
    for image, found in zip(padded, out, strict=True):
        windows = {
            (i, j, mirror): image[:, i : i + 8, j : j + 8][:, :, :: -1 if mirror else 1]
            for i in range(9)
            for j in range(9)
            for mirror in (False, True)
        }
        matches = [key for key, window in windows.items() if np.array_equal(window, found)]
        assert len(matches) == 1
        seen.add(matches[0])
    rows, columns, mirrors = (set(values) for values in zip(*seen, strict=True))
    assert rows == columns == set(range(9))
    assert mirrors == {False, True}
    again = np.empty_like(stored)
    crop_and_flip(stored, again, np.random.default_rng(7))
    assert np.array_equal(out, again)


def batch(text: str, iteration: int = 1, **options: Any) -> np.ndarray:
    return make(text, **options).batch(iteration)[0].numpy()


def test_augmentation_is_a_function_of_seed_rank_and_iteration() -> None:
    plain = batch("cnn,augment=off", 2, rank=1, size=2)
    augmented = np.empty((4, 3, 8, 8))
    crop_and_flip(plain / (1 / 64) + 128, augmented, generator(0, Stream.AUGMENTATION, 1, 2))
    assert np.allclose(batch("cnn", 2, rank=1, size=2), augmented / 64 - 2)


def test_photographs_alone_are_augmented_unless_told_otherwise() -> None:
    def augments(text: str, natural: bool) -> bool:
        data = images(natural=natural)
        return not np.array_equal(batch(text, dataset=data), batch("cnn,augment=off", dataset=data))

    assert augments("cnn", True)
    assert not augments("cnn", False)
    assert augments("cnn,augment=on", False)
    assert load_dataset("digits", None, 0).natural is False


@pytest.mark.parametrize("text", [*IMAGES, f"{PLUGINS}:classes"])
def test_evaluation_is_a_function_of_x_and_leaves_training_alone(text: str) -> None:
    """The result does not depend on earlier training or evaluation, nor on the rank of a built-in problem."""
    used, fresh = make(text, 0, 2, dtype=np.float32), make(text, 0, 2, dtype=np.float32)
    x = used.initial_point()
    expected = [fresh.gradient(x, t)[1].copy() for t in (1, 2, 3)]
    found = []
    figures = []
    for t in (1, 2, 3):
        _, gradient = used.gradient(x, t)
        found.append(gradient.copy())
        figures.append(used.evaluate(x.copy()))
        assert np.array_equal(gradient, found[-1])
        used.evaluate(x * 2)
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert figures[0] == figures[1] == figures[2]
    assert used.evaluate(x * 2) != figures[0]
    if used.needs_data:
        assert make(text, 1, 2, dtype=np.float32).evaluate(x) == figures[0]


def test_evaluation_uses_batch_norms_statistics_of_training_samples_at_x() -> None:
    """If one batch has all training samples, evaluating it gives what training computes on it."""
    data = images(samples=20)
    data = replace(data, test_inputs=data.train_inputs, test_labels=data.train_labels)
    problem = make("resnet20,augment=off", dataset=data, batch_size=20)
    x = problem.initial_point()
    x += 0.01 * np.random.default_rng(0).standard_normal(x.size)
    # Evaluation divides by n − 1, training by n.
    assert problem.evaluate(x)["test_loss"] == pytest.approx(problem.gradient(x, 1)[0], rel=0.02)


def test_the_test_loss_is_the_mean_over_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make(f"{PLUGINS}:classes")
    x = problem.initial_point()
    whole = problem.evaluate(x)
    assert set(whole) == {"test_loss", "test_accuracy"}
    line = make(f"{PLUGINS}:regression")
    at = line.initial_point() + 0.5
    expected = np.mean([(0.5 * i / 40 - 2 * i / 40) ** 2 for i in range(40)])
    assert line.evaluate(at) == {"test_loss": pytest.approx(expected)}
    monkeypatch.setattr("mpisqueeze.problems.neural.problem.EVALUATION_ROWS", 7)
    assert line.evaluate(at) == {"test_loss": pytest.approx(expected)}


def test_bf16_computes_something_near_float32() -> None:
    exact, rough = make("cnn", dtype=np.float32), make("cnn,bf16", dtype=np.float32)
    x = exact.initial_point()
    (loss, gradient), (rough_loss, rough_gradient) = exact.gradient(x, 1), rough.gradient(x, 1)
    assert rough_loss == pytest.approx(loss, rel=0.02)
    assert rough_gradient.dtype == np.float32
    error = np.linalg.norm(gradient - rough_gradient) / np.linalg.norm(gradient)
    assert 1e-5 < error < 0.05


def test_compiled_modules_follow_x(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the compiler's front end runs; its back end needs a C++ compiler and minutes."""
    compiled_by = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compiled_by(module, backend="aot_eager"))
    plain, compiled = make("cnn", dtype=np.float64), make("cnn,compile", dtype=np.float64)
    x = plain.initial_point()
    for t in (1, 2):
        loss, gradient = plain.gradient(x, t)
        again_loss, again = compiled.gradient(x.copy(), t)
        assert again_loss == pytest.approx(loss, rel=1e-12)
        assert np.allclose(again, gradient, rtol=1e-9, atol=1e-12)
        x -= 0.1 * gradient
    assert compiled.evaluate(x) == plain.evaluate(x)


def test_a_compiler_that_fails_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: Any) -> Any:
        def call(inputs: Any) -> Any:
            raise RuntimeError("no compiler\nfound")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UsageError, match=r"torch.compile fails here: RuntimeError: no compiler found"):
        make("cnn,compile")


class DeviceArray:
    """An array of another library, as far as DLPack goes."""

    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory
        self.__dlpack__, self.__dlpack_device__ = memory.__dlpack__, memory.__dlpack_device__


def test_arrays_of_another_library_are_shared_by_dlpack() -> None:
    from mpisqueeze.problems.neural.network import shared

    memory = np.arange(5, dtype=np.float32)
    tensor = shared(DeviceArray(memory))
    assert tensor.data_ptr() == address(memory)
    tensor += 1
    assert memory.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch has a GPU")
def test_a_gpu_that_cupy_alone_sees_is_refused() -> None:
    class Cupy:
        @staticmethod
        def empty(size: int) -> DeviceArray:
            return DeviceArray(np.empty(size))

    part = registry.problems.find("cnn")
    with pytest.raises(UsageError, match="sees no GPU, though CuPy does") as caught:
        part.cls(0, 1, 0, Cupy, np.dtype(np.float32), dataset=images(), batch_size=4, partition=parse_partition("iid"))
    assert caught.value.option == "--device"


def test_threads_are_those_that_the_rank_is_given() -> None:
    before = torch.get_num_threads()
    try:
        registry.problems.find("cnn").cls.limit_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("part", ["cnn", "resnet20", *FUNCTIONS])
def test_parts_pass_the_conformance_tests(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", part]) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    assert "8 passed" in out
    assert "doubtful" not in out.rpartition("\n8 passed")[2]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--problem", "resnt20"], ["--problem", "did you mean 'resnet"]),
        (["--problem", "resnet20,augment=maybe"], ["--problem", "augment", "auto, on or off"]),
        (["--problem", "cnn", "--data", "synthetic:60x100"], ["--data", "60 features"]),
        (["--problem", "cnn", "--data", "synthetic:9x100"], ["--data", "4×4", "3×3"]),
        (["--problem", "resnet18", "--data", "synthetic:48x100"], ["--data", "8×8", "4×4"]),
        (["--problem", "resnet18", "--batch-size", "1"], ["--batch-size", "batch norm", "2 samples"]),
        (["--problem", "cnn,bf16", "--dtype", "float64"], ["--dtype", "float64"]),
        (["--problem", "cnn", "--data", "cifar10", "--data-dir", "nowhere"], ["--data-dir", "data_batch_1.bin"]),
        (["--problem", f"{PLUGINS}:absent"], ["--problem", "no class or function 'absent'", "regression"]),
        (["--problem", f"{PLUGINS}:no_tuple"], ["--problem", "no_tuple", "(model, data, loss)", "a Linear"]),
        (["--problem", f"{PLUGINS}:no_module"], ["--problem", "torch.nn.Module", "builtin"]),
        (["--problem", f"{PLUGINS}:no_loss"], ["--problem", "loss is a str"]),
        (["--problem", f"{PLUGINS}:lone_tensor"], ["--problem", "data is a Tensor"]),
        (["--problem", f"{PLUGINS}:uneven"], ["--problem", "4 and 5 rows"]),
        (["--problem", f"{PLUGINS}:empty"], ["--problem", "data is a list"]),
        (["--problem", f"{PLUGINS}:wrong_shape"], ["--problem", "model(inputs) raised RuntimeError"]),
        (["--problem", f"{PLUGINS}:loss_by_sample"], ["--problem", "one number", "(16, 1)"]),
        (["--problem", f"{PLUGINS}:loss_of_nothing"], ["--problem", "does not depend"]),
        (["--problem", f"{PLUGINS}:no_parameters"], ["--problem", "no_parameters", "no parameters to train"]),
        (["--problem", f"{PLUGINS}:lazy"], ["--problem", "lazy"]),
        (
            ["--problem", f"{PLUGINS}:tied_in_part"],
            ["--problem", "a.weight and b.weight share memory in part", "clone()"],
        ),
        (["--problem", f"{PLUGINS}:expanded"], ["--problem", "a.weight repeats an element", "clone()"]),
        (["--problem", f"{PLUGINS}:moves"], ["--problem", "gives weight other memory", "in place"]),
        (["--problem", f"{PLUGINS}:zeroes"], ["--problem", "weight.grad was replaced", "zero_grad()"]),
        (["--problem", f"{PLUGINS}:no_values"], ["--problem", "weight is on the meta device", "to_empty"]),
        (["--problem", f"{PLUGINS}:no_values_in_a_buffer"], ["--problem", "table is on the meta device"]),
        (
            ["--problem", f"{PLUGINS}:inference"],
            ["--problem", "weight was made under torch.inference_mode()", "outside"],
        ),
        (
            ["--problem", f"{PLUGINS}:dicts"],
            ["--problem", "its data gives dicts", "'pixel_values', 'label'", "item['label']"],
        ),
        (["--problem", f"{PLUGINS}:triples"], ["--problem", "its data gives tuples of 3", "(data, lambda item:"]),
        (["--problem", f"{PLUGINS}:tensors"], ["--problem", "its data gives Tensors, not (input, target)"]),
        (["--problem", f"{PLUGINS}:dicts_in_test"], ["--problem", "its test gives dicts", "(test, lambda item:"]),
        (["--problem", f"{PLUGINS}:fails_backward"], ["--problem", "the backward pass raised RuntimeError", "inplace"]),
        (
            ["--problem", f"{PLUGINS}:keeps_a_graph"],
            ["--problem", "the backward pass of a second batch", "second time"],
        ),
        (
            ["--problem", f"{PLUGINS}:fails_in_evaluation"],
            ["--problem", "the evaluation of a batch of test", "a teacher"],
        ),
        (["--problem", f"{PLUGINS}:other_test"], ["--problem", "the evaluation of a batch of test", "shapes"]),
        (["--problem", f"{PLUGINS}:raises"], ["--problem", "KeyError", "on purpose"]),
        (["--problem", f"{PLUGINS}:no_arguments"], ["--problem", "TypeError", "0 positional arguments"]),
        (["--compressor", f"{PLUGINS}:classes"], ["--compressor", "is a function"]),
    ],
)
def test_bad_input_is_one_line_before_any_training(
    options: list[str], says: list[str], refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused("train", *options)
    assert all(text in line for text in says), line
    assert not list(tmp_path.iterdir())


def descended(problem: Any, iterations: int, lr: float) -> np.ndarray:
    """x after some iterations of gradient descent."""
    x = problem.initial_point()
    for t in range(1, iterations + 1):
        x -= x.dtype.type(lr) * problem.gradient(x, t)[1]
    return x


def test_both_halves_of_a_complex_parameter_are_trained() -> None:
    """As far as torch alone brings it: 2e-14 with single precision; by its real part alone, 0.5."""
    problem = make(f"{PLUGINS}:delay", seed=1, dtype=np.float32, batch_size=256)
    assert problem.dimension == 2 * 9 + 3
    assert problem.shapes == [(18,), (3,)]
    x = descended(problem, 300, 1.0)
    loss = problem.gradient(x, 1)[0]
    assert loss < 1e-12

    module, (inputs, targets), criterion = problem.function(0, 1, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        criterion(module(inputs), targets).backward()
        optimizer.step()
    w = x[:18].view(np.complex64)
    assert np.allclose(w, module.w.detach().numpy(), atol=1e-6)
    assert np.allclose(w, np.exp(-2j * np.pi * 3 * np.arange(9) / 16), atol=1e-5)


def test_complex_inputs_buffers_and_targets_have_the_runs_precision() -> None:
    for dtype in (np.float32, np.float64):
        problem = make(f"{PLUGINS}:spectrum", dtype=dtype, batch_size=64)
        assert problem.batch(1)[0].dtype == (torch.complex64 if dtype == np.float32 else torch.complex128)
        x = descended(problem, 200, 1.0)
        # 1j·w = 2 − 1j.
        assert np.allclose(x.view(x.dtype.type(0).astype(np.result_type(dtype, 1j)).dtype), -1 - 2j, atol=1e-4)
        assert set(problem.evaluate(x)) == {"test_loss"}


def test_a_gradient_without_its_imaginary_half_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check` compares it with differences along random vectors, too."""
    from mpisqueeze.problems.neural.problem import NeuralProblem

    right = NeuralProblem.gradient_in_parts

    def halved(self: Any, *arguments: Any) -> Any:
        loss, gradient = right(self, *arguments)
        gradient[1:18:2] = 0
        return loss, gradient

    def finding() -> str:
        assert run(["check", f"{PLUGINS}:delay"]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "the gradient is the loss's" in line]
        return line

    assert "passed" in finding()
    monkeypatch.setattr(NeuralProblem, "gradient_in_parts", halved)
    assert "along a random vector" in finding()


def test_what_becomes_of_other_types_is_said() -> None:
    problem = make(f"{PLUGINS}:narrow", dtype=np.float32)
    half, whole = problem.doubts()
    assert "torch.bfloat16 are converted" in half
    assert "in float32" in half
    assert "torch.int64 are not trained" in whole
    assert problem.dimension == 8 * 4 + 4 + 4 * 2 + 2
    assert problem._network.module.table.tolist() == [0, 1, 2]
    assert make(f"{PLUGINS}:classes", dtype=np.float32).doubts() == []


def test_parameters_on_one_memory_are_one() -> None:
    """Tied by `.data` as by name; a buffer on the same memory follows, as the module asserts."""
    by_data, by_name = (make(f"{PLUGINS}:tied_by_{way}", dtype=np.float32) for way in ("data", "name"))
    assert by_data.dimension == by_name.dimension == 128 * 128
    assert np.array_equal(descended(by_data, 5, 0.5), descended(by_name, 5, 0.5))
    assert "model.seen" not in by_data.state
    # Each element is reported once both uses of it have given their part.
    x, starts = by_data.initial_point(), []
    whole = by_data.gradient(x, 1)[1].copy()
    _, gradient = by_data.gradient_in_parts(x, 1, lambda g, start: starts.append((start, g[start:].copy())))
    assert np.array_equal(gradient, whole)
    assert all(np.array_equal(part, whole[start:]) for start, part in starts)
    assert [start for start, _ in starts] == [0]


@pytest.mark.parametrize("how", ["torch", "numpy", "python"])
def test_augmentation_by_any_generator_is_a_function_of_seed_rank_and_iteration(how: str) -> None:
    text = f"{PLUGINS}:by_{how}"
    one, other = make(text), make(text)
    first = one.batch(3)[0].clone()
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    other.batch(7)
    assert torch.equal(first, other.batch(3)[0])
    rows = {tuple(row.tolist()) for t in range(1, 17) for row in one.batch(t)[0]}
    again = {tuple(row.tolist()) for t in range(17, 33) for row in one.batch(t)[0]}
    assert len(rows) == len(again) == 64
    assert not rows & again
    ratios = [make(text, rank, 2, seed).batch(1)[0].abs().sum() for rank in (0, 1) for seed in (0, 1)]
    assert len({float(ratio) for ratio in ratios}) == 4
    x = one.initial_point()
    assert one.evaluate(x) == one.evaluate(x)


def test_the_call_of_the_function_is_seeded_and_leaves_no_trace() -> None:
    text = f"{PLUGINS}:drawn_at_random"
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    problem = make(text)
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    first = problem.batch(1)
    random.random(), np.random.rand()  # noqa: NPY002
    second = make(text).batch(1)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_of_a_loader_the_data_set_is_taken() -> None:
    loaded, plain = make(f"{PLUGINS}:loader"), make(f"{PLUGINS}:by_torch")
    assert torch.equal(loaded.batch(2)[0], plain.batch(2)[0])
    (doubt,) = loaded.doubts()
    assert "--batch-size" in doubt


REMEMBERING = ["in_a_buffer", "rebound", "attribute", "number", "later", "spectral", "instance"]


@pytest.mark.parametrize("name", REMEMBERING)
def test_what_a_module_carries_over_is_its_state(name: str) -> None:
    """A problem that is given another's state goes on as that one does, and evaluation leaves no trace."""
    whole, part, fresh = (make(f"{PLUGINS}:{name}", dtype=np.float32) for _ in range(3))
    assert whole.state.keys() == fresh.state.keys()
    x = descended(whole, 6, 0.5)
    at = descended(part, 3, 0.5)
    saved = copied(part)
    assert any(not np.array_equal(saved.get(key), value) for key, value in copied(fresh).items()) or name in (
        "number",
        "later",
    )
    put_back(fresh, saved)
    fresh.evaluate(at * 2)
    for t in (4, 5, 6):
        at -= np.float32(0.5) * fresh.gradient(at, t)[1]
    if name != "instance":
        assert not np.array_equal(x, descended(make(f"{PLUGINS}:{name}", seed=1, dtype=np.float32), 6, 0.5))
    assert np.array_equal(at, x)
    assert fresh.evaluate(x) == whole.evaluate(x)
    assert {key: value.tolist() for key, value in copied(fresh).items()} == {
        key: value.tolist() for key, value in copied(whole).items()
    }
    # And back, as the trial of batches before training does.
    put_back(fresh, copied(make(f"{PLUGINS}:{name}", dtype=np.float32)))
    assert np.array_equal(descended(fresh, 6, 0.5), x)


@pytest.mark.parametrize("name", ["in_a_buffer", "by_torch", "by_numpy", "by_python", "tied_by_data", "delay", "slope"])
def test_user_s_modules_pass_the_conformance_tests(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", f"{PLUGINS}:{name}"]) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    assert "failed" not in out
    assert "function of (seed, rank, iteration): " not in out


@pytest.mark.parametrize("name", ["by_its_own", "in_a_list"])
def test_what_cannot_be_repeated_is_found(
    name: str, mpisqueeze_run: Callable[..., Finished], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["check", f"{PLUGINS}:{name}"]) == 0
    assert "doubtful the gradient is a function of (seed, rank, iteration)" in capsys.readouterr().out
    options = ("train", "--problem", f"{PLUGINS}:{name}", "--iterations", "3", "--warmup", "0", "--json", "-")
    assert mpisqueeze_run(2, *options, "--out", "one").well().json["warnings"] == []
    (warning,) = mpisqueeze_run(2, *options, "--out", "two", "--checkpoint-every", "2").well().json["warnings"]
    assert "iteration 1, computed twice, gives another gradient" in warning
    assert "`state`" in warning


def test_a_module_that_differentiates_by_its_inputs_is_evaluated() -> None:
    problem = make(f"{PLUGINS}:slope", dtype=np.float64, batch_size=64)
    x = descended(problem, 200, 0.1)
    found = problem.evaluate(x)["test_loss"]
    assert found < 0.25
    # The batch is the whole data set.
    assert found == pytest.approx(problem.gradient(x, 1)[0], rel=1e-9)
    assert not make(f"{PLUGINS}:classes")._network.evaluates_with_gradients


def test_items_become_pairs_by_a_function_of_the_user_s() -> None:
    picked, plain = make(f"{PLUGINS}:pairs_of_dicts"), make(f"{PLUGINS}:pairs")
    for one, other in zip(picked.batch(2), plain.batch(2), strict=True):
        assert torch.equal(one, other)
    x = plain.initial_point()
    assert picked.evaluate(x) == plain.evaluate(x)


@pytest.mark.parametrize("problem", ["resnet20", f"{PLUGINS}:classes"])
def test_without_torch_one_line_names_the_extra(problem: str, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from mpisqueeze.cli.app import run; sys.exit(run(['train', '--problem', {problem!r}]))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    assert "--problem" in finished.stderr
    assert "pip install 'mpisqueeze[torch]'" in finished.stderr


def test_naming_the_problems_loads_no_torch() -> None:
    code = (
        "import sys; from mpisqueeze.parts import registry; registry.problems.find('resnet18');"
        "print('torch' in sys.modules, registry.problems.names())"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("False")
    assert "resnet20" in finished.stdout


def test_ranks_train_a_network(mpisqueeze_run: Callable[..., Finished], tmp_path: Path) -> None:
    options = ("--problem", "cnn", "--data", "digits", "--epochs", "5", "--momentum", "0.5", "--algorithm", "memsgd")
    finished = mpisqueeze_run(3, "train", *options, "--out", "run", "--json", "-").well()
    assert finished.json["test_accuracy"] > 0.8
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["versions"]["torch"] == version("torch")
    assert environment["gradient_threads"] == 1


def test_a_resumed_run_agrees_to_the_bit(mpisqueeze_run: Callable[..., Finished], tmp_path: Path) -> None:
    """Batches, augmentation, dropout's masks and batch norm are functions of the iteration alone."""
    for problem in ("cnn,augment=on", f"{PLUGINS}:classes", f"{PLUGINS}:in_a_buffer", f"{PLUGINS}:by_numpy"):
        options = ("--problem", problem, "--checkpoint-every", "4", "--momentum", "0.9", "--lr", "0.05", "--save-model")
        for out, iterations in (("whole", "8"), ("part", "4")):
            mpisqueeze_run(2, "train", *options, "--iterations", iterations, "--out", out).well()
        mpisqueeze_run(2, "train", "--resume", "part", "--iterations", "8").well()
        whole, part = (np.load(tmp_path / name / "model.npz")["x"] for name in ("whole", "part"))
        assert np.array_equal(whole, part)
        assert (whole == whole[0]).all()
        last = [(tmp_path / name / "evaluations.jsonl").read_text().splitlines()[-1] for name in ("whole", "part")]
        assert last[0] == last[1]
        for name in ("whole", "part"):
            shutil.rmtree(tmp_path / name)


def test_gossip_trains_a_user_s_module_and_evaluates_the_mean_model(
    mpisqueeze_run: Callable[..., Finished], tmp_path: Path
) -> None:
    options = ("--algorithm", "dpsgd", "--epochs", "15", "--lr", "0.3", "--out", "run", "--save-model", "--json", "-")
    finished = mpisqueeze_run(3, "train", "--problem", f"{PLUGINS}:classes", *options).well()
    assert finished.json["test_accuracy"] > 0.8
    models = np.load(tmp_path / "run" / "model.npz")["x"]
    assert not (models == models[0]).all()
    problem = make(f"{PLUGINS}:classes", 0, 3, seed=1, dtype=np.float32, batch_size=16)
    mean = models.sum(axis=0, dtype=np.float32) / np.float32(3)
    assert problem.evaluate(mean)["test_accuracy"] == pytest.approx(finished.json["test_accuracy"], abs=0.02)


def test_an_epoch_is_the_shortest_ranks(mpisqueeze_run: Callable[..., Finished]) -> None:
    options = ("--epochs", "3", "--batch-size", "4", "--json", "-", "--lr", "0.5")
    finished = mpisqueeze_run(3, "train", "--problem", f"{PLUGINS}:regression", *options).well()
    assert finished.json["iterations"] == 3 * (40 - 16) // 4


def test_ranks_that_start_apart_are_refused(mpisqueeze_run: Callable[..., Finished]) -> None:
    finished = mpisqueeze_run(2, "train", "--problem", f"{PLUGINS}:starts_differ", timeout=60)
    assert finished.code == 2
    assert "initial_point differs" in finished.err
