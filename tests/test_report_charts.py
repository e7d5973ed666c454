"""Charts: what is drawn stands where the numbers are."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.detection.training_log import read_log
from pipeline.presentation import words
from pipeline.presentation.charts import (
    Distribution,
    Line,
    Part,
    dumbbell,
    histogram,
    line_chart,
    sparkline,
    stacked_bar,
)
from pipeline.presentation.curves import MOST_POINTS, smoothed, thinned

FINITE = st.floats(-1e6, 1e6, allow_nan=False)
NAMES = st.text(st.characters(codec="utf-8", categories=["L", "P", "S", "N"]), max_size=20)


def drawn(svg: str) -> ElementTree.Element:
    """The chart, parsed as strictly as XML is; no number in it may be anything but one."""
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<text.*?</text>|aria-label=\"[^\"]*\"|<title>.*?</title>", "", svg))
    return ElementTree.fromstring(svg)


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"-?\d+\.?\d*", text)]


def test_a_histogram_is_as_high_as_its_counts():
    chart = drawn(histogram([Distribution("a", "before", [0, 5, 0, 10, 0], 0.5)], "axis", "title"))
    (area,) = chart.iter("polygon")
    values = numbers(area.attrib["points"])
    xs, ys = values[0::2], values[1::2]
    ground = max(ys)
    assert ground - min(ys) == pytest.approx(2 * (ground - ys[1]))
    # From 0.2 to 0.8, where the data are: three bins.
    left, right = min(xs), max(xs)
    assert xs[2] == pytest.approx(left + (right - left) / 3, abs=0.1)
    mark = next(line for line in chart.iter("line") if line.attrib["class"] == "mark")
    assert float(mark.attrib["x1"]) == pytest.approx((left + right) / 2, abs=0.1)
    assert chart.attrib["aria-label"] == "title"


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in drawn(svg).iter("text") if text.attrib["class"].startswith("tick")]


@pytest.mark.parametrize(
    ("counts", "ticks", "below"),
    [
        ({18: 90, 19: 50}, ["0.7", "0.8", "0.9", "1"], 0),
        ({0: 1, 15: 60, 18: 90}, ["0.7", "0.8", "0.9", "1"], 1),  # less than a hundredth
        ({0: 9, 15: 60, 18: 90}, ["0", "0.25", "0.5", "0.75", "1"], 0),
        ({4: 3, 7: 2}, ["0.1", "0.2", "0.3", "0.4"], 0),
        ({1: 3}, ["0", "0.1", "0.2", "0.3"], 0),
        ({}, ["0", "0.25", "0.5", "0.75", "1"], 0),
    ],
)
def test_a_histogram_shows_where_the_data_are(counts, ticks, below):
    bins = [counts.get(index, 0) for index in range(20)]
    shown = texts(histogram([Distribution("a", "before", bins, None)], "axis", "title"))
    assert shown[-len(ticks) - 1 : -1] == ticks  # the heights before, the name after
    assert (f"axis ({below} below {ticks[0]} are not shown)" if below else "axis") in shown


@given(st.lists(st.tuples(st.integers(0, 10**6), FINITE), max_size=60), NAMES)
@example([(0, 5e-324)], "")
def test_any_curve_can_be_drawn_inside_the_chart(points, name):
    ordered = sorted((float(x), y) for x, y in points)
    for svg in (
        line_chart([Line(name, "after", ordered)], name, name),
        sparkline(ordered, "after", name),
        histogram([Distribution(name, "before", [abs(int(y)) for _, y in ordered], None)], name, name),
    ):
        chart = drawn(svg)
        width, height = numbers(chart.attrib["viewBox"])[2:]
        for path in chart.iter("path"):
            values = numbers(path.attrib["d"])
            assert all(-0.1 <= x <= width + 0.1 for x in values[0::2])
            assert all(-0.1 <= y <= height + 0.1 for y in values[1::2])


def test_a_dumbbell_leads_from_one_figure_to_the_other():
    chart = drawn(dumbbell(0.2, 0.4, 0.4, "a < b"))
    before, after = (float(dot.attrib["cx"]) for dot in chart.iter("circle"))
    rail = next(chart.iter("line"))
    assert after == pytest.approx(float(rail.attrib["x2"]))
    assert before == pytest.approx((float(rail.attrib["x1"]) + float(rail.attrib["x2"])) / 2)
    assert len(list(drawn(dumbbell(None, 0.4, 0.4, "")).iter("circle"))) == 1
    assert "worse" in dumbbell(0.4, 0.2, 0.4, "")


def test_a_bar_is_divided_by_the_counts():
    chart = drawn(stacked_bar([Part("a", "x", 30), Part("none", "y", 0), Part("b", "z", 10)], "title"))
    widths = [float(part.attrib["width"]) for part in chart.iter("rect")]
    assert len(widths) == 2
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.02)
    assert list(drawn(stacked_bar([], "nothing")).iter("rect")) == []


def test_a_log_is_read_thinned_and_what_is_no_line_of_it_is_counted(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [f'{{"iteration": {n}, "lr": 0.1, "seconds": 1, "losses": {{"loss": {n}.0}}}}' for n in range(1, 1001)]
    lines[4] = '{"iteration": 5, "lr": null, "losses": {"loss": null}}'
    log.write_bytes("\n".join(lines).encode() + b'\n[1]\n\xff\n{"iterat')
    read = read_log(log)
    assert (read.iterations, read.unreadable) == (1000, 3)
    assert len(read.losses["loss"]) <= MOST_POINTS
    assert all(x == pytest.approx(y) for x, y in read.losses["loss"])  # thinned in both alike
    assert read_log(tmp_path / "nowhere") is None
    log.write_text("no log\n")
    assert read_log(log) is None


@given(st.lists(st.tuples(FINITE, FINITE), max_size=50), st.integers(1, 60))
def test_thinning_keeps_the_range_and_short_curves_whole(points, most):
    thin = thinned(points, most)
    assert len(thin) <= most
    if len(points) <= most:
        assert list(thin) == points
    for place in (0, 1):
        values = [point[place] for point in points]
        assert all(min(values) - 1e-6 <= point[place] <= max(values) + 1e-6 for point in thin)


def test_smoothing_leaves_straight_lines_straight():
    line = tuple((float(x), 3.0) for x in range(50))
    assert smoothed(line) == line
    assert smoothed(()) == ()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.7, "1 min"), (125, "2 min 5 s"), (7260, "2 h 1 min")],
)
def test_times_are_said_as_people_do(seconds, said):
    assert words.duration(seconds) == said


def test_figures_are_said_as_people_read_them():
    assert (words.points(0.2944), words.points(None)) == ("29.4", "–")
    assert [words.signed(each, 1) for each in (4.44, -1.26, 0.04, -0.04, None)] == ["+4.4", "−1.3", "0.0", "0.0", "–"]
    assert [words.setting(each) for each in (None, True, [1, "a"], 0.5)] == ["null", "true", "[1, a]", "0.5"]
    assert [words.size(each) for each in (12, 3400, 5_000_000, 7 * 10**12)] == ["12 B", "3.4 kB", "5.0 MB", "7.0 TB"]
    assert (words.count(1, "image"), words.count(1200, "image")) == ("1 image", "1,200 images")
    assert math.isclose(words.difference(0.2, 0.5) or 0, 0.3)
