"""What the plots of a sweep show, in HTML and on the screen: each measure against the size or memory of the variants.

A Measure says where its figure is in a record, how its Pareto set is found, and which horizontal lines are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweep import format as fmt
from sweep.analysis import figures, pareto_sets
from sweep.analysis.pareto_sets import why_indistinguishable
from sweep.analysis.trust import noise_floor
from sweep.record import Record
from sweep.statistics import HALF_INTERVAL

_MIB = 1024.0**2
FAR = 100.0  # a noise floor that is lower than every variant by this factor is not drawn: it would squeeze the plot


@dataclass(frozen=True)
class Point:
    """One variant.

    `error` is half the length of the error bar, in the unit of y. `title` is the text on hover. `indistinguishable`: in
    the Pareto set, but by no more than the error. `group` numbers the references.
    """

    x: float
    y: float
    label: str
    title: str
    error: float | None = None
    pareto: bool = False
    indistinguishable: bool = False
    chosen: bool = False
    group: int = 0
    variant: str = ""


@dataclass(frozen=True)
class Axis:
    """`write` formats the value of a tick. On a log axis all values must be positive."""

    label: str
    write: Callable[[float], str]
    log: bool = False


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line: a noise floor, or a reference's figure (without a label: its point has the name)."""

    y: float
    label: str = ""


@dataclass(frozen=True)
class Cost:
    """One x axis. `scale` is the number of units of the record (bytes) in one unit of the axis (MiB, GiB)."""

    name: str
    axis: Axis
    value: Callable[[Record], float | None]
    scale: float = 1.0

    def of(self, record: Record) -> float | None:
        found = self.value(record)
        return None if found is None else found / self.scale


@dataclass(frozen=True)
class Measure:
    """One y axis: the figure of a record, the losses that its Pareto set is found by, and its horizontal lines."""

    name: str
    caption: str
    value: Callable[[Record], figures.Figure | None]
    losses: Sequence[pareto_sets.Losses]
    axis: Axis
    levels: Sequence[Level] = ()


def costs(rows: Sequence[Record]) -> list[Cost]:
    """The x axes: bits per weight, file size and memory. Bytes are in GiB if the largest file has one, else in MiB."""
    sizes = [record.file_bytes for record in rows if record.file_bytes is not None]
    unit, name = (_MIB * 1024, "GiB") if max(sizes, default=0) >= _MIB * 1024 else (_MIB, "MiB")
    return [
        Cost("bits", Axis("bits per weight", _plain_number), lambda r: r.bits_per_weight),
        Cost("bytes", Axis(f"file size, {name}", _plain_number), lambda r: r.file_bytes, unit),
        Cost("memory", Axis(f"memory, {name}", _plain_number), _memory, unit),
    ]


def _memory(record: Record) -> float | None:
    found = figures.memory(record)
    return None if found is None else found[0]


def measures(rows: Sequence[Record]) -> list[Measure]:
    """The y axes: mean recovery if there is any, KL divergence, perplexity, and each task."""
    names = figures.reference_names(rows)
    means = figures.mean_recovery(rows)
    least = min((kld.value for r in rows if (kld := figures.kld(r)) and kld.value > 0), default=0.0)
    floors: dict[float, list[str]] = {}  # references with the same floor share a line
    for name in sorted(names):
        if (floor := noise_floor(rows, name)) is not None:
            floors.setdefault(floor, []).append(fmt.plain(name))
    found = [
        Measure(
            "Mean KL divergence",
            "nats per token, logarithmic axis, lower is better",
            figures.kld,
            pareto_sets.kld_losses(rows),
            Axis("", _plain_number, log=True),
            [Level(floor, f"noise floor of {', '.join(of)}") for floor, of in floors.items() if floor > least / FAR],
        ),
        Measure(
            "Perplexity",
            "lower is better; the error bars are mostly noise that all variants share",
            figures.perplexity,
            pareto_sets.per_reference(pareto_sets.perplexity_losses, rows),
            Axis("", _plain_number),
            _levels(rows, names, figures.perplexity),
        ),
    ]
    if len(means) > 1:
        recovered = Measure(
            "Mean recovery",
            "score above chance in % of the reference's, mean over tasks",
            lambda r: _scaled(means.get(r.variant), 100),
            pareto_sets.per_reference(pareto_sets.recovery_losses, rows),
            Axis("", _plain_number),
            [Level(100.0)],
        )
        found.insert(0, recovered)
    scales = figures.task_scales(rows)
    bases = figures.task_references(rows)
    return found + [_task_measure(rows, bases, task, scales[task]) for task in figures.task_names(rows)]


def _task_measure(rows: Sequence[Record], bases: set[str], task: str, scale: int) -> Measure:
    first = next(score for record in rows if (score := record.tasks.get(task)))
    unit = ", %" if scale == 100 else "" if first.higher_is_better else ", lower is better"

    def value(record: Record) -> figures.Figure | None:
        """The score with the error of its paired difference, or with its own error if it has no difference."""
        score = record.tasks.get(task)
        if score is None:
            return None
        stderr = score.stderr if score.delta_stderr is None else score.delta_stderr
        return _scaled(figures.figure(score.value, 0.0 if record.variant in bases else stderr), scale)

    caption = f"{fmt.plain(first.metric)}{unit}; error bars: paired difference from {figures.reference_words(rows)}"
    losses = pareto_sets.per_reference(lambda group: pareto_sets.task_losses(group, task), rows)
    return Measure(fmt.plain(task), caption, value, losses, Axis("", _plain_number), _levels(rows, bases, value))


def _levels(rows: Sequence[Record], names: set[str], value: Callable[[Record], figures.Figure | None]) -> list[Level]:
    return [Level(found.value) for record in rows if record.variant in names and (found := value(record)) is not None]


def _scaled(found: figures.Figure | None, scale: float) -> figures.Figure | None:
    if found is None:
        return None
    return figures.Figure(found.value * scale, None if found.stderr is None else found.stderr * scale)


def _plain_number(value: float) -> str:
    return f"{value:g}" if value == 0 or abs(value) >= 1e-5 else f"{value:.0e}"


def points(rows: Sequence[Record], measure: Measure, cost: Cost, chosen: str | None) -> list[Point]:
    """The points of the variants that have both figures. Error bars are 95 % intervals."""
    pareto = pareto_sets.pareto_set(rows, cost.of, measure.losses)
    groups = sorted(figures.reference_names(rows))
    found_points = []
    for record in rows:
        x, found = figures.finite(cost.of(record)), measure.value(record)
        if x is None or found is None:
            continue
        name = fmt.plain(record.variant)
        error = f" ± {found.stderr:.3g}" if found.stderr else ""
        note = f"; {why_indistinguishable(record, pareto)}" if record.variant in pareto.indistinguishable else ""
        found_points.append(
            Point(
                x,
                found.value,
                fmt.shorten(name, 22),
                f"{name}: {found.value:.5g}{error}, {_size(record)}{note}",
                None if found.stderr is None else HALF_INTERVAL * found.stderr,
                record.variant in pareto,
                record.variant in pareto.indistinguishable,
                record.variant == chosen,
                groups.index(record.reference) if record.reference in groups else 0,
                record.variant,
            )
        )
    return found_points


def _size(record: Record) -> str:
    bits = figures.finite(record.bits_per_weight)
    return fmt.size(record.file_bytes) + ("" if bits is None else f", {bits:.2f} bits per weight")
