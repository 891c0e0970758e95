"""Axes, thinning and the placing of labels: the arithmetic below every plot."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpisqueeze.report.charts import Axis, LineChart, Series, thin
from mpisqueeze.report.claim_charts import claim_chart
from mpisqueeze.report.labels import fold, spread
from mpisqueeze.report.scales import Scale, Unit, marks

PIXELS = {"length": 400.0, "extent": lambda text: 8.0 * len(text) + 10}


def texts(low: float, high: float, log: bool, unit: Unit, most: int = 9) -> list[str]:
    return [text for _, text in marks(Scale(low, high, log), unit, **PIXELS, most=most)]


@pytest.mark.parametrize(
    ("low", "high", "log", "unit", "expected"),
    [
        (0, 220, False, Unit.COUNT, ["0", "50", "100", "150", "200"]),
        (0, 66_000, False, Unit.COUNT, ["0", "10 000", "20 000", "30 000", "40 000", "50 000", "60 000"]),
        (0, 3, False, Unit.COUNT, ["0", "1", "2", "3"]),
        (0.03, 4.2, True, Unit.NUMBER, ["0.05", "0.1", "0.2", "0.5", "1", "2"]),
        (1e7, 1e11, True, Unit.RATE, ["10 Mbit/s", "100 Mbit/s", "1 Gbit/s", "10 Gbit/s", "100 Gbit/s"]),
        (7e3, 6e7, True, Unit.BYTES, ["10 kB", "100 kB", "1 MB", "10 MB"]),
        (2e-4, 0.12, True, Unit.SECONDS, ["300 µs", "1 ms", "3 ms", "10 ms", "30 ms", "100 ms"]),
        (0, 1.7e-3, False, Unit.SECONDS, ["0", "0.2", "0.4", "0.6", "0.8", "1", "1.2", "1.4", "1.6"]),
        (1e-9, 1e3, True, Unit.NUMBER, ["10⁻⁹", "10⁻⁷", "10⁻⁵", "0.001", "0.1", "10", "1000"]),
    ],
)
def test_marks_are_round_and_say_their_unit(
    low: float, high: float, log: bool, unit: Unit, expected: list[str]
) -> None:
    assert [text.replace("\u202f", " ") for text in texts(low, high, log, unit)] == expected


@given(
    low=st.floats(1e-12, 1e12),
    factor=st.floats(1.0001, 1e15),
    log=st.booleans(),
    unit=st.sampled_from(list(Unit)),
    most=st.integers(1, 12),
    length=st.floats(40, 1000),
)
def test_marks_never_touch_lie_on_their_axis_and_are_what_they_say(
    low: float, factor: float, log: bool, unit: Unit, most: int, length: float
) -> None:
    scale = Scale(low, low * factor, log)
    found = marks(scale, unit, length, PIXELS["extent"], most)
    assert len(found) <= most
    places = [place for place, _ in found]
    assert all(-1e-6 <= place <= 1 + 1e-6 for place in places)
    for (left, first), (right, second) in pairwise(found):
        assert (right - left) * length >= (PIXELS["extent"](first) + PIXELS["extent"](second)) / 2
        assert first != second


def test_marks_fall_where_their_numbers_are() -> None:
    scale = Scale(0.02, 300, True)
    for place, text in marks(scale, Unit.NUMBER, 1000, lambda text: 20):
        assert scale.at(float(text)) == pytest.approx(place)
    linear = Scale(-3.2, 17, False)
    for place, text in marks(linear, Unit.NUMBER, 1000, lambda text: 20):
        assert linear.at(float(text)) == pytest.approx(place)


def test_a_scale_shows_all_values_and_survives_one_or_none() -> None:
    values = np.array([3.0, np.nan, -1.0, np.inf])
    scale = Scale.around(values, log=False)
    assert scale.low < -1 < 3 < scale.high
    assert Scale.around(values, log=True, pad=0) == Scale(1.5, 6.0, True)
    for single in (np.array([0.0]), np.array([-2.0]), np.empty(0), np.array([np.nan])):
        assert Scale.around(single, log=False).low < Scale.around(single, log=False).high
        assert 0 < Scale.around(single, log=True).low < Scale.around(single, log=True).high


@given(
    values=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=400),
    buckets=st.integers(1, 40),
)
def test_thinning_keeps_ends_and_extremes(values: list[float], buckets: int) -> None:
    x, y = np.arange(1.0, len(values) + 1), np.array(values)
    kept = thin(x, y, Scale(1.0, len(values) + 1.0), buckets)
    assert len(kept) <= max(2 * buckets, 5 * buckets)
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert kept[-1] == len(values) - 1
    finite = y[np.isfinite(y)]
    if finite.size:
        seen = y[kept][np.isfinite(y[kept])]
        assert seen.min() == finite.min()
        assert seen.max() == finite.max()
    assert np.isfinite(y).all() == np.isfinite(y[kept]).all()


def test_thinning_leaves_out_what_a_logarithmic_axis_cannot_show() -> None:
    x = np.array([0.0, 0.0, 1.0, 10.0])
    assert thin(x, np.ones(4), Scale(1, 10, True), 100).tolist() == [2, 3]


@given(
    st.lists(st.tuples(st.floats(0, 300), st.floats(10, 60)), min_size=1, max_size=20).map(sorted),
)
def test_labels_keep_their_order_and_do_not_overlap(labels: list[tuple[float, float]]) -> None:
    wanted, heights = [label[0] for label in labels], [label[1] for label in labels]
    high = max(300.0, sum(heights))
    middles = spread(wanted, heights, 0.0, high)
    tops = [middle - height / 2 for middle, height in zip(middles, heights, strict=True)]
    ends = [middle + height / 2 for middle, height in zip(middles, heights, strict=True)]
    assert tops[0] >= -1e-6
    assert ends[-1] <= high + 1e-6
    assert all(top >= end - 1e-6 for top, end in zip(tops[1:], ends[:-1], strict=True))


def test_labels_with_room_stand_where_they_want() -> None:
    assert spread([20.0, 100.0, 250.0], [10.0, 10.0, 10.0], 0, 300) == [20.0, 100.0, 250.0]
    assert spread([100.0, 100.0], [10.0, 20.0], 0, 300) == [92.5, 107.5]


@given(st.text(min_size=1, max_size=80), st.integers(4, 40))
def test_folded_names_are_whole_and_fit(text: str, letters: int) -> None:
    lines = fold(text, letters)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(len(line) <= letters for line in lines)


def test_the_legend_follows_the_ends_of_the_lines() -> None:
    x = np.arange(3.0)
    lines = [
        Series("falls", x, np.array([9.0, 5.0, 1.0]), 0),
        Series("never", x, np.full(3, np.nan), 1),
        Series("bursts", x, np.array([1.0, 1e30, np.nan]), 2, remark="diverged"),
        Series("stays", x, np.array([4.0, 4.0, 4.0]), 3),
        Series("measured", x, x, 0, "points"),
    ]
    chart = LineChart("", Axis("x"), Axis("y", limits=(0, 10)), lines)
    assert [line.label for line in chart.in_end_order()] == ["bursts (diverged)", "stays", "falls", "never"]
    assert chart.is_drawn
    assert math.isnan(lines[1].end)
    assert not LineChart("", Axis("x", log=True), Axis("y"), [Series("a", np.array([0.0, 1.0]), x[:2], 0)]).is_drawn


def test_the_chart_of_a_claim_counts_what_never_gets_there() -> None:
    """The median of three seeds of which two miss the target is no point; of one that does, it is another seed's."""
    found = {1.0: [100, 120, 110], 4.0: [30, None, 25], 16.0: [None, 8, None]}
    rows = [
        {"run": "sgd", "x": x, "seed": seed, "iterations_to_target": value}
        for x, values in found.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    figure = {"kind": "sweep", "y": "iterations_to_target", "label": "iterations to the target", "log": True}
    chart = claim_chart({"figure": figure, "runs": rows, "sweep": "virtual workers"}, [])
    assert isinstance(chart, LineChart)
    assert (chart.title, chart.x.log, chart.y.log) == ("Iterations to the target by virtual workers", True, True)
    assert chart.series[0].y.tolist() == [110, 30, math.inf]
