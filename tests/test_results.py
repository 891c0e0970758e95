"""The scripts that make the tables in results/ stand on names that the package has."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mpisqueeze.runs.plan import plan
from mpisqueeze.settings import Settings

SCRIPTS = sorted((Path(__file__).parent.parent / "results").rglob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_scripts_import_names_that_exist(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "mpisqueeze":
            if (node.module or "").startswith(("mpisqueeze.torch", "mpisqueeze.problems.neural")):
                pytest.importorskip("torch")
            module = importlib.import_module(node.module or "")
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            for name in missing:
                importlib.import_module(f"{node.module}.{name}")


@pytest.fixture
def cifar_run() -> ModuleType:
    """results/cifar10/run.py as a module."""
    path = next(path for path in SCRIPTS if path.parts[-2:] == ("cifar10", "run.py"))
    spec = importlib.util.spec_from_file_location("cifar_run", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # Data classes look their module up.
    sys.modules["cifar_run"] = module
    spec.loader.exec_module(module)
    return module


def test_every_method_on_cifar_can_be_planned(cifar_run: ModuleType) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")
    for name, entry in cifar_run.ENTRIES.items():
        pair, *options = entry.pair.split()
        words = [*options, *cifar_run.COMMON]
        names = (option.removeprefix("--").replace("-", "_") for option in words[::2])
        given = dict(zip(names, words[1::2], strict=True))
        del given["color"]
        algorithm, _, compressor = pair.partition("/")
        given |= {"algorithm": algorithm, **({"compressor": compressor} if compressor else {})}
        assert plan(Settings.of(given)).config.workers == 8, name


def test_curves_on_cifar_are_those_of_their_methods(cifar_run: ModuleType) -> None:
    """What is committed was run with the settings that the script has, to its end or until it diverged."""
    for path in cifar_run.CURVES.glob("*/*.json"):
        facts = json.loads(path.read_text())
        entry, settings = cifar_run.ENTRIES[path.stem], facts["settings"]
        algorithm, _, compressor = entry.pair.split()[0].partition("/")
        assert settings["algorithm"] == (f"{algorithm}:eta={facts['eta']:g}" if entry.eta else algorithm)
        # The runs of one epoch were not tuned.
        if path.parent.name != "1":
            rate = entry.rate or json.loads((cifar_run.TUNED / path.name).read_text())["settings"]["lr"]
            assert settings["lr"] == float(rate)
        assert settings["compressor"] == (compressor or "identity")
        assert settings["workers"] == 8
        assert settings["dimension"] == 269_722
        if facts["status"] == "ok":
            assert facts["iterations_done"] == settings["iterations"]
            assert facts["epochs"][-1]["epoch"] == int(path.parent.name)
            sent = facts["bytes_an_iteration"] * settings["iterations"]
            assert facts["epochs"][-1]["bytes"] == pytest.approx(sent)
        else:
            assert facts["status"] == "diverged"
