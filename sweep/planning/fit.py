"""Computes what fits, for `sweep fit`, the screen and `sweep run --gpu`.

Models that come with this program are handled in this process. The config or header of an unknown model can make
llama.cpp end its process, so a worker reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from converters.errors import InputError
from converters.llamacpp.load import LoadOptions
from converters.resolver import is_known_offline
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import GGUF, MTP, FitOptions, FitReport, FitRow, Verdict, verdict
from sweep.fit.hardware import Device
from sweep.fit.registry import is_file
from sweep.format import size
from sweep.jobs.base import JobFailed, RunJob
from sweep.methods.base import Variant
from sweep.results.plan import Skipped
from sweep.variant_name import split_cache


def fit(
    model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions, run_job: RunJob
) -> FitReport:
    """The report of `fit_model`. A worker computes it for models that do not come with this program. If it dies, the
    file that llama.cpp read is to blame: a file of a repository is left out, with a note. Raises InputError for another
    one."""
    models = [model, *([options.draft] if options.draft not in ("", MTP) else [])]
    if all(map(is_known_offline, models)) and not any(is_file(name) for name in variants):
        return fit_model(model, variants, devices, options)
    from sweep.jobs.fit import FitJob

    unreadable: dict[str, str] = {}
    reading: list[str] = []

    def begin(_done: int, _total: int, file: str) -> None:
        reading.append(file)

    while True:
        reading[:] = [model]
        try:
            return run_job(FitJob(model, tuple(variants), tuple(devices), options, unreadable), begin).report
        except JobFailed as error:
            if not error.died:
                raise
            file = reading[-1]
            if file == model or file in unreadable or not Path(file).is_file():
                raise InputError(f"{file}: {error}") from error
            unreadable[file] = f"llama.cpp cannot load this model: {error}"


@dataclass(frozen=True)
class FitOfVariants:
    """What a fit says of the variants of a sweep, by name: those that do not fit, nor partly in RAM if that is allowed,
    and where llama.cpp has to put the others if they are not whole on one GPU."""

    too_large: Mapping[str, Skipped]
    placed: Mapping[str, LoadOptions]


def fit_variants(
    model: str, variants: Sequence[Variant], devices: Sequence[Device], options: FitOptions, run_job: RunJob
) -> FitOfVariants:
    """Which of `variants` fit on `devices`, and where. Files that are not downloaded are left out."""
    known = [variant.fit_name for variant in variants if variant.fit_name is not None]
    rows = {row.variant: row for row in fit(model, known, devices, options, run_job).rows} if known else {}
    large, placed = {}, {}
    several = sum(device.kind != "cpu" for device in devices) > 1
    for variant in variants:
        row = rows.get(variant.fit_name or "")
        if variant.file_path is not None:
            own = variant.projector_file  # one that is made from the checkpoint is not counted
            cache = split_cache(variant.name)[1] or options.kv_cache
            how = replace(options, projector=own is not None, mmproj="" if own is None else str(own))
            how = replace(how, kv_type_k=cache.k, kv_type_v=cache.v)
            row = fit(str(variant.file_path), [], devices, how, run_job).rows[0]
        if row is not None and verdict(row) is Verdict.DOES_NOT_FIT:
            large[variant.name] = _too_large(row, devices)
        elif row is not None and row.kind == GGUF and _has_a_place(row, several):
            split = row.tensor_split if several else ()
            placed[variant.name] = LoadOptions(row.gpu_layers, row.cpu_moe_layers, tuple(map(float, split)))
    return FitOfVariants(large, placed)


def _has_a_place(row: FitRow, several: bool) -> bool:
    """Whether a sweep can measure the variant at its place: one that is not llama.cpp's own choice, and that settings
    describe. Places of single tensors (-ot) are not among them."""
    return (several or verdict(row) is Verdict.PARTLY) and "-ot" not in row.arguments.split()


def _too_large(row: FitRow, devices: Sequence[Device]) -> Skipped:
    names = ", ".join(device.name for device in devices)
    reason = f"needs {size(-row.headroom_bytes)} more than {names} {'have' if len(devices) > 1 else 'has'}"
    return Skipped(f"{reason} (total {size(row.total_bytes)})", row.file_bytes, row.bits_per_weight, row.total_bytes)
