"""The terminal application: its four screens, what they share, and the keys that hold everywhere."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tui.planning import Draft
from tui.theme import DARK, LIGHT
from tui.widgets.top_bar import SCREENS, TopBar
from tui.working import Working

if TYPE_CHECKING:
    from sweep.commands.launch import Command, Launch
    from sweep.workspace import Workspace
    from tui.reading import Limit


# Seconds after which the program is loaded. Python's garbage collector does not go through what is there by then again:
# it would each time stop the screen for 50 ms.
LOADED = 1.0


def _results() -> Screen[None]:
    from tui.screens.results import ResultsScreen

    return ResultsScreen()


def _fit() -> Screen[None]:
    from tui.screens.fit import FitScreen

    return FitScreen()


def _run() -> Screen[None]:
    from tui.screens.run import RunScreen

    return RunScreen()


def _plan() -> Screen[None]:
    from tui.screens.plan import PlanScreen

    return PlanScreen()


class SweepApp(Working, App[None]):
    """`run` is the id of the run that is looked at, or its beginning; None until there is one. `trouble` is why there
    is none, where the store has none to give.

    `draft` is what the next sweep will be, `gpus` the cards that are asked about (none: this machine's), `limit` what
    of them results are held against, `launch` a sweep that has been started and not said yet which run it is.
    """

    TITLE = "sweep"
    CSS_PATH = "styles.tcss"
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 - as Textual declares it
    VERTICAL_BREAKPOINTS = [(0, "-low"), (20, "-high")]  # noqa: RUF012
    MODES: ClassVar = {"fit": _fit, "plan": _plan, "run": _run, "results": _results}
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(i), f"go('{mode}')", name, show=False) for i, (mode, name) in enumerate(SCREENS, 1)),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "leave", "Quit"),
        Binding("ctrl+q", "leave", "Quit", show=False, priority=True),
    ]

    def __init__(self, workspace: Workspace, run: str | None = None, first: str = "fit") -> None:
        super().__init__()
        self.workspace = workspace
        self.run_id = run
        self.trouble = ""
        self.gpus: tuple[str, ...] = ()
        self.limit: Limit | None = None
        self.launch: Launch | None = None
        self.draft = Draft()
        self._first = first
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = DARK.name

    def on_mount(self) -> None:
        from sweep.planning.preset import load

        self.draft = replace(self.draft, variants=load(self.draft.preset).variants)
        self.switch_mode(self._first)
        self.set_timer(LOADED, gc.freeze)
        if self.no_color:
            words = "Every colour has a sign or a word beside it. Without a screen: sweep run, sweep report, sweep fit."
            self.notify(words, title="NO_COLOR is set: no colours")
        self._find(self.run_id)

    @work(thread=True, exit_on_error=False)
    def _find(self, name: str | None) -> None:
        """The run that was asked for, or the latest; one that is at work is watched at once."""
        from converters.errors import InputError
        from sweep.results.history import find_run
        from sweep.workspace import run_lock

        if not self.workspace.database.is_file():
            return
        try:
            run = find_run(self.workspace, name).run
        except InputError as error:
            self.call_from_thread(self._not_found, str(error))
            return
        directory = self.workspace.run(run)
        is_on = False
        if directory.is_dir():
            with run_lock(directory) as free:
                is_on = not free
        self.call_from_thread(self._found, run, is_on)

    def _not_found(self, why: str) -> None:
        self.trouble = why
        self._watch_run()

    def _found(self, run: str, is_on: bool) -> None:
        if self.run_id is not None and not run.startswith(self.run_id):
            return  # another was chosen meanwhile
        self.run_id = run
        if is_on:
            self.action_go("run")
        self._watch_run()

    def _watch_run(self) -> None:
        """Let the run's screen, where it is the one that is shown, look at what there is to watch now."""
        if self.current_mode == "run":
            from tui.screens.run import RunScreen

            base = self.screen_stack[0]  # under whatever window is open
            if isinstance(base, RunScreen):
                base.watch_run()

    def on_top_bar_chosen(self, message: TopBar.Chosen) -> None:
        self.action_go(message.mode)

    def action_go(self, mode: str) -> None:
        """Show another of the four screens."""
        if mode in self.MODES and self.current_mode != mode and len(self.screen_stack) == 1:
            self.switch_mode(mode)

    def delay_update(self, delay: float = 0.005) -> None:
        """Hold frames back while another screen comes: less long than Textual does, since nothing of it is slow."""
        super().delay_update(delay)

    def store_stamp(self) -> tuple[int, ...]:
        """Another one whenever something was written to the store."""
        database = self.workspace.database
        files = (database, database.with_name(f"{database.name}-wal"))
        found = [file.stat() for file in files if file.exists()]
        return tuple(one.st_mtime_ns for one in found if one.st_size)

    def use_card(self, gpus: tuple[str, ...]) -> None:
        """Hold results against these cards from now on; against none where none is named. Raises InputError."""
        from sweep.fit.simulated import devices_called
        from tui.reading import Limit

        devices = devices_called(gpus)
        room = sum(device.usable_bytes - device.reserve_bytes for device in devices)
        self.gpus = gpus
        self.limit = Limit(", ".join(gpus), room) if devices else None

    def begin(self, command: Command) -> None:
        """Start a sweep in a process of its own and watch it."""
        from sweep.commands.launch import Launch

        try:
            self.launch = Launch(command, self.workspace)
        except OSError as error:
            self.notify(f"the sweep cannot be started: {error.strerror or error}", severity="error")
            return
        if self.current_mode == "run":
            self._watch_run()
        else:
            self.switch_mode("run")

    @work(exclusive=True)
    async def action_leave(self) -> None:
        """Quit; where a sweep runs, ask what becomes of it."""
        from sweep.execution.control import ask_pause
        from sweep.workspace import run_lock
        from tui.screens.leaving import LeavingScreen

        run, asks = self.run_id, False
        if run is not None and self.workspace.run(run).is_dir():
            with run_lock(self.workspace.run(run)) as free:
                asks = not free
        if (asks or self.launch is not None) and not isinstance(self.screen, LeavingScreen):
            answer = await self.push_screen_wait(LeavingScreen(run if asks and run else "The sweep"))
            if answer is None:
                return
            if answer == "pause" and asks and run is not None:
                ask_pause(self.workspace.run(run))
        self.exit()

    def action_help_quit(self) -> None:
        """Ctrl+C, which ends a command but not a screen: say what does."""
        self.notify("q quits; a sweep that runs can go on without the screen.", title="Ctrl+C")

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
    from tui.terminal import end_with_terminal, refuse_without_terminal

    refuse_without_terminal()
    end_with_terminal()
    SweepApp(open_workspace(workspace), run, "fit" if run is None else "results").run()
