"""A window with the tensor types of a variant, from `sweep convert --dry-run`."""

from __future__ import annotations

from typing import Any

from rich.text import Text
from textual import work
from textual.screen import Screen
from textual.worker import get_current_worker

from converters.errors import InputError
from sweep import format as fmt
from sweep.commands.launch import CommandCancelled, run_command
from tui.screens.pager import PagerScreen
from tui.theme import palette


class TypesScreen(PagerScreen):
    """Closing the window cancels the command that computes the types."""

    def __init__(self, model: str, quant: str) -> None:
        super().__init__(f"Tensor types of {quant}", Text("computing …"))
        self._model, self._quant = model, quant

    def on_mount(self) -> None:
        self._ask()

    @work(thread=True, exit_on_error=False)
    def _ask(self) -> None:
        colours, worker = palette(self.app), get_current_worker()
        arguments = ["convert", self._model, "--to", self._quant, "--dry-run", "--format", "json"]
        try:
            file = run_command(arguments, is_cancelled=lambda: worker.is_cancelled)[-1]["files"][0]
        except InputError as error:
            self.deliver(self.replace, Text(fmt.plain(error), colours.bad))
            return
        except CommandCancelled:
            return
        lines = [Text.assemble((f"{name:<16}", colours.soft), (words, colours.ink)) for name, words in _lines(file)]
        self.deliver(self.replace, Text("\n").join(lines))


def show_types(screen: Screen[Any], model: str, variant: str) -> None:
    """Open the window for a quant that llama.cpp makes, or say that the types of the variant are not known."""
    if ":" in variant:  # a file, or a variant that torch runs
        screen.notify("Tensor types are known only for quants that llama.cpp makes.", title="Types")
    else:
        screen.app.push_screen(TypesScreen(model, variant))


def _lines(file: dict[str, Any]) -> list[tuple[str, str]]:
    """The size of a planned file, and the number of tensors of each type."""
    return [
        ("bits per weight", f"{file['bits_per_weight']:.3f}"),
        ("file", f"{file['file_bytes']:,} bytes, {fmt.size(file['file_bytes'])}"),
        *((kind, f"{count} tensors") for kind, count in file["census"].items()),
    ]
