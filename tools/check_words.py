"""Check that README, docs and `--help` use the words of docs/glossary.md.

The column "not" of the glossary's tables lists words that confuse readers. This prints every place that uses one of
them and ends with code 1 if there is any. Run by `make lint`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperGroup

from sweep.cli.app import app

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
ALLOWED = re.compile(r"model\s+cards?|CARD\.md|D\. Card", re.IGNORECASE)


def rejected_words(glossary: str) -> dict[str, str]:
    """Each word or phrase of the columns "not", with the text to write instead: the first cell of its row."""
    found: dict[str, str] = {}
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
    """The line number and the word, for each use in `text`. A phrase may be broken over two lines."""
    text = ALLOWED.sub(lambda allowed: re.sub(r"\S", "x", allowed.group()), text)
    for word in words:
        pattern = r"(?<![\w-])" + r"\s+".join(map(re.escape, word.split())) + r"(?![\w-])"
        for match in re.finditer(pattern, text, re.IGNORECASE):
            yield text.count("\n", 0, match.start()) + 1, word


def documents() -> Iterator[tuple[str, str]]:
    """README and its neighbours, and the pages of docs except the glossary: name and text of each."""
    for path in sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))):
        if path != GLOSSARY:
            yield str(path.relative_to(ROOT)), path.read_text()


def help_texts() -> Iterator[tuple[str, str]]:
    """The help of the program and of each command: its name, and its description, examples and options."""
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    for name, command in {"": program, **program.commands}.items():
        texts = [command.help, command.epilog]
        for option in command.params:
            texts += [getattr(option, "help", None), getattr(option, "show_default", None)]
        yield " ".join(f"sweep {name} --help".split()), "\n".join(text for text in texts if isinstance(text, str))


def main() -> int:
    words = rejected_words(GLOSSARY.read_text())
    found = [
        f"{name}:{line}: {word!r}: write {words[word]!r}"
        for source in (documents(), help_texts())
        for name, text in source
        for line, word in uses(text, words)
    ]
    print("\n".join(found) or "words: as in docs/glossary.md")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
