"""The Fit screen: which variants of a model fit on which GPU, part by part, before anything is downloaded."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
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
from sweep.fit.fit_report import FitReport, FitRow, Verdict, verdict
from tui.keymap import bind, key_of
from tui.screens.types import show_types
from tui.state.fit_answer import FitAnswer, ask_within_maximum
from tui.state.question import NO, Question
from tui.state.session import Session
from tui.state.sorting import Sorting
from tui.theme import Palette, palette
from tui.widgets.filter import FILTER_KEYS, Filter
from tui.widgets.fit_state import state_lines
from tui.widgets.fit_table import LARGEST_FIRST, fit_rows, sort_values
from tui.widgets.key_bar import KeyBar
from tui.widgets.memory_bar import memory_bars
from tui.widgets.note import Note
from tui.widgets.run_this import RunThis
from tui.widgets.table import Table
from tui.widgets.text_pane import TextPane
from tui.widgets.top_bar import TopBar
from tui.workers import WorkerHost

KV_TYPES = (*(kind for kind in defaults.KV_TYPES if kind != "bf16"), "bf16")  # in the order of the key K
CONTEXTS = tuple(1 << power for power in range(10, 21))  # 1K to 1M tokens
WAIT = 0.3  # seconds after the last change before `sweep fit` is started


class Shown(StrEnum):
    """Which rows are shown. Their values are the words for it."""

    ALL = "all"
    RUNNING = "those that fit or run partly in RAM"
    WHOLE = "those that fit whole"


_VERDICTS = {Shown.ALL: tuple(Verdict), Shown.RUNNING: (Verdict.FITS, Verdict.PARTLY), Shown.WHOLE: (Verdict.FITS,)}


class FitScreen(WorkerHost, Screen[None]):
    """Runs `sweep fit` in its own process, so that the screen never blocks."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("model", "model", "Model", tooltip="Choose the model: built in, public, a directory, a hub id", show=True),
        bind("gpu", "gpu", "GPU", tooltip="Choose the GPUs: this machine's, a name or a size", show=True),
        bind("less-context", "context(-1)"),
        bind("more-context", "context(1)", "Context", tooltip="Halve or double the context", show=True, display="[ ]"),
        bind("edit", "settings", "Settings", tooltip="Context, KV cache, RAM and what else decides memory", show=True),
        bind("kv-type", "kv_type", "KV type", tooltip=f"Type of the KV cache: {', '.join(KV_TYPES)}"),
        bind("ram", "offload", "RAM", tooltip="Allow or forbid a part in RAM if a variant does not fit"),
        bind("select", "choose", "Choose", tooltip="Add the variant to the sweep, or remove it", show=True),
        bind("types", "types", "Types", tooltip="Show which tensor types the variant uses"),
        bind("fitting", "only_fitting", "Only what fits", tooltip="First with, then without what is partly in RAM"),
        bind("sort", "sort", "Sort", tooltip="Sort by the next column: name, bits, size and so on"),
        bind("reverse", "reverse"),
        bind("advised", "advised", tooltip="Also if a filter hides it"),
        bind("copy", "copy", "Copy", tooltip="Copy the command that runs the advised variant", show=True),
        *FILTER_KEYS,
        bind("refresh", "ask", "Compute again", tooltip="Use the memory that is free now"),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.answer: FitAnswer | None = None
        self.sorting = LARGEST_FIRST
        self._answered: Question | None = None  # the question of the answer that is shown
        self._seen: Question | None = None  # the question when the screen was last shown
        self._error: str | None = None  # the message if there is no answer
        self._shown = Shown.ALL
        self._timer: Timer | None = None
        self._busy = False

    @property
    def question(self) -> Question:
        return self.session.question

    @property
    def report(self) -> FitReport | None:
        return None if self.answer is None else self.answer.report

    def compose(self) -> ComposeResult:
        yield TopBar("fit")
        yield Filter()
        yield Note(id="state")
        with Vertical(id="body"):
            yield Table(id="rows", fixed=2)
            yield TextPane(id="parts", can_focus=True)
            yield Note(id="verdict")
            yield RunThis()
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one(Table).focus()
        self.app.theme_changed_signal.subscribe(self, lambda _: self.call_after_refresh(self.fill))

    def on_screen_resume(self) -> None:
        self.session.take_plan()
        is_asked = self.question == self._seen and (self._busy or self._timer is not None)
        if (self.answer is None and not is_asked) or self.question != self._seen:
            self._forget_others()
            self.action_ask()
        else:
            self.fill()

    # --- asking -----------------------------------------------------------------------------------------------------

    def change(self, question: Question) -> None:
        """Ask another question. It is shown at once, and answered after a short delay."""
        self.session.ask(question)
        self._forget_others()
        self._stop_timer()
        self._timer, self._seen, self._error = self.set_timer(WAIT, self.action_ask), question, None
        self._show_state()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = None

    def _forget_others(self) -> None:
        """Hide the answer if it is about another model or other GPUs than the question."""
        question, answered = self.question, self._answered
        if answered is None or (question.model, question.gpus) != (answered.model, answered.gpus):
            self.answer = None
            self.query_one("#body").add_class("hidden")

    def action_ask(self) -> None:
        self._stop_timer()
        self._busy, self._seen, self._error = True, self.question, None
        self._show_state()
        self._ask(self.question)

    @work(thread=True, exit_on_error=False, exclusive=True, group="fit")
    def _ask(self, question: Question) -> None:
        worker = get_current_worker()
        workspace = str(self.session.workspace.root)

        def run(asked: Question) -> dict[str, Any]:
            return run_command(asked.arguments(workspace), is_cancelled=lambda: worker.is_cancelled)[-1]

        try:
            found: FitAnswer | str = ask_within_maximum(question, run)
        except InputError as error:
            found = str(error)
        except CommandCancelled:
            return  # the question has changed
        self.deliver(self.show, question, found)

    def show(self, question: Question, found: FitAnswer | str) -> None:
        """Show an answer, or the message if there is none."""
        if question != self.question:
            return  # the question has changed
        self._busy, self._answered = False, question
        if isinstance(found, str):
            self.answer, self._error = None, found
            self.query_one("#body").add_class("hidden")
            self._show_state()
            return
        is_other = self.answer is None  # another model or other GPUs
        self.answer, self._error = found, None
        self.query_one("#body").remove_class("hidden")
        self.session.use_gpus(question.gpus)
        self.session.ask(question, str(found.report.context) if found.shortened else None)
        self.session.draft = self.session.draft.with_published(found.report.published)
        self._remember(question)
        self.fill(found.advised if is_other else None)

    def _remember(self, question: Question) -> None:
        try:
            self.session.remember(question)
        except InputError as error:
            self.notify(str(error), severity="warning", title="Settings")

    # --- showing ----------------------------------------------------------------------------------------------------

    def _show_state(self) -> None:
        """Show the question, and what is in progress, wrong or left out."""
        colours, is_busy = palette(self.app), self._busy or self._timer is not None
        is_old = self._answered != self.question
        lines = state_lines(self.question, self.answer, is_old, is_busy, max(self.size.width, 20), colours)
        if self._error is not None:
            lines.append(Text(f" ✗ {fmt.plain(self._error)}", colours.bad))
        if self._shown is not Shown.ALL and self.answer is not None:
            rows = self.answer.report.rows
            count = sum(verdict(row) in _VERDICTS[self._shown] for row in rows)
            lines.append(Text(f" {count} of {len(rows)} variants: {self._shown.value}", colours.warn))
        self.query_one("#state", Note).show(Text("\n").join(lines))
        self.query_one(TopBar).show_path(self.question.model, ", ".join(self.question.gpus) or "this machine")

    def fill(self, at: str | None = None) -> None:
        """Show the rows that match the filter, with as many columns as fit. `at`: the variant to highlight."""
        self._show_state()
        if self.answer is None:
            return
        colours, rows = palette(self.app), self.answer.report.rows
        kept = [row for row in rows if verdict(row) in _VERDICTS[self._shown]]
        table, chosen = self.query_one(Table), self.session.draft.variants
        heads, found = fit_rows(self.answer, kept, chosen, self.size.width - 2, colours, self.sorting)
        cells = self.query_one(Filter).arranged(found)
        if not kept:
            table.empty = f"no variant is among {self._shown.value}"
        table.fill(heads, cells, self.answer.advised if table.highlighted is None else at, room=len(rows))
        self._show_verdict(colours)
        self._follow_cursor()

    def _show_verdict(self, colours: Palette) -> None:
        if self.answer is None:
            return
        variant, reason = self.answer.advised, self.answer.reason
        sign = (f"{fmt.CHOSEN} ", colours.good) if variant is not None else ("! ", colours.warn)
        line = Text.assemble(sign, (reason, colours.ink))
        if variant is None:
            line.append(
                f" Press {key_of('less-context')} for less context or {key_of('gpu')} for another GPU.", colours.ink
            )
        count = len(self.session.draft.variants)
        line.append(f"  + {count} in the sweep; press 2 to plan it.", colours.soft)
        self.query_one("#verdict", Note).show(line)
        self.query_one(RunThis).show_command(fmt.plain(variant or ""), *self.answer.commands)

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

    # --- keys: what is asked ----------------------------------------------------------------------------------------

    def action_model(self) -> None:
        from tui.screens.picker import model_picker

        words = "a model, a directory, a config.json, a .gguf file or a hub id"
        self.app.push_screen(
            model_picker(words, self.question.model, self.session.remembered.models), self._choose_model
        )

    def _choose_model(self, name: str | None) -> None:
        if name is not None:
            self.change(replace(self.question, model=name))

    def action_gpu(self) -> None:
        from tui.screens.picker import gpu_picker

        self.app.push_screen(gpu_picker(", ".join(self.question.gpus)), self._choose_gpu)

    def _choose_gpu(self, name: str | None) -> None:
        from tui.screens.picker import THIS_MACHINE

        if name is not None:
            self.change(self.question.with_gpus("" if name == THIS_MACHINE else name))

    def action_settings(self) -> None:
        from tui.screens.fit_settings import FitSettingsScreen

        self.app.push_screen(FitSettingsScreen(self.question), self._choose_settings)

    def _choose_settings(self, question: Question | None) -> None:
        if question is not None:
            self.change(question)

    def action_context(self, step: int) -> None:
        report = self.report
        most = (None if report is None else report.trained_context) or CONTEXTS[-1]
        now = self.question.context or (report.context if report else defaults.DEFAULT_CONTEXT)
        steps = sorted({*(context for context in CONTEXTS if context < most), most})
        near = min(range(len(steps)), key=lambda i: abs(steps[i] - now))
        chosen = steps[min(max(near + step, 0), len(steps) - 1)]
        if step > 0 and now >= most:
            self.notify(f"The model was trained for {most:,} tokens; that is the longest context.", title="Context")
        else:
            self.change(self.question.with_typed(ctx=str(chosen)))

    def action_kv_type(self) -> None:
        now = self.question.kv_type
        after = KV_TYPES[(KV_TYPES.index(now) + 1) % len(KV_TYPES)] if now in KV_TYPES else KV_TYPES[0]
        self.change(self.question.with_typed(kv_type="" if after == KV_TYPES[0] else after))

    def action_offload(self) -> None:
        self.change(self.question.with_typed(offload=NO if self.question.offload else ""))

    # --- keys: rows -------------------------------------------------------------------------------------------------

    def action_choose(self) -> None:
        row = self._row()
        if row is None:
            return
        chosen = self.session.draft.variants
        variants = tuple(v for v in chosen if v != row.variant) if row.variant in chosen else (*chosen, row.variant)
        self.session.draft = replace(self.session.draft, variants=variants)
        self.fill()

    def action_copy(self) -> None:
        self.query_one(RunThis).copy()

    def action_only_fitting(self) -> None:
        """Show all rows, those that run, those that fit whole. The last two are the same if none is partly in RAM."""
        rows = () if self.report is None else self.report.rows
        states = list(Shown)
        if not any(verdict(row) is Verdict.PARTLY for row in rows):
            states.remove(Shown.RUNNING)
        here = states.index(self._shown) if self._shown in states else 0
        self._shown = states[(here + 1) % len(states)]
        self.fill()

    def action_sort(self) -> None:
        if self.answer is not None:
            able = list(sort_values(self.answer))
            self._sort(self.sorting.after([head for head in able if self._is_shown(head)] or able))

    def _is_shown(self, head: str) -> bool:
        return any(shown.rstrip(" ↑↓") == head for shown in self.query_one(Table).heads)

    def action_reverse(self) -> None:
        self.sorting = replace(self.sorting, down=not self.sorting.down)
        self.fill()

    @on(Table.HeadClicked, "#rows")
    def _sort_by(self, message: Table.HeadClicked) -> None:
        head = message.head.rstrip(" ↑↓")
        if self.answer is not None and head in sort_values(self.answer):
            self._sort(head)

    def _sort(self, head: str) -> None:
        self.sorting = Sorting(head, not self.sorting.down if head == self.sorting.head else False)
        self.fill()
        self.query_one(Table).show_column(self.sorting.marked(head))

    def action_advised(self) -> None:
        """Go to the variant to run, if need be without the filters."""
        if self.answer is None or self.answer.advised is None:
            self.notify("No variant is advised here; the line at the bottom says why.", title="Fit")
            return
        table, variant = self.query_one(Table), self.answer.advised
        if variant not in table.keys:
            self._shown = Shown.ALL
            self.query_one(Filter).close()
            self.fill()
        table.go_to(variant)

    def action_types(self) -> None:
        row = self._row()
        if row is not None:
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
