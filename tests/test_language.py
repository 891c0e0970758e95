"""The language of specs, and the parameters that a signature declares."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from mpisqueeze.errors import UsageError
from mpisqueeze.language import choice, integer, parameters_of, parse_spec, real, resolve_parameters
from mpisqueeze.parts import registry
from mpisqueeze.settings import moved, parse_interval, upgraded


class Part:
    def __init__(
        self,
        dimension: int,
        *,
        bits: Annotated[int, integer(2, 8)],
        bucket: Annotated[int | None, integer(0)] = None,
        scale: Annotated[str, choice("l1", "l2")] = "l1",
        rate: float = 0.5,
        exact: bool = False,
        label: str = "none",
        unknown: Nowhere = 3,  # type: ignore[name-defined]  # noqa: F821
        handed: dict[str, int],
        batch_size: int = 4,
    ) -> None:
        pass


def unannotated(*, steps=4, other=None) -> None:  # type: ignore[no-untyped-def]
    pass


def test_parameters_are_read_from_the_signature() -> None:
    found = {p.name: p for p in parameters_of(Part, ("batch_size",))}
    assert list(found) == ["bits", "bucket", "scale", "rate", "exact", "label", "unknown"]
    assert [p.name for p in found.values() if p.required] == ["bits"]
    assert (found["bucket"].default, found["rate"].default) == (None, 0.5)
    assert (found["bits"].kind.accepts, found["scale"].kind.accepts) == ("a whole number from 2 to 8", "l1 or l2")
    assert found["unknown"].kind("4Ki") == 4096
    assert [p.name for p in parameters_of(unannotated)] == ["steps"]
    assert parameters_of(dict) == parameters_of(object) == ()


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("part:4", {"bits": 4}),
        ("part:bits=4", {"bits": 4}),
        ("part: bits = 4 ,scale=l2", {"bits": 4, "scale": "l2"}),
        ("part:8,exact,bucket=2k", {"bits": 8, "exact": True, "bucket": 2000}),
        ("part:label=a=b,bits=2", {"bits": 2, "label": "a=b"}),
    ],
)
def test_values(text: str, given: dict[str, Any]) -> None:
    defaults = {"bucket": None, "scale": "l1", "rate": 0.5, "exact": False, "label": "none", "unknown": 3}
    assert resolve_parameters(parse_spec(text), parameters_of(Part, ("batch_size",))) == {**defaults, **given}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("part", "part needs bits, a whole number from 2 to 8: write part:BITS"),
        ("part:9", "part:9: bits must be a whole number from 2 to 8 (9 is out of range)"),
        ("part:bits=9", "part:bits=9: bits must be a whole number from 2 to 8"),
        ("part:4,bits=3", "gives bits twice"),
        ("part:4,bukcet=3", "part has no parameter 'bukcet'; did you mean 'bucket'?; it accepts: bits, bucket"),
        ("part:scal=l1", "did you mean 'scale'?"),
        ("part:4,rate=nan", "part,rate=nan: rate must be a number"),
        ("part:", "nothing stands behind the colon"),
    ],
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_parameters(parse_spec(text), parameters_of(Part))
    assert says in caught.value.message


def test_what_is_accepted_is_said() -> None:
    assert integer(1).accepts == "a whole number ≥ 1"
    assert real(0, 1, open_low=True).accepts == "a number > 0 and ≤ 1"
    assert real().accepts == "a number"


def test_every_built_in_declares_its_parameters() -> None:
    """Keyword arguments that are no parameters would be out of a user's reach."""
    for parts in (registry.algorithms, registry.compressors, registry.problems):
        for name, cls in parts.builtins().items():
            declared = {p.name for p in parts.parameters(name)}
            keywords = set(getattr(cls.__init__, "__kwdefaults__", None) or ())
            assert keywords <= declared, name


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"algorithm": "choco", "eta": 0.3}, "choco:eta=0.3"),
        ({"algorithm": "deepsqueeze", "eta": None, "order": "awc"}, "deepsqueeze"),
        ({"algorithm": "dpsgd", "eta": None, "order": "awc", "memory_lr": "outside"}, "dpsgd:order=awc"),
        ({"algorithm": "memsgd", "order": "atc", "memory_lr": "inside"}, "memsgd:lr=inside"),
        ({"algorithm": "memsgd:lr=inside", "seed": 1}, "memsgd:lr=inside"),
    ],
)
def test_settings_of_earlier_versions(before: dict[str, Any], after: str) -> None:
    found = upgraded(before)
    assert found["algorithm"] == after
    assert not {"eta", "order", "memory_lr"} & set(found)
    part = registry.algorithms.find(after)
    if ":" in after:
        assert part.options == {after.partition(":")[2].partition("=")[0]: next(iter(part.options.values()))}
    assert moved("eta").endswith("as in choco:eta=…")
    assert moved("lr") == ""


@pytest.mark.parametrize(
    ("text", "interval"),
    [("500", (500, None)), ("1k", (1000, None)), ("2Ki", (2048, None)), ("10min", (None, 600)), ("90 s", (None, 90))],
)
def test_intervals_are_counts_or_times(text: str, interval: tuple[int | None, float | None]) -> None:
    assert parse_interval(text) == interval
