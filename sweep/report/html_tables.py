"""The tables of the HTML report: size and fidelity, tasks, and every difference in full."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sweep import format as fmt
from sweep.analysis import figures, fronts
from sweep.record import Record, TaskScore


def esc(value: object) -> str:
    return escape(fmt.plain(value))


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
    return _Column(head, 1, [cell(None if number is None else write(number)) for number in found])


def cell(content: str | None, kind: str = "", told: str = "") -> str:
    """`told` is read on hover."""
    opening = "<td" + (f' class="{kind}"' if kind else "") + (f' title="{escape(told)}"' if told else "") + ">"
    return f"{opening}{fmt.MISSING if content is None else escape(content)}</td>"


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
        number = cell(None if found is None else fmt.fixed(found.value * scale, decimals))
        cells.append(number + cell("" if error is None else f"±{error * scale:.{decimals}f}", "err"))
    return _Column(head, 2, cells)


def _table(
    rows: Sequence[Record], columns: Sequence[_Column], chosen: str | None, caption: str, front: fronts.Front
) -> str:
    heads = "".join(
        f'<th scope="col"{f" colspan={c.span}" if c.span > 1 else ""}>{escape(c.head)}</th>' for c in columns
    )
    body = []
    for i, record in enumerate(rows):
        kind = "chosen" if record.variant == chosen else "off" if record.status in fmt.UNMEASURED else ""
        cells = "".join(column.cells[i] for column in columns)
        opening = f'<tr class="{kind}">' if kind else "<tr>"
        body.append(f'{opening}<th scope="row">{_sign(record, front, chosen)}{esc(record.variant)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">Variant</th>{heads}'
        f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<p class="caption">{escape(caption)}</p>'
    )


def _sign(record: Record, front: fronts.Front, chosen: str | None) -> str:
    if record.status in fmt.STATUS_SIGNS:
        return f'<span class="sign {record.status}" title="{record.status}">{fmt.STATUS_SIGNS[record.status]}</span>'
    if record.variant == chosen:
        return f'<span class="sign" title="recommended">{fmt.CHOSEN}</span>'
    if record.variant in front.unsure:
        return f'<span class="sign" title="{esc(fronts.why_unsure(record, front))}">{fmt.UNSURE}</span>'
    if record.variant in front:
        return f'<span class="sign" title="on the Pareto set">{fmt.PARETO}</span>'
    return '<span class="sign"></span>'


def fidelity_section(rows: Sequence[Record], chosen: str | None, overall: tuple[fronts.Front, str]) -> str:
    if not rows:
        return '<p class="note">No variant in this sweep.</p>'
    divergences = [found for record in rows if (found := figures.kld(record))]
    errors = [error for found in divergences if (error := figures.known(found.stderr))]
    kld_decimals = fmt.decimals_with_errors([found.value for found in divergences], errors, least=3)
    tails = [r.divergence.kld_p99_9 for r in rows if r.divergence and figures.known(r.divergence.kld_p99_9) is not None]
    tail_decimals = fmt.decimals_for(tails, least=3, most=5)
    largest = max((found.value for record in rows if (found := figures.perplexity(record))), default=0.0)
    columns = [
        _number(rows, "Bits/weight", lambda r: r.bits_per_weight, "{:.2f}".format),
        _number(rows, "File", lambda r: r.file_bytes, fmt.size),
        _number(rows, "Memory", lambda r: need[0] if (need := figures.memory(r)) else None, fmt.size),
        _with_error(rows, "Perplexity", figures.perplexity, 4 if largest < 1000 else 2),
        _with_error(rows, "KL divergence", figures.kld, kld_decimals),
        _number(
            rows,
            "KLD 99.9 %",
            lambda r: r.divergence.kld_p99_9 if r.divergence else None,
            lambda value: fmt.fixed(value, tail_decimals),
        ),
        _number(
            rows,
            "Same top token",
            lambda r: r.divergence.top1_agreement if r.divergence else None,
            lambda value: f"{100 * value:.2f} %",
        ),
        _number(rows, "Prompt t/s", lambda r: r.speed.prompt_tokens_per_s if r.speed else None, fmt.rate),
        _number(rows, "Decode t/s", lambda r: r.speed.decode_tokens_per_s if r.speed else None, fmt.rate),
    ]
    columns = [column for column in columns if any(f"<td>{fmt.MISSING}</td>" not in cell for cell in column.cells)]
    front, measure = overall
    signs = f"{fmt.CHOSEN} recommended. " if chosen else ""
    signs += f"{fmt.PARETO} Pareto set: no variant is both smaller and better ({measure}). " if front.variants else ""
    if front.unsure:
        signs += f"{fmt.UNSURE} on it, but not distinguishable (95 %, paired) from the next smaller {fmt.PARETO}. "
    caption = f"{signs}± is one standard error; KL divergence in nats per token against the reference."
    return f"<h2>Size, fidelity, speed</h2>{_table(rows, columns, chosen, caption, front)}"


def tasks_section(rows: Sequence[Record], chosen: str | None, front: fronts.Front) -> str:
    tasks = figures.task_names(rows)
    if not tasks:
        return ""
    tests, means, scales = figures.task_tests(rows), figures.mean_recovery(rows), figures.task_scales(rows)
    columns = []
    if len(means) > 1:
        columns.append(_with_error(rows, "Mean recovery, %", lambda r: means.get(r.variant), 1, 100))
    for task in tasks:
        cells = [_task_cells(record, task, tests.get((record.variant, task)), scales[task]) for record in rows]
        columns.append(_Column(fmt.plain(task) + (", %" if scales[task] == 100 else ""), 4, cells))
    base = figures.compared_with(rows)
    caption = f"Score and difference to {base}, ± the paired standard error. {fmt.LOSS} significant loss, "
    caption += (
        f"{fmt.GAIN} significant gain: exact McNemar, Holm-corrected over {len(tests)} tests, every variant on every "
        f"task, at {figures.ALPHA:g}. {' '.join(figures.clustered(rows))}"
    )
    if len(means) > 1:
        caption += f" Recovery: score above chance as a share of {base}'s."
    shown = _table(rows, columns, chosen, caption if tests else "Scores; nothing was compared.", front)
    return f"<h2>Tasks</h2>{shown}{_task_details(rows, tests, scales)}"


def _task_details(
    rows: Sequence[Record], tests: Mapping[tuple[str, str], figures.TaskTest], scales: Mapping[str, int]
) -> str:
    """Every difference in full, folded away: intervals, p before and after Holm, flips, answers changed."""
    if not tests:
        return ""
    named = {record.variant: record for record in rows}
    golden = any(named[variant].tasks[task].gold_delta is not None for variant, task in tests)
    body = "".join(
        _detail(named[variant].tasks[task], test, scales[task], golden=golden)
        for (variant, task), test in tests.items()
    )
    heads = ["Difference", "95 % interval", "p", "Holm p", "Flips, %", "Answers changed, %", "Items"]
    heads += ["Right choice's probability, points"] if golden else []
    return (
        '<details><summary>Every difference in full</summary><div class="scroll"><table class="narrow"><thead><tr>'
        '<th scope="col">Variant</th><th scope="col" class="from">Task</th>'
        + "".join(f'<th scope="col">{head}</th>' for head in heads)
        + f"</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="caption">Differences to {esc(figures.compared_with(rows))} over the same items. '
        "Intervals are of 95 %, each alone; "
        f"Holm p is corrected over all {len(tests)} tests. Flips: items whose score changed. Answers changed: from one "
        "wrong answer to another too.</p></details>"
    )


def _detail(score: TaskScore, test: figures.TaskTest, scale: int, *, golden: bool) -> str:
    decimals = 1 if scale == 100 else 3
    kind = "loss" if test.loss() else "gain" if test.gain() else ""
    interval = None if test.interval is None else fmt.interval(*test.interval, decimals, scale)
    cells = [
        cell(fmt.signed(test.delta * scale, decimals), kind),
        cell(interval),
        cell(fmt.chance(test.p_value)),
        cell(fmt.chance(test.adjusted), kind),
        cell(None if score.flips is None else f"{100 * score.flips:.1f}"),
        cell(None if score.answers_changed is None else f"{100 * score.answers_changed:.1f}"),
        cell(f"{score.n:,}" + (f" in {score.clusters} subjects" if score.clusters else "")),
    ]
    if golden:
        delta, stderr = figures.known(score.gold_delta), figures.known(score.gold_delta_stderr)
        missing = delta is None or stderr is None
        cells.append(cell(None if missing else f"{fmt.signed(100 * (delta or 0.0), 2)} ±{100 * (stderr or 0.0):.2f}"))
    return f'<tr><th scope="row">{esc(test.variant)}</th><td class="from">{esc(test.task)}</td>{"".join(cells)}</tr>'


def _task_cells(record: Record, task: str, test: figures.TaskTest | None, scale: int) -> str:
    score = record.tasks.get(task)
    value = figures.known(score.value) if score else None
    if score is None or value is None:
        return cell(None) + "<td></td>" * 3
    decimals = 1 if scale == 100 else 3
    delta, stderr = figures.known(score.delta), figures.known(score.delta_stderr)
    kind = "loss" if test and test.loss() else "gain" if test and test.gain() else ""
    mark = {"loss": fmt.LOSS, "gain": fmt.GAIN, "": ""}[kind]
    return (
        cell(fmt.fixed(value * scale, decimals))
        + cell(
            "" if delta is None else fmt.signed(delta * scale, decimals),
            f"delta {kind}".strip(),
            _told(score, test, scale, decimals) if test else "",
        )
        + cell("" if delta is None or stderr is None else f"±{stderr * scale:.{decimals}f}", "err")
        + cell(mark, f"mark {kind}".strip())
    )


def _told(score: TaskScore, test: figures.TaskTest, scale: int, decimals: int) -> str:
    """A difference in words: its interval, its p after Holm, how many answers changed."""
    parts = []
    if test.interval is not None:
        parts.append(f"95 % interval {fmt.interval(*test.interval, decimals, scale)}")
    parts.append(f"Holm-corrected p {fmt.equals(test.adjusted)}")
    if score.answers_changed is not None:
        parts.append(f"{100 * score.answers_changed:.1f} % of answers changed")
    verdict = "a loss" if test.loss() else "a gain" if test.gain() else "not distinguishable from none"
    return f"{verdict}: {', '.join(parts)}"
