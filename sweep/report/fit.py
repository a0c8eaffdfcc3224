"""The output of `sweep fit`: verdicts, parts of memory, devices, commands to paste, and the sources of the figures.

Colour is never the only mark: every verdict has a sign and a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from math import inf

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sweep import format as fmt
from sweep.analysis.candidate import Candidate
from sweep.fit.fit_report import GGUF, MTP, PARTS, FitFigure, FitReport, FitRow, Verdict, mtp_note, verdict
from sweep.fit.hardware import Device, explain_reserve
from sweep.fit.image_tokens import ProjectorFit
from sweep.report.columns import Column, fit_to_width, table, width_of

_SIGNS = {Verdict.FITS: "✓", Verdict.PARTLY: "◐", Verdict.DOES_NOT_FIT: "✗"}
_STYLES = {Verdict.FITS: "green", Verdict.PARTLY: "yellow", Verdict.DOES_NOT_FIT: "red"}
_MEANINGS = {
    Verdict.FITS: "fits",
    Verdict.PARTLY: "partly in RAM: does not fit, but runs with the stated part in RAM",
    Verdict.DOES_NOT_FIT: "does not fit",
}
_NAMES = {"kv": "KV cache", "recurrent": "recurrent state", "compute": "compute buffers", "output": "output buffer"}
_KINDS = {"gguf": "GGUF", "ptq": "PTQ"}
_HEADS = {
    "weights": "weights",
    "kv": "KV",
    "recurrent": "state",
    "compute": "compute",
    "output": "output",
    "projector": "projector",
    "draft": "draft",
}
UNCOUNTED = "*"
"""Marks a row that does not count everything in its file; a note says what."""


MOST_COMMANDS = 6
_WITH_RAM, _MAX_SPEED = "with RAM", "max t/s"


def render_fit(
    report: FitReport, console_width: int, chosen: str | None = None, *, notes: bool = True
) -> RenderableType:
    """For `console.print`: the tables and, with `notes`, the sources of the figures. `chosen` is shown in bold.

    If `console_width` is too narrow for one table, the parts of memory have a table of their own.
    """
    report = replace(report, rows=tuple(sorted(report.rows, key=lambda row: (row.kind != GGUF, -row.file_bytes))))
    fixed = _fixed_columns(report, console_width, chosen)
    verdicts, parts = _verdict_columns(report), _part_columns(report)
    shown = [table([""] * len(report.rows), [*fixed, *verdicts[:2], *parts, *verdicts[2:]])]
    dropped: list[str] = []
    if width_of(shown[0]) > console_width:
        pieces = [_fitted(report, fixed, columns, console_width) for columns in (verdicts, parts)]
        shown, dropped = [piece[0] for piece in pieces], [name for piece in pieces for name in piece[1]]
    if len(_gpus(report)) > 1:
        placed, lost = _fitted(report, fixed, _device_columns(report), console_width)
        shown.append(placed)
        dropped += lost
    lines: list[RenderableType] = [*_heading(report)]
    lines += [line for one in shown for line in (Text(), one)]
    if notes:
        lines += [Text(), *(Text(line, style="dim") for line in [*_legend(report, dropped), *_origins(report)])]
        note = mtp_note(report.rows)
        lines += [Text(f"{UNCOUNTED} {note}.", style="yellow")] if note is not None else []
        lines += [Text(f"! {fmt.plain(note)}", style="yellow") for note in report.notes]
    return Group(*lines)


def _fitted(
    report: FitReport, fixed: Sequence[Column], columns: Sequence[Column], width: int
) -> tuple[Table, list[str]]:
    return fit_to_width([""] * len(report.rows), fixed, columns, width)


def _gpus(report: FitReport) -> list[Device]:
    return [device for device in report.devices if device.kind != "cpu"]


def _heading(report: FitReport) -> list[Text]:
    sequences = "one sequence" if report.parallel == 1 else f"each of {report.parallel} sequences"
    lines = [
        Text.assemble(
            (fmt.plain(report.model), "bold"),
            f": a context of {report.context:,} tokens for {sequences}, {report.kv_type} KV cache",
        )
    ]
    if report.draft is not None:
        whose = "the model's own layers (mtp)" if report.draft == MTP else fmt.plain(report.draft)
        lines[0].append(f", draft: {whose}")
    if report.projector is not None:
        lines += [Text(f"  {line}") for line in _tower(report.projector, report.context)]
    return lines + [Text(f"  {_described(list(same))}") for _, same in groupby(report.devices)]


def _tower(projector: ProjectorFit, context: int) -> list[str]:
    """The vision tower, and what images take of the context."""
    lines = [
        f"vision tower: {fmt.plain(projector.name)}{'' if projector.exists else ' projector file'} of "
        f"{fmt.size(projector.file_bytes)}, {fmt.size(projector.compute_bytes)} of compute buffer"
    ]
    shown = []
    for image in projector.images:
        number, each = ("one image", "") if image.count == 1 else (f"{image.count:,} images", " each")
        shown.append(f"{number} of {image.width:,} x {image.height:,} pixels, {image.tokens:,} tokens{each}")
    if shown:
        lines.append(f"{'; '.join(shown)}; {context - projector.tokens:,} tokens of the context remain for text")
    return lines


def _described(same: Sequence[Device]) -> str:
    """A device, or several equal ones, with its memory and reserve."""
    device = same[0]
    count = f"{len(same)} x " if len(same) > 1 else ""
    each = " each" if len(same) > 1 else ""
    state, amount = ("simulated", "usable") if device.simulated else ("this machine", "free now")
    return (
        f"{count}{fmt.plain(device.name)} ({state}): {fmt.size(device.usable_bytes)} {amount} of "
        f"{fmt.size(device.total_bytes)}{each}, {fmt.size(device.reserve_bytes)} of that reserved"
    )


def _fixed_columns(report: FitReport, width: int, chosen: str | None) -> list[Column]:
    """The first columns of every table: sign and name."""
    verdicts = [verdict(row) for row in report.rows]
    names = [
        Text(fmt.shorten(fmt.plain(row.variant), max(10, width // 4)), "bold" if row.variant == chosen else "")
        for row in report.rows
    ]
    signs = [Text(_SIGNS[found], _STYLES[found]) for found in verdicts]
    return [Column("", signs, inf, left=True), Column("variant", names, inf, left=True)]


def _verdict_columns(report: FitReport) -> list[Column]:
    rows = report.rows
    room = [_room(row.headroom_bytes, _STYLES[verdict(row)]) for row in rows]
    columns = [
        Column("size", _texts(rows, lambda row: f"{'' if row.file_exact else '~'}{fmt.size(row.file_bytes)}"), 8),
        Column("bpw", _texts(rows, lambda row: f"{row.bits_per_weight:.2f}"), 7),
        Column("total", _texts(rows, lambda row: fmt.size(row.total_bytes)), inf),
        Column("headroom", room, inf),
        Column("max ctx", _texts(rows, lambda row: _count(row.max_context)), 9),
        Column(_WITH_RAM, _texts(rows, lambda row: _count(row.max_context_with_ram)), 8.7),
        Column(_MAX_SPEED, _texts(rows, lambda row: fmt.rate(row.decode_bound)), 8.5),
        Column("", [Text(_word(row), _STYLES[verdict(row)]) for row in rows], inf, left=True),
    ]
    empty = {
        _WITH_RAM: len(_contexts_with_ram(report)) < 2,  # otherwise the legend says it
        _MAX_SPEED: not any(row.decode_bound for row in rows),
    }
    return [column for column in columns if not empty.get(column.header)]


def _contexts_with_ram(report: FitReport) -> set[int | None]:
    """The different longest contexts of variants that can be partly in RAM."""
    found = {row.max_context_with_ram for row in report.rows if row.kind == GGUF}
    return found if any(found) else set()


def _word(row: FitRow) -> str:
    """The verdict in words. If the variant is partly in RAM, it says how much of it."""
    in_ram = row.shares[-1].total_bytes if row.shares else 0
    words = {Verdict.FITS: "fits", Verdict.PARTLY: f"{fmt.size(in_ram)} in RAM", Verdict.DOES_NOT_FIT: "does not fit"}
    return words[verdict(row)] + (UNCOUNTED if row.mtp_bytes else "")


def _part_columns(report: FitReport) -> list[Column]:
    """The parts of memory. A part that no variant has is left out."""
    return [_part(report.rows, part) for part in _HEADS if any(_bytes(row, part) for row in report.rows)]


def _part(rows: Sequence[FitRow], part: str) -> Column:
    cells = _texts(rows, lambda row: fmt.size(_bytes(row, part)) if part in row.figures else fmt.MISSING)
    return Column(_HEADS[part], cells, 0 if part == "output" else 1)


def _bytes(row: FitRow, part: str) -> int:
    return row.figures[part].bytes if part in row.figures else 0


def _texts(rows: Sequence[FitRow], write: Callable[[FitRow], str]) -> list[Text]:
    return [Text(write(row), "dim" if write(row) == fmt.MISSING else "") for row in rows]


def _count(number: int | None) -> str:
    return fmt.MISSING if number is None else f"{number:,}"


def _room(count: int | None, style: str = "") -> Text:
    """Free memory with its sign; negative if the variant does not fit."""
    if count is None:
        return Text(fmt.MISSING, "dim")
    sign = "+" if count >= 0 else fmt.MINUS
    return Text(f"{sign}{fmt.size(abs(count))}", style)


def _device_columns(report: FitReport) -> list[Column]:
    """What each device holds, and how much of it stays free."""
    rows, gpus = report.rows, len(_gpus(report))
    columns = [Column("layers", [Text(f"{row.gpu_layers}/{row.n_layers}") for row in rows], 90)]
    if any(row.cpu_moe_layers for row in rows):
        columns.append(Column("MoE layers in RAM", [Text(str(row.cpu_moe_layers)) for row in rows], 80))
    for place in range(max((len(row.shares) for row in rows), default=0)):
        shares = [row.shares[place] if place < len(row.shares) else None for row in rows]
        name = fmt.shorten(fmt.plain(next(share.device for share in shares if share is not None)), 14)
        named = f"{name} {place + 1}" if place < gpus else name
        held = [Text(fmt.MISSING if share is None else fmt.size(share.total_bytes)) for share in shares]
        columns.append(Column(named, held, 70 - place))
        if place < gpus:
            columns.append(
                Column("free", [_room(None if share is None else share.free_bytes) for share in shares], 60 - place)
            )
    return columns


def _legend(report: FitReport, dropped: Sequence[str]) -> list[str]:
    found = dict.fromkeys(verdict(row) for row in report.rows)
    signs = "; ".join(f"{_SIGNS[one]} {_MEANINGS[one]}" for one in Verdict if one in found)
    lines = [f"{signs}." if signs else "No variant was requested."]
    lacking = "negative if the variant does not fit"
    if len(_gpus(report)) > 1:
        lacking = "negative: what all GPUs together lack or, if they have enough together, the fullest one"
    lines.append(f"headroom: free memory on the fullest device after the reserve; {lacking}.")
    lines.append("max ctx: the largest context per sequence that fits.")
    with_ram = _contexts_with_ram(report)
    if len(with_ram) > 1:
        lines.append(f"{_WITH_RAM}: the same with as many layers or experts in RAM as it needs, at a lower speed.")
    elif with_ram:
        longest = _count(*with_ram)
        lines.append(f"With layers or experts in RAM, contexts of up to {longest} tokens fit, at a lower speed.")
    if any(row.decode_bound for row in report.rows):
        lines.append(
            f"{_MAX_SPEED}: upper bound of decode t/s, bandwidth / bytes read per token; real decoding is slower."
        )
    if dropped:
        lines.append(f"Not shown at this width: {', '.join(dict.fromkeys(dropped))}.")
    return lines


def _origins(report: FitReport) -> list[str]:
    """The source of each part of memory (separately for GGUF and int8), the reserve, and the source of placements."""
    kinds = dict.fromkeys(row.kind for row in report.rows)
    lines = []
    for kind in kinds:
        by_source: dict[str, list[str]] = {}
        for part in PARTS:
            for source in dict.fromkeys(
                row.figures[part].source for row in report.rows if row.kind == kind and _bytes(row, part)
            ):
                by_source.setdefault(source, []).append(part_name(part))
        sources = "; ".join(f"{', '.join(names)}: {source}" for source, names in by_source.items())
        lines.append(f"Sources{f' ({_KINDS.get(kind, kind)})' if len(kinds) > 1 else ''}: {sources}.")
    for kind, device in {device.kind: device for device in report.devices}.items():
        lines.append(f"Reserve {'in RAM' if kind == 'cpu' else f'on a {kind} device'}: {explain_reserve(device)}.")
    placed = {row.placed_by for row in report.rows}
    if len(_gpus(report)) > 1 or any(verdict(row) is Verdict.PARTLY for row in report.rows):
        if "rpc" in placed:
            lines.append("Memory per device: llama.cpp's own placement on simulated devices of these sizes.")
        elif "estimate" in placed:
            lines.append("Memory per device is an estimate: this build of llama.cpp has no RPC to simulate devices.")
    if report.bytes_read is not None:
        lines.append(f"Read over the network: {report.bytes_read:,} bytes.")
    return lines


def part_name(part: str) -> str:
    """The name of a part of memory, for people."""
    return _NAMES.get(part, part)


def commands(report: FitReport, pick: Candidate | None) -> list[str]:
    """Lines to paste, which must not be wrapped: the commands of the variants that are partly in RAM, without the pick,
    from the least to the most RAM."""
    partly = [row for row in report.rows if verdict(row) is Verdict.PARTLY and row.arguments]
    partly = [row for row in partly if pick is None or row.variant != pick.variant]
    partly.sort(key=lambda row: row.shares[-1].total_bytes)
    lines = [f"  {fmt.plain(row.variant)}: llama-server {fmt.printable(row.arguments)}" for row in partly]
    if len(lines) > MOST_COMMANDS:
        left = len(lines) - MOST_COMMANDS
        lines[MOST_COMMANDS:] = [f"  {left} more: name them with --variants to see their commands"]
    return ["", "To run variants that are partly in RAM (llama-cli takes the same arguments):", *lines] if lines else []


def render_formulas(report: FitReport) -> RenderableType:
    """Every figure with its formula and source, by part. A figure that several variants share is shown once."""
    lines: list[RenderableType] = []
    for part in PARTS:
        shared: dict[FitFigure, list[str]] = {}
        for row in report.rows:
            if _bytes(row, part):
                shared.setdefault(row.figures[part], []).append(fmt.plain(row.variant))
        for source in dict.fromkeys(figure.source for figure in shared):
            lines.append(Text.assemble((part_name(part), "bold"), f" in bytes, from {source}"))
            for figure, names in shared.items():
                if figure.source == source:
                    whose = "all" if len(names) == len(report.rows) else ", ".join(names)
                    figures = Text(f"{figure.bytes:,} = {fmt.plain(figure.formula)}")
                    lines.append(Padding(Text.assemble((f"{whose}: ", "cyan"), figures), (0, 0, 0, 2), expand=False))
    return Group(*lines)
