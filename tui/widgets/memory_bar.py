"""The memory of a variant on each device as a bar of its parts, and the size, formula and source of each part."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text

from sweep import format as fmt
from sweep.fit.fit_report import PARTS, DeviceShare, FitReport, FitRow, mtp_note
from sweep.report.fit import UNCOUNTED, part_name
from tui.theme import Palette

# Each part has its own character, so that the bar is readable without colours.
_LETTERS = {
    "weights": "█",
    "kv": "▓",
    "recurrent": "▚",
    "compute": "▒",
    "output": "░",
    "projector": "▞",
    "draft": "▄",
    "reserve": "╱",
}


def _style(part: str, colours: Palette) -> Style:
    return {"weights": colours.accent, "kv": colours.good, "recurrent": colours.warn}.get(part, colours.soft)


def memory_bars(row: FitRow, report: FitReport, width: int, colours: Palette) -> Text:
    """A bar for each device that holds something, and a legend with formulas."""
    lines = []
    ram_is_given = any(device.kind == "cpu" for device in report.devices)
    for place, share in enumerate(row.shares):
        if share.total_bytes or share.reserve_bytes:
            lines += _bar(share, ram_is_given or place < len(report.devices), width, colours)
    lines.append(Text())
    for part in PARTS:
        figure = row.figures.get(part)
        if figure is None or not figure.bytes:
            continue
        line = Text.assemble((f"{_LETTERS[part]} ", _style(part, colours)), (f"{part_name(part):<17}", colours.ink))
        line.append(f"{fmt.size(figure.bytes):>9}  ", colours.ink)
        lines.append(line.append(f"{fmt.plain(figure.formula)} ({figure.source})", colours.faint))
    if row.arguments:
        lines += [
            Text(),
            Text.assemble(("llama-server ", colours.soft), (fmt.printable(row.arguments), colours.accent)),
        ]
    note = mtp_note([row])
    lines += [] if note is None else [Text(f"{UNCOUNTED} {note}", colours.warn)]
    lines += [Text(f"! {fmt.plain(note)}", colours.warn) for note in report.notes]
    return Text("\n").join(lines)


def _bar(share: DeviceShare, known: bool, width: int, colours: Palette) -> list[Text]:
    """The bar of a device: its parts, and its usable memory if that is `known`."""
    sizes = {part: int(getattr(share, f"{part}_bytes", 0)) for part in PARTS}
    needed = sum(sizes.values())
    whole = max(needed, share.usable_bytes, 1)
    room = max(width - 4, 10)
    bar, used = Text(" "), 0
    for part, size in sizes.items():
        until = round(room * (used + size) / whole)
        bar.append(_LETTERS[part] * (until - round(room * used / whole)), _style(part, colours))
        used += size
    bar.append("·" * (room - round(room * used / whole)), colours.faint)
    end = round(room * share.usable_bytes / whole)
    if needed > share.usable_bytes:  # marks the end of the GPU's memory in a bar that is longer
        shown = bar.plain
        bar = Text.assemble(bar[: end + 1], ("┊", colours.bad), bar[min(end + 2, len(shown)) :])
    if not known:
        head = Text.assemble((f" {fmt.plain(share.device)} ", colours.ink), (fmt.size(needed), colours.soft))
        return [head.append(", assumed to be available", colours.soft), bar]
    left = share.free_bytes
    verdict = f"{fmt.size(left)} free" if left >= 0 else f"✗ {fmt.size(-left)} too much"
    head = Text.assemble(
        (f" {fmt.plain(share.device)} ", colours.ink),
        (f"{fmt.size(needed)} of {fmt.size(share.usable_bytes)}, ", colours.soft),
        (verdict, colours.good if left >= 0 else colours.bad),
    )
    return [head, bar]
