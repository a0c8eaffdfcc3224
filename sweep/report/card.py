"""A block of Markdown for a model card: a table of the variants, a plot, and how they were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweep import format as fmt
from sweep.analysis import figures
from sweep.analysis.advice import Advice
from sweep.analysis.plots import Measure, Point, costs, measures, points
from sweep.record import MeasuredText, Record, Stopping
from sweep.report.axes import positive
from sweep.report.figure_columns import figures_shown
from sweep.report.html import TEMPLATES
from sweep.report.svg import scatter

_SHOWN = ("Bits/weight", "File", "Perplexity", "KL divergence", "Top-1 %", "Decode t/s")
_ABOUT = (
    "reference",
    "text",
    "draft",
    "tasks",
    "importance matrix",
    "KV cache",
    "device",
    "engine",
    "int8",
    "torch",
    "bitsweep",
)


def render_card(
    records: Sequence[Record],
    model: str,
    about: Mapping[str, object],
    advice: Advice,
    plot: str | None,
    command: str | None,
) -> str:
    """The block. `about` says how the run measured (see `describe_run`), `plot` is the name of the plot's file, and
    `command` repeats the run; None if it is not known."""
    rows = figures.by_size([record for record in records if record.status in ("ok", "partial")])
    lines = [f"## Quantized variants of {_text(model)}", "", *_table(rows, advice), ""]
    lines += [_text(line) for line in _legend(rows)]
    if advice.pick is not None:
        lines += ["", _text(advice.reason)]
    if plot is not None:
        lines += ["", f"![{_text(_measure(rows).name)} of the variants against their size]({plot})"]
    lines += ["", "Measured with:", ""]
    lines += [f"- {_text(name)}: {_text(about[name])}" for name in _ABOUT if about.get(name) not in (None, "none", "")]
    lines += _parts(rows)
    lines += [f"- hash of the text: `{text.sha256}`" for text in _texts(rows)]
    if command is not None:
        lines += ["", "```", fmt.printable(command), "```"]
    return "\n".join([*lines, "", "Made by bitsweep with `sweep report --card`.", ""])


def has_plot(records: Sequence[Record]) -> bool:
    """Whether there is a figure to plot against the size."""
    return bool(measures(records)) and bool(_points(records, None))


def render_plot(records: Sequence[Record], chosen: str | None, model: str) -> str:
    """The plot as an SVG file: KL divergence, or else the first figure that was measured, against the file size."""
    measure = _measure(records)
    cost = costs(records)[1]
    name = f"{measure.name} against {cost.axis.label}"
    drawing = scatter(_points(records, chosen), cost.axis, measure.axis, name, measure.levels)
    return TEMPLATES.get_template("plot.svg").render(plot=drawing, title=f"{fmt.plain(model)}: {name}") + "\n"


def _points(records: Sequence[Record], chosen: str | None) -> list[Point]:
    measure = _measure(records)
    found = points(figures.by_size(records), measure, costs(records)[1], chosen)
    return [point for point in found if not measure.axis.log or positive(point.y)]


def _measure(records: Sequence[Record]) -> Measure:
    found = measures(records)
    known = {measure.name: measure for measure in found}
    any_kld = any(figures.kld(record) is not None for record in records)
    any_perplexity = any(figures.perplexity(record) is not None for record in records)
    name = "Mean KL divergence" if any_kld else "Perplexity" if any_perplexity else None
    return known[name] if name in known else next((one for one in found if one.name == "Mean recovery"), found[-1])


def _table(rows: Sequence[Record], advice: Advice) -> list[str]:
    shown = [column for column in figures_shown(rows) if column.head in _SHOWN]
    columns: list[tuple[str, list[str]]] = []
    for column in shown:
        values, errors = column.texts(rows)
        cells = []
        for value, error in zip(values, errors, strict=True):
            spread = f" {column.with_sign(error)}" if value is not None and error is not None else ""
            cells.append(fmt.MISSING if value is None else f"{value}{spread}")
        if any(cell != fmt.MISSING for cell in cells):
            columns.append((column.head, cells))
    recovered = figures.mean_recovery(rows)
    if recovered:
        kept = [recovered.get(row.variant) for row in rows]
        columns.append(
            ("Recovery %", [fmt.MISSING if one is None else _with_error(100 * one.value, one.stderr) for one in kept])
        )
    names = [f"{_text(row.variant)}{' ' + fmt.CHOSEN if row.variant == advice.variant else ''}" for row in rows]
    lines = [f"| Variant | {' | '.join(_text(head) for head, _ in columns)} |", f"|---|{'---:|' * len(columns)}"]
    for at, name in enumerate(names):
        lines.append(f"| {name} | {' | '.join(_text(cells[at]) for _, cells in columns)} |")
    return lines


def _with_error(value: float, stderr: float | None) -> str:
    return f"{value:.1f}" + ("" if stderr is None else f" ±{100 * stderr:.1f}")


def _legend(rows: Sequence[Record]) -> list[str]:
    words = [f"{fmt.CHOSEN} is recommended. KL divergence is the mean in nats per token from the reference; ± is one "]
    words.append("standard error. Speeds are for one sequence, with the range of the timings.")
    if figures.mean_recovery(rows):
        words.append(" Recovery is the share of the reference's score above chance, as a mean over the tasks.")
    if any(row.speed is not None and row.speed.unstable for row in rows):
        words.append(f" {fmt.UNSTABLE} marks speeds that were not stable.")
    return ["".join(words)]


def _parts(rows: Sequence[Record]) -> list[str]:
    """How much of the text and of each task the variants were measured on, where it is not everything."""
    parts = ((row, row.stopping["text"]) for row in rows if "text" in row.stopping)
    windows = [f"{_text(row.variant)} {part.samples:,} of {part.of:,}" for row, part in parts]
    lines = [f"- windows of the text, in random order: {', '.join(windows)}"] if windows else []
    items: dict[str, list[Stopping]] = {}
    for row in rows:
        for task in row.tasks.keys() & row.stopping.keys():
            items.setdefault(task, []).append(row.stopping[task])
    for task, found in sorted(items.items()):
        counts = [part.samples for part in found]
        few = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
        lines.append(f"- items of {_text(task)}, in random order: {few} of {found[0].of:,} for each variant")
    return lines


def _texts(rows: Sequence[Record]) -> list[MeasuredText]:
    found = {row.text.sha256: row.text for row in rows if row.text is not None}
    return list(found.values())


def _text(value: object) -> str:
    """Text in which nothing is read as Markdown or HTML, and that does not end a cell of a table."""
    words = (
        value if isinstance(value, str) else "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
    )
    plain = fmt.plain(str(words)).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\|*_[]`#" else letter for letter in plain)
