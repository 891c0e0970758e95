"""README and docs/: every command runs, every link leads somewhere, and nothing that the program knows is left out.

A block of ```console holds commands, in lines that begin with `$ `, each followed by what it prints. The commands of a
page run in order, in one empty folder. A comment in the line above a block says what is special about it:

    <!-- not run: REASON -->    a cluster, a GPU, a download or something else is missing here
    <!-- exit: CODE -->         how the last command of the block ends, where that is not 0
    <!-- file: NAME -->         a block of another language, which is saved in the folder under this name
    <!-- copy of: PATH -->      a block that shows this file of the repository, which is saved likewise

`python tests/test_docs.py [PAGE…]` runs pages and writes what their commands print into them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints, is_typeddict

import msgspec
import pytest
import typer

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Pages whose links are followed, but whose commands are not run.
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "results").rglob("README.md"))]
BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
#: As in a terminal of this width, on any machine.
ENVIRONMENT = {
    **os.environ,
    "COLUMNS": "118",
    "NO_COLOR": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


@dataclass
class Command:
    """A command of a page, with what the page says that it prints."""

    line: str
    shown: str
    exit_code: int = 0

    def run(self, folder: Path) -> str:
        """What it prints, without spaces at the ends of lines. Asserts the exit code."""
        done = subprocess.run(
            ["bash", "-c", self.line],
            cwd=folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == self.exit_code, f"{self.line}\nended with {done.returncode}:\n{done.stdout}"
        # Progress is shown where a run takes long.
        lines = [line.rstrip() for line in done.stdout.splitlines() if not re.match(r"iteration \d+/\d+ ", line)]
        return "\n".join(lines).strip("\n")


def commands_of(block: re.Match[str]) -> list[Command]:
    commands = []
    for text in re.split(r"^\$ ", block["body"], flags=re.MULTILINE)[1:]:
        line = re.match(r"(?:.*\\\n)*.*", text)
        assert line is not None
        commands.append(Command(line[0], text[line.end() :].strip("\n")))
    note = block["note"] or ""
    if note.startswith("exit: "):
        commands[-1].exit_code = int(note.removeprefix("exit: "))
    return commands


def steps(text: str, folder: Path) -> Iterator[tuple[re.Match[str], list[Command]]]:
    """Each block of commands that are to be run; files of the page are saved on the way."""
    for block in BLOCK.finditer(text):
        note = block["note"] or ""
        if note.startswith(("file: ", "copy of: ")):
            (folder / note.rpartition("/")[2].removeprefix("file: ")).write_text(block["body"])
        if block["language"] == "console" and not note.startswith("not run: "):
            yield block, commands_of(block)


def with_copies(text: str) -> str:
    """The page with its copies of the repository's files as these are now."""

    def current(block: re.Match[str]) -> str:
        name = (block["note"] or "").removeprefix("copy of: ")
        if name == (block["note"] or ""):
            return block[0]
        return f"<!-- copy of: {name} -->\n```{block['language']}\n{(ROOT / name).read_text()}```"

    return BLOCK.sub(current, text)


def update(page: Path) -> None:
    """Write what the page's commands print now in place of what it shows; a block that fails stays as it is."""
    text, pieces, end = with_copies(page.read_text()), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for block, commands in steps(text, Path(folder)):
            try:
                printed = [(command, command.run(Path(folder))) for command in commands]
            except AssertionError as error:
                print(error, file=sys.stderr)
                continue
            body = "\n".join(f"$ {c.line}\n{out}\n" if c.shown else f"$ {c.line}" for c, out in printed)
            pieces += [text[end : block.start("body")], body.rstrip("\n") + "\n"]
            end = block.end("body")
    page.write_text("".join(pieces) + text[end:])


def words(text: str) -> set[str]:
    """The words of a text, without units, which depend on how fast the machine is."""
    return set(re.findall(r"(?<!\d )\b[^\W\d_]{3,}", text))


def page_of(page: Path) -> Any:
    """A page as a parameter; those whose commands take long are slow."""
    marks = [pytest.mark.slow] if page.stem in ("runs", "networks", "plugins", "clusters") else []
    return pytest.param(page, id=page.stem, marks=marks)


@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize("page", [page_of(page) for page in PAGES])
def test_commands(page: Path, tmp_path: Path) -> None:
    """They end as the page says and print about what it shows, and docs/files.md explains every key that they write."""
    text = page.read_text()
    assert text == with_copies(text)
    for _, commands in steps(text, tmp_path):
        for command in commands:
            out, shown = command.run(tmp_path), words(command.shown)
            missing = shown - words(out)
            assert len(missing) <= 0.15 * len(shown), f"{command.line}\nno longer prints {sorted(missing)}:\n{out}"
    files = (ROOT / "docs/files.md").read_text()
    explained = set(re.findall(r"\w+", files)) | {option.replace("-", "_") for option in options()["train"]}
    for path in tmp_path.rglob("*.json*"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        unexplained = {key.removeprefix("--") for line in lines for key in keys(json.loads(line))} - explained
        # `_mean_s` stands for all fields that end so.
        unexplained -= {key for key in unexplained if any(key.endswith(end) for end in explained if end[0] == "_")}
        assert not unexplained, f"{path.name}: {sorted(unexplained)}"


def test_every_field_that_is_read_or_set_is_in_the_reference() -> None:
    from mpisqueeze.record import calibration, claims, types
    from mpisqueeze.record.figures import FIGURES
    from mpisqueeze.settings import SETTINGS

    text = BLOCK.sub("", (ROOT / "docs/files.md").read_text())
    explained = {word for quoted in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", quoted)}
    written = {*SETTINGS, *(figure.name for figure in FIGURES)}
    for module in (types, calibration, claims):
        for found in vars(module).values():
            if is_typeddict(found):
                written |= get_type_hints(found).keys()
            elif isinstance(found, type) and issubclass(found, msgspec.Struct):
                written |= {*found.__struct_encode_fields__}
    assert written - explained <= {"given_target_loss"}  # which former versions wrote


def keys(value: Any) -> Iterator[str]:
    """The names of an object's fields, at any depth; not those that are data, of variables, files and parameters."""
    if isinstance(value, list):
        for item in value:
            yield from keys(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            if key not in ("variables", "files", "log", "parameters", "evaluation"):
                yield from keys(item)


def options() -> dict[str, set[str]]:
    """The options of each command, without their dashes."""
    from mpisqueeze.cli.app import app

    found: dict[str, set[str]] = {}
    commands: list[tuple[str, Any]] = list(typer.main.get_command(app).commands.items())  # type: ignore[attr-defined]
    for name, command in commands:
        commands += [(f"{name} {inner}", child) for inner, child in getattr(command, "commands", {}).items()]
        names = [option for parameter in command.params for option in parameter.opts + parameter.secondary_opts]
        found[name] = {option[2:] for option in names if option.startswith("--") and option != "--help"}
    return found


def test_every_option_is_documented() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for command, names in options().items():
        assert not {name for name in names if not re.search(rf"--{name}(?![\w-])", text)}, command
        assert command.split()[0] in text


def test_every_name_is_documented() -> None:
    from mpisqueeze.parts import registry
    from mpisqueeze.topology import TOPOLOGIES

    text = "\n".join(page.read_text() for page in PAGES)
    parts = (registry.algorithms, registry.compressors, registry.problems, registry.optimizers)
    names = {*(name for each in parts for name in each.names()), *TOPOLOGIES}
    assert not {name for name in names if not re.search(rf"`{name}(?![\w-])", text)}


@pytest.mark.parametrize("page", PAGES + OTHERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", path.read_text()), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings], target


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    assert max(map(len, lines)) <= 120


def test_nothing_refers_to_what_readers_do_not_have() -> None:
    """The repository stands alone."""
    for folder in ("mpisqueeze", "docs", "jobs", "results", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".md", ".py", ".toml", ".sh", ".sbatch", ".c", ".h", ".cu") and path != Path(__file__):
                assert not re.search(r"SPEC('s)? §", path.read_text()), path


if __name__ == "__main__":
    for page in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        print(page.relative_to(ROOT), flush=True)
        update(page)
