"""The terminal application: its four screens, the session that they share, and the keys that work everywhere."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.screen import Screen
from textual.theme import Theme

from converters.errors import InputError
from tui.keymap import bind
from tui.state.remembered import Remembered, recall
from tui.state.session import Session
from tui.terminal import after_stop
from tui.theme import DARK, LIGHT, with_contrast
from tui.widgets.top_bar import SCREENS, TopBar
from tui.workers import WorkerHost

if TYPE_CHECKING:
    from sweep.workspace import Workspace


# Seconds after which everything is loaded. Objects that exist then are excluded from garbage collection, because each
# collection of them would stop the screen for 50 ms.
LOADED = 1.0


def _fit(session: Session) -> Screen[None]:
    from tui.screens.fit import FitScreen

    return FitScreen(session)


def _plan(session: Session) -> Screen[None]:
    from tui.screens.plan import PlanScreen

    return PlanScreen(session)


def _run(session: Session) -> Screen[None]:
    from tui.screens.run import RunScreen

    return RunScreen(session)


def _results(session: Session) -> Screen[None]:
    from tui.screens.results import ResultsScreen

    return ResultsScreen(session)


# The modules of a screen are loaded when it is first shown.
SCREEN_OF_MODE = {"fit": _fit, "plan": _plan, "run": _run, "results": _results}


class SweepApp(WorkerHost, App[None]):
    """The application. Its screens share a session."""

    TITLE = "sweep"
    CSS_PATH = "styles.tcss"
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 - declared as in Textual
    VERTICAL_BREAKPOINTS = [(0, "-low"), (20, "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *(bind(f"go-{mode}", f"go('{mode}')", name) for mode, name in SCREENS),
        bind("help", "help", "Help", show=True),
        bind("quit", "leave", "Quit", show=True),
        replace(bind("quit-now", "leave"), priority=True),
        replace(bind("suspend", "suspend_process"), priority=True),
    ]

    def __init__(self, workspace: Workspace, run: str | None = None, first: str = "fit") -> None:
        super().__init__()
        self._note = ""  # why nothing is remembered
        self.session = Session(workspace, run, remembered=self._recall())
        for mode, make in SCREEN_OF_MODE.items():
            self.add_mode(mode, partial(make, self.session))
        self._first = first
        self._stop_job: Callable[[], None] | None = None
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        remembered = self.session.remembered.theme
        self.theme = remembered if remembered in self.available_themes else DARK.name

    def _recall(self) -> Remembered:
        try:
            return recall()
        except InputError as error:
            self._note = str(error)
            return Remembered()

    def get_css_variables(self) -> dict[str, str]:
        self.theme_variables = with_contrast(super().get_css_variables())
        return self.theme_variables

    def on_mount(self) -> None:
        from sweep.planning.preset import load

        draft = self.session.draft
        self.session.draft = replace(draft, variants=load(draft.preset).variants)
        self.switch_mode(self._first)
        if self._note:
            self.notify(self._note, severity="warning", title="Settings")
        self.theme_changed_signal.subscribe(self, self._remember_theme)
        self.set_timer(LOADED, gc.freeze)
        if not self.is_headless:
            assert self._driver is not None
            redraw = partial(self.refresh, layout=True)
            self._stop_job = after_stop(self._driver.suspend_application_mode, self._draw_again, redraw)
        if self.no_color:
            words = "Every colour comes with a sign or a word. Commands without a screen: sweep run, report and fit."
            self.notify(words, title="NO_COLOR is set: no colours")
        self._find(self.session.run_id)

    def _remember_theme(self, theme: Theme) -> None:
        try:
            self.session.remember(theme=theme.name)
        except InputError as error:
            self.notify(str(error), severity="warning", title="Settings")

    @work(thread=True, exit_on_error=False)
    def _find(self, name: str | None) -> None:
        """Find the given run, or the latest one. If it is running, show it on the Run screen."""
        from sweep.results.history import find_run
        from sweep.workspace import run_lock

        if not self.session.workspace.database.is_file():
            return
        try:
            run = find_run(self.session.workspace, name).run
        except InputError as error:
            self.call_from_thread(self._not_found, str(error))
            return
        directory = self.session.workspace.run(run)
        is_running = False
        if directory.is_dir():
            with run_lock(directory) as free:
                is_running = not free
        self.call_from_thread(self._found, run, is_running)

    def _draw_again(self) -> None:
        """After SIGSTOP, which cannot be caught: the shell or another program has used the terminal since."""
        with self.suspend():
            pass

    def _not_found(self, why: str) -> None:
        self.session.run_error = why
        self._watch_run()

    def _found(self, run: str, is_running: bool) -> None:
        if self.session.run_id is not None and not run.startswith(self.session.run_id):
            return  # another run was chosen in the meantime
        self.session.run_id = run
        if is_running:
            self.action_go("run")
        self._watch_run()

    def _watch_run(self) -> None:
        """Let the Run screen, if it is shown, follow the run of the session."""
        if self.current_mode == "run":
            from tui.screens.run import RunScreen

            base = self.screen_stack[0]  # below any open window
            if isinstance(base, RunScreen):
                base.watch_run()

    def on_top_bar_chosen(self, message: TopBar.Chosen) -> None:
        self.action_go(message.mode)

    def action_go(self, mode: str) -> None:
        """Switch to one of the four screens."""
        if mode in SCREEN_OF_MODE and self.current_mode != mode and len(self.screen_stack) == 1:
            self.switch_mode(mode)

    def delay_update(self, delay: float = 0.005) -> None:
        """Hold frames back while the screen changes, for a shorter time than Textual does: nothing here is slow."""
        super().delay_update(delay)

    @work(exclusive=True)
    async def action_leave(self) -> None:
        """Quit. If a sweep is running, first ask whether to let it run or to pause it."""
        from sweep.execution.control import request_pause
        from sweep.workspace import run_lock
        from tui.screens.quit import QuitScreen

        run, is_running = self.session.run_id, False
        if run is not None and self.session.workspace.run(run).is_dir():
            with run_lock(self.session.workspace.run(run)) as free:
                is_running = not free
        if (is_running or self.session.launch is not None) and not isinstance(self.screen, QuitScreen):
            answer = await self.push_screen_wait(QuitScreen(run if is_running else None, self.session.workspace))
            if answer is None:
                return
            if answer == "pause" and is_running and run is not None:
                request_pause(self.session.workspace.run(run))
        self.exit()

    def notify(self, message: str, *, markup: bool = False, **given: Any) -> None:
        """Show a message, which is plain text: a path or an error may contain square brackets."""
        super().notify(message, markup=False, **given)

    def action_suspend_process(self) -> None:
        """Stop the shell's job, as Ctrl-Z does in other programs. Sweeps are jobs of their own."""
        if self._stop_job is not None:
            self._stop_job()

    def action_help_quit(self) -> None:
        """Ctrl+C does not end the screen; say which key does."""
        self.notify("q quits; a running sweep can continue without the screen.", title="Ctrl+C")

    def action_help(self) -> None:
        """Show the keys, signs and words of the current screen."""
        from tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen, self.current_mode))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        for mode, name in SCREENS:
            yield SystemCommand(f"Go to {name}", f"Show the {name} screen", lambda mode=mode: self.action_go(mode))
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


def start(workspace: Path | None, run: str | None) -> int:
    """Open the screen and return when it is quit: 0, or 1 after an error of its own. Raises InputError if there is no
    suitable terminal."""
    from sweep.workspace import open_workspace
    from tui.terminal import require_terminal, restored_terminal

    require_terminal()
    app = SweepApp(open_workspace(workspace), run, "fit" if run is None else "results")
    with restored_terminal():
        app.run()
    return app.return_code or 0
