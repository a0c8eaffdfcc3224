"""What `sweep convert --to 5.5GiB` says about the mix that it found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from sweep import format as fmt
from sweep.cli.output import Output

if TYPE_CHECKING:
    from sweep.commands.best_mix import BestMix


def show_mix(found: BestMix, output: Output) -> None:
    """Print the mix and the files that it was compared with, and which is written."""
    if output.is_json:
        output.line({"event": "mix", **_described(found)})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", "variant", "bytes", "size", "KLD"):
        table.add_column(column, justify="left" if column in ("", "variant") else "right")
    for one in (found.mix, *found.rivals):
        sign = fmt.CHOSEN if one is found.chosen else ""
        table.add_row(sign, one.variant, f"{one.file_bytes:,}", fmt.size(one.file_bytes), fmt.small(one.kld))
    output.show(table)
    output.show(f"\n{fmt.CHOSEN} {_verdict(found)}")


def _verdict(found: BestMix) -> str:
    where = f"over {found.mix.window_kld.size} windows of {found.text}"
    if found.ratio is None:
        return f"{found.mix.variant} is written: no other quant is as small as {found.budget.text}."
    best, (value, low, high) = found.rivals[0].variant, found.ratio
    times = f"{value:.2f} times that of {best} (95 % interval {low:.2f} to {high:.2f}), {where}"
    if found.is_better:
        return f"{found.mix.variant} is written: its KL divergence from the unquantized model is {times}."
    return f"{best} is written: the mix is not better. The KL divergence of the mix is {times}."


def _described(found: BestMix) -> dict[str, Any]:
    files = [
        {"variant": one.variant, "file_bytes": one.file_bytes, "kld_mean": one.kld, "windows": one.window_kld.size}
        for one in (found.mix, *found.rivals)
    ]
    ratio = None if found.ratio is None else dict(zip(("value", "low", "high"), found.ratio, strict=True))
    return {
        "budget": found.budget.text,
        "limit_bytes": found.limit,
        "variant": found.chosen.variant,
        "files": files,
        "ratio": ratio,
        "predicted_kld": found.predicted,
        "text": found.text,
        "recipe": str(found.recipe),
    }
