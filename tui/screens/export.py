"""Writes the results of a run to a file: HTML report, CSV or JSON lines."""

from __future__ import annotations

from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.widgets import Input, Static

from converters.errors import InputError
from sweep.results.plan import Plan
from sweep.workspace import Workspace
from tui.screens.window import Window

KINDS = (".html", ".csv", ".jsonl")


class ExportScreen(Window[None]):
    """Asks for a path. The extension of the file gives the format."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        super().__init__("Export", "enter write · esc close")
        self._workspace, self._plan = workspace, plan

    def content(self) -> ComposeResult:
        yield Static(
            f"Write {self._plan.run} to a file. The extension sets the format: {', '.join(KINDS)}", classes="words"
        )
        yield Input(str(Path.cwd() / f"{self._plan.run}.html"), id="path", compact=True)
        yield Static(id="message", classes="words")

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        path = Path(message.value.strip()).expanduser()
        if path.suffix not in KINDS:
            self._show_message(f"{path.name}: use one of the extensions {', '.join(KINDS)}")
        else:
            self._show_message("writing …")
            self._write(path)

    @work(thread=True, exit_on_error=False, exclusive=True)
    def _write(self, path: Path) -> None:
        from converters.atomic import write_text
        from sweep.cli.run_output import describe_run
        from sweep.report.csv_json import to_csv, to_json_lines
        from sweep.report.html import write_html
        from sweep.results.records import records
        from sweep.results.store import Store

        try:
            with Store(self._workspace.database) as store:
                rows, about = records(self._plan, store), describe_run(self._plan, store)
            if path.suffix == ".html":
                write_html(rows, about, path)
            else:
                write_text(path, to_csv(rows) if path.suffix == ".csv" else to_json_lines(rows))
        except InputError as error:
            self.deliver(self._show_message, str(error))
            return
        self.app.call_from_thread(self.app.notify, f"Written: {path}", title="Export")  # even if the window was closed
        self.deliver(self.dismiss, None)

    def _show_message(self, message: str) -> None:
        self.query_one("#message", Static).update(message)
