"""The cells of a run put together into one record a variant, with the paired differences to the reference."""

from __future__ import annotations

from typing import Any

from sweep.measure.divergence import DivergenceResult
from sweep.plan import Cell, Plan
from sweep.record import Divergence, Memory, Perplexity, Record, Speed, TaskScore
from sweep.statistics import compare_items
from sweep.store import Outcome, Store


def records(plan: Plan, store: Store) -> list[Record]:
    """A record for every variant of the plan, in its order; what is not measured (yet) is None."""
    outcomes = store.outcomes(cell.key for cell in plan.cells)
    by_variant: dict[str, list[Cell]] = {variant: [] for variant in plan.variants}
    for cell in plan.cells:
        by_variant[cell.variant].append(cell)
    reference = {cell.name: cell.key for cell in by_variant[plan.reference]}
    return [_record(variant, cells, outcomes, reference, plan, store) for variant, cells in by_variant.items()]


def importance(plan: Plan, store: Store) -> str:
    """For people: where the importance of weights came from, and how much of the model that covers."""
    name = plan.about.get("imatrix")
    if name is None:
        return "none"
    lines = list(plan.about.get("imatrix_told", ()))
    for outcome in store.outcomes(cell.key for cell in plan.cells if cell.kind == "imatrix").values():
        lines += (outcome.result or {}).get("told", ())
    return "; ".join([name, *lines])


def _record(
    variant: str,
    cells: list[Cell],
    outcomes: dict[str, Outcome],
    reference: dict[str, str],
    plan: Plan,
    store: Store,
) -> Record:
    known = {cell.name: outcomes[cell.key] for cell in cells if cell.key in outcomes}
    results = {name: outcome.result for name, outcome in known.items() if outcome.result is not None}
    errors = [f"{name}: {outcome.error}" for name, outcome in known.items() if outcome.status == "failed"]
    speed, text = results.get("speed"), results.get("text")
    size = speed or results.get("export") or {}
    return Record(
        variant=variant,
        kind="gguf",
        status=_status(len(cells), len(results), len(errors)),
        error=errors[0] if errors else None,
        file_bytes=size.get("file_bytes"),
        bits_per_weight=size.get("bits_per_weight"),
        memory=Memory()
        if speed is None
        else Memory(speed["memory"]["predicted_bytes"], speed["memory"]["measured_bytes"]),
        perplexity=None if text is None else _perplexity(text["perplexity"]),
        divergence=_divergence(text, _noise_floor(outcomes.get(reference.get("text", "")))),
        tasks={
            cell.name: _score(cell, results[cell.name], reference.get(cell.name), store)
            for cell in cells
            if cell.kind == "task" and cell.name in results
        },
        speed=None
        if speed is None
        else Speed(speed["speed"]["prompt_tokens_per_s"], speed["speed"]["decode_tokens_per_s"]),
        reference=plan.reference,
        kv_type=plan.settings.kv_type,
        device=plan.settings.device,
    )


def _status(cells: int, done: int, failed: int) -> str:
    if failed:
        return "partial" if done else "failed"
    return "ok" if done == cells else "pending"


def _perplexity(result: dict[str, Any]) -> Perplexity:
    return Perplexity(result["value"], result["stderr"], result["tokens"])


def _divergence(text: dict[str, Any] | None, floor: float | None) -> Divergence | None:
    if text is None or text["divergence"] is None:
        return None
    return DivergenceResult(**text["divergence"]).record(floor)


def _noise_floor(outcome: Outcome | None) -> float | None:
    if outcome is None or outcome.result is None or outcome.result["noise_floor"] is None:
        return None
    return float(outcome.result["noise_floor"]["kld_mean"])


def _score(cell: Cell, result: dict[str, Any], reference_key: str | None, store: Store) -> TaskScore:
    paired: dict[str, float] = {}
    if reference_key is not None and reference_key != cell.key:
        own, base = store.items(cell.key), store.items(reference_key)
        if own and [item.doc for item in own] == [item.doc for item in base]:  # the very same prompts
            comparison = compare_items([item.value for item in base], [item.value for item in own])
            paired = {
                "delta": comparison.delta,
                "delta_stderr": comparison.delta_stderr,
                "p_value": comparison.p_value,
                "flips": comparison.flips,
            }
    return TaskScore(
        metric=result["metric"],
        value=result["value"],
        stderr=result["stderr"],
        n=result["n"],
        chance=result["chance"],
        higher_is_better=result["higher_is_better"],
        other=result["other"],
        **paired,
    )
