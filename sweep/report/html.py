"""The sweep as one HTML file that asks nothing of the network: no scripts, no fonts, no images but inline SVG.

Every name and message is escaped; a model may be called `<script>`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

from converters.errors import InputError
from sweep.record import Record
from sweep.report import figures, plot, text
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
    sections = [
        _verdict(recommendation),
        *(f'<p class="note">{_esc(note)}</p>' for note in trust_notes(rows)),
        _fidelity(rows, recommendation.variant),
        _tasks(rows, recommendation.variant),
        _plots(rows, recommendation.variant),
        _accuracy_per_bit(rows),
        _failures(rows),
        _measured(settings),
    ]
    above = " · ".join(part for part in ("bitsweep", f"run {_esc(run)}" if run else "") if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_esc(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<header><p>{above}</p><h1>{_esc(title)}</h1></header>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _esc(value: object) -> str:
    return escape(text.plain(value))


def _verdict(recommendation: Recommendation) -> str:
    kind = "verdict" if recommendation.variant is not None else "verdict none"
    sentence = _esc(recommendation.sentence)
    if recommendation.variant is not None:
        name = _esc(recommendation.variant)
        sentence = sentence.replace(name, f"<strong>{name}</strong>", 1)
    return f'<section class="{kind}"><p>{sentence}</p></section>'


# --- tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """A head over one or more cells of every row; `cells` holds their HTML, <td> included."""

    head: str
    span: int
    cells: list[str]


def _number(
    rows: Sequence[Record], head: str, value: Callable[[Record], float | None], write: Callable[[float], str]
) -> _Column:
    found = [figures.known(value(record)) for record in rows]
    return _Column(head, 1, [_cell(None if number is None else write(number)) for number in found])


def _cell(content: str | None, kind: str = "") -> str:
    opening = f'<td class="{kind}">' if kind else "<td>"
    return f"{opening}{text.MISSING if content is None else escape(content)}</td>"


def _with_error(
    rows: Sequence[Record],
    head: str,
    value: Callable[[Record], figures.Figure | None],
    decimals: int,
    scale: float = 1.0,
) -> _Column:
    cells = []
    for found in map(value, rows):
        error = None if found is None else found.stderr
        number = _cell(None if found is None else text.fixed(found.value * scale, decimals))
        cells.append(number + _cell("" if error is None else f"±{error * scale:.{decimals}f}", "err"))
    return _Column(head, 2, cells)


def _table(rows: Sequence[Record], columns: Sequence[_Column], chosen: str | None, caption: str) -> str:
    front, _ = figures.overall_pareto(rows)
    heads = "".join(
        f'<th scope="col"{f" colspan={c.span}" if c.span > 1 else ""}>{escape(c.head)}</th>' for c in columns
    )
    body = []
    for i, record in enumerate(rows):
        kind = "chosen" if record.variant == chosen else "off" if record.status in ("failed", "pending") else ""
        cells = "".join(column.cells[i] for column in columns)
        opening = f'<tr class="{kind}">' if kind else "<tr>"
        body.append(f'{opening}<th scope="row">{_sign(record, front, chosen)}{_esc(record.variant)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">Variant</th>{heads}'
        f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<p class="caption">{escape(caption)}</p>'
    )


def _sign(record: Record, front: set[str], chosen: str | None) -> str:
    if record.status in text.STATUS_SIGNS:
        return f'<span class="sign {record.status}" title="{record.status}">{text.STATUS_SIGNS[record.status]}</span>'
    if record.variant == chosen:
        return f'<span class="sign" title="recommended">{text.CHOSEN}</span>'
    if record.variant in front:
        return f'<span class="sign" title="on the Pareto set">{text.PARETO}</span>'
    return '<span class="sign"></span>'


def _fidelity(rows: Sequence[Record], chosen: str | None) -> str:
    if not rows:
        return '<p class="note">No variant in this sweep.</p>'
    divergences = [found.value for record in rows if (found := figures.kld(record))]
    tails = [r.divergence.kld_p99_9 for r in rows if r.divergence and figures.known(r.divergence.kld_p99_9) is not None]
    kld_decimals, tail_decimals = text.decimals_for(divergences, least=3), text.decimals_for(tails, least=3, most=5)
    largest = max((found.value for record in rows if (found := figures.perplexity(record))), default=0.0)
    columns = [
        _number(rows, "Bits/weight", lambda r: r.bits_per_weight, "{:.2f}".format),
        _number(rows, "File", lambda r: r.file_bytes, text.size),
        _number(rows, "Memory", lambda r: need[0] if (need := figures.memory(r)) else None, text.size),
        _with_error(rows, "Perplexity", figures.perplexity, 4 if largest < 1000 else 2),
        _with_error(rows, "KL divergence", figures.kld, kld_decimals),
        _number(
            rows,
            "KLD 99.9 %",
            lambda r: r.divergence.kld_p99_9 if r.divergence else None,
            lambda value: text.fixed(value, tail_decimals),
        ),
        _number(
            rows,
            "Same top token",
            lambda r: r.divergence.top1_agreement if r.divergence else None,
            lambda value: f"{100 * value:.2f} %",
        ),
        _number(rows, "Prompt t/s", lambda r: r.speed.prompt_tokens_per_s if r.speed else None, text.rate),
        _number(rows, "Decode t/s", lambda r: r.speed.decode_tokens_per_s if r.speed else None, text.rate),
    ]
    columns = [column for column in columns if any(f"<td>{text.MISSING}</td>" not in cell for cell in column.cells)]
    front, measure = figures.overall_pareto(rows)
    signs = f"{text.CHOSEN} recommended. " if chosen else ""
    signs += f"{text.PARETO} Pareto set: no variant is both smaller and better ({measure}). " if front else ""
    caption = f"{signs}± is one standard error; KL divergence in nats per token against the reference."
    return f"<h2>Size, fidelity, speed</h2>{_table(rows, columns, chosen, caption)}"


def _tasks(rows: Sequence[Record], chosen: str | None) -> str:
    tasks = figures.task_names(rows)
    if not tasks:
        return ""
    tests, means, scales = figures.task_tests(rows), figures.mean_recovery(rows), figures.task_scales(rows)
    columns = []
    if len(means) > 1:
        columns.append(_with_error(rows, "Mean recovery, %", lambda r: means.get(r.variant), 1, 100))
    for task in tasks:
        cells = [_task_cells(record, task, tests.get((record.variant, task)), scales[task]) for record in rows]
        columns.append(_Column(text.plain(task) + (", %" if scales[task] == 100 else ""), 4, cells))
    caption = f"Score and difference to the reference, ± the paired standard error. {text.LOSS} significant loss, "
    caption += (
        f"{text.GAIN} significant gain: exact McNemar, Holm-corrected over {len(tests)} tests at {figures.ALPHA:g}."
    )
    if len(means) > 1:
        caption += " Recovery: score above chance as a share of the reference's."
    return f"<h2>Tasks</h2>{_table(rows, columns, chosen, caption if tests else 'Scores; nothing was compared.')}"


def _task_cells(record: Record, task: str, test: figures.TaskTest | None, scale: int) -> str:
    score = record.tasks.get(task)
    value = figures.known(score.value) if score else None
    if score is None or value is None:
        return _cell(None) + "<td></td>" * 3
    decimals = 1 if scale == 100 else 3
    delta, stderr = figures.known(score.delta), figures.known(score.delta_stderr)
    kind = "loss" if test and test.loss() else "gain" if test and test.gain() else ""
    mark = {"loss": text.LOSS, "gain": text.GAIN, "": ""}[kind]
    return (
        _cell(text.fixed(value * scale, decimals))
        + _cell("" if delta is None else text.signed(delta * scale, decimals), f"delta {kind}".strip())
        + _cell("" if delta is None or stderr is None else f"±{stderr * scale:.{decimals}f}", "err")
        + _cell(mark, f"mark {kind}".strip())
    )


# --- plots ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measure:
    """One y axis: how a record's figure is found, which of them are best for their cost, what line goes along."""

    name: str
    caption: str
    value: Callable[[Record], figures.Figure | None]
    front: Callable[[Callable[[Record], float | None]], set[str]]
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
        "Hollow points are beaten by another. Bars are 95 % intervals. The ring marks the recommendation.</p>"
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
            partial(figures.kld_pareto, rows),
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
            lambda cost: figures.pareto(
                rows, cost, lambda r: found.value if (found := figures.perplexity(r)) else None
            ),
            plot.Axis("", _plain_number),
            _levels(rows, names, figures.perplexity),
        ),
    ]
    if len(means) > 1:
        recovered = _Measure(
            "Mean recovery",
            "score above chance kept, % of the reference, mean over tasks",
            lambda r: _scaled(means.get(r.variant), 100),
            partial(figures.recovery_pareto, rows),
            plot.Axis("", _plain_number),
            [plot.Level(100.0)],
        )
        found.insert(0, recovered)
    scales = figures.task_scales(rows)
    return found + [_task_measure(rows, names, task, scales[task]) for task in figures.task_names(rows)]


def _task_measure(rows: Sequence[Record], names: set[str], task: str, scale: int) -> _Measure:
    first = next(score for record in rows if (score := record.tasks.get(task)))
    sign = -1.0 if first.higher_is_better else 1.0
    unit = ", %" if scale == 100 else ", less is better" if sign > 0 else ""

    def value(record: Record) -> figures.Figure | None:
        """The score with the error of its paired difference; its own error where it was compared with nothing."""
        score = record.tasks.get(task)
        if score is None:
            return None
        stderr = score.stderr if score.delta_stderr is None else score.delta_stderr
        return _scaled(figures.figure(score.value, 0.0 if record.variant in names else stderr), scale)

    def front(cost: Callable[[Record], float | None]) -> set[str]:
        return figures.pareto(rows, cost, lambda r: sign * found.value if (found := value(r)) else None)

    caption = f"{text.plain(first.metric)}{unit}; bars: the paired difference to the reference"
    return _Measure(text.plain(task), caption, value, front, plot.Axis("", _plain_number), _levels(rows, names, value))


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
    front = measure.front(cost)
    groups = sorted(figures.reference_names(rows))
    points = []
    for record in rows:
        x, found = figures.known(cost(record)), measure.value(record)
        if x is None or found is None:
            continue
        name = text.plain(record.variant)
        error = f" ± {found.stderr:.3g}" if found.stderr else ""
        points.append(
            plot.Point(
                x,
                found.value,
                text.shorten(name, 22),
                f"{name}: {found.value:.5g}{error}, {_size(record)}",
                None if found.stderr is None else _INTERVAL * found.stderr,
                record.variant in front,
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
    steps = {gain.larger: gain for gain in figures.gains(rows)}
    shown = [record for record in rows if record.variant in means and figures.known(record.bits_per_weight) is not None]
    if len(shown) < 2:
        return ""
    front = figures.recovery_pareto(rows, lambda record: record.bits_per_weight)
    body = []
    for record in shown:
        mean, gain = means[record.variant], steps.get(record.variant)
        error = "" if mean.stderr is None else f"±{100 * mean.stderr:.1f}"
        step = _cell("") * 3
        if gain is not None:
            unsure = gain.stderr is not None and abs(gain.per_bit) < _INTERVAL * gain.stderr
            step = _cell(text.signed(100 * gain.per_bit, 2))
            step += _cell("" if gain.stderr is None else f"±{100 * gain.stderr:.2f}", "err")
            step += _cell(f"over {text.plain(gain.smaller)}{', not distinguishable from 0' if unsure else ''}", "from")
        elif record.variant not in front:
            step = '<td class="from" colspan="3">no better than a smaller variant</td>'
        sign = text.PARETO if record.variant in front else ""
        body.append(
            f'<tr><th scope="row"><span class="sign">{sign}</span>{_esc(record.variant)}</th>'
            f"<td>{record.bits_per_weight:.2f}</td><td>{100 * mean.value:.1f}</td>{_cell(error, 'err')}{step}</tr>"
        )
    return (
        "<section><h2>Accuracy per bit</h2>"
        '<p class="note">Recovery is (score &minus; chance) / (reference &minus; chance), averaged over the tasks. The '
        "gain is what each further bit per weight adds, from one point of the Pareto set to the next, in points of "
        "recovery; its error takes both ends as independent and so errs high. Plain accuracy divided by bits is not "
        "shown: half the bits hardly ever halve the accuracy, so that ratio crowns the smallest, however much it lost."
        "</p>"
        '<div class="scroll"><table class="narrow"><thead><tr><th scope="col">Variant</th>'
        '<th scope="col">Bits/weight</th><th scope="col" colspan="2">Recovery, %</th>'
        '<th scope="col" colspan="2">Gain per extra bit</th><th></th></tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _failures(rows: Sequence[Record]) -> str:
    items = [
        f'<li><span class="sign {record.status}">{text.STATUS_SIGNS.get(record.status, "!")}</span>'
        f"<strong>{_esc(record.variant)}</strong> {_esc(record.status)}"
        + (f": <code>{_esc(record.error)}</code>" if record.error else "")
        + "</li>"
        for record in rows
        if record.status != "ok" or record.error
    ]
    if not items:
        return ""
    return f'<section><h2>What failed</h2><ul class="failures">{"".join(items)}</ul></section>'


def _measured(settings: Mapping[str, object]) -> str:
    if not settings:
        return ""
    items = "".join(f"<dt>{_esc(name)}</dt><dd>{_esc(_setting(value))}</dd>" for name, value in settings.items())
    return f"<section><h2>How it was measured</h2><dl>{items}</dl></section>"


def _setting(value: object) -> str:
    if value is None:
        return text.MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_setting(item) for item in value)
    return str(value)
