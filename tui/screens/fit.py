"""The Fit screen: which variants of a model fit on which GPU, part by part, before anything is downloaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.timer import Timer
from textual.worker import get_current_worker

from converters.errors import InputError
from sweep import defaults
from sweep import format as fmt
from sweep.commands.launch import CommandCancelled, run_command
from sweep.fit.fit_report import FitReport, FitRow, Verdict, from_json, verdict
from tui.keymap import bind, key_of
from tui.screens.types import show_types
from tui.state.session import Session
from tui.theme import Palette, palette
from tui.widgets.filter import FILTER_KEYS, Filter
from tui.widgets.fit_table import fit_rows
from tui.widgets.key_bar import KeyBar
from tui.widgets.memory_bar import memory_bars
from tui.widgets.note import Note
from tui.widgets.table import Table
from tui.widgets.text_pane import TextPane
from tui.widgets.top_bar import TopBar
from tui.workers import WorkerHost

KV_TYPES = (*(kind for kind in defaults.KV_TYPES if kind != "bf16"), "bf16")  # in the order of the key K
CONTEXTS = tuple(1 << power for power in range(10, 21))  # 1K to 1M tokens
WAIT = 0.3  # seconds after the last change before `sweep fit` is started


@dataclass(frozen=True)
class Question:
    """The options of `sweep fit`. `context` 0: the model decides. Empty `gpus`: the GPUs of this machine."""

    model: str
    gpus: tuple[str, ...] = ()
    context: int = 0
    kv_type: str = "f16"
    offload: bool = True

    def arguments(self, workspace: str) -> tuple[str, ...]:
        found = ["fit", self.model, "--workspace", workspace, "--format", "json"]
        found += ["--kv-type", self.kv_type] if self.kv_type != "f16" else []  # else the advice may choose another
        found += [part for gpu in self.gpus for part in ("--gpu", gpu)]
        found += ["--ctx", str(self.context)] if self.context else []
        return (*found, *([] if self.offload else ["--no-offload"]))


class FitScreen(WorkerHost, Screen[None]):
    """Runs `sweep fit` in its own process, so that the screen never blocks."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("model", "model", "Model", tooltip="Choose the model: built in, public, a directory, a hub id", show=True),
        bind("gpu", "gpu", "GPU", tooltip="Choose the GPUs: this machine's, a name or a size", show=True),
        bind("less-context", "context(-1)"),
        bind("more-context", "context(1)", "Context", tooltip="Halve or double the context", show=True, display="[ ]"),
        bind("kv-type", "kv_type", "KV type", tooltip=f"Type of the KV cache: {', '.join(KV_TYPES)}", show=True),
        bind("ram", "offload", "RAM", tooltip="Allow or forbid a part in RAM if a variant does not fit"),
        bind("select", "choose", "Choose", tooltip="Add the variant to the sweep, or remove it", show=True),
        bind("types", "types", "Types", tooltip="Show which tensor types the variant uses", show=True),
        bind("fitting", "only_fitting", "Hide what does not fit"),
        *FILTER_KEYS,
        bind("refresh", "ask", "Compute again", tooltip="Use the memory that is free now"),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.report: FitReport | None = None
        self.question: Question | None = None
        self._advised: tuple[str | None, str] = (None, "")  # variant and reason
        self._answered: Question | None = None  # the question of the answer that is shown
        self._only_fitting = False
        self._timer: Timer | None = None
        self._busy = False

    def compose(self) -> ComposeResult:
        yield TopBar("fit")
        yield Filter()
        yield Note(id="state")
        with Vertical(id="body"):
            yield Table(id="rows")
            yield TextPane(id="parts", can_focus=True)
            yield Note(id="verdict")
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one(Table).focus()
        self.app.theme_changed_signal.subscribe(self, lambda _: self.call_after_refresh(self.fill))

    def on_screen_resume(self) -> None:
        before = self.question
        if before is None:
            self.question = Question(self.session.draft.model, self.session.gpus)
        else:
            self.question = replace(before, model=self.session.draft.model, gpus=self.session.gpus)
        is_asked = self.question == before and (self._busy or self._timer is not None)
        if (self.report is None and not is_asked) or self.question != before:
            self._forget_others()
            self.action_ask()
        else:
            self.fill()

    # --- asking -----------------------------------------------------------------------------------------------------

    def change(self, **fields: Any) -> None:
        """Change the question. It is shown at once, and answered after a short delay."""
        if self.question is not None:
            self.question = replace(self.question, **fields)
            self._forget_others()
        self._stop_timer()
        self._timer = self.set_timer(WAIT, self.action_ask)
        self._show_state()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = None

    def _forget_others(self) -> None:
        """Hide the answer if it is about another model or other GPUs than the question."""
        question, answered = self.question, self._answered
        if question is None or answered is None or (question.model, question.gpus) != (answered.model, answered.gpus):
            self.report = None
            self.query_one("#body").add_class("hidden")

    def action_ask(self) -> None:
        self._stop_timer()
        if self.question is not None:
            self._busy = True
            self._show_state()
            self._ask(self.question)

    @work(thread=True, exit_on_error=False, exclusive=True, group="fit")
    def _ask(self, question: Question) -> None:
        worker = get_current_worker()
        found: FitReport | str
        advised: tuple[str | None, str] = (None, "")
        try:
            given = question.arguments(str(self.session.workspace.root))
            answer = run_command(given, is_cancelled=lambda: worker.is_cancelled)[-1]
            advised = answer["advice"]["variant"], answer["advice"]["reason"]
            found = from_json(answer)
        except InputError as error:
            found = str(error)
        except CommandCancelled:
            return  # the question has changed
        self.deliver(self.show, question, found, advised)

    def show(self, question: Question, found: FitReport | str, advised: tuple[str | None, str]) -> None:
        """Show an answer, or the message if there is none."""
        if question != self.question:
            return  # the question has changed
        self._busy = False
        self._advised, self._answered = advised, question
        if isinstance(found, str):
            self.report = None
            self.query_one("#body").add_class("hidden")
            self._show_state(found)
        else:
            self.report = found
            self.query_one("#body").remove_class("hidden")
            if question.gpus == self.session.gpus:  # unless other GPUs were chosen on another screen
                self.session.use_gpus(question.gpus)
            self.fill()

    # --- showing ----------------------------------------------------------------------------------------------------

    def _show_state(self, error: str | None = None) -> None:
        """Show the question, and an error or what is in progress."""
        question, colours = self.question, palette(self.app)
        if question is None:
            return
        line = Text.assemble((f" {fmt.plain(question.model)}", colours.accent), (" on ", colours.soft))
        if self.report is not None and question.gpus == self.session.gpus:
            devices = []
            for device in self.report.devices:
                state = "simulated" if device.simulated else "free now"
                devices.append(f"{fmt.plain(device.name)} ({fmt.size(device.usable_bytes)} {state})")
            line.append(", ".join(devices), colours.ink)
        else:
            line.append(", ".join(f"{gpu} (simulated)" for gpu in question.gpus) or "this machine", colours.ink)
        context = (
            f"{question.context:,}" if question.context else f"{self.report.context:,}" if self.report else "8,192"
        )
        line.append(f"  context {context}  KV {question.kv_type}", colours.soft)
        line.append("  RAM allowed" if question.offload else "  no RAM", colours.soft)
        if error is not None:
            line.append(f"\n ✗ {fmt.plain(error)}", colours.bad)
        elif self._busy or self._timer is not None:
            line.append("  computing …", colours.faint)
            if self.report is not None and question != self._answered:  # the table still shows the previous answer
                line.append(f" (shown: {self.report.context:,}, {self.report.kv_type})", colours.faint)
        self.query_one("#state", Note).show(line)
        self.query_one(TopBar).show_path(question.model, ", ".join(question.gpus) or "this machine")

    def fill(self) -> None:
        """Show the rows that match the filter, with as many columns as fit."""
        if self.report is None:
            return
        colours = palette(self.app)
        matches = self.query_one(Filter).matches
        rows = [row for row in self.report.rows if matches(row.variant)]
        rows = [row for row in rows if not self._only_fitting or verdict(row) is not Verdict.DOES_NOT_FIT]
        table, advised, chosen = self.query_one(Table), self._advised[0], self.session.draft.variants
        heads, cells = fit_rows(self.report, rows, advised, chosen, self.size.width - 2, colours)
        table.fill(heads, cells, advised if table.highlighted is None else None, room=len(self.report.rows))
        self._show_state()
        self._show_verdict(colours)
        self._follow_cursor()

    def _show_verdict(self, colours: Palette) -> None:
        variant, reason = self._advised
        sign = (f"{fmt.CHOSEN} ", colours.good) if variant is not None else ("! ", colours.warn)
        line = Text.assemble(sign, (reason, colours.ink))
        if variant is None:
            line.append(
                f" Press {key_of('less-context')} for less context or {key_of('gpu')} for another GPU.", colours.ink
            )
        count = len(self.session.draft.variants)
        line.append(f"  + {count} in the sweep; press 2 to plan it.", colours.soft)
        self.query_one("#verdict", Note).show(line)

    @on(Table.Highlighted, "#rows")
    def _follow_cursor(self) -> None:
        row, shown = self._row(), Text()
        if row is not None and self.report is not None:
            shown = memory_bars(row, self.report, max(self.size.width - 4, 20), palette(self.app))
        self.query_one(TextPane).show(shown)

    def _row(self) -> FitRow | None:
        name = self.query_one(Table).highlighted
        return next((row for row in (self.report.rows if self.report else ()) if row.variant == name), None)

    def on_resize(self) -> None:
        self.fill()

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_model(self) -> None:
        from tui.screens.picker import PickerScreen, model_choices

        words = "a model, a directory, a config.json, a .gguf file or a hub id"
        self.app.push_screen(PickerScreen("Model", model_choices(), words, self.session.draft.model), self._take_model)

    def _take_model(self, name: str | None) -> None:
        if name is not None:
            self.session.draft = replace(self.session.draft, model=name)
            self.change(model=name, context=0)

    def action_gpu(self) -> None:
        from tui.screens.picker import PickerScreen, gpu_choices

        words = "a GPU, 2x GPU, or a size such as 12GiB; separate several by commas"
        self.app.push_screen(PickerScreen("GPU", gpu_choices(), words), self._choose_gpu)

    def _choose_gpu(self, name: str | None) -> None:
        if name is not None:
            self.session.gpus = () if name == "this machine" else (name,)
            self.session.draft = self.session.draft.with_typed(gpu=", ".join(self.session.gpus))
            self.change(gpus=self.session.gpus)

    def action_context(self, step: int) -> None:
        if self.question is None:
            return
        now = self.question.context or (self.report.context if self.report else defaults.DEFAULT_CONTEXT)
        near = min(range(len(CONTEXTS)), key=lambda i: abs(CONTEXTS[i] - now))
        self.change(context=CONTEXTS[min(max(near + step, 0), len(CONTEXTS) - 1)])

    def action_kv_type(self) -> None:
        if self.question is not None:
            self.change(kv_type=KV_TYPES[(KV_TYPES.index(self.question.kv_type) + 1) % len(KV_TYPES)])

    def action_offload(self) -> None:
        if self.question is not None:
            self.change(offload=not self.question.offload)

    def action_choose(self) -> None:
        row = self._row()
        if row is None:
            return
        chosen = self.session.draft.variants
        variants = tuple(v for v in chosen if v != row.variant) if row.variant in chosen else (*chosen, row.variant)
        self.session.draft = replace(self.session.draft, variants=variants)
        self.fill()

    def action_only_fitting(self) -> None:
        self._only_fitting = not self._only_fitting
        self.fill()

    def action_types(self) -> None:
        row = self._row()
        if row is not None and self.question is not None:
            show_types(self, self.question.model, row.variant)

    @on(Table.Chosen, "#rows")
    def _open(self) -> None:
        self.action_types()

    def action_filter(self) -> None:
        self.query_one(Filter).open()

    @on(Filter.Typed)
    def _typed_filter(self) -> None:
        self.fill()

    def action_clear(self) -> None:
        self.query_one(Filter).close()
