"""The one place where commands write: data to stdout; progress, warnings and errors to stderr."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Any

import typer
from rich.console import Console, RenderableType


class Format(StrEnum):
    AUTO = "auto"
    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


FORMAT = typer.Option(
    Format.AUTO, "--format", help="human: tables; json: an object a line; quiet: data alone. auto is human."
)
WORKSPACE = typer.Option(
    None, "--workspace", help="Where runs and files are kept.", show_default="the user's data folder"
)

PLAIN_WIDTH = 140  # columns, where stdout is not a terminal


class Output:
    """Writes in the chosen format."""

    def __init__(self, chosen: Format) -> None:
        self.format = Format.HUMAN if chosen is Format.AUTO else chosen
        self.messages = Console(stderr=True, highlight=False)
        width = None if sys.stdout.isatty() else PLAIN_WIDTH
        self.data = Console(highlight=False, width=width)

    @property
    def is_json(self) -> bool:
        return self.format is Format.JSON

    @property
    def shows_progress(self) -> bool:
        return self.format is Format.HUMAN and self.messages.is_terminal

    def show(self, what: RenderableType) -> None:
        """Data for a person."""
        self.data.print(what, soft_wrap=isinstance(what, str))

    def line(self, row: dict[str, Any]) -> None:
        """Data for a program: one JSON object on a line."""
        print(json.dumps(row), flush=True)

    def warn(self, text: str) -> None:
        """A message in every format: something is wrong, but the command goes on."""
        self.messages.print(f"sweep: {text}", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A message, unless quiet or JSON was asked for."""
        if self.format is Format.HUMAN:
            self.messages.print(text, markup=False, soft_wrap=True)
