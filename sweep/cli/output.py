"""What commands print: data to stdout; progress, warnings and errors to stderr."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Any

from rich.console import Console, RenderableType


class Format(StrEnum):
    AUTO = "auto"
    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


PLAIN_WIDTH = 140  # columns, if stdout is not a terminal


class Output:
    """Prints in the chosen format."""

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

    def show(self, data: RenderableType) -> None:
        """Print data for a person."""
        self.data.print(data, soft_wrap=isinstance(data, str))

    def line(self, row: dict[str, Any]) -> None:
        """Print data for a program: one JSON object on a line."""
        print(json.dumps(row), flush=True)

    def warn(self, text: str) -> None:
        """Print a message in every format: something is wrong, but the command continues."""
        self.messages.print(f"sweep: {text}", markup=False, soft_wrap=True)

    def warn_of_idle_gpu(self) -> None:
        """Say, except with --format json or quiet, that llama.cpp cannot use the GPU of this machine."""
        if self.format is not Format.HUMAN:
            return
        from sweep.commands.rebuild import idle_gpu  # loads libllama, which --help does not need

        idle = idle_gpu()
        if idle is not None:
            self.warn(idle.line)

    def say(self, text: str) -> None:
        """Print a message, except with --format json or quiet."""
        if self.format is Format.HUMAN:
            self.messages.print(text, markup=False, soft_wrap=True)
