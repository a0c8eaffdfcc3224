"""Plan: which variants are measured on what, what that takes, and the command that does it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from converters.errors import InputError
from sweep.launching import Command, GivenUp, planned
from sweep.report import text
from tui.planning import Draft
from tui.theme import palette
from tui.widgets.filter import FILTER_KEYS, Filter
from tui.widgets.key_bar import KeyBar
from tui.widgets.note import Note
from tui.widgets.table import Table
from tui.widgets.top_bar import TopBar
from tui.working import Working

HEADS = (("", True), ("variant", True), ("bpw", False), ("file", False), ("memory", False), ("to do", False))
# name of the draft's field, its label, what stands there while it is empty
FIELDS = (
    ("tasks", "tasks", "the model's own; by comma"),
    ("limit", "items of a task", "all, or 200 of your own model"),
    ("text", "text", "the model's own, or a file"),
    ("ctx", "context", "8192, or what the model has"),
    ("imatrix", "importance matrix", "none; auto, or a file"),
)
WAIT = 0.4  # seconds after a change before it is planned anew


class PlanScreen(Working, Screen[None]):
    """The draft is the app's, so that what was chosen elsewhere is chosen here."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "choose", "Choose", tooltip="Measure the highlighted variant, or not"),
        Binding("m", "model", "Model", tooltip="Choose the model"),
        Binding("t", "field('tasks')", "Tasks", show=False, tooltip="Go to the fields: tasks, limit, text and so on"),
        Binding("o", "load", "Presets", tooltip="Take the variants and tasks of a preset"),
        Binding("w", "save", "Save", tooltip="Write this plan as a preset"),
        Binding("y", "copy", "Copy", tooltip="Copy the command line"),
        Binding("r", "run", "Run", tooltip="Start the sweep; it goes on when the screen is closed"),
        Binding("n", "none", "Choose none", show=False),
        *FILTER_KEYS,
    ]

    def __init__(self) -> None:
        super().__init__()
        self.plan: dict[str, Any] | None = None
        self._timer: Timer | None = None
        self._busy = False
        self._planned: tuple[object, ...] = ()  # what was planned, and how the store stood then

    def compose(self) -> ComposeResult:
        yield TopBar("plan")
        with Horizontal(id="plan"):
            with Vertical(id="choice"):
                yield Filter()
                yield Table(id="quants")
            with Vertical(id="form"):
                for name, label, placeholder in FIELDS:
                    with Horizontal(classes="row"):
                        yield Static(label, classes="label")
                        yield Input(placeholder=placeholder, id=name, classes="field", compact=True)
                yield Note(id="estimate")
        yield Note(id="line")
        yield KeyBar()

    @property
    def draft(self) -> Draft:
        return self.sweep.draft

    def on_mount(self) -> None:
        self.query_one(Table).focus()

    def on_screen_resume(self) -> None:
        self.fill()
        if self._planned != (self.draft, self.sweep.store_stamp()):
            self._ask_soon()

    # --- showing ----------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """The quants with what is known of the chosen ones, and the line."""
        from converters.recipes import QUANTS

        colours, draft = palette(self.app), self.draft
        known = {row["variant"]: row for row in (self.plan or {}).get("variants", ())}
        left: dict[str, int] = {}
        for cell in (self.plan or {}).get("cells", ()):
            name = cell["cell"].rpartition("/")[0]
            left[name] = left.get(name, 0) + (not cell["done"])
        leaves = self.query_one(Filter).leaves
        rows = []
        for name in dict.fromkeys([*(v for v in draft.variants if v not in QUANTS), *QUANTS]):
            if not leaves(name):
                continue
            taken, row = name in draft.variants, known.get(name, {})
            missing = Text(text.MISSING, colours.faint)
            bits, size, memory = row.get("bits_per_weight"), row.get("file_bytes"), row.get("memory_bytes")
            cells = [
                Text("✓" if taken else " ", colours.good),
                Text(name, colours.ink if taken else colours.soft),
                Text(f"{bits:.2f}", colours.ink) if bits and taken else missing.copy(),
                Text(text.size(size), colours.ink) if size and taken else missing.copy(),
                Text(text.size(memory), colours.ink) if memory and taken else missing.copy(),
                Text(str(left[name]) if left[name] else "done", colours.soft) if name in left and taken else Text(),
            ]
            rows.append((name, cells))
        table = self.query_one(Table)
        first = next((name for name, _ in rows if name in draft.variants), None)
        table.fill(HEADS, rows, None if table.highlighted else first)
        self._tell()
        self.query_one(TopBar).lead(draft.model, draft.preset, f"{len(draft.variants)} variants")

    def _tell(self, error: str | None = None) -> None:
        colours = palette(self.app)
        try:
            line = Command(self.draft.arguments(), os.getcwd()).line
        except InputError as wrong:
            line, error = "", str(wrong)
        self.query_one("#line", Note).show(Text.assemble((" $ ", colours.faint), (line, colours.accent)))
        shown = Text()
        if error is not None:
            shown = Text.assemble(("✗ ", colours.bad), (text.plain(error), colours.bad))
        elif self._busy or self._timer is not None:
            shown = Text("planning …", colours.faint)
        elif self.plan is not None:
            shown = self._estimate(self.plan)
        self.query_one("#estimate", Note).show(shown)

    def _estimate(self, plan: dict[str, Any]) -> Text:
        colours = palette(self.app)
        todo = sum(not cell["done"] for cell in plan["cells"])
        disk = sum(row.get("file_bytes") or 0 for row in plan["variants"])
        memory = max((row.get("memory_bytes") or 0 for row in plan["variants"]), default=0)
        free = shutil.disk_usage(self.sweep.workspace.root).free
        seconds = plan.get("seconds")
        lasts = "not known before a first sweep of this model" if seconds is None else f"about {text.duration(seconds)}"
        rows = [
            (
                "work",
                f"{todo} of {len(plan['cells'])} cells to do" if todo else "all cells are done: r shows them",
                True,
            ),
            ("time", lasts if todo else "none", True),
            ("disk", f"{text.size(disk)} of files, {text.size(free)} free", disk < free),
            ("memory", f"{text.size(memory)} at most, model and context", True),
        ]
        lines = [
            Text.assemble(
                (f"{name:<8}", colours.soft), (told if fine else f"✗ {told}", colours.ink if fine else colours.bad)
            )
            for name, told, fine in rows
        ]
        return Text("\n").join(lines)

    # --- planning ---------------------------------------------------------------------------------------------------

    def change(self, **fields: Any) -> None:
        """Another draft: shown at once, planned soon."""
        self.sweep.draft = replace(self.draft, **fields)
        self._ask_soon()
        self.fill()

    def _ask_soon(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(WAIT, self._ask)

    def _ask(self) -> None:
        self._timer = None
        try:
            wanted = Command(self.draft.arguments(), os.getcwd())
        except InputError as error:
            self._tell(str(error))
            return
        self._busy = True
        self._tell()
        self._plan(wanted)

    @work(thread=True, exit_on_error=False, exclusive=True, group="planning")
    def _plan(self, command: Command) -> None:
        worker = get_current_worker()
        try:
            found: dict[str, Any] | str = planned(command, self.sweep.workspace, lambda: worker.is_cancelled)
        except InputError as error:
            found = str(error)
        except GivenUp:
            return  # another is asked by now
        if not worker.is_cancelled:
            self.app.call_from_thread(self.show, found)

    def show(self, found: dict[str, Any] | str) -> None:
        """What the command would do, or why it would not."""
        self._busy = False
        self._planned = self.draft, self.sweep.store_stamp()
        self.plan = None if isinstance(found, str) else found
        self.fill()
        if isinstance(found, str):
            self._tell(found)

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_choose(self) -> None:
        name = self.query_one(Table).highlighted
        if name is None:
            return
        chosen = self.draft.variants
        self.change(variants=tuple(v for v in chosen if v != name) if name in chosen else (*chosen, name))

    @on(Table.Chosen, "#quants")
    def _selected(self) -> None:
        self.action_choose()

    def action_none(self) -> None:
        self.change(variants=())

    def action_model(self) -> None:
        from tui.screens.choosing import ChoosingScreen, model_choices

        words = "a built-in model, a directory, a .gguf file or a hub id"
        self.app.push_screen(ChoosingScreen("Model", model_choices(), words, self.draft.model), self._choose_model)

    def _choose_model(self, name: str | None) -> None:
        if name is not None:
            self.plan = None
            self.change(model=name)

    def action_load(self) -> None:
        import presets
        from sweep.planning.preset import load
        from tui.screens.choosing import ChoosingScreen

        known = [(name, load(name).title) for name in presets.sweeps()]
        screen = ChoosingScreen("Preset", known, "a preset, or the path of a TOML file", self.draft.preset)
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
        given = {"tasks": ",".join(preset.tasks or ()), "limit": str(preset.limit or ""), "ctx": str(preset.ctx or "")}
        for field, value in given.items():
            with self.prevent(Input.Changed):
                self.query_one(f"#{field}", Input).value = value
        self.change(preset=name, variants=preset.variants, **given)

    def action_save(self) -> None:
        from tui.screens.choosing import TypingScreen

        here = str(Path.cwd() / "sweep.toml")
        self.app.push_screen(TypingScreen("Save as a preset", "A TOML file that --preset takes:", here), self._save)

    def _save(self, path: str | None) -> None:
        if path is None:
            return
        from sweep.planning.preset import save

        file = Path(path).expanduser()
        file = file if file.suffix == ".toml" else file.with_suffix(".toml")
        try:
            save(self.draft.as_preset(file.stem), file)
        except InputError as error:
            self.notify(str(error), severity="error", title="Preset")
            return
        self.notify(f"written: {file}", title="Preset")

    def action_copy(self) -> None:
        line = Command(self.draft.arguments(), os.getcwd()).line
        self.app.copy_to_clipboard(line)
        self.notify(line, title="Copied")

    def action_run(self) -> None:
        if not self.draft.variants:
            self.notify("Choose a variant with space first.", title="Run")
            return
        try:
            self.sweep.begin(Command(self.draft.arguments(), os.getcwd()))
        except InputError as error:
            self._tell(str(error))

    def action_field(self, name: str) -> None:
        self.query_one(f"#{name}", Input).focus()

    @on(Input.Changed, ".field")
    def _typed(self, message: Input.Changed) -> None:
        if message.input.id is not None and getattr(self.draft, message.input.id) != message.value:
            self.change(**{message.input.id: message.value})

    @on(Input.Submitted, ".field")
    def _submitted(self) -> None:
        self.query_one(Table).focus()

    def action_filter(self) -> None:
        self.query_one(Filter).open()

    @on(Filter.Typed)
    def _typed_filter(self) -> None:
        self.fill()

    def action_clear(self) -> None:
        self.query_one(Filter).close()
