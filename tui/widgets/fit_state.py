"""The lines above the table of the Fit screen: what is asked, as long as the width allows, and what differs from it."""

from __future__ import annotations

from itertools import groupby

from rich.text import Text

from sweep import format as fmt
from sweep.defaults import DEFAULT_CONTEXT
from sweep.fit.fit_report import FitReport
from tui.state.fit_answer import FitAnswer
from tui.state.question import FIT_FIELDS, Question
from tui.theme import Palette

_OWN_WORDS = ("ctx", "kv_type", "offload", "ram")  # fields that are always shown
_SHORTEST_MODEL = 12


def state_lines(
    question: Question, answer: FitAnswer | None, is_old: bool, is_busy: bool, width: int, colours: Palette
) -> list[Text]:
    """The question in one line, and a warning if the answer has a shorter context than was chosen.

    `is_old`: `answer` is that of the previous question, so the line says which one the table shows.
    """
    report = None if answer is None else answer.report
    asked = question.context or DEFAULT_CONTEXT
    context = f"{asked if report is None or is_old else report.context:,}"
    ram = f"{question.value('ram')} RAM" if question.value("ram") else "RAM allowed"
    ram = ram if question.offload else "no RAM"
    others = [one for one in FIT_FIELDS if question.value(one.name) and one.name not in _OWN_WORDS]
    more = "".join(f"  {one.label} {question.value(one.name)}" for one in others)
    busy = " computing …" if is_busy else ""
    shown = f" (shown: {report.context:,}, {report.kv_type})" if is_busy and is_old and report is not None else ""
    model = fmt.plain(question.model)
    long = f"  context {context}  KV {question.kv_type}"
    short = f"  {context}  {question.kv_type}"
    forms = [
        (model, _devices(question, report, 2), f"{long}  {ram}{more}", f"{busy}{shown}"),
        (model, _devices(question, report, 2), f"{long}  {ram}", f"{busy}{shown}"),
        (model, _devices(question, report, 1), f"{long}  {ram}", f"{busy}{shown}"),
        (model, _devices(question, report, 0), f"{long}  {ram}", f"{busy}{shown}"),
        (model, _devices(question, report, 0), f"{short}  {ram}", f"{busy[:1]}…{shown}" if is_busy else ""),
    ]
    parts = next((form for form in forms if sum(map(len, form)) + len("  on ") <= width), forms[-1])
    room = width - sum(map(len, parts[1:])) - len("  on ")
    name = fmt.shorten(parts[0], max(room, _SHORTEST_MODEL)) if len(parts[0]) > room else parts[0]
    line = Text.assemble((f" {name}", colours.accent), (" on ", colours.soft), (parts[1], colours.ink))
    line.append(parts[2], colours.soft).append(parts[3], colours.faint)
    line.truncate(width, overflow="ellipsis")
    return [line, *_warnings(question, answer, is_old, colours)]


def _warnings(question: Question, answer: FitAnswer | None, is_old: bool, colours: Palette) -> list[Text]:
    if answer is None or answer.shortened is None or is_old:
        return []
    most = f"{answer.report.context:,} tokens are the maximum of {fmt.plain(answer.report.model)}"
    return [Text(f" ! {most}; you chose {answer.shortened:,}", colours.warn)]


def _devices(question: Question, report: FitReport | None, detail: int) -> str:
    """The devices: their names, their memory, and whether they are simulated."""
    if report is None:
        return ", ".join(fmt.plain(gpu) for gpu in question.gpus) or "this machine"
    words: list[str] = []
    for _, same in groupby(report.devices):
        group = list(same)
        device, count = group[0], f"{len(group)} x " if len(group) > 1 else ""
        state = f" {'simulated' if device.simulated else 'free now'}" if detail == 2 else ""
        memory = f" ({fmt.size(device.usable_bytes)}{state})" if detail else ""
        words.append(f"{count}{fmt.plain(device.name)}{memory}")
    return ", ".join(words)
