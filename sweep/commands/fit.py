"""From a request to what fits: what `sweep fit`, the screen and `sweep run --gpu` call.

What comes with this program is answered in this process. A stranger's config or header can make llama.cpp end the one
it runs in, so it is looked at in a worker.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from converters.errors import InputError
from converters.resolver import is_known_offline
from int8.recipe import NAMED
from sweep.execution.child import Child, Failed
from sweep.fit.answer import fit_here, is_file
from sweep.fit.fit_report import FitOptions, FitReport, FitRow, Misfit, from_json
from sweep.fit.hardware import Device
from sweep.format import size
from sweep.planning.variant import Variant


def fit(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
    """See `fit_here`. What does not come with this program is looked at in a process of its own."""
    if is_known_offline(model) and not any(is_file(name) for name in variants):
        return fit_here(model, variants, devices, options)
    return _fit_apart(model, variants, devices, options)


def misfits(
    model: str, variants: Sequence[Variant], devices: Sequence[Device], options: FitOptions
) -> dict[str, Misfit]:
    """By name, those of `variants` that `devices` do not hold; of files that are not here nothing is known."""
    known = [name for variant in variants if (name := _fit_name(variant)) is not None]
    rows = {row.variant: row for row in fit(model, known, devices, options).rows} if known else {}
    found = {}
    for variant in variants:
        row = rows.get(_fit_name(variant) or "")
        if variant.file is not None:
            row = fit(str(variant.file), [], devices, options).rows[0]
        if row is not None and not row.fits:
            found[variant.name] = _misfit(row, devices)
    return found


def _fit_name(variant: Variant) -> str | None:
    """What `fit` calls it; of int8 recipes it knows the named ones."""
    return variant.name if variant.kind == "int8" and variant.recipe in NAMED.values() else variant.quant


def _fit_apart(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
    """What `fit_here` says, from a worker. Its death is told as the model's fault: InputError."""
    job = {
        "kind": "fit",
        "model": model,
        "variants": list(variants),
        "devices": [asdict(device) for device in devices],
        "options": asdict(options),
    }
    with tempfile.TemporaryDirectory() as directory, Child(Path(directory) / "worker.log") as child:
        for answer in child.submit(job):
            if isinstance(answer, Failed):
                raise InputError(f"{model}: {answer.message}") if answer.died else answer.error
            if isinstance(answer, dict):
                return from_json(answer)
    raise AssertionError("a job ends with a result or a failure")


def _misfit(row: FitRow, devices: Sequence[Device]) -> Misfit:
    names = ", ".join(device.name for device in devices)
    reason = f"needs {size(-row.headroom_bytes)} more than {names} {'have' if len(devices) > 1 else 'has'}"
    return Misfit(f"{reason} (total {size(row.total_bytes)})", row.file_bytes, row.bits_per_weight, row.total_bytes)
