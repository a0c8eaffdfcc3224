"""Computes what fits, for `sweep fit`, the screen and `sweep run --gpu`.

Models that come with this program are handled in this process. The config or header of an unknown model can make
llama.cpp end its process, so a worker reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from converters.errors import InputError
from converters.resolver import is_known_offline
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import MTP, FitOptions, FitReport, FitRow, Verdict, verdict
from sweep.fit.hardware import Device
from sweep.fit.registry import is_file
from sweep.format import size
from sweep.jobs.base import JobFailed, RunJob
from sweep.methods.base import Variant
from sweep.results.plan import TooLarge


def fit(
    model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions, run_job: RunJob
) -> FitReport:
    """The report of `fit_model`. A worker computes it for models that do not come with this program. If it dies,
    the model is to blame: InputError."""
    models = [model, *([options.draft] if options.draft not in ("", MTP) else [])]
    if all(map(is_known_offline, models)) and not any(is_file(name) for name in variants):
        return fit_model(model, variants, devices, options)
    from sweep.jobs.fit import FitJob

    try:
        return run_job(FitJob(model, tuple(variants), tuple(devices), options)).report
    except JobFailed as error:
        raise InputError(f"{model}: {error}") if error.died else error from error


def too_large(
    model: str, variants: Sequence[Variant], devices: Sequence[Device], options: FitOptions, run_job: RunJob
) -> dict[str, TooLarge]:
    """Those of `variants` that do not fit on `devices`, by name, nor partly in RAM if `options` allow that. Files that
    are not downloaded are left out."""
    known = [variant.fit_name for variant in variants if variant.fit_name is not None]
    rows = {row.variant: row for row in fit(model, known, devices, options, run_job).rows} if known else {}
    result = {}
    for variant in variants:
        row = rows.get(variant.fit_name or "")
        if variant.file_path is not None:
            own = variant.projector_file  # one that is made from the checkpoint is not counted
            images = replace(options, projector=own is not None, mmproj="" if own is None else str(own))
            row = fit(str(variant.file_path), [], devices, images, run_job).rows[0]
        if row is not None and verdict(row) is Verdict.DOES_NOT_FIT:
            result[variant.name] = _too_large(row, devices)
    return result


def _too_large(row: FitRow, devices: Sequence[Device]) -> TooLarge:
    names = ", ".join(device.name for device in devices)
    reason = f"needs {size(-row.headroom_bytes)} more than {names} {'have' if len(devices) > 1 else 'has'}"
    return TooLarge(f"{reason} (total {size(row.total_bytes)})", row.file_bytes, row.bits_per_weight, row.total_bytes)
