"""What fits, for `sweep fit`, the screen and `sweep run --gpu`.

What comes with this program is answered in this process. A stranger's config or header can make llama.cpp end the one
it runs in, so it is looked at in a worker.
"""

from __future__ import annotations

from collections.abc import Sequence

from converters.errors import InputError
from converters.resolver import is_known_offline
from sweep.fit.answer import fit_here
from sweep.fit.fit_report import FitOptions, FitReport, FitRow
from sweep.fit.gguf_files import is_file
from sweep.fit.hardware import Device
from sweep.format import size
from sweep.jobs.base import Ask, Unanswered
from sweep.methods.base import Variant
from sweep.results.plan import TooLarge


def fit(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions, ask: Ask) -> FitReport:
    """See `fit_here`. What does not come with this program is looked at by a worker, whose death is told as the model's
    fault: InputError."""
    if is_known_offline(model) and not any(is_file(name) for name in variants):
        return fit_here(model, variants, devices, options)
    from sweep.jobs.fit import FitJob

    try:
        return ask(FitJob(model, tuple(variants), tuple(devices), options)).report
    except Unanswered as error:
        raise InputError(f"{model}: {error}") if error.died else error from error


def too_large(
    model: str, variants: Sequence[Variant], devices: Sequence[Device], options: FitOptions, ask: Ask
) -> dict[str, TooLarge]:
    """By name, those of `variants` that `devices` do not hold; of files that are not here nothing is known."""
    known = [variant.fit_name for variant in variants if variant.fit_name is not None]
    rows = {row.variant: row for row in fit(model, known, devices, options, ask).rows} if known else {}
    found = {}
    for variant in variants:
        row = rows.get(variant.fit_name or "")
        if variant.file_path is not None:
            row = fit(str(variant.file_path), [], devices, options, ask).rows[0]
        if row is not None and not row.fits:
            found[variant.name] = _too_large(row, devices)
    return found


def _too_large(row: FitRow, devices: Sequence[Device]) -> TooLarge:
    names = ", ".join(device.name for device in devices)
    reason = f"needs {size(-row.headroom_bytes)} more than {names} {'have' if len(devices) > 1 else 'has'}"
    return TooLarge(f"{reason} (total {size(row.total_bytes)})", row.file_bytes, row.bits_per_weight, row.total_bytes)
