"""The Results screen: the variants of a run with errors, a plot linked to the table, and the recommendation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import Static

from converters.errors import InputError
from sweep import format as fmt
from tui.keymap import bind, key_of
from tui.state.question import ADVICE_FIELDS, Question
from tui.state.results import Results, read_results
from tui.state.session import Session
from tui.state.sorting import Sorting
from tui.theme import palette
from tui.widgets.details import details, which_to_run
from tui.widgets.filter import FILTER_KEYS, Filter
from tui.widgets.key_bar import KeyBar
from tui.widgets.note import Note
from tui.widgets.plot import Drawing, Plot
from tui.widgets.results_table import column_heads, sort_values, table_rows
from tui.widgets.run_this import RunThis
from tui.widgets.table import Table
from tui.widgets.text_pane import TextPane
from tui.widgets.top_bar import TopBar
from tui.workers import WorkerHost

MARKS = "AB"
FIRST = "Mean KL divergence"  # the y axis that the plot starts with
LOOK_EVERY = 2.0  # seconds between checks whether the store has changed
WIDE = 4.0  # if the largest x is more than this times the smallest, the x axis is logarithmic


class ResultsScreen(WorkerHost, Screen[None]):
    """Reads the run of the session when the screen is shown, and again when the run changes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("select", "mark", "Mark", tooltip="Mark two variants to compare", show=True),
        bind("compare", "compare", "Compare", tooltip="Compare the two marked variants, paired", show=True),
        bind("items", "items", "Items", tooltip="The items whose answer the variant changed, with their images"),
        bind("sort", "sort", "Sort", tooltip="Sort by the next column; S reverses the order", show=True),
        bind("reverse", "turn"),
        bind("columns", "columns", "Columns", tooltip="Choose which columns are shown"),
        bind("edit", "tolerance", "Target", tooltip="The speed, the loss and the recovery that you accept"),
        bind("x-axis", "axis('x')", "X axis", tooltip="Bits per weight, file size or memory"),
        bind(
            "y-axis",
            "axis('y')",
            "Axes",
            tooltip="X: bits per weight, size or memory. Y: divergence, perplexity, recovery or a task",
            show=True,
            display="X Y",
        ),
        bind("advised", "advised", tooltip="Highlight the recommended variant"),
        bind("copy", "copy", "Copy", tooltip="Copy the command that runs the recommended variant", show=True),
        bind("write", "export", "Export", tooltip="Write an HTML page, CSV or JSON"),
        bind("load", "runs", "Runs", tooltip="Choose another run", show=True),
        bind("gpu", "gpu", "GPU", tooltip="The GPUs that a variant has to fit on"),
        bind("open", "details", "Details", tooltip="All figures of the variant"),
        bind("unselect", "unmark", "Remove the marks"),
        *FILTER_KEYS,
        bind("refresh", "read", "Read again"),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.results: Results | None = None
        self.sorting = Sorting()
        self.marked: list[str] = []
        self.hidden = frozenset(session.remembered.hidden)  # heads of columns that are not shown
        self._x, self._y = 0, 0  # steps from the first x axis and from FIRST
        self._shown_run: str | None = None
        self._read_when: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        yield TopBar("results")
        yield Filter()
        yield Static(id="notice", classes="hidden")
        with Vertical(id="body"):
            yield Table(id="variants", fixed=2)
            with Horizontal(id="lower"):
                yield Plot(id="plot")
                yield TextPane(id="details", can_focus=True)
            yield Note(id="verdict")
            yield RunThis()
        yield KeyBar()

    # --- reading ----------------------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        self.query_one(Table).focus()
        self.set_interval(LOOK_EVERY, self.on_screen_resume)
        self.app.theme_changed_signal.subscribe(self, lambda _: self.call_after_refresh(self.fill))

    def on_screen_resume(self) -> None:
        """Read the results again if the run, the GPUs or the store have changed."""
        if not self.is_current:
            return
        self.session.take_plan()
        if self._now != self._read_when:
            self.action_read()

    @property
    def _now(self) -> tuple[object, ...]:
        """What the results depend on."""
        session = self.session
        typed = tuple(session.question.value(name) for name in ADVICE_FIELDS)
        return session.run_id, session.limit, session.gpus, typed, session.store_stamp()

    def action_read(self) -> None:
        """Read the run again."""
        self._read_when = self._now
        self._read(self.session.run_id)

    @work(thread=True, exit_on_error=False, exclusive=True, group="results")
    def _read(self, run: str | None) -> None:
        try:
            session = self.session
            given = session.run_question
            found: Results | str = read_results(session.workspace, run, session.limit, given, session.as_asked)
        except InputError as error:
            found = str(error)
        self.deliver(self.show, found)

    def show(self, found: Results | str) -> None:
        """Show results, or the message if there are none."""
        notice = self.query_one("#notice", Static)
        notice.set_class(not isinstance(found, str), "hidden")
        self.query_one("#body").set_class(isinstance(found, str), "hidden")
        if isinstance(found, str):
            self.results = None
            notice.update(Text(f"{fmt.plain(found)}\n\n{key_of('load')}: other runs   2: plan one   ?: help"))
            self.query_one(TopBar).show_path()
            return
        if self._shown_run != found.plan.run:
            self.marked, self._shown_run = [], found.plan.run
        self.results = found
        self.fill()

    # --- showing ----------------------------------------------------------------------------------------------------

    def fill(self, at: str | None = None) -> None:
        """Show everything that depends on the results, the order, the filter and the width."""
        if self.results is None:
            return
        table, colours = self.query_one(Table), palette(self.app)
        letters = {variant: MARKS[i] for i, variant in enumerate(self.marked)}
        matches, width = self.query_one(Filter).matches, self.size.width - 2
        heads, rows = table_rows(self.results, self.sorting, letters, matches, width, colours, self.hidden)
        if table.highlighted is None and at is None and self.results.choice is not None:
            at = self.results.choice.variant
        table.fill(heads, self.query_one(Filter).arranged(rows), at, room=len(self.results.rows))
        self._draw()
        self._show_verdict()
        self._follow_cursor()

    def _draw(self) -> None:
        plot, results = self.query_one(Plot), self.results
        if results is None or not results.measures:
            plot.show(None)
            return
        from sweep.analysis.plots import points

        names = [measure.name for measure in results.measures]
        first = names.index(FIRST) if FIRST in names else 0
        measure = results.measures[(first + self._y) % len(names)]
        cost = results.costs[self._x % len(results.costs)]
        chosen = results.choice.variant if results.choice else None
        limit = None
        if results.limit is not None and cost.name in ("memory", "bytes"):
            limit = results.limit.bytes / cost.scale, results.limit.name
        found = points(results.rows, measure, cost, chosen)
        ends = [point.x for point in found if point.x > 0]
        drawing = Drawing(
            title=measure.name,
            points=tuple(found),
            x=replace(cost.axis, log=len(ends) == len(found) > 0 and max(ends) > WIDE * min(ends)),
            y=measure.axis,
            levels=tuple(measure.levels),
            limit=limit,
        )
        plot.show(drawing)

    def _show_verdict(self) -> None:
        assert self.results is not None
        colours, choice = palette(self.app), self.results.choice
        pick = choice.pick if choice is not None else None
        commands = (pick.commands.get, pick.commands.run) if pick is not None else ()
        self.query_one(RunThis).show_command(pick.name if pick is not None else "", *commands)
        if choice is None:
            self.query_one("#verdict", Note).show(Text("Only one variant: nothing to choose between.", colours.soft))
            return
        sign, style = (fmt.CHOSEN, colours.good) if choice.variant else ("!", colours.warn)
        first, _, _ = choice.reason.partition(". ")  # enter shows all of it
        is_wide = self.size.width >= 100
        sentence = f"{choice.reason} {self.results.asked}".rstrip() if is_wide else f"{first.removesuffix('.')}."
        self.query_one("#verdict", Note).show(Text.assemble((f"{sign} ", style), (sentence, colours.ink)))

    @on(Table.Highlighted, "#variants")
    def _follow_cursor(self) -> None:
        variant = self.query_one(Table).highlighted
        if self.results is None:
            return
        self.query_one(Plot).point_at(variant or "", frozenset(self.marked))
        self.query_one(TextPane).show(details(self.results, variant or "", palette(self.app)))
        self.query_one(TopBar).show_path(self.results.plan.model, self.results.plan.run, fmt.plain(variant or ""))

    @on(Plot.Picked)
    def _pick(self, message: Plot.Picked) -> None:
        self.query_one(Table).go_to(message.variant)

    def on_resize(self) -> None:
        self.fill()

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_sort(self) -> None:
        if self.results is None:
            return
        known = sort_values(self.results)
        able = [head for head in column_heads(self.results) if head in known and head not in self.hidden] or ["bpw"]
        self._sort(Sorting(self.sorting.after(able)))

    def _sort(self, sorting: Sorting) -> None:
        """Sort, and scroll to the column."""
        self.sorting = sorting
        self.fill()
        self.query_one(Table).show_column(sorting.marked(sorting.head))

    def action_turn(self) -> None:
        self.sorting = Sorting(self.sorting.head, not self.sorting.down)
        self.fill()

    @on(Table.HeadClicked, "#variants")
    def _sort_by(self, message: Table.HeadClicked) -> None:
        head = message.head.rstrip(" ↑↓")
        if self.results is not None and head in sort_values(self.results):
            self.sorting = Sorting(head, not self.sorting.down if head == self.sorting.head else False)
            self.fill()

    def action_axis(self, axis: str) -> None:
        self._x, self._y = self._x + (axis == "x"), self._y + (axis == "y")
        self._draw()

    def action_mark(self) -> None:
        variant = self.query_one(Table).highlighted
        if variant is None:
            return
        if variant in self.marked:
            self.marked.remove(variant)
        else:
            self.marked = [*self.marked, variant][-len(MARKS) :]
        self.fill()

    def action_advised(self) -> None:
        if self.results is not None and self.results.choice is not None and self.results.choice.variant is not None:
            self.query_one(Table).go_to(self.results.choice.variant)

    def action_columns(self) -> None:
        if self.results is not None:
            from tui.screens.columns import ColumnsScreen

            self.app.push_screen(ColumnsScreen(column_heads(self.results), self.hidden), self._choose_columns)

    def _choose_columns(self, hidden: frozenset[str] | None) -> None:
        if hidden is not None:
            self.hidden = hidden
            self._remember(hidden=hidden)
            self.fill()

    def _remember(self, **what: Any) -> None:
        try:
            self.session.remember(**what)
        except InputError as error:
            self.notify(str(error), severity="warning", title="Settings")

    def action_tolerance(self) -> None:
        from tui.screens.fit_settings import FitSettingsScreen

        question = self.session.question if self.results is None else self.session.question_on(self.results.question)
        screen = FitSettingsScreen(question, ADVICE_FIELDS, "What the advice accepts")
        self.app.push_screen(screen, self._choose_tolerance)

    def _choose_tolerance(self, question: Question | None) -> None:
        if question is not None:
            self._decide("target", "tolerance")
            self.session.ask(question)  # Fit asks it too
            self._remember(question=question)
            self.action_read()

    def _decide(self, *names: str) -> None:
        if self.results is not None:
            self.session.decide(self.results.plan.run, *names)

    def action_compare(self) -> None:
        if self.results is None:
            return
        if len(self.marked) < 2:
            self.notify(f"First mark two variants with {key_of('select')}.", title="Compare")
            return
        from tui.screens.compare import CompareScreen

        first, second = (f"{self.results.plan.run}:{variant}" for variant in self.marked)
        self.app.push_screen(CompareScreen(self.session.workspace, first, second))

    def action_items(self) -> None:
        variant = self.query_one(Table).highlighted
        if self.results is not None and variant is not None:
            from tui.screens.items import ItemsScreen

            self.app.push_screen(ItemsScreen(self.session.workspace, self.results.plan, variant))

    def action_copy(self) -> None:
        self.query_one(RunThis).copy()

    def action_export(self) -> None:
        if self.results is not None:
            from tui.screens.export import ExportScreen

            results = self.results
            self.app.push_screen(ExportScreen(self.session.workspace, results.plan, results.question))

    def action_runs(self) -> None:
        from tui.screens.runs import RunsScreen

        self.app.push_screen(RunsScreen(self.session.workspace), self._choose_run)

    def _choose_run(self, run: str | None) -> None:
        if run is not None:
            self.session.run_id = run
            self.action_read()

    def action_gpu(self) -> None:
        from tui.screens.picker import gpu_picker

        self.app.push_screen(gpu_picker(", ".join(self.session.gpus)), self._choose_gpu)

    def _choose_gpu(self, name: str | None) -> None:
        if name is None:
            return
        try:
            self.session.use_gpus(() if name == "this machine" else (name,))
        except InputError as error:
            self.notify(str(error), severity="error", title="GPU")
            return
        self._decide("gpu")
        self.action_read()

    def action_details(self) -> None:
        variant = self.query_one(Table).highlighted
        if self.results is not None and variant is not None:
            from tui.screens.pager import PagerScreen

            colours = palette(self.app)
            words = [details(self.results, variant, colours), Text(), which_to_run(self.results, colours)]
            self.app.push_screen(PagerScreen(fmt.plain(variant), Text("\n").join(words)))

    @on(Table.Chosen, "#variants")
    def _open(self) -> None:
        self.action_details()

    def action_filter(self) -> None:
        self.query_one(Filter).open()

    @on(Filter.Typed)
    def _typed_filter(self) -> None:
        self.fill()

    def action_clear(self) -> None:
        """Close the filter; if it is not open, remove the marks."""
        if not self.query_one(Filter).close():
            self.action_unmark()

    def action_unmark(self) -> None:
        self.marked = []
        self.fill()
