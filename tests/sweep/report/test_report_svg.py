"""The scatter plot: positions, error bars and labels follow from the figures."""

from __future__ import annotations

import re

import pytest

from sweep.analysis.plots import Axis, Level, Point
from sweep.report.html import TEMPLATES
from sweep.report.svg import scatter


def dots(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'class="point[^"]*" cx="([-\d.]+)" cy="([-\d.]+)"', svg)]


def draw(points, *, log=False, levels=()):
    plot = scatter(points, Axis("x", str), Axis("y", str, log), "a plot", levels)
    return TEMPLATES.get_template("scatter.svg").module.scatter(plot)


def test_linear_positions_are_affine_and_y_grows_upwards():
    (x0, y0), (x1, y1), (x2, y2) = dots(draw([Point(x, y, "p", "t") for x, y in ((2, 10), (4, 20), (8, 40))]))
    assert (x1 - x0) / (x2 - x0) == pytest.approx(2 / 6, abs=2e-3)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(10 / 30, abs=2e-3)
    assert x0 < x1 < x2
    assert y0 > y1 > y2


def test_equal_ratios_are_equal_steps_on_a_log_axis():
    (_, a), (_, b), (_, c) = dots(draw([Point(i, 10.0**-i, "p", "t") for i in (1, 2, 3)], log=True))
    assert b - a == pytest.approx(c - b, abs=0.2)
    assert a < b


def test_an_error_bar_spans_plus_and_minus_the_error():
    svg = draw([Point(1, 10, "a", "t"), Point(2, 20, "b", "t", error=5)])
    (_, ya), (_, yb) = dots(svg)
    top, bottom = map(float, re.search(r'class="bar" d="M[\d.]+ ([\d.]+)V([\d.]+)', svg).groups())
    assert bottom - top == pytest.approx(abs(yb - ya), abs=0.3)  # 2 x 5 is as long as from 10 to 20
    assert (top + bottom) / 2 == pytest.approx(yb, abs=0.2)


def test_a_bar_that_reaches_below_zero_ends_at_a_log_axis():
    svg = draw([Point(1, 0.01, "a", "t", error=0.02), Point(2, 0.001, "b", "t")], log=True)
    bottom = float(re.search(r'class="bar" d="M[\d.]+ [\d.]+V([\d.]+)', svg)[1])
    assert bottom <= 300


def test_a_point_alone_and_equal_points_are_drawn():
    for points in ([Point(4, 0.0, "a", "t")], [Point(4, 2.0, "a", "t")] * 3):
        assert len(dots(draw(points))) == len(points)
    assert len(dots(draw([Point(4, 0.5, "a", "t")], log=True))) == 1


def test_only_the_pareto_set_is_filled_and_joined_within_its_reference():
    points = [Point(i, 10 - i, f"p{i}", "t", pareto=i != 3, group=i % 2) for i in range(1, 7)]
    svg = draw(points)
    assert svg.count('class="point on"') == 5
    assert svg.count('class="pareto"') == 2
    assert svg.count("<rect") == 3


def test_titles_and_labels_are_escaped_and_the_recommended_point_has_a_ring():
    svg = draw([Point(1, 1, "<b>", "a & <i>", chosen=True)], levels=[Level(1.0, "<u>")])
    assert "<title>a &amp; &lt;i&gt;</title>" in svg
    assert "&lt;b&gt;" in svg
    assert not re.search("<[biu]>", svg)
    assert svg.count('class="ring"') == 1


def test_levels_whose_labels_would_overlap_share_one_label():
    points = [Point(1, 0.0, "a", "t"), Point(2, 10.0, "b", "t")]
    assert draw(points, levels=[Level(1.0, "one"), Level(9.0, "two")]).count('class="level"') == 2
    close = draw(points, levels=[Level(5.0, "one"), Level(5.01, "two")])
    assert close.count('class="level"') == 2
    assert ">one<" in close
    assert ">two<" not in close


def test_in_a_crowd_the_recommended_variant_and_the_pareto_set_keep_their_labels():
    far = [Point(0, 0, "low", "t"), Point(10, 10, "high", "t")]
    on = [Point(5 + 0.2 * i, 5 - 0.2 * i, f"on_{i}", "t", pareto=True, chosen=i == 3) for i in range(8)]
    off = [Point(5.1 + 0.2 * i, 5.1 - 0.2 * i, f"off_{i}", "t") for i in range(8)]
    plot = scatter([*far, *on, *off], Axis("x", str), Axis("y", str), "a plot")
    named = {mark.point.label for mark in plot.marks if mark.label}
    assert {"low", "high", *(point.label for point in on)} <= named
    assert not {point.label for point in off} <= named
    leaders = [mark for mark in plot.marks if mark.label and mark.label.leader]
    assert leaders
    assert all(mark.point.pareto for mark in leaders)
