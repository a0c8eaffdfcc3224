"""Writes the results of a run to a file: HTML report, CSV or JSON lines."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.widgets import Input, Static

from converters.errors import InputError
from sweep import format as fmt
from sweep.commands.run_advice import advise_on_run
from sweep.results.plan import Plan
from sweep.run_question import RunQuestion
from sweep.workspace import Workspace
from tui.screens.window import Window, replace_question
from tui.state.fit_answer import fit_elsewhere
from tui.theme import palette
from tui.widgets.note import Note
from tui.widgets.path_input import PathInput

KINDS = (".html", ".csv", ".jsonl")


class ExportScreen(Window[None]):
    """Asks for a path. The extension of the file gives the format."""

    def __init__(self, workspace: Workspace, plan: Plan, question: RunQuestion) -> None:
        super().__init__("Export", "tab complete a path · enter write · esc close")
        self._workspace, self._plan, self._question = workspace, plan, question
        self._asked: Path | None = None  # the file that enter replaces if it is pressed again

    def content(self) -> ComposeResult:
        yield Static(
            f"Write {self._plan.run} to a file. The extension sets the format: {', '.join(KINDS)}",
            classes="words",
            markup=False,
        )
        yield PathInput(str(Path.cwd() / f"{self._plan.run}.html"), endings=KINDS, id="path", compact=True)
        yield Note(id="message", classes="words")

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        path = Path(message.value.strip()).expanduser()
        if path.suffix not in KINDS:
            self._refuse(f"{path.name}: use one of the extensions {', '.join(KINDS)}")
        else:
            self.query_one(Note).show(Text("writing …", palette(self.app).soft))
            self._write(path, path == self._asked)

    @work(thread=True, exit_on_error=False, exclusive=True)
    def _write(self, path: Path, is_sure: bool) -> None:
        from converters.atomic import loses_content, write_text
        from sweep.analysis.changed_items import changed_items
        from sweep.cli.run_output import describe_run
        from sweep.report.changed_items import ITEMS
        from sweep.report.csv_json import to_csv, to_json_lines
        from sweep.report.html import render_html
        from sweep.results.records import records
        from sweep.results.store import Store

        try:
            with Store(self._workspace.database) as store:
                rows, about = records(self._plan, store), describe_run(self._plan, store)
                changed = changed_items(self._plan, store, self._workspace.root, ITEMS)
            if path.suffix == ".html":
                advice = advise_on_run(rows, self._plan, self._workspace, self._question, ask_fit=fit_elsewhere)
                content = render_html(rows, about, advice, changed)
            else:
                content = to_csv(rows) if path.suffix == ".csv" else to_json_lines(rows)
            if not is_sure and loses_content(path, content):
                self.deliver(self._ask, path)
                return
            write_text(path, content)
        except InputError as error:
            self.deliver(self._refuse, str(error))
            return
        self.app.call_from_thread(self.app.notify, f"Written: {path}", title="Export")  # even if the window was closed
        self.deliver(self.dismiss, None)

    def _ask(self, path: Path) -> None:
        self._asked = path
        self._refuse(replace_question(path))

    def _refuse(self, message: str) -> None:
        """Say why nothing was written. The path stays in the input."""
        self.query_one(Note).show(Text(f"✗ {fmt.plain(message)}", palette(self.app).bad))
