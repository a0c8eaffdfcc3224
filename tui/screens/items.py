"""A window with the items to which a variant gives another answer than its reference: question, answers, images."""

from __future__ import annotations

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal

from converters.errors import InputError
from images.file import Pixels
from images.thumbnail import small_copy
from sweep import format as fmt
from sweep.analysis.item_answers import ChangedItem, ItemImage
from sweep.results.plan import Plan
from sweep.workspace import Workspace
from tui.screens.window import Window
from tui.theme import Palette, palette
from tui.widgets.note import Note
from tui.widgets.picture import Picture
from tui.widgets.table import Row, Table
from tui.widgets.text_pane import TextPane

LIMIT = 500  # items in the table
PIXELS = 480  # of the longer side of a picture that is kept: more than a terminal has cells
HEADS = (("task", True), ("item", True), ("", True), ("reference", True), ("variant", True))
WORDS = 28  # characters of an answer in the table


class ItemsScreen(Window[None]):
    """The items of `variant` in a run, the largest losses first."""

    def __init__(self, workspace: Workspace, plan: Plan, variant: str) -> None:
        super().__init__(f"Items that {fmt.plain(variant)} changes", "j k move · esc close")
        self._workspace, self._plan, self._variant = workspace, plan, variant
        self._items: dict[str, ChangedItem] = {}
        self._summary = Text()

    def content(self) -> ComposeResult:
        yield Note(id="note")
        yield Table()
        with Horizontal(id="item"):
            yield TextPane(id="question", can_focus=True)
            yield Picture(id="picture")

    def on_mount(self) -> None:
        self.query_one(Note).show(Text("reading …", palette(self.app).soft))
        self.query_one(Table).focus()
        self._read()

    @work(thread=True, exit_on_error=False, exclusive=True, group="items")
    def _read(self) -> None:
        from sweep.analysis.changed_items import changed_items
        from sweep.results.store import Store

        try:
            with Store(self._workspace.database) as store:
                found = changed_items(self._plan, store, self._workspace.root, LIMIT, [self._variant])
        except InputError as error:
            self.deliver(self._refuse, str(error))
            return
        self.deliver(self._fill, [item for group in found for item in group.shown], sum(g.changed for g in found))

    def _refuse(self, message: str) -> None:
        self.query_one(Note).show(Text(fmt.plain(message), palette(self.app).bad))

    def _fill(self, items: list[ChangedItem], changed: int) -> None:
        self._items = {str(number): item for number, item in enumerate(items)}
        colours = palette(self.app)
        self._summary = Text(self._words_about(changed), colours.soft)
        self.query_one(Note).show(self._summary)
        self.query_one(Table).fill(HEADS, [_row(key, item, colours) for key, item in self._items.items()])
        self._follow_cursor()

    def _words_about(self, changed: int) -> str:
        variant, reference = fmt.plain(self._variant), fmt.plain(self._plan.reference_of(self._variant))
        if variant == reference:
            return f"{variant} is the reference that the others are compared with."
        if not changed:
            return f"No answer differs from {reference}."
        words = f"{changed:,} items have" if changed > 1 else "1 item has"
        shown = f"; here are {len(self._items):,} of them" if len(self._items) < changed else ""
        return f"{words} another answer than {reference}{shown}."

    @on(Table.Highlighted)
    def _follow_cursor(self) -> None:
        item = self._items.get(self.query_one(Table).highlighted or "")
        if item is None:
            return
        self.query_one(Note).show(self._summary)  # in place of the message about another item's image
        self.query_one(TextPane).show(_words(item, palette(self.app)))
        self.query_one(Picture).show(None)
        if item.images:
            self._open(item.images[0])

    @work(thread=True, exit_on_error=False, exclusive=True, group="picture")
    def _open(self, image: ItemImage) -> None:
        found: Pixels | None = None
        if image.file is not None:
            try:
                found = small_copy(image.file, image.digest, PIXELS)
            except InputError as error:
                self.deliver(self._refuse, str(error))
                return
        self.deliver(self.query_one(Picture).show, found)


def _row(key: str, item: ChangedItem, colours: Palette) -> Row:
    (after,) = item.after
    sign, style = (fmt.LOSS, colours.bad) if after.gain < 0 else (fmt.GAIN, colours.good) if after.gain else ("", "")
    answers = [Text(_short(answer.words), colours.ink) for answer in (item.before, after)]
    return key, [
        Text(fmt.plain(item.task), colours.ink),
        Text(f"{item.doc_id}", colours.soft),
        Text(sign, style),
        *answers,
    ]


def _short(words: str) -> str:
    return fmt.shorten(fmt.plain(" ".join(words.split())) or "(empty)", WORDS)


def _words(item: ChangedItem, colours: Palette) -> Text:
    """The item in full."""
    lines = [Text(fmt.plain(item.name), colours.soft)]
    if item.text is None:
        lines.append(Text("The question is not stored: an earlier version measured this item.", colours.soft))
    else:
        lines += [Text(line, colours.ink) for line in _lines(item.text)]
        lines.append(Text())
        lines.append(_line("right", item.target or "", colours))
    lines += [_line(answer.variant, answer.words, colours) for answer in (item.before, *item.after)]
    for image in item.images:
        where = "in the task's data set, not in a file of its own" if image.file is None else str(image.file)
        lines.append(_line("image", where, colours))
    return Text("\n").join(lines)


def _line(name: str, words: str, colours: Palette) -> Text:
    shown = "\n".join(_lines(words.strip())) or "(empty)"
    return Text.assemble((f"{fmt.plain(name)}  ", colours.soft), (shown, colours.ink))


def _lines(text: str) -> list[str]:
    return [fmt.printable(line) for line in text.splitlines()]
