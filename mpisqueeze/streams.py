"""The streams of a process: stdout for its result alone, and characters that the reader's encoding lacks."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import sys
import unicodedata
from collections.abc import Callable
from typing import IO

STDOUT, STDERR = 1, 2
#: The codec error handler of `spelled`.
SPELLED = "mpisqueeze.spelled"
#: Names of stdout as a file; once it is reserved, they would lead to stderr.
STDOUT_PATHS = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")

_SPELLINGS = {
    **dict(zip("×µμ—–−·’‘†₀₁₂│┃─━╴╶█▓░▚▞▪", "xuu---.''+012||----#%:\\/o", strict=True)),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╯╰┏┓┗┛┡┩╇╞╡╪", "+"),
    "…": "...", "≥": ">=", "≤": "<=", "±": "+-", "←": "<-", "→": "->", "↦": "->", "‖": "||", "⌈": "ceil(", "⌉": ")",
    "√": "sqrt", "λ": "lambda", "\N{COMBINING MACRON}": "", "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip
_POWERS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_POWER = re.compile(f"[{''.join(_POWERS)}]+")
_BRAILLE_BLANK, _BRAILLE_END = "\u2800", "\u28ff"

#: Characters that would act on a terminal, or turn the order of what follows them: of ASCII and of C1 all but the ends
#: of lines and tabs, and Unicode's marks of direction.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

#: Where results go once stdout is reserved for them.
_results: IO[str] | None = None


def harmless(text: str) -> str:
    """Text that may be somebody else's, as it may be written to a terminal or a file: what would act is spelled out.

    Every text becomes output through this: on the console, in messages on stderr, and in exported tables.
    """
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str) -> None:
    """A line on stderr, at once, whoever may be reading."""
    with contextlib.suppress(OSError, ValueError):
        print(harmless(text), file=sys.stderr, flush=True)


def spelled(text: str) -> str:
    """Text in ASCII: symbols by those that resemble them, Greek letters by their names, others as a Python escape."""
    powers = _POWER.sub(lambda found: "^" + "".join(map(_POWERS.__getitem__, found[0])), text)
    return "".join(character if character.isascii() else _spelling(character) for character in powers)


def _spelling(character: str) -> str:
    if character in _SPELLINGS:
        return _SPELLINGS[character]
    if _BRAILLE_BLANK <= character <= _BRAILLE_END:
        return " " if character == _BRAILLE_BLANK else "."
    script, _, letter = unicodedata.name(character, "").partition(" SMALL LETTER ")
    if script == "GREEK" and letter.isalpha():
        return letter.lower()
    return character.encode("ascii", "backslashreplace").decode()


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return spelled(error.object[error.start : error.end]), error.end


codecs.register_error(SPELLED, _spell)


class _Results(io.TextIOWrapper):
    """A stream that keeps columns in line where a character takes several: the next wide gap of its line gives way."""

    def write(self, text: str) -> int:
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            written = "".join(map(self._aligned, text.splitlines(keepends=True)))
        else:
            written = text
        super().write(written)
        return len(text)

    def _aligned(self, line: str) -> str:
        longer, parts = 0, re.split("(  +)", line)
        for place, part in enumerate(parts):
            if place % 2:
                taken = min(longer, len(part) - 1)
                longer -= taken
                parts[place] = part[taken:]
            else:
                parts[place] = part.encode(self.encoding, SPELLED).decode(self.encoding)
                longer += len(parts[place]) - len(part)
        return "".join(parts)


def open_all() -> None:
    """Have stdin, stdout and stderr be open, if only to the null device.

    Where a shell closed one (`>&-`), the next file to be opened would take its number, and what anything prints there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def show_everything() -> None:
    """Have stdout and stderr take any character, whatever the locale says of them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SPELLED)


def results() -> IO[str]:
    """The stream of results: stdout, as it was before it was reserved."""
    return sys.stdout if _results is None else _results


def results_descriptor() -> int:
    """The descriptor of that stream; that of stdout if it has none."""
    try:
        return results().fileno()
    except (OSError, ValueError):
        # The stream of a test or of a notebook.
        return STDOUT


def reserve() -> Callable[[], None]:
    """Keep stdout for results: what else is printed goes to stderr, from Python and from C. The result undoes it."""
    global _results
    before = sys.stdout
    before.flush()
    kept = os.dup(STDOUT)
    if _is_stdout(before):
        _results = _Results(os.fdopen(kept, "wb", closefd=False), before.encoding, SPELLED)
    else:
        _results = before
    os.dup2(STDERR, STDOUT)
    sys.stdout = sys.stderr

    def undo() -> None:
        global _results
        for stream in (before, results()):
            try:
                stream.flush()
            except OSError:
                # Whoever wrote it has met the same error. What is left must not end up in the next file of that number.
                discard(stream)
                stream.flush()
        sys.stdout, _results = before, None
        os.dup2(kept, STDOUT)
        os.close(kept)

    return undo


def discard(stream: IO[str]) -> None:
    """Redirect a stream to the null device, because its reader (such as `head`) is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _is_stdout(stream: IO[str]) -> bool:
    try:
        return stream.fileno() == STDOUT
    except (OSError, ValueError):
        return False
