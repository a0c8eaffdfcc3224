"""The variants of a planned sweep as rows, and an estimate of its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table
from rich.text import Text

from sweep import format as fmt
from sweep.methods.registry import methods
from sweep.variant_name import split_projector
from tui.keymap import key_of
from tui.state.draft import Draft, plan_name
from tui.state.sizes import VariantSize
from tui.theme import Palette

HEADS = (("", True), ("variant", True), ("bpw", False), ("file", False), ("memory", False), ("jobs", False))


@dataclass(frozen=True)
class Figures:
    """What is known about variants: `plan`, the output of --dry-run for the draft `planned` (an earlier one, or none at
    first: then the plan is empty), and `sizes`, those of all variants of the draft's model."""

    planned: Draft
    plan: Mapping[str, Any]
    sizes: Mapping[str, VariantSize]


def plan_rows(
    draft: Draft, figures: Figures, matches: Callable[[str], bool], colours: Palette
) -> list[tuple[str, list[Text]]]:
    """Rows for the variants that match the filter, with the variant as key.

    A figure of the plan is shown only if it holds for the draft as it is now: a size for the same model, memory and
    signs for the same settings, jobs for the same variants, too.
    """
    plan, planned = figures.plan, figures.planned
    has_settings = replace(planned, variants=draft.variants) == draft
    sizes: dict[str, VariantSize] = {}
    if planned.model == draft.model:
        sizes = {row["variant"]: _size(row, has_settings) for row in plan.get("variants", ())}
    implied = set(sizes) - {plan_name(variant) for variant in planned.variants} if has_settings else set()
    skipped = plan.get("skipped", ()) if has_settings else ()
    left = _jobs_to_do(plan) if planned == draft else None
    rows = []
    for variant in _offered(draft):
        if matches(variant):
            name = plan_name(variant)
            is_chosen = variant in draft.variants
            sign = "✗" if name in skipped else "✓" if is_chosen else "+" if name in implied else " "
            # a projector file is not part of the text model's file
            size = sizes.get(name) or figures.sizes.get(split_projector(name)[0])
            rows.append((variant, _cells(variant, sign, size, _todo(name, left), colours)))
    return rows


def _size(row: Mapping[str, Any], has_memory: bool) -> VariantSize:
    return VariantSize(row.get("bits_per_weight"), row["file_bytes"], _memory(row) if has_memory else None)


def _memory(row: Mapping[str, Any]) -> int | None:
    """The memory of a planned variant, with its projector file."""
    own = row.get("memory_bytes")
    return None if own is None else own + row.get("projector", {}).get("memory_bytes", 0)


def _jobs_to_do(plan: Mapping[str, Any]) -> dict[str, int]:
    left: dict[str, int] = {}
    for cell in plan.get("cells", ()):
        name = cell["cell"].rpartition("/")[0]
        left[name] = left.get(name, 0) + (not cell["done"])
    return left


def _todo(name: str, left: Mapping[str, int] | None) -> str:
    """What the column of jobs says about a variant of the sweep; `left` is None until it is planned."""
    if left is None:
        return "…"
    return (str(left[name]) if left[name] else "done") if name in left else ""


def _offered(draft: Draft) -> list[str]:
    """The variants that were added by name, then those that the repository has; or else all quants, then variants that
    torch runs (not for a GGUF model)."""
    if draft.published:
        return [*(variant for variant in draft.variants if variant not in draft.published), *draft.published]
    from_gguf = draft.model.endswith(".gguf")
    known = [
        name for method in methods() if method.baseline is None or not from_gguf for name in method.suggested_names()
    ]
    return [*(variant for variant in draft.variants if variant not in known), *known]


def _cells(variant: str, sign: str, size: VariantSize | None, todo: str, colours: Palette) -> list[Text]:
    is_in_sweep = sign != " "
    size = size or VariantSize(None, None)
    figures = (
        (size.bits_per_weight, "{:.2f}".format),
        (size.file_bytes, fmt.size),
        (size.memory_bytes, fmt.size),
    )
    styles = {"✓": colours.good, "✗": colours.bad, "+": colours.soft}
    ink = colours.ink if is_in_sweep else colours.soft
    return [
        Text(sign, styles.get(sign, colours.faint)),
        Text(fmt.shorten(fmt.plain(variant), 32), ink),
        *(Text(write(value), ink) if value else Text(fmt.MISSING, colours.faint) for value, write in figures),
        Text("skipped" if sign == "✗" else todo if is_in_sweep else "", colours.soft),
    ]


def estimate(draft: Draft, plan: Mapping[str, Any], free: int, colours: Palette) -> Table:
    """A table of jobs, time, disk space (`free` bytes are available) and memory, or of the reasons why the plan cannot
    be run; then the references that are added and the chosen variants that are skipped."""
    todo = [cell for cell in plan["cells"] if not cell["done"]]
    measured = [row for row in plan["variants"] if row["variant"] not in plan["skipped"]]
    memory = max((_memory(row) or 0 for row in measured), default=0)
    needed, kv_type = plan["bytes_to_make"], plan["settings"]["kv_type"]
    cache = "" if kv_type == "f16" else f", with a {kv_type} KV cache"
    work = (
        f"{len(todo)} of {len(plan['cells'])} jobs to do" if todo else f"all jobs are done; {key_of('run')} shows them"
    )
    rows = [("cannot run", reason, False) for reason in plan["cannot_run"]] or [
        ("work", work, True),
        ("time", _time(plan["seconds"], todo), True),
        ("disk", f"{fmt.size(needed)} of files to make, {fmt.size(free)} free", needed < free),
        ("memory", f"up to {fmt.size(memory)} for model and context{cache}", True),
    ]
    chosen = {plan_name(variant) for variant in draft.variants}
    implied = [row["variant"] for row in measured if row["variant"] not in chosen]
    if implied:
        rows.append(("+", f"{' and '.join(implied)}, for comparison", True))
    rows += [("skipped", f"{name} {skipped['reason']}", False) for name, skipped in plan["skipped"].items()]
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, words, is_fine in rows:
        text = Text(words, colours.ink) if is_fine else Text(f"✗ {words}", colours.bad)
        table.add_row(Text(name, colours.soft), text)
    return table


def _time(seconds: float | None, todo: list[dict[str, Any]]) -> str:
    if not todo:
        return "none"
    if seconds is not None:
        return f"about {fmt.duration(seconds)}"
    known = [cell["seconds"] for cell in todo if cell["seconds"] is not None]
    if not known:
        return "unknown before the first sweep"
    return f"{fmt.duration(sum(known))} plus {len(todo) - len(known)} jobs of unknown duration"
