"""The library's typed options are the commands' own; `python tests/test_library_commands.py` writes them anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mpisqueeze
from mpisqueeze.cli import advise, compare, train
from mpisqueeze.library.commands import kind_of, parameters_of
from mpisqueeze.runs.plan import OF_SCRIPTS
from mpisqueeze.settings import SETTINGS

FILE = Path(mpisqueeze.__file__).parent / "library" / "options.py"
#: Python types of a text option's values; numbers and lists of them stand for their text.
TEXT = {str: "Words", Path: "str | PathLike[str]"}
HEAD = '''"""The options of the library's functions, for type checkers: those of the commands.

Made by `python tests/test_library_commands.py`, and held against the commands by its tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TypedDict

Words = str | float | Sequence[str | float]
"""Text of an option, a number in its place, or a list for text with commas; of one that is repeated, all of them."""
'''


def kinds(command: object, positional: str) -> dict[str, str]:
    """The Python types of a command's options by name."""
    found = {}
    for name, parameter in parameters_of(command).items():  # type: ignore[arg-type]
        if name in SETTINGS:
            found[name] = kind_of_setting(name)
        elif name != positional:
            base, _ = kind_of(parameter)
            found[name] = f"{TEXT.get(base, base.__name__)} | None"
    return found


def kind_of_setting(name: str) -> str:
    kind = SETTINGS[name].type
    # `k`, `M` and the like count, too.
    return f"{TEXT.get(kind, kind.__name__ if kind is bool else f'{kind.__name__} | str')} | None"


def written() -> str:
    """The module's text."""
    every: dict[str, Mapping[str, str]] = {
        "Train": kinds(train.train, "pair"),
        "Compare": kinds(compare.compare, "pairs"),
        "Advise": kinds(advise.advise, "pairs"),
    }
    common = {
        name: kind for name, kind in every["Train"].items() if all(own.get(name) == kind for own in every.values())
    }
    text = HEAD + classed("CommonOptions(TypedDict, total=False)", "Options of all commands that train.", common)
    for name, own in every.items():
        rest = {key: kind for key, kind in own.items() if key not in common}
        text += classed(f"{name}Options(CommonOptions, total=False)", f"Options of `{name.lower()}`.", rest)
    fields = {name: kind_of_setting(name) for name in OF_SCRIPTS}
    return text + classed("ScriptOptions(TypedDict, total=False)", "Options of `torch.distribute`.", fields)


def classed(head: str, about: str, fields: Mapping[str, str]) -> str:
    lines = "".join(f"    {name}: {kind}\n" for name, kind in fields.items())
    return f'\n\nclass {head}:\n    """{about}"""\n\n{lines}'


def test_typed_options_are_those_of_the_commands() -> None:
    assert FILE.read_text(encoding="utf-8") == written()


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
