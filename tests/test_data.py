"""Loading of data sets, and what a user is told about a file that is missing or damaged."""

from __future__ import annotations

import gzip
import json
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mpisqueeze.cli.app import run
from mpisqueeze.data import DATASETS, cifar10, load_dataset
from mpisqueeze.errors import UsageError

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

IMAGES = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, 3, 2)
LABELS = np.array([9, 0, 3, 3, 1], dtype=np.uint8)
FILES = {
    "train-images-idx3-ubyte": IMAGES,
    "train-labels-idx1-ubyte": LABELS,
    "t10k-images-idx3-ubyte": IMAGES[:3] + 100,
    "t10k-labels-idx1-ubyte": LABELS[:3],
}


def idx_bytes(array: np.ndarray, magic: int | None = None) -> bytes:
    head = 0x0800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", head, *array.shape) + array.tobytes()


def write_idx_files(folder: Path, rename: Callable[[str], str] = str, packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in FILES.items():
        data = idx_bytes(array)
        path = folder / (rename(name) + (".gz" if packed else ""))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(data, mtime=0) if packed else data)


def test_digits_are_embedded_and_their_split_is_fixed_and_stratified() -> None:
    digits = load_dataset("digits", None, 0)
    assert digits.train_inputs.shape == (1437, 64)
    assert digits.test_inputs.shape == (360, 64)
    assert digits.train_inputs.dtype == digits.test_inputs.dtype == np.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == np.int32
    assert digits.train_inputs.max() == 16
    assert digits.classes == 10
    share = np.bincount(digits.test_labels) / np.bincount(np.r_[digits.train_labels, digits.test_labels])
    assert np.all(np.abs(share - 0.2) < 0.005)
    other_seed = load_dataset("digits", Path("nowhere"), 1)
    assert np.array_equal(digits.train_inputs, other_seed.train_inputs)
    assert np.array_equal(digits.test_labels, other_seed.test_labels)


def test_digits_are_standardised() -> None:
    digits = load_dataset("digits", None, 0)
    seen = digits.train_inputs * digits.scale + digits.offset
    assert abs(seen.mean()) < 1e-3
    assert abs(seen.std() - 1) < 1e-3


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("in_own_folder", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_idx_files_are_found_under_their_spellings(
    tmp_path: Path, name: str, packed: bool, in_own_folder: bool, dotted: bool
) -> None:
    def rename(stem: str) -> str:
        return stem.replace("-idx", ".idx") if dotted else stem

    write_idx_files(tmp_path / name if in_own_folder else tmp_path, rename, packed)
    data = load_dataset(name, tmp_path, 0)
    assert np.array_equal(data.train_inputs, IMAGES.reshape(5, 6))
    assert np.array_equal(data.train_labels, LABELS)
    assert np.array_equal(data.test_inputs, IMAGES[:3].reshape(3, 6) + 100)
    assert data.train_labels.dtype == np.int32
    assert data.name == name


def test_the_data_folder_comes_from_the_option_then_the_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPISQUEEZE_DATA", raising=False)
    write_idx_files(tmp_path / "data")
    assert len(load_dataset("mnist", None, 0).train_labels) == 5
    empty = tmp_path / "empty"
    monkeypatch.setenv("MPISQUEEZE_DATA", str(empty))
    with pytest.raises(UsageError, match=r"empty.*`mpisqueeze data get mnist` downloads it$"):
        load_dataset("mnist", None, 0)
    assert len(load_dataset("mnist", tmp_path / "data", 0).train_labels) == 5


def test_a_missing_file_is_named_with_every_place_that_was_searched(tmp_path: Path) -> None:
    write_idx_files(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError) as caught:
        load_dataset("mnist", tmp_path, 0)
    message = str(caught.value)
    for name in ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"):
        assert {name, f"{name}.gz"} <= set(re.split("[ (),]+", message))
    for folder in (tmp_path / "mnist", tmp_path, tmp_path / "MNIST" / "raw"):
        assert str(folder) in re.split("[ ;,]+", message)
    assert "--data-dir" in message
    assert "$MPISQUEEZE_DATA" in message
    assert message.endswith(f"`mpisqueeze data get mnist --data-dir {tmp_path}` downloads it")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "MNIST/raw"),
        ("mnist", "raw"),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("mnist", "mnist"),
    ],
)
def test_folders_of_torchvision_are_read(tmp_path: Path, name: str, folder: str) -> None:
    write_idx_files(tmp_path / folder)
    assert np.array_equal(load_dataset(name, tmp_path, 0).train_inputs, IMAGES.reshape(5, 6))


@pytest.mark.parametrize("dotted", [False, True])
def test_kaggles_folders_of_a_file_each_are_read(tmp_path: Path, dotted: bool) -> None:
    write_idx_files(tmp_path, lambda stem: f"{stem}/{stem.replace('-idx', '.idx') if dotted else stem}")
    assert np.array_equal(load_dataset("mnist", tmp_path, 0).test_labels, LABELS[:3])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head></html>", r"a web page \('403 Forbidden'\)"),
        (b"\n <html><body>Sign in</body></html>", "a web page, saved"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', r"error message \('AccessDenied'\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull`"),
        (b"PK\x03\x04rest", "zip archive: unpack it"),
    ],
)
def test_what_came_in_place_of_a_data_file_is_said(tmp_path: Path, content: bytes, says: str, packed: bool) -> None:
    write_idx_files(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    with pytest.raises(UsageError, match=f"expected .*, found .*{says}") as caught:
        load_dataset("mnist", tmp_path, 0)
    assert caught.value.message.startswith(f"{path}: ")
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=says):
        load_dataset("cifar10", tmp_path, 0)


def with_bad_shape(array: np.ndarray, *shape: int) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *shape) + array.tobytes()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train-images-idx3-ubyte", b"", "header of 16 bytes, found 0 bytes"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES)[:10], "header of 16 bytes, found 10 bytes"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES)[:-1], "expected 30 bytes .* found 29 bytes"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES) + b"x", "expected 30 bytes .* found more"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES, 0x0D03), "magic number 2051 .* found 3331"),
        ("train-images-idx3-ubyte", with_bad_shape(IMAGES, *[2**32 - 1] * 3), "found 30 bytes"),
        (
            "train-images-idx3-ubyte",
            with_bad_shape(IMAGES, 0, 3, 2),
            "at least one value, found the shape 0×3×2",
        ),
        ("train-labels-idx1-ubyte", idx_bytes(IMAGES), "magic number 2049 .* found 2051"),
        ("train-labels-idx1-ubyte", idx_bytes(LABELS[:4]), "expected 5 labels, .* found 4"),
        ("train-labels-idx1-ubyte", idx_bytes(LABELS + 1), "labels 0…9, found the label 10"),
        ("t10k-images-idx3-ubyte", idx_bytes(IMAGES[:3, :, :1]), "images of 3×2 pixels, .* found 3×1"),
        (
            "train-images-idx3-ubyte",
            gzip.compress(idx_bytes(IMAGES), mtime=0)[:-12],
            "whole gzip file, found one that ends",
        ),
        ("train-images-idx3-ubyte", gzip.compress(idx_bytes(IMAGES), mtime=0)[:-8] + bytes(8), "damaged one .*CRC"),
        ("train-images-idx3-ubyte", b"\x1f\x8b\x08" + b"\x00" * 7 + b"\xff" * 40, "damaged one"),
        ("train-images-idx3-ubyte", b"\x1f\x8b\x07" + b"\x00" * 40, "damaged one"),
    ],
)
def test_a_damaged_idx_file_is_named_with_what_was_expected_and_found(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    write_idx_files(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        load_dataset("mnist", tmp_path, 0)
    assert str(tmp_path / name) in caught.value.message
    assert caught.value.option == "--data-dir"


@pytest.fixture
def cifar_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six files of 4 records, each record's pixels equal to 10 × its file's number + its position."""
    monkeypatch.setattr(cifar10, "RECORDS", 4)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        records = np.repeat((10 * number + np.arange(4, dtype=np.uint8))[:, None], 3073, axis=1)
        records[:, 0] = [9, 0, 1, number]
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


@pytest.mark.parametrize("renamed", ["cifar-10-batches-bin", "cifar10", "."])
def test_cifar10_batches_are_joined_in_order(tmp_path: Path, cifar_folder: Path, renamed: str) -> None:
    root = cifar_folder if renamed == "." else tmp_path
    if renamed == "cifar10":
        cifar_folder.rename(tmp_path / "cifar10")
    data = load_dataset("cifar10", root, 0)
    assert data.train_inputs.shape == (20, 3072)
    assert data.train_inputs[:, -1].tolist() == [10 * number + i for number in range(5) for i in range(4)]
    assert data.train_labels[3::4].tolist() == [0, 1, 2, 3, 4]
    assert data.test_inputs[:, 0].tolist() == [50, 51, 52, 53]
    assert data.note == ""


def test_a_part_of_cifar10_is_read_and_told_of(cifar_folder: Path) -> None:
    path = cifar_folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:3073])
    options = ["--problem", "logistic", "--data", "cifar10", "--data-dir", str(cifar_folder), "--iterations", "1"]
    assert run(["train", *options, "--out", str(cifar_folder / "run")]) == 0
    warnings = json.loads((cifar_folder / "run" / "summary.json").read_text())["warnings"]
    assert "cifar10's files have 17 training and 4 test samples, fewer than published" in warnings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:-1], "1 to 4 records of 3073 bytes, 12292 at most, found 12291 bytes"),
        (lambda data: data + b"\0", "found more"),
        (lambda data: b"\x0a" + data[1:], "labels 0…9, found the label 10"),
        (lambda data: b"", "found 0 bytes"),
    ],
)
def test_a_damaged_cifar10_file_is_named(cifar_folder: Path, change: Callable[[bytes], bytes], says: str) -> None:
    path = cifar_folder / "data_batch_3.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UsageError, match=says) as caught:
        load_dataset("cifar10", cifar_folder, 0)
    assert str(path) in caught.value.message


class Bomb:
    """A pickle that leaves a file when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_pickled_cifar10_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (tmp_path / folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(
        UsageError,
        match=r"data_batch_1\.bin in .*cifar-10-binary\.tar\.gz: `mpisqueeze data get cifar10.*pickles .* not read",
    ):
        load_dataset("cifar10", tmp_path, 0)
    assert not Path("exploded").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("exploded").exists()


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin"])
def test_folders_of_the_binary_archive_are_read(cifar_folder: Path, tmp_path: Path, folder: str) -> None:
    expected = load_dataset("cifar10", cifar_folder, 0)
    root = tmp_path / "elsewhere"
    (root / folder).parent.mkdir(parents=True)
    cifar_folder.rename(root / folder)
    assert np.array_equal(load_dataset("cifar10", root, 0).train_inputs, expected.train_inputs)


def test_an_archive_that_was_not_unpacked_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").touch()
    with pytest.raises(UsageError, match=rf"or unpack {tmp_path}/cifar-10-binary.tar.gz$"):
        load_dataset("cifar10", tmp_path, 0)


def test_synthetic_has_the_size_asked_for_and_is_a_function_of_the_seed() -> None:
    data = load_dataset("synthetic:7x1k,classes=3", None, 5)
    assert data.train_inputs.shape == (1000, 7)
    assert data.test_inputs.shape == (200, 7)
    assert data.train_inputs.dtype == np.float32
    assert data.classes == 3
    assert np.ptp(np.bincount(data.train_labels)) <= 1
    again, other = (load_dataset("synthetic:7x1k,classes=3", None, seed) for seed in (5, 6))
    assert np.array_equal(data.train_inputs, again.train_inputs)
    assert not np.array_equal(data.train_inputs, other.train_inputs)
    assert set(load_dataset("synthetic:2x20,classes=20", None, 0).test_labels) == set(range(20))


@pytest.mark.parametrize("features", [20, 2000])
def test_synthetic_clusters_can_be_told_apart_in_held_out_samples(features: int) -> None:
    data = load_dataset(f"synthetic:{features}x2000,classes=5", None, 0)
    means = np.stack([data.train_inputs[data.train_labels == c].mean(axis=0) for c in range(5)])
    scores = data.test_inputs @ means.T - 0.5 * (means**2).sum(axis=1)
    accuracy = np.mean(scores.argmax(axis=1) == data.test_labels)
    assert accuracy > 0.8


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("digit", "did you mean 'digits'"),
        ("imagenet", "known: " + ", ".join(DATASETS)),
        ("digits:3", "takes no argument"),
        ("synthetic", "needs shape"),
        ("synthetic:10", "shape must be FEATURESxSAMPLES"),
        ("synthetic:0x10", "shape must be FEATURESxSAMPLES"),
        ("synthetic:axb", "shape must be FEATURESxSAMPLES"),
        ("synthetic:4x3", "at least one training sample a class"),
        ("synthetic:4x30,classes=1", "classes must be"),
        ("synthetic:1000Gx1000G", "does not fit"),
        ("", "names nothing"),
    ],
)
def test_a_wrong_data_set_blames_its_option(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        load_dataset(text, None, 0)
    assert caught.value.option == "--data"


@pytest.mark.skipif(not (SHARED_DATA / "mnist").is_dir(), reason="no MNIST files beside the repository")
def test_the_real_mnist() -> None:
    mnist = load_dataset("mnist", SHARED_DATA, 0)
    assert mnist.train_inputs.shape == (60_000, 784)
    assert mnist.test_inputs.shape == (10_000, 784)
    sample = mnist.train_inputs[::10] * np.float32(mnist.scale) + np.float32(mnist.offset)
    assert abs(sample.mean()) < 0.01
    assert abs(sample.std() - 1) < 0.01
    assert np.bincount(mnist.train_labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip


def test_a_subset_is_the_start_of_a_seeded_permutation() -> None:
    digits = load_dataset("digits", None, 0)
    small, large = (digits.subset(count, None, 3) for count in (50, 200))
    assert np.array_equal(small.train_inputs, large.train_inputs[:50])
    assert np.array_equal(small.train_labels, large.train_labels[:50])
    assert small.test_inputs is digits.test_inputs
    assert not np.array_equal(small.train_inputs, digits.subset(50, None, 4).train_inputs)
    assert len(set(digits.subset(50, None, 3).train_labels)) == 10
    tested = digits.subset(None, 30, 3)
    assert len(tested.test_labels) == len(tested.test_inputs) == 30
    assert tested.train_labels is digits.train_labels
    assert digits.subset(None, None, 3) is digits
    whole = digits.subset(len(digits.train_labels), None, 3)
    assert sorted(map(bytes, whole.train_inputs)) == sorted(map(bytes, digits.train_inputs))


@pytest.mark.parametrize(("samples", "test_samples", "option"), [(1438, None, "--samples"), (3, 361, "--test-samples")])
def test_a_subset_larger_than_the_set_is_refused(samples: int, test_samples: int | None, option: str) -> None:
    with pytest.raises(UsageError, match=f"got {test_samples or samples}") as caught:
        load_dataset("digits", None, 0).subset(samples, test_samples, 0)
    assert caught.value.option == option
