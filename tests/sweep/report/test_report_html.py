"""The page is well-formed, harmless, loads nothing, shows every figure, and is written whole or not at all."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from converters.errors import InputError
from sweep import format as fmt
from sweep.analysis.run_candidates import advise_on_records
from sweep.format import MINUS
from sweep.record import Divergence, MeasuredText, Record, TextFigures
from sweep.report.html import render_html, write_html
from sweep.report.svg import HEIGHT, WIDTH

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "sweep" / "report" / "templates"
SETTINGS = {"model": "micro", "run": "7f3a", "context": 512, "tasks": ["micro_sums", "micro_code"], "limit": None}
_VOID = {"meta", "input", "path", "circle", "rect", "br"}


class Page(HTMLParser):
    """Collects tags and text, and fails if tags are not properly nested."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page(records, settings=SETTINGS, **more) -> str:
    return render_html(records, settings, advise_on_records(records, **more))


def test_well_formed_and_self_contained(records, failed):
    source = page([*records, failed])
    parsed = Page(source)
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    attributes = {name for _, attrs in parsed.tags for name in attrs}
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "href", "style", "xlink:href")}
    assert not re.search(r"https?:|url\(|@import", source)


def test_the_page_says_which_of_several_texts_decides(records):
    assert "Which text decides" not in page(records)
    factors, first_text = {"Q4_K_M": 2.5, "Q2_K": 0.5}, MeasuredText("plain.txt", "a", 512)
    others = {
        one.variant: {"<chat>": TextFigures(one.perplexity, divergence(one, factors[one.variant]))}
        for one in records
        if one.variant in factors
    }
    changed = [replace(one, text=first_text, other_texts=others.get(one.variant, {})) for one in records]
    table = page(changed).partition("Which text decides</h2>")[2].partition("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("<tr>")[2:]]
    first = {one.variant: fmt.small(one.divergence.kld_mean) for one in records if one.variant in factors}
    largest = fmt.small(divergence(next(one for one in records if one.variant == "Q4_K_M"), 2.5).kld_mean)
    assert sorted(rows) == [
        ["Q2_K", first["Q2_K"], first["Q2_K"], "1.00", "tokens of plain.txt"],
        ["Q4_K_M", first["Q4_K_M"], largest, "2.50", "tokens of &lt;chat&gt;"],
    ]


def divergence(record: Record, factor: float) -> Divergence:
    assert record.divergence is not None
    return replace(record.divergence, kld_mean=factor * record.divergence.kld_mean)


def test_the_page_contains_the_stylesheet_unchanged(records):
    """Jinja would interpret some CSS, such as {# in @media print{#x."""
    styles = re.findall("<style>(.*?)</style>", page(records), re.DOTALL)
    assert [style.strip() for style in styles] == [(TEMPLATES / "report.css").read_text(encoding="utf-8").strip()]


def test_a_built_wheel_holds_the_templates(tmp_path):
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "sweep", tmp_path / "sweep")
    code = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    templates = {path.relative_to(ROOT).as_posix() for path in TEMPLATES.iterdir()}
    assert "sweep/report/templates/report.css" in templates
    assert templates <= names


def test_hostile_names_and_settings_are_text(records, hostile):
    nasty = {
        "model": "<script>alert(3)</script>",
        "run": '"><b onclick=x>',
        "<i>k</i>": {"<u>": ["</dl><svg onload=1>", "</style>", "{{ 7 * 6 }}"]},
    }
    parsed = Page(page([*records, hostile], nasty))
    assert not {tag for tag, _ in parsed.tags} & {"script", "img", "b", "i", "u"}
    assert "<script>alert(1)</script>[bold red]" in parsed.text
    assert "<script>alert(3)</script>: which variant to run" in parsed.text
    assert "</dl><svg onload=1>, </style>, {{ 7 * 6 }}" in parsed.text
    assert "\x1b" not in parsed.text


def test_a_hostile_task_and_a_hostile_recommended_variant(records):
    name = "<img src=x onerror=alert(1)>"
    changed = [
        replace(
            r, variant=name if r.variant == "Q4_K_M" else r.variant, tasks={f"<b>{t}": s for t, s in r.tasks.items()}
        )
        for r in records
    ]
    parsed = Page(page(changed))
    assert advise_on_records(changed).variant == name
    assert not {tag for tag, _ in parsed.tags} & {"img", "b"}


def test_the_sentence_the_figures_and_the_settings_are_on_the_page(records, failed):
    text = Page(page([*records, failed])).text
    for expected in (
        advise_on_records(records).reason,
        "Trust KL divergence",
        "0.031200",
        "±0.0203",
        f"{MINUS}6.1",
        "▼",
        "Accuracy per bit",
        "GGML_ASSERT(ne0 % 256 == 0) failed",
        "micro_sums, micro_code",
        "Holm-corrected over 30 tests",
    ):
        assert expected in text


def test_the_page_says_why_each_other_variant_was_not_chosen(records):
    source = page(records)
    start = source.index("<details><summary>Why not another variant?")
    listed = source[start : source.index("</details>", start)]
    assert [name for name in ("Q2_K", "Q3_K_M", "Q5_K_M", "BF16") if f"<dt>{name}</dt>" not in listed] == []
    assert "<dt>Q4_K_M</dt>" not in listed
    assert "on micro_sums (Holm-corrected p = 0.017)</dd>" in listed


def test_a_difference_has_its_interval_on_hover_and_in_the_full_table(records):
    def exact(record: Record) -> Record:
        score = record.tasks["micro_sums"]
        if record.variant != "Q2_K":
            return record
        detailed = replace(score, delta_low=-0.0791, delta_high=-0.0432, answers_changed=0.2345, clusters=57,
                       gold_delta=-0.0312, gold_delta_stderr=0.0041)  # fmt: skip
        return replace(record, tasks={**record.tasks, "micro_sums": detailed})

    source = page([exact(record) for record in records])
    parsed = Page(source)
    titles = [attrs["title"] for tag, attrs in parsed.tags if tag == "td" and "title" in attrs]
    assert len(titles) == 30
    assert (
        f"a significant loss: 95 % interval {MINUS}7.9 to {MINUS}4.3, Holm-corrected p < 0.0001, "
        "23.4 % of answers changed" in titles
    )
    assert any(title.startswith("not significant: ") for title in titles)
    start = source.index("<details><summary>All differences")
    details = Page(source[start : source.index("</details>", start) + len("</details>")])
    assert sum(tag == "tr" for tag, _ in details.tags) == 1 + 30
    for expected in (f"{MINUS}7.9 to {MINUS}4.3", "23.4", "1,000 in 57 subjects", f"{MINUS}3.12 ±0.41"):
        assert expected in details.text
    assert "Errors and tests treat whole subjects, not items, as independent: micro_sums (57 subjects)." in parsed.text
    assert "correct choice" not in Page(page(records)).text  # a column that nobody has a figure for


def test_every_measure_is_drawn_against_bits_and_bytes(records):
    parsed = Page(page(records))
    labels = [attrs["aria-label"] for tag, attrs in parsed.tags if tag == "svg"]
    measures = ["Mean recovery", "Mean KL divergence", "Perplexity", *records[0].tasks]
    assert labels == [f"{m} against {x}" for m in measures for x in ("bits per weight", "file size, MiB")]


def test_only_a_logarithmic_axis_leaves_out_the_reference(records):
    source = page(records)
    figures = dict(re.findall(r"<figcaption>([^<]*)<.*?</figcaption>(.*?)</figure>", source, re.DOTALL))
    assert "BF16:" in figures["Perplexity"]  # its hover title
    assert "BF16:" not in figures["Mean KL divergence"]
    zero = [replace(r, divergence=replace(r.divergence, kld_mean=0.0)) if r.variant == "Q8_0" else r for r in records]
    assert "not shown, because not positive: Q8_0" in page(zero)


@pytest.mark.parametrize("present", ["perplexity", "divergence", "speed", "none"])
def test_a_page_of_records_with_few_figures_is_complete(records, present):
    def only(record: Record) -> Record:
        empty = {"perplexity": None, "divergence": None, "speed": None, "tasks": {}}
        empty.pop(present, None)
        return replace(record, **empty)

    parsed = Page(page([only(record) for record in records]))
    assert "Q4_K_M" in parsed.text
    assert "None" not in parsed.text
    drawn = any(tag == "svg" for tag, _ in parsed.tags)
    assert drawn == (present in ("perplexity", "divergence"))


def test_a_page_without_sizes_records_or_settings_is_complete(records):
    assert "No variant in this sweep" in Page(page([], {})).text
    unsized = Page(page([replace(r, file_bytes=None, bits_per_weight=None) for r in records], {}))
    assert not any(tag == "svg" for tag, _ in unsized.tags)
    one = Page(page([records[2]]))
    assert sum(tag == "circle" and attrs["class"].startswith("point") for tag, attrs in one.tags) >= 2


def test_a_page_is_written_whole_or_not_at_all(records, tmp_path):
    target = tmp_path / "report.html"
    assert write_html(records, SETTINGS, target) == target
    assert target.read_text(encoding="utf-8") == page(records)
    write_html(records[:2], SETTINGS, target)  # over an older report
    assert target.read_text(encoding="utf-8") == page(records[:2])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_written_is_an_input_error(records, tmp_path):
    with pytest.raises(InputError, match="No such file or directory"):
        write_html(records, SETTINGS, tmp_path / "absent" / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match=r"taken: cannot be written: .*; choose another --html FILE"):
        write_html(records, SETTINGS, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_labels_do_not_cover_each_other_or_a_point(records):
    many = [
        replace(record, variant=f"{record.variant}_{i}", bits_per_weight=record.bits_per_weight + 0.21 * i)
        for record in records
        for i in range(3)
    ]
    for source in (page(records), page(many)):
        for svg in re.findall(r"<svg.*?</svg>", source, re.DOTALL):
            boxes = []
            for x, y, anchor, body in re.findall(
                r'<text class="label[^"]*" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]*)<', svg
            ):
                wide = 6.6 * len(body)
                left = float(x) - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
                boxes.append((left, float(y) - 9, left + wide, float(y) + 2))
            dots = [(float(x), float(y)) for x, y in re.findall(r'class="point[^"]*" cx="([\d.]+)" cy="([\d.]+)"', svg)]
            assert boxes
            for i, (x0, y0, x1, y1) in enumerate(boxes):
                assert min(x0, y0) >= 0
                assert x1 <= WIDTH
                assert y1 <= HEIGHT
                assert not any(x0 < c and a < x1 and y0 < d and b < y1 for a, b, c, d in boxes[:i])
                assert not any(x0 < x < x1 and y0 < y < y1 for x, y in dots)
