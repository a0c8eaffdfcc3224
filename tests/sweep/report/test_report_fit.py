"""The output of `sweep fit`: every verdict has its sign and word, at any width, with and without colour."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from fit_reports import report, row, three
from rich.console import Console

from sweep import format as text_module
from sweep.analysis.fit_candidates import Measurements, fit_candidates
from sweep.fit.fit_report import FitReport
from sweep.fit.hardware import parse_devices
from sweep.report.fit import commands, render_fit, render_formulas


def shown(found: FitReport, width: int = 120, *, color: bool = False) -> str:
    console = Console(file=StringIO(), width=width, highlight=False, force_terminal=color, no_color=not color)
    console.print(render_fit(found, width))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def line_of(text: str, variant: str) -> str:
    return next(line for line in text.splitlines() if variant in line)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("gpus", [("6GiB",), ("6GiB", "64GiB RAM"), ("RTX 6000 Ada", "4GiB", "24GiB")])
def test_verdicts_have_sign_word_and_headroom_at_every_width(width: int, gpus: tuple[str, ...]) -> None:
    found = three(*gpus)
    text = shown(found, width)
    assert max(map(len, text.splitlines())) <= width
    for variant, sign, word in (
        ("Q4_K_M", "✓", " fits"),
        ("Q8_0", "◐", "451 MiB in RAM"),
        ("BF16", "✗", "does not fit"),
    ):
        line = line_of(text, variant)
        assert line.startswith(sign)
        assert word in line
    assert text_module.MINUS in line_of(text, "BF16")  # by how much
    words = " ".join(text.split())
    assert all(part in words for part in ("weights: llama.cpp dry run", "compute", "Reserve on a cuda device: 512 MiB"))


def test_nothing_that_does_not_fit_is_green() -> None:
    text = shown(three("6GiB"), color=True)
    lines = [line for line in text.splitlines() if "BF16" in line or "Q8_0" in line]
    assert lines
    assert not [line for line in lines if "\x1b[32m" in line or "\x1b[1;32m" in line]
    assert "\x1b[32m" in line_of(text, "Q4_K_M")


def test_a_model_on_a_cpu_only_machine_fits_and_is_not_partly_in_ram() -> None:
    found = three("6GiB")
    ram = type(found.devices[0])("CPU", "cpu", 32 << 30, 30 << 30, None, False, 1 << 30)
    placed = row("Q4_K_M", 4.0, 4.9, [ram], gpu_layers=0, tensor_split=())
    assert line_of(shown(report([placed], [ram])), "Q4_K_M").startswith("✓")


def test_the_longest_context_with_ram_has_a_column_if_ram_may_be_used() -> None:
    found = three("6GiB")
    assert "with RAM" not in shown(found)
    fits, partly, not_at_all = found.rows
    rows = (replace(fits, max_context_with_ram=40960), replace(partly, max_context_with_ram=39424), not_at_all)
    text = shown(replace(found, rows=rows))
    assert line_of(text, "Q4_K_M").split().index("40,960") == line_of(text, "Q4_K_M").split().index("16,384") + 1
    assert "39,424" in line_of(text, "Q8_0")
    assert "with RAM: the same with as many layers or experts in RAM as it needs" in text
    same = shown(replace(found, rows=(rows[0], replace(partly, max_context_with_ram=40960))))
    assert "with RAM" not in same
    assert "With layers or experts in RAM, contexts of up to 40,960 tokens fit" in same


def test_commands_are_given_for_partly_fitting_variants_other_than_the_pick() -> None:
    found = three("6GiB")
    picks = {one.variant: one for one in fit_candidates(found, Measurements())}
    assert commands(found, picks["Q4_K_M"])[2:] == ["  Q8_0: llama-server -ngl 20"]
    assert commands(found, picks["Q8_0"]) == []
    devices = parse_devices(["6GiB"])
    assert commands(report([row("BF16", 400.0, 16.0, devices)], devices), None) == []


def test_each_device_has_its_figures_and_equal_devices_are_counted() -> None:
    text = shown(three("2xRTX 4090", "24GiB"), 160)
    assert "2 x RTX 4090 (simulated): 23.6 GiB usable of 24.0 GiB each" in text
    assert all(name in text for name in ("RTX 4090 1", "RTX 4090 2", "24GiB 3", "RAM"))
    assert "Memory per device is an estimate" in text


def test_names_are_never_interpreted_as_markup() -> None:
    devices = parse_devices(["6GiB"])
    found = report([row("[red]x[/]", 1.0, 4.0, devices)], devices, model="[bold]m\x1b[2J", notes=("[b]n[/b]",))
    text = shown(found)
    assert all(name in text for name in ("[red]x[/]", "[bold]m", "[b]n[/b]"))
    assert "\x1b" not in text


def test_formulas_that_all_variants_share_are_shown_once() -> None:
    console = Console(file=StringIO(), width=140, highlight=False)
    console.print(render_formulas(three("6GiB")))
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert text.count("layers x heads x cells") == 1
    assert all(f"the tensors of {variant}" in text for variant in ("Q4_K_M", "Q8_0", "BF16"))
    assert f"{200 << 20:,}" in text
