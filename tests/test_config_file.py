"""Settings from a file and from the environment: what comes first, what is refused, and what --dump-config prints."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec.toml
import pytest
import typer
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from mpisqueeze.cli.app import run
from mpisqueeze.cli.compare import compare
from mpisqueeze.cli.options import command
from mpisqueeze.cli.output import Output
from mpisqueeze.cli.train import train
from mpisqueeze.parts import registry
from mpisqueeze.runs.pairs import expand, parse_pair, parse_sweep
from mpisqueeze.runs.plan import plan
from mpisqueeze.runs.sources import VARIABLES, as_toml, resolve
from mpisqueeze.settings import SETTINGS, Setting, Settings
from mpisqueeze.topology import TOPOLOGIES

SHORT = ["--problem", "quadratic:10", "--iterations", "2"]


@pytest.fixture(autouse=True)
def no_settings(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but the test's own."""
    for name in [name for name in os.environ if name.startswith("MPISQUEEZE_")]:
        monkeypatch.delenv(name)


def written(text: str, name: str = "run.toml") -> Path:
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


def settings(text: str = "", environment: dict[str, str] | None = None, **typed: Any) -> Settings:
    return resolve(typed, environment or {}, written(text)).config


def test_the_command_line_comes_before_the_environment_and_that_before_the_file() -> None:
    text = "lr = 0.1\nmomentum = 0.1\nweight-decay = 0.1\nbatch_size = '1Ki'\nbarrier = true\n"
    found = settings(text, {"MPISQUEEZE_LR": "0.2", "MPISQUEEZE_MOMENTUM": "0.2", "MPISQUEEZE_BARRIER": "0"}, lr=0.3)
    assert (found.lr, found.momentum, found.weight_decay, found.batch_size) == (0.3, 0.2, 0.1, 1024)
    assert found.barrier is False
    assert found.clip_norm == Settings().clip_norm


def test_a_default_that_is_typed_comes_first_too(capsys: pytest.CaptureFixture[str]) -> None:
    written("lr_schedule = 'cosine'\noverlap = true\nbatch_size = 8\n")
    options = ["--lr-schedule", "constant", "--no-overlap", "--batch-size", "16"]
    assert run(["train", "--config", "run.toml", *options, "--dump-config"]) == 0
    found = msgspec.toml.decode(capsys.readouterr().out)
    assert (found["lr_schedule"], found["overlap"], found["batch_size"]) == ("constant", False, 16)


def test_a_length_that_comes_first_leaves_no_other() -> None:
    assert settings("epochs = 2", iterations=7).epochs is None
    found = settings("iterations = 7", {"MPISQUEEZE_EPOCHS": "2"})
    assert (found.iterations, found.epochs) == (None, 2.0)


def test_variables_that_mean_something_else_already() -> None:
    others = {
        "MPISQUEEZE_DATA": "/data",
        "MPISQUEEZE_KERNELS": "numpy",
        "MPISQUEEZE_DIR": "/opt",
        "MPISQUEEZE_LINK": "",
    }
    assert settings("", others) == Settings()
    assert {*VARIABLES.values(), "data"} == SETTINGS.keys()
    written("lr = 0.25")
    assert resolve({}, {"MPISQUEEZE_CONFIG": "run.toml"}).config.lr == 0.25


def test_the_home_folder_is_meant_by_its_sign_wherever_a_path_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    assert settings('out = "~/a"').out == home / "a"
    assert settings("", {"MPISQUEEZE_DATA_DIR": "~/b"}).data_dir == home / "b"
    assert Settings.of({"out": "~/c", "data_dir": Path("~")}).data_dir == home
    written('problem = "quadratic:10"\niterations = 2\nout = "~/runs/a"\n', str(home / "run.toml"))
    (home / "mine.py").write_text("from mpisqueeze.compressors.identity import Identity as Mine\n")
    (home / "edges").write_text("0 1\n")
    monkeypatch.setenv("MPISQUEEZE_CONFIG", "~/run.toml")
    plugins = ["--algorithm=choco", "--compressor=~/mine.py:Mine"]
    assert run(["train", *plugins, "--json=~/summary.json"]) == 0
    assert run(["report", "~/runs/a", "--csv=~/table.csv"]) == 0
    assert run(["compare", "choco/~/mine.py:Mine", "sgd", "--out=~/runs/b"]) == 0
    assert run(["info", "--topology=file:~/edges", "-n", "2"]) == 0
    assert run(["predict", "--check", "~/runs/a"]) == 2  # for one rank there is nothing to predict
    assert "~" not in capsys.readouterr().err
    assert json.loads((home / "summary.json").read_text())["run_folder"] == str(home / "runs" / "a")
    assert {path.name for path in home.iterdir()} == {
        "runs", "run.toml", "mine.py", "edges", "summary.json", "table.csv"
    }  # fmt: skip
    assert not Path("~").exists()


def test_a_run_with_files_of_its_own_goes_on_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its plug-in, graph and data were given by relative paths; once moved they are taken from the current folder."""

    def trained(cwd: str, *arguments: str) -> int:
        monkeypatch.chdir(tmp_path / cwd)
        registry._load_module.cache_clear()
        return run(["train", *arguments])

    for name in ("home", "elsewhere", "moved"):
        (tmp_path / name).mkdir()
    files = {
        "own.py": "from mpisqueeze.compressors.topk import TopK\nclass Own(TopK):\n    name = 'own'\n",
        "edges": "# nobody\n",
        "own.csv": "".join(f"{i},{-i % 7},{i % 2}\n" for i in range(40)),
    }
    for name, content in files.items():
        (tmp_path / "home" / name).write_text(content)
    parts = ["--algorithm", "choco", "--compressor", "own.py:Own,ratio=0.3", "--problem", "logistic"]
    options = [*parts, "--topology", "file:edges", "--data", "csv:own.csv", "--batch-size", "4", "--save-model"]
    whole, part = tmp_path / "home" / "whole", tmp_path / "home" / "part"
    assert trained("home", *options, "--iterations", "9", "--out", "whole") == 0
    assert trained("home", *options, "--iterations", "5", "--out", "part", "--checkpoint-every", "5") == 0
    assert trained("elsewhere", "--resume", str(part), "--iterations", "7", "--checkpoint-every", "7") == 0
    for name in files:
        (tmp_path / "home" / name).rename(tmp_path / "moved" / name)
    capsys.readouterr()
    assert trained("elsewhere", "--resume", str(part), "--iterations", "9") == 2
    assert f"there is no file {tmp_path}/home/own.py" in capsys.readouterr().err
    assert trained("moved", "--resume", str(part), "--iterations", "9") == 0
    assert (part / "model.npz").read_bytes() == (whole / "model.npz").read_bytes()
    assert json.loads((part / "summary.json").read_text())["compressor"] == "own,ratio=0.3"


#: Values of settings whose text has a form of its own.
EXAMPLES = {"stop_at": "loss=0.5", "betas": "0.5,0.25", "group": "2"}


def example(setting: Setting) -> Any:
    """A value that is accepted and not the default."""
    if setting.kind.choices:
        return next(choice for choice in setting.kind.choices if choice != setting.default)
    if setting.name in EXAMPLES:
        return EXAMPLES[setting.name]
    return {bool: not setting.default, int: 7, float: 0.5, str: "5s", Path: Path("x")}[setting.type]


def test_a_setting_that_is_declared_is_known_everywhere() -> None:
    values = {name: example(setting) for name, setting in SETTINGS.items()}
    texts = {name: str(value).lower() for name, value in values.items()}
    typed = []

    @command(SETTINGS)
    def catch(given: dict[str, Any], output: Output) -> int:
        typed.append(given)
        return 0

    app = typer.Typer()
    app.command()(catch)
    app([text for name, setting in SETTINGS.items() for text in setting.typed(values[name])], standalone_mode=False)
    assert typed == [values]
    environment = {variable: texts[name] for variable, name in VARIABLES.items()}
    assert resolve({}, environment).config == Settings(**values | {"data": Settings.data})
    for name, content in {"run.json": values, "typed.json": texts}.items():
        assert resolve({}, {}, written(json.dumps(content, default=str), name)).config == Settings(**values)
    assert plan(Settings()).as_json().keys() == {*SETTINGS, "parts"}
    for name, text in texts.items():
        if name not in ("algorithm", "out", "seed", "stop_at"):
            assert parse_sweep(f"{SETTINGS[name].option}={text}").setting == name


def test_commands_share_the_options_of_settings() -> None:
    ours, theirs = inspect.signature(train).parameters.keys(), inspect.signature(compare).parameters.keys()
    assert ours - theirs == {"algorithm", "compressor", "checkpoint_every", "stop_at", "resume", "dump_config", "pair"}
    own = {"pairs", "preset", "sort", "sweep", "seeds", "tune", "target", "target_loss", "stop_at_target"}
    assert theirs - ours == own
    assert ours >= SETTINGS.keys()
    assert [name.rstrip(":") for name in SETTINGS["topology"].names] == list(TOPOLOGIES)


TEXTS = st.text(st.characters(exclude_categories=("Cs",)))
PATHS = TEXTS.filter(lambda text: not text.startswith("~")).map(Path)
FLOATS = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@settings_of_hypothesis(max_examples=50)
@given(
    problem=TEXTS,
    out=st.none() | PATHS,
    lr=FLOATS,
    seed=st.integers(0, 2**63 - 1),
    chunk=st.none() | st.integers(1, 2**63 - 1),
    overlap=st.booleans(),
)
def test_what_is_dumped_is_read_back_exactly(**values: Any) -> None:
    found = plan(Settings(iterations=3))
    found.config.__dict__.update(values)
    text = as_toml(found)
    assert Settings.of(msgspec.toml.decode(text)) == Settings(
        **{"iterations": 3, "compressor": "onebit", "data": "digits", **values}
    )


def test_every_setting_is_dumped_with_a_word_about_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--dump-config", "--lr", "1e-5", "--out", "a b"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"{name} = " in out or f"# {name}: not set" in out for name in SETTINGS)
    assert all(f"  # {setting.help}\n" in out for setting in SETTINGS.values())
    written(out)
    assert run(["train", "--config", "run.toml", "--dump-config"]) == 0
    assert capsys.readouterr().out == out
    assert not Path("a b").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lern_rate = 0.1", ["run.toml: 'lern_rate' is no setting"]),
        ("batch-sise = 3", ["'batch-sise' is no setting; did you mean 'batch-size'?"]),
        ("batch-size = 3\nbatch_size = 4", ["run.toml", "given twice"]),
        ("lr = 'fast'", ["run.toml: lr: must be a positive number, got 'fast'"]),
        ("seed = 1.5", ["run.toml: seed: must be a whole number"]),
        ("seed = true", ["run.toml: seed: must be a whole number"]),
        ("batch-size = 'many'", ["run.toml: batch-size: must be a whole number from 1 to 2147483647, got 'many'"]),
        ("overlap = 'yes'", ["run.toml: overlap: must be true or false, got 'yes'"]),
        ("[train]\nlr = 0.1", ["'train' is no setting"]),
        (f"lr = 1{'0' * 400}", ["run.toml: lr: must be a positive number"]),
        ("lr = nan", ["run.toml: lr: must be a positive number"]),
        ("compressor = 'onebitt'", ["run.toml: compressor: unknown compressor 'onebitt'; did you mean 'onebit'?"]),
        ("samples = 100000", ["run.toml: samples", "1437"]),
        ("problem = 'quadratic:5'\niterations = 2\nepochs = 1.0", ["run.toml: iterations: give --iterations or"]),
        ("\nlr = ?", ["--config: run.toml is not TOML", "line 2"]),
        ("a = " + "[" * 100000, ["--config: run.toml is not TOML"]),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, says: list[str], refused: Callable[..., str]) -> None:
    line = refused("train", "--config", str(written(text)))
    assert all(text in line for text in says), line
    assert os.listdir() == ["run.toml"]


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("LR", "fast", "must be a positive number, got 'fast'"),
        ("LR", "-1", "must be a positive number"),
        ("BATCH_SIZE", "4KB", "must be a whole number from 1 to 2147483647, got '4KB'"),
        ("OVERLAP", "perhaps", "must be true or false, got 'perhaps'"),
        ("ALGORITHM", "sdg", "unknown algorithm 'sdg'; did you mean 'sgd'?"),
        ("BATCHSIZE", "4", "is no setting; did you mean MPISQUEEZE_BATCH_SIZE?"),
        ("CONFIG", "nowhere.toml", "nowhere.toml cannot be read: No such file"),
    ],
)
def test_what_is_wrong_in_a_variable_is_named(
    variable: str, value: str, says: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"MPISQUEEZE_{variable}", value)
    assert f"MPISQUEEZE_{variable}: {says}" in refused("train")
    if variable == "LR":
        assert f"MPISQUEEZE_{variable}: {says}" in refused("compare", "sgd")
    assert not os.listdir()


def test_files_that_are_none(refused: Callable[..., str]) -> None:
    Path("bytes.toml").write_bytes(b"lr = 0.1 # \xff")
    written("[1]", "list.json")
    written("{", "half.json")
    Path("folder").mkdir()
    for name, says in {
        "nowhere.toml": "cannot be read: No such file",
        "folder": "cannot be read: Is a directory",
        "bytes.toml": "is not text in UTF-8: byte 11 is 0xff",
        "list.json": "does not hold a JSON object",
        "half.json": "is not JSON",
        "/dev/zero": "is too long",
    }.items():
        assert f"--config: {name} {says}" in refused("train", "--config", name)


def test_a_run_is_repeated_from_its_config_json(
    capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    assert run(["train", *SHORT, "--lr", "0.01", "--seed", "9", "--out", "one", "--json", "-"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert run(["train", "--config", "one/config.json", "--out", "two", "--json", "-"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert (second["final_loss"], second["seed"], second["run_folder"]) == (first["final_loss"], 9, "two")
    assert "one is a folder; its settings are one/config.json" in refused("train", "--config", "one")
    assert "leave out --config" in refused("train", "--resume", "one", "--config", "one/config.json")


def test_a_resumed_run_has_its_own_settings(
    capsys: pytest.CaptureFixture[str], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["train", *SHORT, "--checkpoint-every", "1", "--out", "one"]) == 0
    monkeypatch.setenv("MPISQUEEZE_LR", "fast")
    assert run(["train", "--resume", "one", "--iterations", "3", "--json", "-"]) == 0
    assert json.loads(Path("one/config.json").read_text())["lr"] == Settings(lr=0.3).lr
    capsys.readouterr()
    assert "leave out --lr-schedule" in refused("train", "--resume", "one", "--lr-schedule", "constant")


def test_ranks_take_rank_zeros_settings(mpisqueeze_run: Callable[..., Any]) -> None:
    """As where mpirun hands the environment to one host alone; and a comparison takes what its pairs do not say."""
    written("algorithm = 'dpsgd'\nproblem = 'quadratic:10'\niterations = 2\ncheckpoint_every = '1'\nlr = 0.01\n")
    finished = mpisqueeze_run(
        2, "compare", "sgd", "--config", "run.toml", "--json", "-", "--out", "here", MPISQUEEZE_SEED="5"
    ).well()
    (summary,) = finished.json
    assert (summary["algorithm"], summary["seed"], summary["iterations"]) == ("sgd", 5, 2)
    config = json.loads(next(Path("here").glob("*/config.json")).read_text())
    assert (config["lr"], config["checkpoint_every"]) == (0.01, None)


def test_a_parameter_of_an_algorithm_is_swept_where_there_is_one() -> None:
    pairs = [parse_pair(text) for text in ("dpsgd", "choco/topk:0.1", "deepsqueeze")]
    entries = expand(pairs, [parse_sweep("eta=0.1,0.3"), parse_sweep("lr=1,2")], Settings())
    assert [entry.name for entry in entries if "lr=1" in entry.name] == [
        "dpsgd lr=1", "choco:eta=0.1/topk:0.1 lr=1", "choco:eta=0.3/topk:0.1 lr=1",
        "deepsqueeze:eta=0.1/onebit lr=1", "deepsqueeze:eta=0.3/onebit lr=1",
    ]  # fmt: skip
    assert [entry.plan.algorithm.options for entry in entries[2:6:2]] == [{"eta": 0.1}, {"eta": 0.3}]
    full_vectors = expand(pairs[:1], [parse_sweep("compressor=onebit,ternary")], Settings())
    assert [entry.name for entry in full_vectors] == ["dpsgd"]
