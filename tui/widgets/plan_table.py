"""The variants of a planned sweep as rows, and an estimate of its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from sweep import format as fmt
from sweep.methods.registry import methods
from tui.state.draft import Draft, plan_name
from tui.theme import Palette

HEADS = (("", True), ("variant", True), ("bpw", False), ("file", False), ("memory", False), ("jobs", False))


def plan_rows(
    draft: Draft, planned: Draft, plan: Mapping[str, Any], matches: Callable[[str], bool], colours: Palette
) -> list[tuple[str, list[Text]]]:
    """Rows for the variants that match the filter, with the variant as key.

    `plan` is the output of --dry-run for the draft `planned`, which may be an earlier one; it is empty at first.
    """
    sizes = {row["variant"]: row for row in plan.get("variants", ())}
    implied = set(sizes) - {plan_name(variant) for variant in planned.variants}
    left: dict[str, int] = {}
    for cell in plan.get("cells", ()):
        name = cell["cell"].rpartition("/")[0]
        left[name] = left.get(name, 0) + (not cell["done"])
    rows = []
    for variant in _offered(draft):
        if matches(variant):
            name = plan_name(variant)
            skipped = name in plan.get("skipped", ())
            sign = "✗" if skipped else "✓" if variant in draft.variants else "+" if name in implied else " "
            rows.append((variant, _cells(variant, sign, sizes.get(name, {}), left.get(name), colours)))
    return rows


def _offered(draft: Draft) -> list[str]:
    """The variants that were added by name, then all quants, then variants that torch runs (not for a GGUF model)."""
    from_gguf = draft.model.endswith(".gguf")
    known = [
        name for method in methods() if method.baseline is None or not from_gguf for name in method.suggested_names()
    ]
    return [*(variant for variant in draft.variants if variant not in known), *known]


def _cells(variant: str, sign: str, size: Mapping[str, Any], left: int | None, colours: Palette) -> list[Text]:
    is_in_sweep = sign != " "
    figures = (
        (size.get("bits_per_weight"), "{:.2f}".format),
        (size.get("file_bytes"), fmt.size),
        (size.get("memory_bytes"), fmt.size),
    )
    todo = "" if left is None else str(left) if left else "done"
    styles = {"✓": colours.good, "✗": colours.bad, "+": colours.soft}
    return [
        Text(sign, styles.get(sign, colours.faint)),
        Text(fmt.shorten(fmt.plain(variant), 32), colours.ink if is_in_sweep else colours.soft),
        *(Text(write(value), colours.ink) if value and is_in_sweep else Text(fmt.MISSING, colours.faint)
          for value, write in figures),
        Text("skipped" if sign == "✗" else todo if is_in_sweep else "", colours.soft),
    ]  # fmt: skip


def estimate(draft: Draft, plan: Mapping[str, Any], free: int, colours: Palette) -> Table:
    """A table of jobs, time, disk space (`free` bytes are available) and memory, then the references that are added and
    the chosen variants that are skipped."""
    todo = [cell for cell in plan["cells"] if not cell["done"]]
    measured = [row for row in plan["variants"] if row["variant"] not in plan["skipped"]]
    memory = max((row.get("memory_bytes") or 0 for row in measured), default=0)
    needed = plan["bytes_to_make"]
    work = f"{len(todo)} of {len(plan['cells'])} jobs to do" if todo else "all jobs are done; r shows them"
    rows = [
        ("work", work, True),
        ("time", _time(plan["seconds"], todo), True),
        ("disk", f"{fmt.size(needed)} of files to make, {fmt.size(free)} free", needed < free),
        ("memory", f"up to {fmt.size(memory)} for model and context", True),
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
