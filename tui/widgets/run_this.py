"""The command of the variant to run, always in sight."""

from __future__ import annotations

from rich.text import Text

from tui.clipboard import copy
from tui.keymap import key_of
from tui.theme import palette
from tui.widgets.note import Note


class RunThis(Note):
    """A name and its command, which the action `copy` copies; hidden while there is none."""

    command = ""

    def __init__(self) -> None:
        super().__init__(id="run-this", classes="hidden")

    def show_command(self, name: str, *commands: str | None) -> None:
        """Show these commands under this name, one after the other; the widget is hidden if there are none."""
        self.command = command = " && ".join(one for one in commands if one)
        self.set_class(not command, "hidden")
        colours = palette(self.app)
        head = Text.assemble(
            ("Run this  ", colours.soft), (name, colours.good), (f"  {key_of('copy')} copies\n", colours.soft)
        )
        self.show(Text.assemble(head, ("$ ", colours.soft), (command, colours.accent)))

    def copy(self) -> None:
        if self.command:
            copy(self.app, self.command)
        else:
            self.app.notify("There is no command to copy.", title="Copy")
