"""Samples of a user's own, in CSV and LIBSVM files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from mpisqueeze.data import load_dataset
from mpisqueeze.errors import UsageError

#: Ten samples of two classes, the first feature telling them apart.
ROWS = [(i % 2 * 10 + i / 8, -float(i), ("cat", "dog")[i % 2]) for i in range(10)]
HEADED = "width,height,label\n" + "".join(f"{a},{b},{label}\n" for a, b, label in ROWS)
BARE = HEADED.partition("\n")[2]
MOVED = "label;width;height\n" + "".join(f'"{label}";{a};{b}\n' for a, b, label in ROWS)
INDEXED = ",width,height,kind\n" + "".join(f"{i},{a},{b},{label}\n" for i, (a, b, label) in enumerate(ROWS))
SPARSE = "".join(f"{(-1, 1)[i % 2]} 1:{a} 3:{b}\n" for i, (a, b, _) in enumerate(ROWS))


def written(folder: Path, text: str, name: str = "mine", packed: bool = False) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (HEADED, ""),
        (f"\ufeff\n{HEADED}", ""),
        (HEADED.replace("\n", "\r\n"), ""),
        (HEADED, ",label=3"),
        (HEADED.replace("label", "what"), ",label=what"),
        (BARE, ""),
        (MOVED, ""),
        (MOVED.replace(";", "\t"), ""),
        (MOVED.replace("label", "kind"), ",label=1"),
        (INDEXED, ""),
        (HEADED.replace("width", "0").replace("height", "1"), ""),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_is_the_same_however_it_is_written(tmp_path: Path, text: str, options: str, packed: bool) -> None:
    path = written(tmp_path, text, packed=packed)
    data = load_dataset(f"csv:{path}{options},standardize=false", None, 0)
    labels = np.concatenate([data.train_labels, data.test_labels])
    inputs = np.concatenate([data.train_inputs, data.test_inputs])
    assert data.classes == 2
    assert len(data.test_labels) == 2
    assert set(data.test_labels.tolist()) == {0, 1}
    found = {(a, b, ("cat", "dog")[label]) for (a, b), label in zip(inputs.tolist(), labels.tolist(), strict=True)}
    assert found == set(ROWS)


def test_features_are_standardised_by_the_training_set(tmp_path: Path) -> None:
    text = "".join(f"{i},7,{i % 2}\n" for i in range(20))
    data = load_dataset(f"csv:{written(tmp_path, text)}", None, 0)
    assert data.train_inputs.dtype == np.float32
    assert data.train_inputs.mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert data.train_inputs.std(axis=0) == pytest.approx([1, 0], abs=1e-6)
    plain = load_dataset(f"csv:{tmp_path / 'mine'},standardize=false", None, 0)
    scaled = (plain.test_inputs[:, 0] - plain.train_inputs[:, 0].mean()) / plain.train_inputs[:, 0].std()
    assert data.test_inputs[:, 0] == pytest.approx(scaled, abs=1e-6)
    assert not data.test_inputs[:, 1].any()


def test_a_file_of_test_samples_and_labels_in_the_order_of_numbers(tmp_path: Path) -> None:
    train, test = "1,10\n2,9\n3,10\n4,9\n", "5,9.0\n6,10\n7,9\n"
    paths = written(tmp_path, train, "train.csv"), written(tmp_path, test, "test.csv")
    data = load_dataset(f"csv:{paths[0]},test={paths[1]},standardize=false", None, 0)
    assert data.train_inputs[:, 0].tolist() == [1, 2, 3, 4]
    assert data.train_labels.tolist() == [1, 0, 1, 0]
    assert data.test_inputs[:, 0].tolist() == [5, 6, 7]
    assert data.test_labels.tolist() == [0, 1, 0]


def test_a_file_is_found_in_the_data_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, HEADED, "mine.csv")
    assert load_dataset("csv:mine.csv", tmp_path, 0).classes == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_dataset("csv:~/mine.csv", None, 0).classes == 2
    with pytest.raises(UsageError, match=rf"--data: no file .*nowhere.csv or {tmp_path}/nowhere.csv"):
        load_dataset("csv:nowhere.csv", tmp_path, 0)


@pytest.mark.parametrize(("packed", "base"), [(False, 1), (True, 1), (False, 0)])
def test_libsvm_files_are_filled_up_with_zeros(tmp_path: Path, packed: bool, base: int) -> None:
    text = SPARSE if base else SPARSE.replace(" 1:", " 0:").replace(" 3:", " 2:")
    path = written(tmp_path, f"{text}\n+1 # a comment\n", packed=packed)
    data = load_dataset(f"libsvm:{path}", None, 0)
    inputs = np.concatenate([data.train_inputs, data.test_inputs])
    labels = np.concatenate([data.train_labels, data.test_labels])
    assert data.features == 3
    assert not inputs[:, 1].any()
    expected = {(a, b, i % 2) for i, (a, b, _) in enumerate(ROWS)} | {(0, 0, 1)}
    assert {(a, c, k) for (a, _, c), k in zip(inputs.tolist(), labels.tolist(), strict=True)} == expected


def test_a_libsvm_file_of_test_samples_may_have_more_features(tmp_path: Path) -> None:
    train, test = written(tmp_path, "1 1:2\n2 2:3\n1 1:1\n2 2:1\n", "a"), written(tmp_path, "2 5:4\n", "b")
    data = load_dataset(f"libsvm:{train},test={test}", None, 0)
    assert (data.train_inputs.shape, data.test_inputs.tolist()) == ((4, 5), [[0, 0, 0, 0, 4]])


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("csv", "", "one column"),
        ("csv", "a,label\n", "a sample a line, found none"),
        ("csv", "1 2 3\n", "parted by commas, semicolons or tabs, found one column"),
        ("csv", "a,b,label\n1,2,x\n1,,y\n", "a number in line 3, column 2, found ''"),
        ("csv", "a,b,label\n1,2,x\n1,nan,y\n", "a number in line 3, column 2, found 'nan'"),
        ("csv", "a,b,label\n1,2,x\n\n1,2,\n", "a label in line 4, column 3, found ''"),
        ("csv", "1,2,0\n1,2,1\n1,2\n", "3 cells in line 3, found 2"),
        ("csv", "1,2,0\n1,2,1\n1,red,1\n", "a number in line 3, column 2, found 'red'"),
        ("csv", "1,2,0\n1,2,0\n", "two classes or more, found the label 0"),
        ("csv", "".join(f"{i},{i / 7}\n" for i in range(9)), "9 different labels of 9 samples"),
        ("csv,label=size", HEADED, "no column 'size': label is a number from 1 to 3 or width, height, label"),
        ("csv", "<!DOCTYPE html>\n<title>Sign in</title>", r"a web page \('Sign in'\)"),
        ("csv", "PAR1\x00", "a Parquet file"),
        ("libsvm", "", "a sample a line, found none"),
        ("libsvm", "1 1:2\n1 2;3\n", "`label index:value …` in line 2, found '1 2;3'"),
        ("libsvm", "1 1:2\n-1 qid:3 1:2\n", "in line 2"),
        ("libsvm", "1,2 1:2\n", "in line 1"),
        ("libsvm", "1 1:2\n0 1.5:2\n", "in line 2"),
        ("libsvm", "1 1:2 3\n0 2:4\n", "in line 1"),
        ("libsvm", "1 1:1e999\n0 2:4\n", "finite numbers"),
        ("libsvm", "1\n0\n", "a feature, index:value"),
        ("libsvm", "1 900000000:1\n0 1:1\n" * 300, "900000000 features, which take"),
        ("libsvm", "<html>", "a web page"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, kind: str, text: str, says: str) -> None:
    path, (name, _, option) = written(tmp_path, text), kind.partition(",")
    with pytest.raises(UsageError, match=says) as caught:
        load_dataset(f"{name}:{path}{',' * bool(option)}{option}", None, 0)
    assert caught.value.message.startswith(str(path))


def test_a_test_file_of_other_classes_or_features_is_refused(tmp_path: Path) -> None:
    train = written(tmp_path, "1,2,0\n1,3,1\n2,2,0\n2,3,1\n", "train")
    for text, says in (("1,2,2\n", "labels as in .*train, found the label 2"), ("1,0\n", "2 features, .*found 1")):
        with pytest.raises(UsageError, match=says):
            load_dataset(f"csv:{train},test={written(tmp_path, text, 'test')}", None, 0)
