"""The terminal application: its four screens, what they share, and the keys that hold everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tui.theme import DARK, LIGHT
from tui.widgets.top_bar import SCREENS, TopBar

if TYPE_CHECKING:
    from sweep.workspace import Workspace
    from tui.reading import Limit


def _results() -> Screen[None]:
    from tui.screens.results import ResultsScreen

    return ResultsScreen()


class SweepApp(App[None]):
    """`run` is the id of the run that is looked at, None until one is chosen."""

    TITLE = "sweep"
    CSS_PATH = "styles.tcss"
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (20, "-high")]
    MODES: ClassVar = {"results": _results}
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(i), f"go('{mode}')", name, show=False) for i, (mode, name) in enumerate(SCREENS, 1)),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "leave", "Quit"),
        Binding("ctrl+q", "leave", "Quit", show=False, priority=True),
    ]

    def __init__(self, workspace: Workspace, run: str | None = None, first: str = "results") -> None:
        super().__init__()
        self.workspace = workspace
        self.run_id = run
        self.limit: Limit | None = None
        self._first = first
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = DARK.name

    def on_mount(self) -> None:
        self.switch_mode(self._first)

    def on_top_bar_chosen(self, message: TopBar.Chosen) -> None:
        self.action_go(message.mode)

    def action_go(self, mode: str) -> None:
        """Show another of the four screens."""
        if mode in self.MODES and self.current_mode != mode and len(self.screen_stack) == 1:
            self.switch_mode(mode)

    async def action_leave(self) -> None:
        """Quit."""
        self.exit()

    def action_help(self) -> None:
        """Show what keys there are here."""
        from tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        for mode, name in SCREENS:
            yield SystemCommand(f"Go to {name}", f"Show the screen {name}", lambda mode=mode: self.action_go(mode))
        for binding in screen.active_bindings.values():
            if binding.node is screen and binding.binding.description:
                key = self.get_key_display(binding.binding)
                name = binding.binding.description
                action = binding.binding.action
                yield SystemCommand(
                    name, f"{binding.binding.tooltip or name} ({key})", lambda action=action: self._do(screen, action)
                )

    def _do(self, screen: Screen[object], action: str) -> None:
        self.call_later(screen.run_action, action)


def start(workspace: Path | None, run: str | None) -> None:
    """Open the screen until it is quit. Raises InputError where there is no terminal for it, or no such run."""
    from sweep.workspace import open_workspace
    from tui.terminal import refuse_without_terminal

    refuse_without_terminal()
    SweepApp(open_workspace(workspace), run).run()
