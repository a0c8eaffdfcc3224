"""The check of words finds every use of a word from the glossary's "not" columns, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import check_words

GLOSSARY = """
| term | meaning | not |
|---|---|---|
| **GPU** | A graphics processor. | `card`, `cards` |
| **resume** | To continue a run. | `goes on where` |

| write | not |
|---|---|
| message, says | `told` |
"""


def found(text: str) -> list[tuple[int, str]]:
    return list(check_words.uses(text, check_words.rejected_words(GLOSSARY)))


def test_the_columns_of_the_glossary_are_read() -> None:
    assert check_words.rejected_words(GLOSSARY) == {
        "card": "GPU", "cards": "GPU", "goes on where": "resume", "told": "message, says",
    }  # fmt: skip
    assert {"card", "told", "beside"} < set(check_words.rejected_words(check_words.GLOSSARY.read_text()))


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        ("It fits\non one Card.", [(2, "card")]),
        ("the command goes on\nwhere it stopped", [(1, "goes on where")]),
        ("Two cards, as told.", [(1, "cards"), (1, "told")]),
    ],
)
def test_a_planted_word_is_found_on_its_line(text: str, uses: list[tuple[int, str]]) -> None:
    assert found(text) == uses


@pytest.mark.parametrize(
    "text", ["the model card", "Model\ncards", "[CARD.md](presets/micro/CARD.md)", "cardinal", "a-card"]
)
def test_model_cards_and_parts_of_words_pass(text: str) -> None:
    assert found(text) == []


def test_documents_and_help_of_every_command_are_read() -> None:
    names = [name for name, _ in (*check_words.documents(), *check_words.help_texts())]
    assert {"README.md", "docs/fit.md", "sweep --help", "sweep run --help"} <= set(names)
    assert "docs/glossary.md" not in names


def test_a_planted_word_fails_the_check_with_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "page.md"
    monkeypatch.setattr(check_words, "ROOT", tmp_path)
    monkeypatch.setattr(check_words, "help_texts", lambda: ())
    page.write_text("Everything fits.")
    assert check_words.main() == 0
    page.write_text("Everything fits.\nIt is told.")
    assert check_words.main() == 1
    assert "docs/page.md:2: 'told': write 'message, says, is known from'" in capsys.readouterr().out
