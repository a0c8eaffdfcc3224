"""--min-tps, --max-kld and --min-recovery, and --export: what they accept, on the command line and in a preset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from converters.errors import InputError
from sweep.cli import parsers
from sweep.planning.preset import as_toml, load
from sweep.report.serving_files import SERVING_KINDS, parse_export
from sweep.target import Target


@pytest.mark.parametrize("read", [parsers.min_tps, parsers.max_kld])
@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "thirty", "30%"])
def test_a_bound_is_a_positive_number(read: Callable[[str], float], text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a positive number"):
        read(text)


@pytest.mark.parametrize("text", ["", "0", "-5", "101", "100.1%", "nan", "0.95x"])
def test_a_recovery_is_a_percentage(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a percentage above 0 and up to 100"):
        parsers.min_recovery(text)


def test_the_units_of_a_target() -> None:
    found = parsers.target("30", "0.02", "97.5%")
    assert found == Target(30.0, 0.02, 0.975)
    assert str(found) == "--min-tps 30 --max-kld 0.02 --min-recovery 97.5"
    assert not parsers.target(None, None, None)


def preset(folder: Path, lines: str) -> Path:
    file = folder / "own.toml"
    file.write_text(f'reference = "BF16"\nvariants = ["Q4_K_M"]\n{lines}\n')
    return file


def test_a_preset_has_a_target_and_is_written_back(tmp_path: Path) -> None:
    found = load(str(preset(tmp_path, "min_tps = 30\nmax_kld = 0.02\nmin_recovery = 95")))
    assert found.target == Target(30.0, 0.02, 0.95)
    again = tmp_path / "again.toml"
    again.write_text(as_toml(found))
    assert load(str(again)).target == found.target


@pytest.mark.parametrize(
    "line", ["min_tps = 0", "max_kld = -0.1", "min_recovery = 101", "max_kld = inf", "min_tps = nan"]
)
def test_a_preset_with_another_target_is_rejected(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=f"own.toml: '{line.split()[0]}' must be above 0"):
        load(str(preset(tmp_path, line)))


@pytest.mark.parametrize("text", ["", "vllm", "Ollama", "ollama=Q4_K_M"])
def test_an_unknown_kind_of_export_is_rejected_with_those_that_exist(text: str) -> None:
    with pytest.raises(InputError, match="give llama-server, ollama or lmstudio"):
        parse_export(text)


def test_an_export_may_name_a_variant_with_colons() -> None:
    assert [parse_export(kind) for kind in SERVING_KINDS] == [(kind, None) for kind in SERVING_KINDS]
    assert parse_export("ollama:gguf:/a/b.gguf") == ("ollama", "gguf:/a/b.gguf")
