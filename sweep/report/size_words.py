"""What the comparison of model sizes says: the same tables and sentences for the terminal and the HTML report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweep import format as fmt
from sweep.analysis.pareto_sets import Lead
from sweep.analysis.size_choice import Comparison, Evidence, SizeChoice
from sweep.analysis.size_scaling import SizedModel, SizeScaling
from sweep.fit.memory_limit import MemoryLimit


@dataclass(frozen=True)
class SizeTable:
    """A figure of every variant (row) of every model (column)."""

    title: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str | None]]]


def model_head(model: SizedModel) -> str:
    """The model with its size: "micro 5.1M"."""
    return " ".join(filter(None, [fmt.plain(model.name), parameters_text(model.parameters)]))


def parameters_text(count: float | None) -> str:
    """5.1M, 7.0M, 32B; empty if it is not known."""
    if count is None:
        return ""
    value, unit = (count / 1e9, "B") if count >= 999.5e6 else (count / 1e6, "M")
    return f"{value:.{1 if value < 9.95 else 0}f}{unit}"


def _four_digits(value: float) -> str:
    """2.230, 12.34."""
    return f"{value:#.4g}".rstrip(".")


def size_tables(scaling: SizeScaling) -> list[SizeTable]:
    """KL divergence, mean score and perplexity, those that there are."""
    tasks = f"{len(scaling.tasks)} tasks" if len(scaling.tasks) > 1 else ", ".join(map(fmt.plain, scaling.tasks))
    klds = {
        (model.name, variant): kld.value
        for model in scaling.models
        for variant in scaling.variants
        if (kld := scaling.kld(model.name, variant)) is not None
    }
    decimals = fmt.decimals_for([value for value in klds.values() if value > 0], least=4)
    found: list[SizeTable] = []
    if klds:
        title = "KL divergence from each model's own reference, nats per token: what a quant costs that model"
        found.append(_table(scaling, title, lambda *at: klds.get(at), lambda value: f"{value:.{decimals}f}"))
    if scaling.scores is not None:
        title = f"Mean score, %, over {tasks} (the same items for every model)"
        found.append(_table(scaling, title, scaling.score, lambda value: f"{100 * value:.1f}"))
    if scaling.texts is not None:
        title = "Perplexity (the same tokens for every model)"
        found.append(_table(scaling, title, scaling.perplexity, _four_digits))
    return found


def _table(
    scaling: SizeScaling, title: str, value: Callable[[str, str], float | None], write: Callable[[float], str]
) -> SizeTable:
    def cell(model: SizedModel, variant: str) -> str | None:
        found = value(model.name, variant)
        return None if found is None else write(found)

    rows = [(fmt.plain(variant), [cell(model, variant) for model in scaling.models]) for variant in scaling.variants]
    shown = [(name, cells) for name, cells in rows if any(cell is not None for cell in cells)]
    return SizeTable(title, [model_head(model) for model in scaling.models], shown)


@dataclass(frozen=True)
class FrontierRow:
    """A step of the frontier in words. `points` and `perplexity_lead` are the leads over `other`, the closest other
    model."""

    memory: str
    pick: str
    score: str | None
    perplexity: str | None
    other: str | None
    points: str | None
    perplexity_lead: str | None
    shown_by: str | None


_SHOWN_BY = {Evidence.TASKS: "tasks", Evidence.PERPLEXITY: "perplexity", Evidence.OPEN: "open"}


def frontier_rows(scaling: SizeScaling, steps: Sequence[SizeChoice]) -> list[FrontierRow]:
    found = []
    for step in steps:
        pick = step.pick
        assert pick is not None
        score, perplexity = scaling.score(pick.model, pick.variant), scaling.perplexity(pick.model, pick.variant)
        against = step.against[0] if step.against else None
        found.append(
            FrontierRow(
                fmt.size(step.limit_bytes),
                fmt.plain(pick.key),
                None if score is None else f"{100 * score:.1f}",
                None if perplexity is None else _four_digits(perplexity),
                "no other fits" if against is None else fmt.plain(against.other.key),
                None if against is None or against.score is None else _points(against.score, ""),
                None if against is None or against.perplexity is None else _lower(against.perplexity),
                None if against is None else _SHOWN_BY[against.evidence],
            )
        )
    return found


def _points(lead: Lead, unit: str = " points") -> str:
    return f"{fmt.signed(100 * lead.delta, 1)}{unit} ({_interval(100 * lead.low, 100 * lead.high, 1)})"


def _lower(lead: Lead) -> str:
    decimals = fmt.decimals_for([lead.low, lead.high], most=4)
    return f"{fmt.signed(-lead.delta, decimals)} ({_interval(-lead.high, -lead.low, decimals)})"


def _interval(low: float, high: float, decimals: int) -> str:
    return f"{fmt.fixed(low, decimals)} to {fmt.fixed(high, decimals)}"


def choice_sentences(scaling: SizeScaling, choice: SizeChoice, limit: MemoryLimit) -> list[str]:
    """Which model and variant to run, and what shows it."""
    pick = choice.pick
    if pick is None:
        return [_why_none(scaling, limit)]
    lines = [
        f"For {limit.words}: run {fmt.plain(pick.name)}, which needs {fmt.size(pick.memory_bytes)} of memory (file "
        f"{fmt.size(pick.file_bytes)})."
    ]
    if not choice.against:
        lines.append("No other model fits.")
    return [*lines, *(_against(scaling, one) for one in choice.against)]


def _why_none(scaling: SizeScaling, limit: MemoryLimit) -> str:
    if scaling.scores is None and scaling.texts is None:
        return (
            "No model is chosen: nothing that was measured compares them. Give tasks that all of them can answer "
            "(--tasks)."
        )
    return f"For {limit.words}: no variant of these models fits."


def _against(scaling: SizeScaling, one: Comparison) -> str:
    """A sentence on one other model."""
    other, tasks = fmt.plain(one.other.name), len(scaling.tasks)
    over = "" if tasks == 1 else f", mean of {tasks} tasks"
    lower = None if one.perplexity is None else f"its perplexity differs by {_lower(one.perplexity)}"
    if one.evidence is Evidence.TASKS and one.score is not None:
        also = "" if not one.contradicts else f" Perplexity says the opposite: {lower}."
        return f"Against {other} it gains {_points(one.score)} on the same items (95 % interval{over}).{also}"
    if one.score is None:
        unclear = "" if one.evidence is Evidence.PERPLEXITY else ", which leaves open which of the two is better"
        return f"Against {other} {lower or 'nothing could be tested'} on the same tokens (95 % interval){unclear}."
    left = f"Tasks leave open whether it is better than {other}: {_points(one.score)} (95 % interval{over})"
    if one.evidence is Evidence.PERPLEXITY:
        return f"{left}; it is chosen because {lower} on the same tokens (95 % interval)."
    return f"{left}{'' if lower is None else f', and so does perplexity: {lower}'}. More items may settle it."
