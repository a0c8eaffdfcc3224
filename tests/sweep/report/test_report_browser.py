"""The pages in headless Chromium: on a screen (light and dark), on a telephone, and on paper."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from math import ceil
from pathlib import Path

import chromium
import pytest
from test_report_ablation import ablation
from test_report_html import page

from sweep.record import Record
from sweep.report.ablation_html import render_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
]

# The visible plots as the browser lays them out: the box, the points and the labels of each.
PLOTS = """
[...document.querySelectorAll("figure svg")].filter(svg => svg.checkVisibility()).map(svg => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom] }
  const all = kind => [...svg.querySelectorAll(kind)].map(box)
  return {box: box(svg), points: all(".point"), labels: all(".label"), squares: all(".warm")}
})
"""
RGB = "[...getComputedStyle(document.querySelector(%r)).%s.matchAll(/[0-9.]+/g)].map(Number)"
WHITE, BLACK = [255, 255, 255], [0, 0, 0]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Tab]:
    with chromium.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def sweep_page(records: list[Record], failed: Record, hostile: Record, tmp_path: Path) -> Path:
    path = tmp_path / "sweep.html"
    path.write_text(page([*records, failed, hostile]), encoding="utf-8")
    return path


@pytest.fixture
def ablation_page(tmp_path: Path) -> Path:
    path = tmp_path / "ablation.html"
    path.write_text(render_page(ablation("<script>alert(1)</script>")), encoding="utf-8")
    return path


def inside(inner: list[float], outer: list[float]) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def contrast(a: list[float], b: list[float]) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""

    def luminance(colour: list[float]) -> float:
        shares = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 0.2126 * shares[0] + 0.7152 * shares[1] + 0.0722 * shares[2]

    lighter, darker = sorted((luminance(a), luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("name", ["sweep_page", "ablation_page"])
def test_a_page_opens_without_errors_or_requests(tab: chromium.Tab, name: str, request: pytest.FixtureRequest) -> None:
    tab.open(request.getfixturevalue(name))
    assert tab.complaints == []
    assert tab.evaluate("document.compatMode") == "CSS1Compat"
    assert tab.evaluate("document.scripts.length") == 0


def test_plots_are_drawn_and_labels_are_inside_and_apart(tab: chromium.Tab, sweep_page: Path) -> None:
    tab.open(sweep_page)
    plots = tab.evaluate(PLOTS)
    assert len(plots) == 8
    for plot in plots:
        assert plot["box"][2] - plot["box"][0] > 400
        assert plot["box"][3] - plot["box"][1] > 250
        assert len(plot["points"]) in (6, 7)  # the reference has no divergence from itself
        assert len(plot["labels"]) >= 4
        assert all(inside(box, plot["box"]) for box in plot["points"] + plot["labels"])
        for i, (left, _, right, bottom) in enumerate(plot["labels"]):
            middle = bottom - 8  # boxes of text have room for accents, and may touch
            assert not any(a < right and left < c and b < middle < d for a, b, c, d in plot["labels"][:i])


def test_the_x_axis_of_plots_can_be_switched_without_a_script(tab: chromium.Tab, sweep_page: Path) -> None:
    tab.open(sweep_page)
    shown = "[...document.querySelectorAll('figure svg')].filter(s => s.checkVisibility()).map(s => s.ariaLabel)"
    assert all(name.endswith("against bits per weight") for name in tab.evaluate(shown))
    tab.evaluate("document.querySelector('[for=by-bytes]').click()")
    names = tab.evaluate(shown)
    assert len(names) == 8
    assert all(name.endswith("against file size, MiB") for name in names)


def test_heat_maps_are_drawn(tab: chromium.Tab, ablation_page: Path) -> None:
    tab.open(ablation_page)
    plots = tab.evaluate(PLOTS)
    assert len(plots) >= 4
    for plot in plots:
        assert plot["squares"]
        assert all(right - left > 30 and bottom - top > 15 for left, top, right, bottom in plot["squares"])
        assert all(inside(box, plot["box"]) for box in plot["squares"])


@pytest.mark.parametrize("name", ["sweep_page", "ablation_page"])
def test_on_a_telephone_tables_scroll_and_the_page_does_not(
    tab: chromium.Tab, name: str, request: pytest.FixtureRequest
) -> None:
    tab.open(request.getfixturevalue(name), width=360, height=740)
    assert tab.evaluate("innerWidth") == 360
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    first = "document.querySelector('.scroll')"
    assert tab.evaluate(f"{first}.scrollWidth > {first}.clientWidth + 60")
    assert tab.evaluate(f"{first}.scrollLeft = 60, {first}.scrollLeft") == 60
    for plot in tab.evaluate(PLOTS):
        assert plot["box"][0] >= 0
        assert plot["box"][2] <= 360 or plot["squares"]  # a heat map scrolls in its own box


@pytest.mark.parametrize("name", ["sweep_page", "ablation_page"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_in_light_and_dark(
    tab: chromium.Tab, name: str, scheme: str, request: pytest.FixtureRequest
) -> None:
    tab.open(request.getfixturevalue(name), prefers_color_scheme=scheme)
    paper = tab.evaluate(RGB % ("body", "backgroundColor"))
    assert contrast(paper, WHITE if scheme == "light" else BLACK) < 1.3
    assert contrast(paper, tab.evaluate(RGB % ("body", "color"))) > 12
    for part in (".note", ".caption", "thead th", ".verdict p"):
        assert contrast(paper, tab.evaluate(RGB % (part, "color"))) > 4.5, part
    assert contrast(paper, tab.evaluate(RGB % ("svg .tick", "fill"))) > 4.5


@pytest.mark.parametrize("name", ["sweep_page", "ablation_page"])
def test_a_printed_page_is_black_on_white_even_with_a_dark_screen(
    tab: chromium.Tab, name: str, request: pytest.FixtureRequest
) -> None:
    across, down = 688, 1017  # A4 without the page's margins of 14 mm, in CSS pixels
    tab.open(request.getfixturevalue(name), width=across, height=down, prefers_color_scheme="dark")
    printed = tab.pdf(prefers_color_scheme="dark")
    assert tab.evaluate(RGB % ("body", "backgroundColor")) == WHITE
    assert tab.evaluate(RGB % ("body", "color")) == BLACK
    least = ceil(tab.evaluate("document.body.scrollHeight") / down)
    pages = len(re.findall(rb"/Type /Page\b", printed))
    assert least <= pages <= 1.5 * least + 1  # a break before a figure or a table leaves some of a page empty
    streams = re.findall(rb"/FlateDecode.*?stream\r?\n(.*?)\r?\nendstream", printed, re.DOTALL)
    drawn = b"".join(zlib.decompressobj().decompress(stream) for stream in streams)
    fills = {tuple(map(float, fill)) for fill in re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) rg", drawn)}
    assert (0.0, 0.0, 0.0) in fills
    assert (228 / 255, 230 / 255, 232 / 255) not in {tuple(round(c * 255) / 255 for c in fill) for fill in fills}
