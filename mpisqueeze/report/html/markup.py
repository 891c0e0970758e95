"""HTML and SVG put together so that whatever a user wrote stays text."""

from __future__ import annotations

import re

#: Elements that have no end tag in HTML.
_VOID = ("meta", "link")
# Neither HTML nor SVG has these characters, and lone surrogates are what is left of file names in no known encoding.
_UNSPEAKABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Text as HTML, fit for an attribute, too."""
    text = _UNSPEAKABLE.sub("\ufffd", text)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(character, entity)
    return Markup(text)


def join(parts: list[str], between: str = "") -> Markup:
    """Parts one behind the other, each escaped unless it is Markup."""
    return Markup(between.join(part if isinstance(part, Markup) else escaped(part) for part in parts))


def tag(element: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An element; what is no Markup is escaped.

    Args:
        attributes: a trailing underscore is dropped (`class_`), others become dashes; None and False leave it out, and
            True gives it no value.
    """
    head = element
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        head += f" {key.rstrip('_').replace('_', '-')}"
        if value is not True:
            head += f'="{escaped(number(value) if isinstance(value, float) else str(value))}"'
    if element in _VOID:
        return Markup(f"<{head}>")
    return Markup(f"<{head}>{join(list(children))}</{element}>")


def number(value: float) -> str:
    """A coordinate: a tenth is as fine as one can see."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text
