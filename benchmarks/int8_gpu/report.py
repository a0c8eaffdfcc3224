"""The report in Markdown, and progress messages."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class MarkdownReport:
    """A Markdown report, rewritten after each part. A part that fails reports its error, and the next part runs."""

    def __init__(self, out: Path | None, title: str) -> None:
        self._out, self._text = out, title
        self.failed = False

    @contextmanager
    def part(self, title: str) -> Iterator[list[str]]:
        lines: list[str] = []
        start = time.monotonic()
        try:
            yield lines
        except Exception as error:  # drivers and compilers may raise anything on an untested machine
            self.failed = True
            lines.append(f"\nFailed: {type(error).__name__}: {str(error)[:2000]}")
        say(f"{title}: {time.monotonic() - start:.0f} s")
        self._text += f"\n\n## {title}\n\n" + "\n".join(lines)
        if self._out:
            self._out.write_text(self._text + "\n")

    def __str__(self) -> str:
        return self._text
