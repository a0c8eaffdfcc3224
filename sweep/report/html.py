"""The sweep as one HTML file that asks nothing of the network: no scripts, no fonts, no images but inline SVG.

Every name and message is escaped; a model may be called `<script>`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from converters.errors import InputError
from sweep.record import Record
from sweep.report import figures, fronts, plot, text
from sweep.report.html_tables import cell, esc, fidelity_section, tasks_section, why_unsure
from sweep.report.recommend import Recommendation, recommend
from sweep.report.style import CSS
from sweep.report.trust import noise_floor, trust_notes

_INTERVAL = 1.96  # half of a 95 % interval, in standard errors
_MIB = 1024.0**2
FAR = 100.0  # a noise floor so many times below every variant is told in words: drawn, it would squeeze the plot


def write_html(
    records: Sequence[Record],
    settings: Mapping[str, object],
    path: Path,
    recommendation: Recommendation | None = None,
) -> Path:
    """Write the report beside `path` and rename it there; an InputError names what could not be written.

    `settings` is how it was measured (model, run, versions, context, texts, tasks, ...), printed in its own order;
    its "model" is the title. Without a `recommendation` the default one, with no memory limit, is made.
    """
    page = render_html(records, settings, recommendation or recommend(records)).encode("utf-8")
    path = Path(path)
    beside = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as out:
            beside = Path(out.name)
            out.write(page)
            out.flush()
            os.fsync(out.fileno())
        beside.chmod(0o644)  # a temporary file is private; a report is to be shown
        beside.replace(path)
    except OSError as error:
        if beside is not None:
            beside.unlink(missing_ok=True)
        raise InputError(
            f"{path}: the report cannot be written ({error.strerror}); choose another --html FILE"
        ) from error
    return path


def render_html(records: Sequence[Record], settings: Mapping[str, object], recommendation: Recommendation) -> str:
    """The whole page. The order of `records` does not matter: rows go from fewest to most bits per weight."""
    rows = figures.by_size(records)
    model, run = settings.get("model"), settings.get("run")
    title = f"{text.plain(model)}: which bit width to run" if model else "Which bit width to run"
    front = fronts.overall(rows)
    sections = [
        _verdict(recommendation),
        *(f'<p class="note">{esc(note)}</p>' for note in trust_notes(rows)),
        fidelity_section(rows, recommendation.variant, front),
        tasks_section(rows, recommendation.variant, front[0]),
        _plots(rows, recommendation.variant),
        _accuracy_per_bit(rows),
        _failures(rows),
        _measured(settings),
    ]
    above = " · ".join(part for part in ("bitsweep", f"run {esc(run)}" if run else "") if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{esc(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<header><p>{above}</p><h1>{esc(title)}</h1></header>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _verdict(recommendation: Recommendation) -> str:
    kind = "verdict" if recommendation.variant is not None else "verdict none"
    sentence = esc(recommendation.sentence)
    if recommendation.variant is not None:
        name = esc(recommendation.variant)
        sentence = sentence.replace(name, f"<strong>{name}</strong>", 1)
    return f'<section class="{kind}"><p>{sentence}</p></section>'


# --- plots ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measure:
    """One y axis: how a record's figure is found, which of them are best for their cost, what line goes along."""

    name: str
    caption: str
    value: Callable[[Record], figures.Figure | None]
    losses: Sequence[fronts.Losses]
    axis: plot.Axis
    levels: Sequence[plot.Level] = ()


def _plots(rows: Sequence[Record], chosen: str | None) -> str:
    drawn = [_figure(rows, measure, chosen) for measure in _measures(rows)]
    drawn = [figure for figure in drawn if figure]
    if not drawn:
        return ""
    return (
        "<section><h2>What each bit buys</h2>"
        '<p class="note">Filled points and the line are the Pareto set: no variant is both smaller and better. '
        "Hollow points of their colour are on it too, but not distinguishable from the next smaller filled one. "
        "For grey ones a smaller one is as good or better, by however little. Bars are 95 % intervals. "
        "The outer ring marks the recommendation.</p>"
        '<input class="switch" type="radio" name="x" id="by-bits" checked>'
        '<input class="switch" type="radio" name="x" id="by-bytes">'
        '<div class="axes">against <label for="by-bits">bits per weight</label><label for="by-bytes">file size</label>'
        f'</div><div class="plots">{"".join(drawn)}</div></section>'
    )


def _measures(rows: Sequence[Record]) -> list[_Measure]:
    names = figures.reference_names(rows)
    means = figures.mean_recovery(rows)
    least = min((kld.value for r in rows if (kld := figures.kld(r)) and kld.value > 0), default=0.0)
    floors: dict[float, list[str]] = {}  # references that share a floor share its line
    for name in sorted(names):
        if (floor := noise_floor(rows, name)) is not None:
            floors.setdefault(floor, []).append(text.plain(name))
    found = [
        _Measure(
            "Mean KL divergence",
            "nats per token, logarithmic, less is better",
            figures.kld,
            fronts.kld_losses(rows),
            plot.Axis("", _plain_number, log=True),
            [
                plot.Level(floor, f"self-noise of {', '.join(of)}")
                for floor, of in floors.items()
                if floor > least / FAR
            ],
        ),
        _Measure(
            "Perplexity",
            "less is better; the bars are mostly noise shared by all variants",
            figures.perplexity,
            fronts.apart(fronts.perplexity_losses, rows),
            plot.Axis("", _plain_number),
            _levels(rows, names, figures.perplexity),
        ),
    ]
    if len(means) > 1:
        recovered = _Measure(
            "Mean recovery",
            "score above chance kept, % of the reference, mean over tasks",
            lambda r: _scaled(means.get(r.variant), 100),
            fronts.apart(fronts.recovery_losses, rows),
            plot.Axis("", _plain_number),
            [plot.Level(100.0)],
        )
        found.insert(0, recovered)
    scales = figures.task_scales(rows)
    bases = figures.task_bases(rows)
    return found + [_task_measure(rows, bases, task, scales[task]) for task in figures.task_names(rows)]


def _task_measure(rows: Sequence[Record], bases: set[str], task: str, scale: int) -> _Measure:
    first = next(score for record in rows if (score := record.tasks.get(task)))
    unit = ", %" if scale == 100 else "" if first.higher_is_better else ", less is better"

    def value(record: Record) -> figures.Figure | None:
        """The score with the error of its paired difference; its own error where it was compared with nothing."""
        score = record.tasks.get(task)
        if score is None:
            return None
        stderr = score.stderr if score.delta_stderr is None else score.delta_stderr
        return _scaled(figures.figure(score.value, 0.0 if record.variant in bases else stderr), scale)

    caption = f"{text.plain(first.metric)}{unit}; bars: the paired difference to {figures.compared_with(rows)}"
    losses = fronts.apart(lambda group: fronts.task_losses(group, task), rows)
    return _Measure(text.plain(task), caption, value, losses, plot.Axis("", _plain_number), _levels(rows, bases, value))


def _levels(
    rows: Sequence[Record], names: set[str], value: Callable[[Record], figures.Figure | None]
) -> list[plot.Level]:
    return [
        plot.Level(found.value) for record in rows if record.variant in names and (found := value(record)) is not None
    ]


def _scaled(found: figures.Figure | None, scale: float) -> figures.Figure | None:
    if found is None:
        return None
    return figures.Figure(found.value * scale, None if found.stderr is None else found.stderr * scale)


def _plain_number(value: float) -> str:
    return f"{value:g}" if value == 0 or abs(value) >= 1e-5 else f"{value:.0e}"


def _figure(rows: Sequence[Record], measure: _Measure, chosen: str | None) -> str:
    """One measure twice, against bits per weight and against file size; the page shows the one that is chosen."""
    sizes = [record.file_bytes for record in rows if record.file_bytes is not None]
    unit, name = (_MIB * 1024, "GiB") if max(sizes, default=0) >= _MIB * 1024 else (_MIB, "MiB")
    axes: list[tuple[str, plot.Axis, Callable[[Record], float | None]]] = [
        ("bits", plot.Axis("bits per weight", _plain_number), lambda r: r.bits_per_weight),
        ("bytes", plot.Axis(f"file size, {name}", _plain_number), lambda r: r.file_bytes and r.file_bytes / unit),
    ]
    drawn, absent = [], []
    for kind, axis, cost in axes:
        points = _points(rows, measure, cost, chosen)
        shown = [point for point in points if not measure.axis.log or plot.positive(point.y)]
        absent = [point.label for point in points if point not in shown]
        if shown:
            svg = plot.scatter(shown, axis, measure.axis, f"{measure.name} against {axis.label}", measure.levels)
            drawn.append(f'<div class="{kind}">{svg}</div>')
    if not drawn:
        return ""
    note = f"; not positive, so not shown: {', '.join(absent)}" if absent else ""
    caption = f"{escape(measure.name)}<span>{escape(measure.caption + note)}</span>"
    return f"<figure><figcaption>{caption}</figcaption>{''.join(drawn)}</figure>"


def _points(
    rows: Sequence[Record], measure: _Measure, cost: Callable[[Record], float | None], chosen: str | None
) -> list[plot.Point]:
    front = fronts.front(rows, cost, measure.losses)
    groups = sorted(figures.reference_names(rows))
    points = []
    for record in rows:
        x, found = figures.known(cost(record)), measure.value(record)
        if x is None or found is None:
            continue
        name = text.plain(record.variant)
        error = f" ± {found.stderr:.3g}" if found.stderr else ""
        unsure = f"; {why_unsure(record, front)}" if record.variant in front.unsure else ""
        points.append(
            plot.Point(
                x,
                found.value,
                text.shorten(name, 22),
                f"{name}: {found.value:.5g}{error}, {_size(record)}{unsure}",
                None if found.stderr is None else _INTERVAL * found.stderr,
                record.variant in front,
                record.variant in front.unsure,
                record.variant == chosen,
                groups.index(record.reference) if record.reference in groups else 0,
            )
        )
    return points


def _size(record: Record) -> str:
    bits = figures.known(record.bits_per_weight)
    return text.size(record.file_bytes) + ("" if bits is None else f", {bits:.2f} bits per weight")


# --- the rest -------------------------------------------------------------------------------------------------------


def _accuracy_per_bit(rows: Sequence[Record]) -> str:
    means = figures.mean_recovery(rows)
    steps = {gain.larger: gain for gain in fronts.gains(rows)}
    shown = [record for record in rows if record.variant in means and figures.known(record.bits_per_weight) is not None]
    if len(shown) < 2:
        return ""
    losses = fronts.apart(fronts.recovery_losses, rows)
    front = fronts.front(rows, lambda record: record.bits_per_weight, losses)
    body = []
    for record in shown:
        mean, gain = means[record.variant], steps.get(record.variant)
        error = "" if mean.stderr is None else f"±{100 * mean.stderr:.1f}"
        step = cell("") * 3
        if gain is not None:
            unsure = gain.stderr is not None and abs(gain.per_bit) < _INTERVAL * gain.stderr
            unsure = unsure if gain.real is None else not gain.real
            step = cell(text.signed(100 * gain.per_bit, 2))
            step += cell("" if gain.stderr is None else f"±{100 * gain.stderr:.2f}", "err")
            step += cell(f"over {text.plain(gain.smaller)}{', not distinguishable' if unsure else ''}", "from")
        elif record.variant not in front:
            own = next(found for found in losses if record.variant in found.values)
            others = [other for other in shown if other.variant in own.values]
            step = f'<td class="from" colspan="3">{_beaten(record, others, own)}</td>'
        place = text.UNSURE if record.variant in front.unsure else text.PARETO
        sign = place if record.variant in front else ""
        body.append(
            f'<tr><th scope="row"><span class="sign">{sign}</span>{esc(record.variant)}</th>'
            f"<td>{record.bits_per_weight:.2f}</td><td>{100 * mean.value:.1f}</td>{cell(error, 'err')}{step}</tr>"
        )
    return (
        "<section><h2>Accuracy per bit</h2>"
        '<p class="note">Recovery is (score &minus; chance) / (reference &minus; chance), averaged over the tasks. The '
        "gain is what each further bit per weight adds, from one point of the Pareto set to the next, in points of "
        "recovery; its error is that of the paired difference. Plain accuracy divided by bits is not "
        "shown: half the bits hardly ever halve the accuracy, so that ratio crowns the smallest, however much it lost."
        "</p>"
        '<div class="scroll"><table class="narrow"><thead><tr><th scope="col">Variant</th>'
        '<th scope="col">Bits/weight</th><th scope="col" colspan="2">Recovery, %</th>'
        '<th scope="col" colspan="2">Gain per extra bit</th><th></th></tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _beaten(record: Record, rows: Sequence[Record], losses: fronts.Losses) -> str:
    """By which smaller variant a point off the Pareto set is beaten, and whether that is certain."""
    bits = record.bits_per_weight or 0.0
    smaller = [r for r in rows if (r.bits_per_weight or 0.0) <= bits and r.variant != record.variant]
    best = min(smaller, key=lambda r: losses.values[r.variant])
    lead = losses.lead(best.variant, record.variant)
    if lead is None:
        return f"no better than {esc(best.variant)}"
    return f"{'worse than' if lead.real else 'not distinguishable from'} {esc(best.variant)}, which is smaller"


def _failures(rows: Sequence[Record]) -> str:
    items = [
        f'<li><span class="sign {record.status}">{text.STATUS_SIGNS.get(record.status, "!")}</span>'
        f"<strong>{esc(record.variant)}</strong> {esc(record.status)}"
        + (f": <code>{esc(record.error)}</code>" if record.error else "")
        + "</li>"
        for record in rows
        if record.status != "ok" or record.error
    ]
    if not items:
        return ""
    title = "What failed or was skipped" if any(record.status == "skipped" for record in rows) else "What failed"
    return f'<section><h2>{title}</h2><ul class="failures">{"".join(items)}</ul></section>'


def _measured(settings: Mapping[str, object]) -> str:
    if not settings:
        return ""
    items = "".join(f"<dt>{esc(name)}</dt><dd>{esc(_setting(value))}</dd>" for name, value in settings.items())
    return f"<section><h2>How it was measured</h2><dl>{items}</dl></section>"


def _setting(value: object) -> str:
    if value is None:
        return text.MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_setting(item) for item in value)
    return str(value)
