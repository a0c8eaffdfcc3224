"""The Plan screen: variants and measurements, what they cost in time and space, and the command for them."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rich.console import RenderableType
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.events import DescendantFocus
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from converters.errors import InputError
from sweep import format as fmt
from sweep.commands.launch import Command, CommandCancelled, planned
from tui.clipboard import copy
from tui.keymap import bind, key_of
from tui.screens.types import show_types
from tui.screens.window import replace_question
from tui.state.draft import Draft, preset_fields, variant_from_input
from tui.state.question import TARGET_FIELDS, Question
from tui.state.session import Session
from tui.state.sizes import ModelSizes, model_sizes
from tui.theme import palette
from tui.widgets.filter import FILTER_KEYS, Filter
from tui.widgets.form import OptionForm, explanation, placeholders
from tui.widgets.key_bar import KeyBar
from tui.widgets.note import Note
from tui.widgets.plan_table import HEADS, Figures, estimate, plan_rows
from tui.widgets.table import Table
from tui.widgets.top_bar import TopBar
from tui.workers import WorkerHost

WAIT = 0.4  # seconds after the last change before the plan is computed again


class PlanScreen(WorkerHost, Screen[None]):
    """Edits the draft of the session, which other screens change too."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("select", "choose", "Choose", tooltip="Add the highlighted variant to the sweep, or remove it", show=True),
        bind("model", "model", "Model", tooltip="Choose the model", show=True),
        bind("edit", "fields", "Fields", tooltip="What is measured and how: tasks, text, memory, files", show=True),
        bind("run", "run", "Run", tooltip="Start the sweep; it continues when the screen is closed", show=True),
        bind(
            "target",
            "target",
            "Target",
            tooltip="The speed, the loss and the recovery that the advice has to reach",
            show=True,
        ),
        bind("add", "add", "Add", tooltip="Add a .gguf file, a file on the hub or your own int8 recipe"),
        bind("load", "load", "Presets", tooltip="Use the variants and tasks of a preset", show=True),
        bind("write", "save", "Save", tooltip="Save variants, tasks, limit and context as a preset"),
        bind("copy", "copy", "Copy", tooltip="Copy the command line"),
        bind("unselect", "none", "Remove all variants"),
        bind("types", "types", "Types", tooltip="Show which tensor types the variant uses"),
        *FILTER_KEYS,
    ]

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.plan: dict[str, Any] | None = None
        self._timer: Timer | None = None
        self._busy = False
        self._error: str | None = None  # the message if there is no plan
        self._asks_to_run = False  # whether Run was pressed before the plan was ready
        self._planned = Draft()  # the draft that the plan is for
        self._sizes: tuple[str, ModelSizes] = ("", ModelSizes())  # a model, and the sizes of its variants
        self._store_stamp: tuple[int, ...] = ()  # the state of the store when the plan was requested

    def compose(self) -> ComposeResult:
        yield TopBar("plan")
        with Horizontal(id="plan"):
            with Vertical(id="choice"):
                yield Filter()
                yield Table(id="quants", fixed=2)
                yield Static(id="keys")
            with Vertical(id="side-form"):
                yield OptionForm(id="form")
                yield Note(id="hint")
                yield Static(id="estimate")
        yield Note(id="line")
        yield KeyBar()

    @property
    def draft(self) -> Draft:
        return self.session.draft

    def on_mount(self) -> None:
        self.query_one(Table).focus()
        self._name_keys()
        self.app.theme_changed_signal.subscribe(self, lambda _: self.call_after_refresh(self._repaint))

    def on_screen_suspend(self) -> None:
        self._asks_to_run = False

    def _repaint(self) -> None:
        """Draw with the colours of another theme."""
        self._name_keys()
        self._show_hint()
        self.fill()

    def _name_keys(self) -> None:
        accent, soft = palette(self.app).accent, palette(self.app).soft
        words = (
            ("space ", accent),
            ("choose  ", soft),
            (f"{key_of('add')} ", accent),
            ("add a file or recipe  ", soft),
        )
        self.query_one("#keys", Static).update(Text.assemble(*words, ("/ ", accent), ("filter", soft)))

    def on_screen_resume(self) -> None:
        self.query_one(OptionForm).put(self.draft.typed)
        if (self._planned, self._store_stamp) != (self.draft, self.session.store_stamp()):
            self._plan_soon()
        self.fill()

    # --- showing ----------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Show the variants with their figures, and the command."""
        draft, colours = self.draft, palette(self.app)
        model, sizes = self._sizes
        figures = Figures(self._planned, self.plan or {}, sizes.sizes if model == draft.model else {})
        found = plan_rows(draft, figures, self.query_one(Filter).matches, colours)
        table, rows = self.query_one(Table), self.query_one(Filter).arranged(found)
        first = next((name for name, _ in rows if name in draft.variants), None)
        table.fill(HEADS, rows, None if table.highlighted else first)
        is_of_model = (self._planned.model, self._planned.preset) == (draft.model, draft.preset)
        defaults = {} if self.plan is None or not is_of_model else placeholders(self.plan, self._planned.typed)
        self.query_one(OptionForm).explain(defaults)
        self._show_command()
        count = len(draft.variants)
        self.query_one(TopBar).show_path(draft.model, draft.preset, f"{count} variant{'' if count == 1 else 's'}")

    def _show_command(self) -> None:
        colours, error = palette(self.app), self._error
        try:
            line = self._line()
        except InputError as wrong:
            line, error = "", str(wrong)
        self.query_one("#line", Note).show(Text.assemble((" $ ", colours.faint), (line, colours.accent)))
        shown: RenderableType = Text()
        if error is not None:
            shown = Text.assemble(("✗ ", colours.bad), (fmt.plain(error), colours.bad))
        elif self.plan is None or not self._is_current:
            shown = Text("planning …", colours.faint)
        else:
            shown = estimate(self.draft, self.plan, self._free_bytes(), colours)
        self.query_one("#estimate", Static).update(shown)

    def _line(self) -> str:
        """The command, with the workspace of this screen. Raises InputError if there is no such preset."""
        return Command((*self.draft.arguments(), *self.session.workspace.arguments), os.getcwd()).line

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.session.workspace.root).free

    @property
    def _is_current(self) -> bool:
        """Whether the plan, or the message in its place, is for the draft as it is now."""
        return self._planned == self.draft and not self._busy and self._timer is None

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        inside = self.query_one(OptionForm) in event.widget.ancestors
        self._make_room(inside)
        if inside:
            self._asks_to_run = False
        else:
            self._show_hint()

    def _show_hint(self) -> None:
        accent, soft = palette(self.app).accent, palette(self.app).soft
        words = ((f"{key_of('edit')} ", accent), ("edits the fields, ", soft), ("esc ", accent))
        self.query_one("#hint", Note).show(Text.assemble(*words, ("goes back to the table", soft)))

    def _make_room(self, for_form: bool) -> None:
        """If table and form do not both fit, show the form or the table."""
        self.query_one("#plan").set_class(for_form, "-in-form")

    @on(OptionForm.Entered)
    def _entered(self, message: OptionForm.Entered) -> None:
        self.query_one("#hint", Note).show(explanation(message.name, palette(self.app)))

    # --- planning ---------------------------------------------------------------------------------------------------

    def change(self, draft: Draft | None = None, **fields: Any) -> None:
        """Change the draft, or fields of it. It is shown at once, and planned after a short delay."""
        before, self.session.draft = self.draft, replace(draft or self.draft, **fields)
        if self.draft.typed != before.typed:
            self.query_one(OptionForm).put(self.draft.typed)
        self._plan_soon()
        self.fill()

    def _plan_soon(self) -> None:
        self._error, self._asks_to_run = None, False
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(WAIT, self._start_planning)

    def _start_planning(self) -> None:
        self._timer = None
        try:
            command = Command(self.draft.arguments(), os.getcwd())
        except InputError as error:
            self.show(self.draft, str(error))
            return
        self._busy, self._store_stamp = True, self.session.store_stamp()
        self._show_command()
        self._plan(self.draft, command)

    @work(thread=True, exit_on_error=False, exclusive=True, group="planning")
    def _plan(self, draft: Draft, command: Command) -> None:
        worker = get_current_worker()
        try:
            found: dict[str, Any] | str = planned(command, self.session.workspace, lambda: worker.is_cancelled)
        except InputError as error:
            found = str(error)
        except CommandCancelled:
            return  # the draft has changed
        self.deliver(self.show, draft, found)

    def show(self, draft: Draft, found: dict[str, Any] | str) -> None:
        """Show the plan of a draft, or the message if there is none."""
        if draft != self.draft:  # an answer on the Fit screen can change it while its plan is computed
            if self._timer is None:
                self._plan_soon()
            return
        self.plan, self._error = (None, found) if isinstance(found, str) else (found, None)
        if self.plan is not None:
            names = [row["variant"] for row in self.plan["variants"]]
            draft = self.session.draft = draft.with_plan(self.plan.get("published", ()), names)
        self._busy, self._planned = False, draft
        self.fill()
        if self._sizes[0] != draft.model:
            self._ask_sizes(draft.model)
        if self._asks_to_run:
            self.action_run()

    @work(thread=True, exit_on_error=False, exclusive=True, group="sizes")
    def _ask_sizes(self, model: str) -> None:
        """Ask for the sizes of all variants, in a process of its own: the plan has those of the chosen ones."""
        worker = get_current_worker()
        try:
            found = model_sizes(model, lambda: worker.is_cancelled)
        except CommandCancelled:
            return
        self.deliver(self._show_sizes, model, found)

    def _show_sizes(self, model: str, found: ModelSizes) -> None:
        self._sizes = (model, found)
        is_new = self.draft.model == model and found.published and not self.draft.published
        if is_new:  # there is no plan yet, because variants of the preset were chosen or left out by hand
            self.change(self.draft.with_published(found.published))
        else:
            self.fill()

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_choose(self) -> None:
        name = self.query_one(Table).highlighted
        if name is None:
            return
        chosen = self.draft.variants
        self.change(variants=tuple(v for v in chosen if v != name) if name in chosen else (*chosen, name))

    @on(Table.Chosen, "#quants")
    def _open(self) -> None:
        self.action_types()

    def action_types(self) -> None:
        name = self.query_one(Table).highlighted
        if name is not None:
            show_types(self, self.draft.model, name)

    def action_none(self) -> None:
        self.change(variants=())

    def action_model(self) -> None:
        from tui.screens.picker import model_picker

        words = "a built-in model, a directory, a .gguf file or a hub id"
        screen = model_picker(words, self.draft.model, self.session.remembered.models)
        self.app.push_screen(screen, self._choose_model)

    def _choose_model(self, name: str | None) -> None:
        if name is not None:
            self.change(self.draft.with_model(name))

    def action_target(self) -> None:
        from tui.screens.fit_settings import FitSettingsScreen

        target = Question().with_typed(**{name: self.draft.typed_value(name) for name in TARGET_FIELDS})
        self.app.push_screen(FitSettingsScreen(target, TARGET_FIELDS, "The target of the advice"), self._set_target)

    def _set_target(self, target: Question | None) -> None:
        if target is not None:
            self.change(self.draft.with_typed(**{name: target.value(name) for name in TARGET_FIELDS}))

    def action_load(self) -> None:
        import presets
        from sweep.planning.preset import load
        from tui.screens.picker import PickerScreen

        known = [(name, load(name).title) for name in presets.sweeps()]
        words = "a preset, or the path of a TOML file"
        screen = PickerScreen("Preset", known, words, self.draft.preset, _read_preset, (".toml",))
        self.app.push_screen(screen, self._load)

    def _load(self, name: str | None) -> None:
        if name is None:
            return
        from sweep.planning.preset import load

        try:
            preset = load(name)
        except InputError as error:
            self.notify(str(error), severity="error", title="Preset")
            return
        variants = self.draft.variants if self.draft.published else preset.variants
        self.change(self.draft.with_typed(**preset_fields(preset)), preset=name, variants=variants)

    def action_save(self) -> None:
        from tui.screens.prompt import PromptScreen

        here = str(Path.cwd() / "sweep.toml")
        screen = PromptScreen("Save as a preset", "TOML file for --preset:", here, self._save, (".toml",))
        self.app.push_screen(screen, self._saved)

    def _save(self, path: str, is_sure: bool) -> Path:
        """Write the preset. Raises InputError, also if another file exists and the user is not sure."""
        from converters.atomic import loses_content, write_text
        from sweep.planning.preset import as_toml

        file = Path(path).expanduser()
        file = file if file.suffix == ".toml" else file.with_suffix(".toml")
        content = as_toml(self.draft.as_preset(file.stem))
        if not is_sure and loses_content(file, content):
            raise InputError(replace_question(file))
        write_text(file, content)
        return file

    def _saved(self, file: Path | None) -> None:
        if file is not None:
            self.notify(f"Written: {file}", title="Preset")

    def action_copy(self) -> None:
        copy(self.app, self._line())

    def action_run(self) -> None:
        self._asks_to_run = False
        if not self.draft.variants:
            self.notify("First choose a variant with space.", title="Run")
        elif self._error is not None:
            self.notify(self._error, title="Run", severity="error")
        elif self.plan is None or not self._is_current:
            self._asks_to_run = True
            self.notify("The plan is being made. You are asked to start it when it is ready.", title="Run")
        elif self.plan["cannot_run"]:
            self.notify("\n".join(self.plan["cannot_run"]), title="This sweep cannot be run", severity="error")
        else:
            from tui.screens.start import StartScreen

            shown = estimate(self.draft, self.plan, self._free_bytes(), palette(self.app))
            self.app.push_screen(StartScreen(self.plan["run"], shown), self._start)

    def _start(self, is_confirmed: bool | None) -> None:
        if not is_confirmed:
            return
        try:
            self.session.start_sweep(Command(self.draft.arguments(), os.getcwd()))
        except InputError as error:
            self._error = str(error)
            self._show_command()
            return
        self.app.switch_mode("run")

    def action_add(self) -> None:
        from tui.screens.prompt import PromptScreen

        words = "gguf:FILE, hub:OWNER/REPO/FILE.gguf, int8:RECIPE.toml or fq:RECIPE.toml (docs/int8.md):"
        endings, prefixes = (".gguf", ".toml"), ("gguf:", "int8:", "fq:")
        screen = PromptScreen(
            "Add a variant", words, "gguf:", lambda typed, _: variant_from_input(typed), endings, prefixes
        )
        self.app.push_screen(screen, self._add)

    def _add(self, name: str | None) -> None:
        if name is None:
            return
        if name not in self.draft.variants:
            self.change(variants=(*self.draft.variants, name))
        self.query_one(Table).go_to(name)

    def action_fields(self) -> None:
        self._make_room(True)
        self.query_one(OptionForm).enter()

    @on(OptionForm.Changed)
    def _typed(self, message: OptionForm.Changed) -> None:
        if self.draft.typed.get(message.name, "") != message.value:
            self.session.draft = self.draft.with_typed(**{message.name: message.value})
            self._plan_soon()
            self._show_command()  # not the rows: they are many, and keys are typed fast

    @on(Input.Submitted, ".field")
    def _submitted(self) -> None:
        self.query_one(OptionForm).action_move(1)

    def action_filter(self) -> None:
        self.query_one(Filter).open()

    @on(Filter.Typed)
    def _typed_filter(self) -> None:
        self.fill()

    def action_clear(self) -> None:
        self._make_room(False)
        self.query_one(Filter).close()


def _read_preset(typed: str) -> str:
    """The path of a preset. Raises InputError if it is none."""
    from sweep.planning.preset import load

    load(typed)
    return typed
