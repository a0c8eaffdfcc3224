"""Check that README, docs and `--help` use the words of docs/glossary.md.

The column "not" of the glossary's tables lists words that confuse readers. This prints every place that uses one of
them and ends with code 1 if there is any. Run by `make lint`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from sweep.cli.app import app

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
ALLOWED = re.compile(r"model cards?|CARD\.md", re.IGNORECASE)


def rejected_words(glossary: str) -> dict[str, str]:
    """Each word or phrase of the columns "not", with what to write: the first cell of its row."""
    found = {}
    column = None
    for line in glossary.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            column = None
        elif column is None:
            column = cells.index("not")
        elif len(cells) > column:
            found.update(dict.fromkeys(re.findall(r"`([^`]+)`", cells[column]), cells[0].replace("*", "")))
    return found


def uses(text: str, words: dict[str, str]) -> Iterator[tuple[int, str]]:
    """The line number and the word, for each use. A phrase may be broken over two lines."""
    text = ALLOWED.sub(lambda allowed: "x" * len(allowed.group()), text)
    for word in words:
        pattern = r"(?<![\w-])" + r"\s+".join(map(re.escape, word.split())) + r"(?![\w-])"
        for match in re.finditer(pattern, text, re.IGNORECASE):
            yield text.count("\n", 0, match.start()) + 1, word


def texts() -> Iterator[tuple[str, str]]:
    """Each text that is checked, with its name."""
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        if path != GLOSSARY:
            yield str(path.relative_to(ROOT)), path.read_text()
    command = typer.main.get_command(app)
    assert isinstance(command, click.Group) or hasattr(command, "commands")
    for name, one in command.commands.items():
        help_texts = [one.help, one.epilog, *(getattr(option, "help", None) for option in one.params)]
        yield f"sweep {name} --help", "\n".join(text for text in help_texts if text)


def main() -> int:
    words = rejected_words(GLOSSARY.read_text())
    found = [f"{name}:{line}: {word!r}: write {words[word]!r}" for name, text in texts() for line, word in uses(text, words)]
    print("\n".join(found) or "words: as in docs/glossary.md")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
