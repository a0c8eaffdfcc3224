"""The figures of a record that every table of a sweep shows, in HTML, terminal and screen; one entry per figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sweep import format as fmt
from sweep.analysis import figures
from sweep.analysis.figures import Figure, figure
from sweep.record import Record, Speech, Value


@dataclass(frozen=True)
class FigureColumn:
    """One figure: its heading in HTML (`head`) and in the terminal (`short`), and how its values are written.

    Values are written by `write`, or with the number of decimals that `decimals` computes from all values of the column
    and their errors. In a narrow terminal, columns with a low `priority` are dropped first. If `error_priority` is
    given, the standard error has a column of its own with that priority. `spread` gives what that column shows instead
    of the standard error, `mark` a sign before the value.
    """

    head: str
    short: str
    priority: float
    value: Callable[[Record], Figure | None]
    write: Callable[[float], str] | None = None
    decimals: Callable[[list[float], list[float]], int] = fmt.decimals_with_errors
    error_priority: float | None = None
    spread: Callable[[Record], str | None] | None = None
    mark: Callable[[Record], str] = lambda _record: ""

    def with_sign(self, error: str) -> str:
        """What stands beside a value: ±0.02, or a range in brackets."""
        return f"±{error}" if self.spread is None else f"({error})"

    def texts(self, rows: Sequence[Record]) -> tuple[list[str | None], list[str | None]]:
        """The values and the errors of all rows as text, None for a missing one."""
        found = [self.value(record) for record in rows]
        values = [None if one is None else one.value for one in found]
        errors = [None if one is None else one.stderr for one in found]
        decimals = self.decimals([v for v in values if v is not None], [e for e in errors if e])
        write = self.write or partial(fmt.fixed, decimals=decimals)
        marks = [self.mark(record) for record in rows]
        return (
            [None if v is None else mark + write(v) for mark, v in zip(marks, values, strict=True)],
            [self.spread(record) for record in rows]
            if self.spread is not None
            else [None if e is None else write(e) for e in errors],
        )


def unstable_mark(record: Record) -> str:
    """The sign before the speeds of a record: of an unstable speed, or nothing."""
    return fmt.UNSTABLE if record.speed is not None and record.speed.unstable else ""


FIGURES = (
    FigureColumn("Bits/weight", "bpw", 10, lambda r: figure(r.bits_per_weight), "{:.2f}".format),
    FigureColumn("File", "size", 9, lambda r: figure(r.file_bytes), fmt.size),
    FigureColumn("Memory", "memory", 6, lambda r: figure(need[0]) if (need := figures.memory(r)) else None, fmt.size),
    FigureColumn(
        "Perplexity",
        "PPL",
        8,
        figures.perplexity,
        decimals=lambda values, _: 4 if max(values, default=0.0) < 1000 else 2,
        error_priority=3,
    ),
    FigureColumn(
        "KL divergence",
        "KLD",
        9.5,
        figures.kld,
        decimals=partial(fmt.decimals_with_errors, least=3),
        error_priority=4,
    ),
    FigureColumn(
        "KLD 99.9 %",
        "KLD 99.9%",
        5,
        lambda r: figure(r.divergence.kld_p99_9) if r.divergence else None,
        decimals=lambda values, _: fmt.decimals_for(values, least=3, most=5),
    ),
    FigureColumn(
        "Top-1 %",
        "top-1 %",
        7,
        lambda r: figure(r.divergence.top1_agreement) if r.divergence else None,
        lambda share: f"{100 * share:.2f}",
    ),
    FigureColumn(
        "Prompt t/s",
        "prompt t/s",
        1,
        lambda r: figure(r.speed.prompt_tokens_per_s) if r.speed else None,
        fmt.rate,
        error_priority=0.5,
        spread=lambda r: fmt.rate_range(r.speed.prompt_low, r.speed.prompt_high) if r.speed else None,
        mark=unstable_mark,
    ),
    FigureColumn(
        "Decode t/s",
        "decode t/s",
        2,
        lambda r: figure(r.speed.decode_tokens_per_s) if r.speed else None,
        fmt.rate,
        error_priority=0.6,
        spread=lambda r: fmt.rate_range(r.speed.decode_low, r.speed.decode_high) if r.speed else None,
        mark=unstable_mark,
    ),
)


_PROJECTOR = FigureColumn(
    "Projector", "mmproj", 8.5, lambda r: figure(r.projector.file_bytes) if r.projector else None, fmt.size
)


def _speech(
    head: str,
    short: str,
    priority: float,
    value: Callable[[Speech], float | None],
    write: Callable[[float], str],
    spread: Callable[[Speech], tuple[float | None, float | None]] | None = None,
) -> FigureColumn:
    """A figure of a speech model, perhaps with its 95 % interval beside it."""

    def interval(record: Record) -> str | None:
        low, high = (None, None) if record.speech is None or spread is None else spread(record.speech)
        return None if low is None or high is None else f"{write(low)} to {write(high)}"

    return FigureColumn(
        head,
        short,
        priority,
        lambda record: None if record.speech is None else figure(value(record.speech)),
        write,
        error_priority=None if spread is None else priority - 5,
        spread=None if spread is None else interval,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(share: float) -> str:
    return fmt.signed(100 * share, 1)


SPEECH = (
    _speech("WER %", "WER %", 9.6, lambda s: s.wer, _percent, lambda s: (s.wer_low, s.wer_high)),
    _speech(
        "WER difference", "ΔWER", 9.55, lambda s: s.wer_delta, _points, lambda s: (s.wer_delta_low, s.wer_delta_high)
    ),
    _speech("CER %", "CER %", 6.5, lambda s: s.cer, _percent),
    _speech("KL divergence", "KLD", 9.7, lambda s: s.kld_mean, "{:.4f}".format, lambda s: (s.kld_low, s.kld_high)),
    _speech("Top-1 %", "top-1 %", 7, lambda s: s.top1_agreement, lambda share: f"{100 * share:.2f}"),
    _speech("Looped words", "looped", 3, lambda s: s.looped_words, "{:.0f}".format),
    _speech(
        "Words without speech",
        "invented",
        2.8,
        lambda s: s.invented_words + s.words_on_silence + s.words_on_noise,
        "{:.0f}".format,
    ),
    _speech("Encoder s", "encode s", 2.6, lambda s: s.encode_seconds, "{:.2f}".format),
    _speech("Decode t/s", "decode t/s", 2.2, lambda s: s.decode_tokens_per_s, fmt.rate),
    _speech("Real-time factor", "RTF", 5.5, lambda s: s.real_time_factor, "{:.3f}".format),
)
"""In place of the figures of a text, for a speech model."""


def _of_answers(task: str) -> FigureColumn:
    """The divergence at the tokens of a task's right answers, with its interval."""

    def value(record: Record) -> Figure | None:
        found = record.image_divergence.get(task)
        return None if found is None else figure(found.kld_mean, found.kld_stderr)

    def interval(record: Record) -> str | None:
        found = record.image_divergence.get(task)
        if found is None or found.kld_low is None or found.kld_high is None:
            return None
        return f"{fmt.small(found.kld_low)} to {fmt.small(found.kld_high)}"

    name = f"{fmt.plain(task)} KLD"
    decimals = partial(fmt.decimals_with_errors, least=3)
    return FigureColumn(name, name, 9.4, value, decimals=decimals, error_priority=3.5, spread=interval)


def _of_text(text: str) -> FigureColumn:
    """The divergence over a text that was measured beside the first one."""
    name = f"{text} KLD"
    decimals = partial(fmt.decimals_with_errors, least=3)

    def value(record: Record) -> Figure | None:
        found = record.other_texts.get(text)
        own = None if found is None else found.divergence
        return None if own is None else figure(own.kld_mean, own.kld_stderr)

    return FigureColumn(name, name, 9.3, value, decimals=decimals, error_priority=3.4)


def _perplexity_of(text: str) -> FigureColumn:
    """The perplexity over such a text."""
    name = f"{text} PPL"

    def value(record: Record) -> Figure | None:
        found = record.other_texts.get(text)
        return None if found is None else figure(found.perplexity.value, found.perplexity.stderr)

    return FigureColumn(name, name, 4.5, value, error_priority=1.4)


def _at_depth(depth: str, priority: float) -> list[FigureColumn]:
    """The speeds after this many other tokens."""

    def column(name: str, field: str, own: float) -> FigureColumn:
        def value(record: Record) -> Figure | None:
            found = record.speed_at_depth.get(depth)
            return None if found is None else figure(getattr(found, field))

        return FigureColumn(f"{name} t/s at {int(depth):,}", f"{name.lower()}@{depth}", own, value, fmt.rate)

    return [
        column("Prompt", "prompt_tokens_per_s", priority - 1),
        column("Decode", "decode_tokens_per_s", priority),
    ]


def figures_shown(records: Sequence[Record]) -> list[FigureColumn]:
    """FIGURES, those of images and of speeds at a depth if there are any, and the figures of measurements that
    extensions add."""
    if any(record.speech is not None for record in records):
        return [*(column for column in FIGURES if column.short in ("bpw", "size", "memory")), *SPEECH]
    at = {column.short: i + 1 for i, column in enumerate(FIGURES)}
    size, text = at["size"], at["top-1 %"]
    projector = [_PROJECTOR] if any(record.projector is not None for record in records) else []
    tasks = dict.fromkeys(task for record in records for task in record.image_divergence)
    answers = [_of_answers(task) for task in tasks]
    depths = sorted({depth for record in records for depth in record.speed_at_depth}, key=int)
    deep = [column for at, depth in enumerate(depths) for column in _at_depth(depth, 1.9 - at / 100)]
    extra = [_extra(name, shown) for name, shown in figures.extra_figures(records).items()]
    texts = dict.fromkeys(name for record in records for name in record.other_texts)
    compared = {name for record in records for name, own in record.other_texts.items() if own.divergence is not None}
    others = [
        column for name in texts for column in ([_of_text(name)] if name in compared else []) + [_perplexity_of(name)]
    ]
    return [*FIGURES[:size], *projector, *FIGURES[size:text], *others, *answers, *FIGURES[text:], *deep, *extra]


def _extra(name: str, shown: Value) -> FigureColumn:
    def value(record: Record) -> Figure | None:
        found = record.figures.get(name)
        return None if found is None else figure(found.value, found.stderr)

    heading = shown.heading or name
    unit = f", {shown.unit}" if shown.unit else ""
    write = partial(fmt.fixed, decimals=shown.decimals)
    return FigureColumn(f"{heading.capitalize()}{unit}", heading, 2.5, value, write, error_priority=1.5)


def task_texts(record: Record, task: str, scale: int) -> tuple[str | None, str, str]:
    """The score (None if there is none), its difference from the reference, and the error of the difference."""
    score = record.tasks.get(task)
    value = figures.finite(score.value) if score else None
    if score is None or value is None:
        return None, "", ""
    decimals = 1 if scale == 100 else 3
    delta, stderr = figures.finite(score.delta), figures.finite(score.delta_stderr)
    return (
        fmt.fixed(value * scale, decimals),
        "" if delta is None else fmt.signed(delta * scale, decimals),
        "" if delta is None or stderr is None else f"±{stderr * scale:.{decimals}f}",
    )
