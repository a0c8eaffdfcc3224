"""The text next to the plot: details of a variant, gain per bit, and notes on what to trust."""

from __future__ import annotations

from rich.text import Text

from sweep import format as fmt
from sweep.analysis import figures
from sweep.record import Record, Speed
from sweep.report.ptq_study import perplexity_text
from tui.state.results import Results
from tui.theme import Palette


def details(results: Results, variant: str, colours: Palette) -> Text:
    """All figures of a variant, then the gains and notes of the run."""
    row = results.row(variant)
    lines = [] if row is None else _variant(results, row, colours)
    lines += _per_bit(results, colours) + _notes(results, colours)
    return Text("\n").join(lines)


def _head(words: str, colours: Palette) -> Text:
    return Text(words, colours.accent)


def _pair(name: str, value: str, colours: Palette) -> Text:
    return Text.assemble((f"{name:<12}", colours.soft), (value, colours.ink))


def _variant(results: Results, row: Record, colours: Palette) -> list[Text]:
    lines = [_head(fmt.plain(row.variant), colours)]
    if row.status != "ok":
        lines.append(Text(f"{fmt.STATUS_SIGNS.get(row.status, '!')} {row.status}", colours.warn))
    if row.error:
        lines.append(Text(fmt.plain(row.error), colours.bad))
    lines += [Text(f"{fmt.IMPLAUSIBLE} implausible: {reason}", colours.warn) for reason in row.implausible]
    bits = figures.finite(row.bits_per_weight)
    lines.append(_pair("file", fmt.size(row.file_bytes) + ("" if bits is None else f", {bits:.3f} bpw"), colours))
    if row.projector is not None:
        name, size = fmt.plain(row.projector.name), fmt.size(row.projector.file_bytes)
        lines.append(_pair("projector", f"{size}, {name}; {fmt.size(row.projector.memory_bytes)} of memory", colours))
    memory = row.memory
    parts = [f"{fmt.size(memory.predicted_bytes)} predicted"] if memory.predicted_bytes is not None else []
    parts += [f"{fmt.size(memory.measured_bytes)} measured"] if memory.measured_bytes is not None else []
    if parts:
        lines.append(_pair("memory", ", ".join(parts), colours))
    if row.kind == "gguf" and row.kv_type != "f16":
        lines.append(_pair("KV cache", row.kv_type, colours))
    lines += _text_figures(row, colours)
    if row.speed is not None:
        lines += _speed(row.speed, colours)
    for depth, speed in row.speed_at_depth.items():
        rates = f"prompt {fmt.rate(speed.prompt_tokens_per_s)}, decode {fmt.rate(speed.decode_tokens_per_s)} t/s"
        lines.append(_pair(f"at {int(depth):,}", rates, colours))
    scales = figures.task_scales(results.rows)
    for task, score in row.tasks.items():
        lines += (
            _task(results, row.variant, task, scales[task], colours) if figures.finite(score.value) is not None else []
        )
    lines += _study(row, colours)
    if row.worse_than_rounding is not None:
        plain = fmt.plain(row.worse_than_rounding)
        lines.append(Text(f"{fmt.LOSS} loses more than {plain}, plain rounding", colours.warn))
    reason = results.choice.why_not(row.variant) if results.choice else ""
    if results.choice is not None and results.choice.variant == row.variant:
        lines.append(Text(f"{fmt.CHOSEN} recommended", colours.good))
    if reason:
        lines.append(Text(f"not chosen: it {fmt.plain(reason)}", colours.soft))
    return [*lines, Text()]


def _speed(speed: Speed, colours: Palette) -> list[Text]:
    """Both speeds with the ranges of their timings, and why they are unstable."""
    kinds = (
        ("prompt t/s", speed.prompt_tokens_per_s, fmt.rate_range(speed.prompt_low, speed.prompt_high)),
        ("decode t/s", speed.decode_tokens_per_s, fmt.rate_range(speed.decode_low, speed.decode_high)),
    )
    sign = fmt.UNSTABLE if speed.unstable else ""
    lines = [
        _pair(name, f"{sign}{fmt.rate(median)}" + ("" if spread is None else f" ({spread})"), colours)
        for name, median, spread in kinds
    ]
    return lines + [
        Text(f"{fmt.UNSTABLE} unstable speed: {fmt.plain(reason)}", colours.warn) for reason in speed.unstable_reasons
    ]


def _study(row: Record, colours: Palette) -> list[Text]:
    """The figures of a published study for the same model, method and bits."""
    if row.study is None:
        return []
    texts = (("WikiText-2", row.study.wikitext2), ("C4", row.study.c4))
    perplexities = [f"{perplexity_text(value)} {name}" for name, value in texts if value is not None]
    scores = [f"{fmt.plain(task)} {score:.1f}" for task, score in row.study.tasks.items() if task in row.tasks]
    lines = [f"PPL {', '.join(perplexities)}"] if perplexities else []
    lines += [", ".join(scores)] if scores else []
    return [_pair("" if at else "study", line, colours) for at, line in enumerate(lines or ["no perplexity"])]


def _text_figures(row: Record, colours: Palette) -> list[Text]:
    lines = []
    if row.divergence is not None:
        found = row.divergence
        digits = fmt.decimals_for([found.kld_mean, found.kld_stderr], most=6)
        lines.append(_pair("KLD", f"{fmt.fixed(found.kld_mean, digits)} ± {found.kld_stderr:.{digits}f} nats", colours))
        lines.append(_pair("KLD 99.9%", f"{fmt.small(found.kld_p99_9)}, max {fmt.small(found.kld_max)}", colours))
        lines.append(_pair("top-1", f"{100 * found.top1_agreement:.2f} % same top token", colours))
    if row.perplexity is not None:
        own = row.perplexity
        lines.append(_pair("perplexity", f"{own.value:.4f} ± {own.stderr:.4f} over {own.tokens:,} tokens", colours))
    if "text" in row.stopping:
        part = row.stopping["text"]
        why = part.stopped or "not finished"
        lines.append(_pair("measured", f"{part.samples:,} of {part.of:,} windows: {why}", colours))
    return lines


def _task(results: Results, variant: str, task: str, scale: int, colours: Palette) -> list[Text]:
    row = results.row(variant)
    assert row is not None
    score, test = row.tasks[task], results.tests.get((variant, task))
    digits = 1 if scale == 100 else 3
    line = _pair(fmt.shorten(fmt.plain(task), 11), fmt.fixed(score.value * scale, digits), colours)
    if test is not None:
        line.append(f" {fmt.signed(test.delta * scale, digits)}", colours.ink)
        error = figures.finite(test.delta_stderr)
        line.append("" if error is None else f" ±{error * scale:.{digits}f}", colours.soft)
        line.append(f" p {test.p_relation}", colours.soft)
        if test.is_loss():
            line.append(f" {fmt.LOSS} loss", colours.bad)
        elif test.is_gain():
            line.append(f" {fmt.GAIN} gain", colours.good)
    part = row.stopping.get(task)
    if part is None or part.samples == part.of:
        return [line]
    return [line, _pair("", f"{part.samples:,} of {part.of:,} items: {part.stopped}", colours)]


def which_to_run(results: Results, colours: Palette) -> Text:
    """The whole recommendation, which does not fit on a narrow screen."""
    words = (
        f"{results.choice.reason} {results.asked}".rstrip()
        if results.choice
        else "Only one variant: nothing to choose between."
    )
    return Text("\n").join([_head("Which variant to run", colours), Text(fmt.plain(words), colours.ink)])


def _per_bit(results: Results, colours: Palette) -> list[Text]:
    """The gain in recovery per extra bit per weight, along the Pareto set."""
    if not results.gains:
        return []
    lines = [_head("Gain per bit", colours)]
    words = f"recovery points per extra bit per weight; {fmt.NO_DIFFERENCE} indistinguishable from 0"
    lines.append(Text(words, colours.faint))
    for gain in results.gains:
        error = "" if gain.stderr is None else f" ±{100 * gain.stderr:.1f}"
        mark = "" if gain.significant is None else f" {fmt.GAIN}" if gain.significant else f" {fmt.NO_DIFFERENCE}"
        steps = f"{fmt.plain(gain.smaller)} → {fmt.plain(gain.larger)}"
        lines.append(
            Text.assemble(
                (f"{fmt.shorten(steps, 20):<20} ", colours.soft),
                (fmt.signed(100 * gain.per_bit, 1), colours.ink),
                (error, colours.soft),
                (mark, colours.good if gain.significant else colours.faint),
            )
        )
    return [*lines, Text()]


def _notes(results: Results, colours: Palette) -> list[Text]:
    if not results.notes:
        return []
    return [_head("What to trust", colours), *(Text(fmt.plain(note), colours.soft) for note in results.notes)]
