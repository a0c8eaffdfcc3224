"""The cells of a run put together into one record a variant, with the paired differences to the reference."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from sweep.fit.fit_report import Misfit
from sweep.planning.cells import Cell
from sweep.planning.plan import Plan
from sweep.planning.variant import kind_of
from sweep.record import Divergence, Memory, Perplexity, Record, Samples, Speed, TaskScore
from sweep.results import items
from sweep.results.store import Item, Outcome, Store
from sweep.statistics import cluster_stderr, compare_differences, compare_items, holm, usable_clusters


def records(plan: Plan, store: Store) -> list[Record]:
    """A record for every variant of the plan, in its order; what is not measured (yet) is None."""
    outcomes = store.outcomes(cell.key for cell in plan.cells)
    by_variant: dict[str, list[Cell]] = {variant: [] for variant in plan.variants}
    for cell in plan.cells:
        by_variant[cell.variant].append(cell)
    file_base = _task_reference(plan, outcomes)
    found = []
    for variant, cells in by_variant.items():
        reference = plan.reference_of(variant)
        base = file_base if reference == plan.reference else reference
        keys = {cell.name: cell.key for cell in by_variant.get(reference, [])}  # none where it is a file
        keys |= {cell.name: cell.key for cell in by_variant.get(base or "", []) if cell.kind == "task"}
        found.append(replace(_record(variant, cells, outcomes, keys, plan, store), task_reference=base))
    return _holm(found)


def _task_reference(plan: Plan, outcomes: dict[str, Outcome]) -> str | None:
    """The reference; of a file, the variant that it was made of, else the one of the most bits per weight.

    None while no size is known, and where there is nothing to compare with each other.
    """
    if plan.reference in plan.variants or len(plan.variants) < 2:
        return plan.reference if plan.reference in plan.variants else None
    if plan.made_of is not None:
        return plan.made_of
    bits: dict[str, float] = {}
    for cell in plan.cells:
        outcome = outcomes.get(cell.key)
        if plan.reference_of(cell.variant) != plan.reference or cell.kind not in ("export", "speed"):
            continue
        if outcome is not None and outcome.result is not None:
            bits[cell.variant] = outcome.result["bits_per_weight"]
    return max(bits, key=bits.__getitem__, default=None)


def _holm(found: list[Record]) -> list[Record]:
    """With every test's p adjusted; the family is all variants and tasks of the run that were compared."""
    tests = [
        (record.variant, task, score.p_value)
        for record in found
        for task, score in record.tasks.items()
        if score.p_value is not None
    ]
    adjusted = dict(zip([test[:2] for test in tests], holm([p for *_, p in tests]).tolist(), strict=True))
    return [
        replace(
            record,
            tasks={
                task: replace(score, p_holm=adjusted.get((record.variant, task)))
                for task, score in record.tasks.items()
            },
        )
        for record in found
    ]


def importance(plan: Plan, store: Store) -> str:
    """For people: where the importance of weights came from, and how much of the model that covers."""
    name = plan.about.get("imatrix")
    if name is None:
        return "none"
    lines = list(plan.about.get("imatrix_told", ()))
    for outcome in store.outcomes(cell.key for cell in plan.cells if cell.kind == "imatrix").values():
        lines += (outcome.result or {}).get("notes", ())
    return "; ".join([name, *lines])


def _record(
    variant: str,
    cells: list[Cell],
    outcomes: dict[str, Outcome],
    reference: dict[str, str],
    plan: Plan,
    store: Store,
) -> Record:
    if variant in plan.about.get("skipped", {}):  # not of plans that an earlier version wrote
        return _skipped(variant, plan)
    known = {cell.name: outcomes[cell.key] for cell in cells if cell.key in outcomes}
    results = {name: outcome.result for name, outcome in known.items() if outcome.result is not None}
    errors = {name: str(outcome.error) for name, outcome in known.items() if outcome.status == "failed"}
    speed, text = results.get("speed"), results.get("text")
    scores = {
        cell.name: _score(cell, results[cell.name], reference.get(cell.name), store)
        for cell in cells
        if cell.kind == "task" and cell.name in results
    }
    size = speed or results.get("export") or results.get("quantize") or {}
    return Record(
        variant=variant,
        kind=kind_of(variant),
        status=_status(len(cells), len(results), len(errors)),
        error=_told(errors),
        file_bytes=size.get("file_bytes"),
        bits_per_weight=size.get("bits_per_weight"),
        memory=Memory()
        if speed is None
        else Memory(**{name: speed["memory"].get(name) for name in Memory.__dataclass_fields__}),
        perplexity=None if text is None else _perplexity(text["perplexity"]),
        divergence=_divergence(text, _noise_floor(outcomes.get(reference.get("text", "")))),
        tasks={task: score for task, (score, _) in scores.items()},
        speed=None
        if speed is None
        else Speed(
            speed["speed"]["prompt_tokens_per_s"],
            speed["speed"]["decode_tokens_per_s"],
            speed.get("load_seconds"),  # not of results of an earlier version
        ),
        reference=plan.reference_of(variant),
        **_conditions(plan, variant),
        samples=_window_samples(text, reference_units(plan, variant), variant == plan.reference_of(variant))
        | {f"task {task}": taken for task, (_, taken) in scores.items()},
    )


def _skipped(variant: str, plan: Plan) -> Record:
    misfit = Misfit(**plan.about["skipped"][variant])
    return Record(
        variant=variant,
        kind=kind_of(variant),
        status="skipped",
        error=misfit.reason,
        file_bytes=misfit.file_bytes,
        bits_per_weight=misfit.bits_per_weight,
        memory=Memory(misfit.memory_bytes),
        reference=plan.reference_of(variant),
        **_conditions(plan, variant),
    )


def _told(errors: dict[str, str]) -> str | None:
    """Every cell's error, each once with the cells that it cost."""
    cells: dict[str, list[str]] = {}
    for name, error in errors.items():
        cells.setdefault(error, []).append(name)
    return "; ".join(f"{', '.join(names)}: {error}" for error, names in cells.items()) or None


def _conditions(plan: Plan, variant: str) -> dict[str, Any]:
    """The fields of Record that tell where it was measured, and what speed and memory depend on beside the variant."""
    own = asdict(plan.settings)
    if kind_of(variant) != "gguf":
        torch = plan.about["torch"]
        cached = next((c.params["settings"]["kv_type"] for c in plan.cells if c.variant == variant), None)
        settings = {name: own[name] for name in ("threads", "ubatch", "ctx")} | {"engine": torch["engine"]}
        return {"kv_type": cached or "bf16", "device": torch["device"], "settings": settings}
    names = ("threads", "batch", "ubatch", "ctx", "gpu_layers", "cpu_moe")
    settings = {name: own[name] for name in names} | {"engine": plan.about.get("engine")}
    return {"kv_type": plan.settings.kv_type, "device": plan.settings.device, "settings": settings}


def _status(cells: int, done: int, failed: int) -> str:
    if failed:
        return "partial" if done else "failed"
    return "ok" if done == cells else "pending"


def _perplexity(result: dict[str, Any]) -> Perplexity:
    return Perplexity(result["value"], result["stderr"], result["tokens"], result["low"], result["high"])


def _divergence(text: dict[str, Any] | None, floor: float | None) -> Divergence | None:
    if text is None or text["divergence"] is None:
        return None
    figures: dict[str, Any] = text["divergence"]["figures"]
    return Divergence.from_json(figures | {"noise_floor": floor})


def _noise_floor(outcome: Outcome | None) -> float | None:
    if outcome is None or outcome.result is None or outcome.result["noise_floor"] is None:
        return None
    return float(outcome.result["noise_floor"]["kld_mean"])


def reference_units(plan: Plan, variant: str) -> str | None:
    """A name for a variant's reference and the windows that were scored: equal where divergences compare window by
    window.

    The key of the reference's text cell, or where the reference is a file, its path. None where no text was asked for.
    """
    texts = {cell.variant: cell for cell in plan.cells if cell.kind == "text"}
    reference = plan.reference_of(variant)
    if reference in texts:
        return texts[reference].key
    return next((str(cell.params.get("reference")) for cell in texts.values() if cell.variant == variant), None)


def _window_samples(text: dict[str, Any] | None, units: str | None, is_reference: bool) -> dict[str, Samples]:
    """By window; a reference diverges from itself by 0. A variant of another vocabulary scored other windows."""
    if text is None or units is None:
        return {}
    nll = np.array(text["perplexity"]["window_nll"])
    samples = {"nll": Samples(text.get("windows_sha256") or units, nll)}
    if is_reference:
        samples["kld"] = Samples(units, np.zeros_like(nll))
    elif text["divergence"] is not None:
        samples["kld"] = Samples(units, np.array(text["divergence"]["window_kld"]))
    return samples


def _score(cell: Cell, result: dict[str, Any], reference_key: str | None, store: Store) -> tuple[TaskScore, Samples]:
    own = store.items(cell.key)
    subjects = usable_clusters([item.subject for item in own])
    row = items.values(own)
    stderr = result["stderr"]
    if subjects is not None and np.isclose(row.mean(), result["value"], rtol=0.0, atol=1e-9):
        stderr = cluster_stderr(row, subjects)
    score = TaskScore(
        metric=result["metric"],
        value=result["value"],
        stderr=stderr,
        n=result["n"],
        chance=result["chance"],
        higher_is_better=result["higher_is_better"],
        other=result["other"],
        clusters=None if subjects is None else int(subjects.max()) + 1,
        **_sharing(result.get("sharing")),
    )
    if reference_key is not None and reference_key != cell.key:
        base = store.items(reference_key)
        same = [_asked(item) for item in own] == [_asked(item) for item in base]
        if own and same and np.isfinite(row).all() and np.isfinite(items.values(base)).all():
            score = replace(score, **_paired(base, own))
    units = hashlib.sha256("\n".join(_asked(item) for item in own).encode()).hexdigest()
    return score, Samples(units, row, subjects)


def _asked(item: Item) -> str:
    """Equal for the very same prompt of the same task."""
    return f"{item.subject} {item.doc}"


def _sharing(found: dict[str, Any] | None) -> dict[str, Any]:
    """The fields of TaskScore that tell what sharing prefixes did, where a sample was taken."""
    if found is None:
        return {}
    return {
        "sharing_questions": found["questions"],
        "sharing_difference": found["largest_difference"],
        "sharing_changed": found["changed_answers"],
    }


def _paired(base: list[Item], own: list[Item]) -> dict[str, Any]:
    """The fields of TaskScore that compare with the reference."""
    subjects = [item.subject for item in own]
    found = compare_items(items.values(base), items.values(own), subjects)
    fields: dict[str, Any] = {
        "delta": found.delta,
        "delta_stderr": found.delta_stderr,
        "delta_low": found.low,
        "delta_high": found.high,
        "p_value": found.p_value,
        "flips": found.flips,
        "answers_changed": items.answers_changed(base, own),
    }
    before, after = items.gold(base), items.gold(own)
    if before is not None and after is not None:
        gold = compare_differences(after - before, subjects)
        fields |= {"gold_delta": gold.delta, "gold_delta_stderr": gold.stderr, "gold_p_value": gold.p_value}
    return fields
