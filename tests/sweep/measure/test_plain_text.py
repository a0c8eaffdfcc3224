"""Texts from files and data sets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from converters.errors import InputError
from sweep.measure.plain_text import read_text, save_text, text_bytes


def test_line_ends_become_newlines_and_bytes_stay(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes("Grüße\r\nan\rdich\n".encode())
    assert read_text(file) == "Grüße\nan\ndich\n"
    assert text_bytes(file) == file.read_bytes()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("ab".encode("utf-16-le"), "not UTF-8 text (byte 1 is 0, as in UTF-16 and in binary files)"),
        (b"\0abc", "not UTF-8 text (byte 0 is 0, as in UTF-16 and in binary files)"),
        (b"\xff\xfea\0", "UTF-16, not UTF-8 text"),
        (b"\xfe\xff\0a", "UTF-16, not UTF-8 text"),
        (b"abc\xe4", "not UTF-8 text (byte 3)"),
    ],
)
def test_a_text_that_is_not_utf8_is_rejected(content: bytes, what: str, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        text_bytes(file)
    assert str(caught.value) == f"{file}: {what}; convert it first"


def test_a_file_that_is_missing_is_rejected_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        text_bytes(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path / 'none'}: cannot be read (No such file or directory)"


def replace_client(monkeypatch: pytest.MonkeyPatch, load: Callable[..., object], is_reachable: bool = True) -> None:
    """The client of the hub reads data sets with `load`, which is quick to import."""
    client = SimpleNamespace(load_dataset=load, config=SimpleNamespace(HF_HUB_OFFLINE=False))
    monkeypatch.setitem(sys.modules, "datasets", client)
    for module in ("plain_text", "hub_access"):
        monkeypatch.setattr(f"sweep.measure.{module}.is_reachable", lambda: is_reachable)


def test_rows_of_a_data_set_are_joined_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load(path: str, name: str, split: str) -> list[dict[str, str]]:
        asked.extend([path, name, split])
        return [{"text": " = Grüße = \n"}, {"text": ""}, {"text": "an dich\n"}]

    replace_client(monkeypatch, load)
    file = tmp_path / "made" / "text"
    save_text("a/text", "raw", "test", file)
    assert asked == ["a/text", "raw", "test"]
    assert file.read_text("utf-8") == " = Grüße = \nan dich\n"


def test_a_data_set_that_is_not_available_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise ConnectionError("no network\nand more")

    replace_client(monkeypatch, load)
    for arguments, option in (((), "--perplexity"), (("--calibration",), "--calibration")):
        with pytest.raises(InputError) as caught:
            save_text("a/text", "raw", "test", tmp_path / "text", *arguments)
        assert str(caught.value) == f"the text a/text/raw is not available (no network); give one with {option} FILE"
    replace_client(monkeypatch, load, is_reachable=False)
    with pytest.raises(
        InputError, match=r"is not available \(https?://\S+ cannot be reached, and the cache has no copy"
    ):
        save_text("a/text", "raw", "test", tmp_path / "text")
