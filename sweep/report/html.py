"""The sweep as one HTML file that asks nothing of the network: no scripts, no fonts, no images but inline SVG.

Every name and message is escaped; a model may be called `<script>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from converters.atomic import write_text
from sweep import format as fmt
from sweep.analysis import figures, fronts
from sweep.analysis.plots import Measure, costs, measures, points
from sweep.analysis.recommend import Recommendation, recommend
from sweep.analysis.trust import trust_notes
from sweep.record import Record
from sweep.report import svg
from sweep.report.html_tables import cell, esc, fidelity_section, tasks_section
from sweep.report.style import CSS

_INTERVAL = 1.96  # half of a 95 % interval, in standard errors


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
    page = render_html(records, settings, recommendation or recommend(records))
    write_text(path, page, "choose another --html FILE")
    return path


def render_html(records: Sequence[Record], settings: Mapping[str, object], recommendation: Recommendation) -> str:
    """The whole page. The order of `records` does not matter: rows go from fewest to most bits per weight."""
    rows = figures.by_size(records)
    model, run = settings.get("model"), settings.get("run")
    title = f"{fmt.plain(model)}: which bit width to run" if model else "Which bit width to run"
    front = fronts.overall(rows)
    sections = [
        _verdict(recommendation),
        *(f'<p class="note">{esc(note)}</p>' for note in trust_notes(rows)),
        fidelity_section(rows, recommendation.variant, front),
        tasks_section(rows, recommendation.variant, front[0]),
        _plots(rows, recommendation.variant),
        _accuracy_per_bit(rows),
        _failures(rows),
        measured_section(settings),
    ]
    above = " · ".join(part for part in ("bitsweep", f"run {esc(run)}" if run else "") if part)
    return page(title, above, sections)


def page(title: str, above: str, sections: Sequence[str]) -> str:
    """A whole page of those sections that are not empty; `above` the title stands HTML, the title is escaped here."""
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


def _plots(rows: Sequence[Record], chosen: str | None) -> str:
    drawn = [_figure(rows, measure, chosen) for measure in measures(rows)]
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


def _figure(rows: Sequence[Record], measure: Measure, chosen: str | None) -> str:
    """One measure twice, against bits per weight and against file size; the page shows the one that is chosen."""
    drawn, absent = [], []
    for cost in costs(rows)[:2]:
        found = points(rows, measure, cost, chosen)
        shown = [point for point in found if not measure.axis.log or svg.positive(point.y)]
        absent = [point.label for point in found if point not in shown]
        if shown:
            name = f"{measure.name} against {cost.axis.label}"
            drawing = svg.scatter(shown, cost.axis, measure.axis, name, measure.levels)
            drawn.append(f'<div class="{cost.name}">{drawing}</div>')
    if not drawn:
        return ""
    note = f"; not positive, so not shown: {', '.join(absent)}" if absent else ""
    caption = f"{escape(measure.name)}<span>{escape(measure.caption + note)}</span>"
    return f"<figure><figcaption>{caption}</figcaption>{''.join(drawn)}</figure>"


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
            step = cell(fmt.signed(100 * gain.per_bit, 2))
            step += cell("" if gain.stderr is None else f"±{100 * gain.stderr:.2f}", "err")
            step += cell(f"over {fmt.plain(gain.smaller)}{', not distinguishable' if unsure else ''}", "from")
        elif record.variant not in front:
            own = next(found for found in losses if record.variant in found.values)
            others = [other for other in shown if other.variant in own.values]
            step = f'<td class="from" colspan="3">{_beaten(record, others, own)}</td>'
        place = fmt.UNSURE if record.variant in front.unsure else fmt.PARETO
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
        f'<li><span class="sign {record.status}">{fmt.STATUS_SIGNS.get(record.status, "!")}</span>'
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


def measured_section(settings: Mapping[str, object]) -> str:
    """How it was measured: names and values in their order."""
    if not settings:
        return ""
    items = "".join(f"<dt>{esc(name)}</dt><dd>{esc(_setting(value))}</dd>" for name, value in settings.items())
    return f"<section><h2>How it was measured</h2><dl>{items}</dl></section>"


def _setting(value: object) -> str:
    if value is None:
        return fmt.MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_setting(item) for item in value)
    return str(value)
