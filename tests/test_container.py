"""The recipes of jobs/container: linted, alike, and such that what they install is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mpisqueeze.errors import ExitCode

HERE = Path(__file__).parents[1]
FOLDER = HERE / "jobs" / "container"
DOCKER, APPTAINER = ((FOLDER / name).read_text() for name in ("Dockerfile", "mpisqueeze.def"))


def test_both_recipes_build_and_install_the_same() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKER, re.MULTILINE)
    assert re.findall(r"^From: (\S+)", APPTAINER, re.MULTILINE) == bases
    assert len(bases) == 2
    for command in (
        r"pip wheel .*",
        r"apt-get install -y --no-install-recommends [\w -]+",
        r"pip install .*\]\"",
        r"python -c \"import [\w.]+\"",
    ):
        found = [re.findall(command, recipe) for recipe in (DOCKER, APPTAINER)]
        assert len(found[0]) == 1
        assert found[0][0].strip() == found[1][0].strip()
    sections = re.findall(r"^%(\w+)", APPTAINER, re.MULTILINE)
    assert sections == ["files", "post", "files", "post", "runscript", "test", "help"]


def test_the_extras_are_those_of_the_package() -> None:
    (extras,) = re.findall(r"whl\)\[([\w,]+)\]", DOCKER)
    project = (HERE / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras.split(","))
    minor = int(re.findall(r"python:3\.(\d+)", DOCKER)[0])
    (least,) = re.findall(r"requires-python = \">=3\.(\d+)\"", project)
    assert minor >= int(least)


def test_the_dockerfile_is_clean() -> None:
    linter = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.OK, done.stdout
