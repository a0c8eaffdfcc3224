"""The checkpoints of `sweep convert`: variants that torch quantizes, each in a directory of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import presets
from converters.checkpoint import read_json
from converters.errors import InputError
from converters.source import Source
from int8.calibration_text import FEWEST_TOKENS
from sweep.commands.convert_request import ConvertRequest
from sweep.methods.base import Variant
from sweep.methods.checkpoint import CalibrationFigures, CheckpointTask, CheckpointVariant
from sweep.planning.input_checks import maybe_short
from sweep.planning.texts import FoundText, calibration_text
from sweep.workspace import Workspace, open_workspace, sharing

Report = Callable[[str, int, int], None]
"""Called with a variant's name, and what is done of how much."""


@dataclass(frozen=True)
class PlannedCheckpoint:
    """A checkpoint to be written into the directory `path`.

    `file_bytes` are those of its tensors until it is written, then those of its files (`header_exact`). `complete`: an
    earlier run wrote it. `calibration` is known after it was written.
    """

    variant: str
    path: Path
    file_bytes: int
    bits_per_weight: float
    header_exact: bool = False
    complete: bool = False
    calibration: CalibrationFigures | None = None

    def to_json(self) -> dict[str, Any]:
        table = {
            "variant": self.variant,
            "path": str(self.path),
            "file_bytes": self.file_bytes,
            "bits_per_weight": self.bits_per_weight,
            "header_exact": self.header_exact,
        }
        if self.calibration is not None:
            table |= {"calibration": self.calibration.to_json(), "expert_tokens": dict(self.calibration.expert_tokens)}
        return table

    def written(self, calibration: CalibrationFigures | None) -> PlannedCheckpoint:
        """The same checkpoint when its directory is complete."""
        size = sum(file.stat().st_size for file in self.path.glob("*.safetensors"))
        return replace(self, file_bytes=size, header_exact=True, calibration=calibration)


@dataclass(frozen=True)
class CheckpointPlan:
    """The checkpoints to write, and the text that they are calibrated with; None if none needs one."""

    variants: tuple[Variant, ...] = ()
    planned: tuple[PlannedCheckpoint, ...] = ()
    text: FoundText | None = None


def require_written(variants: Sequence[Variant], dequantized: bool) -> None:
    """Raises InputError for a variant of which there is nothing to write."""
    for variant in variants:
        if not isinstance(variant, CheckpointVariant):
            raise InputError(
                f"{variant.name}: is not made by quantizing a model; --to takes quants (Q4_K_M) and variants such as"
                " gptq:w4g128 and int8:sq-ph-dyn"
            )
        variant.require_written(dequantized)


def chosen_text(request: ConvertRequest, variants: Sequence[Variant]) -> FoundText | None:
    """The text that the variants are calibrated with, None if they read none. Raises InputError."""
    needed = any(variant.needs_calibration for variant in variants)
    if not variants or (request.calibration is None and not needed):
        return None
    chosen = None if request.calibration is None else str(request.calibration)
    builtin, workspace = presets.builtin_models().get(request.model), open_workspace(request.workspace)
    text = calibration_text(chosen, builtin, request.parse_special, workspace=workspace.root)
    return text if needed else None


def plan_checkpoints(
    request: ConvertRequest, variants: Sequence[Variant], text: FoundText | None, name: str, path: Path, source: Source
) -> CheckpointPlan:
    """Plan the checkpoints of the model `name` at `path`. Nothing is written. Raises InputError, MissingRuntime."""
    for kind in dict.fromkeys(type(variant) for variant in variants):
        kind.require_model([variant for variant in variants if type(variant) is kind], path)
    planned = tuple(_planned(request, variant, name, source) for variant in variants)
    if not variants or request.dry_run:
        return CheckpointPlan(tuple(variants), planned, text)
    from int8.quantize_model import require_device  # loads torch, which a dry run and GGUF files do not need

    require_device(request.device or "cpu")
    checked = []
    for variant, one in zip(variants, planned, strict=True):
        complete = _is_complete(request, variant, one.path, _origin(request, variant, text, source))
        checked.append(replace(one, complete=complete))
    if text is not None:
        _require_long_enough(request, text, path, open_workspace(request.workspace))
    return CheckpointPlan(tuple(variants), tuple(checked), text)


def _planned(request: ConvertRequest, variant: Variant, name: str, source: Source) -> PlannedCheckpoint:
    assert isinstance(variant, CheckpointVariant)  # see require_written
    sizes = variant.written_sizes(source, request.dequantized)
    ending = "-dequantized" if request.dequantized else ""
    out = request.out / f"{name}-{variant.name.replace(':', '-')}{ending}"
    return PlannedCheckpoint(variant.name, out, sizes.file + sizes.tower, 8 * sizes.file / sizes.weights)


def _is_complete(request: ConvertRequest, variant: Variant, out: Path, origin: str) -> bool:
    """Whether an earlier run wrote this checkpoint. Raises InputError if the directory is in the way."""
    assert isinstance(variant, CheckpointVariant)
    is_directory = out.is_dir() and not out.is_symlink()
    if not (out.is_symlink() or out.exists()) or (is_directory and not any(out.iterdir())):
        return False
    report = out / variant.report_file(request.dequantized)
    ours = is_directory and report.is_file()
    if ours and read_json(report).get("origin") == origin:
        return True
    if ours and not request.replace:
        raise InputError(
            f"{out}: a checkpoint with other content exists; choose another place with --out, or replace it with"
            " --force"
        )
    if not ours:
        raise InputError(
            f"{out}: exists and is not a checkpoint of this kind, so it is not replaced; choose another place with"
            " --out, or remove it"
        )
    return False


def _origin(request: ConvertRequest, variant: Variant, text: FoundText | None, source: Source) -> str:
    """A hash of what a checkpoint is made from. A recipe's settings are part of its variant."""
    read = None
    if variant.needs_calibration and text is not None:
        read = [text.name, text.file.identity, request.samples, request.length]
    parts = [source.fingerprint, repr(variant), read, request.dequantized]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _require_long_enough(request: ConvertRequest, text: FoundText, path: Path, workspace: Workspace) -> None:
    """Download the text if it is not here, and raise InputError if it gives too few samples."""
    from sweep.commands.calibration import available_text

    here = text.file.file.under(workspace.root)
    stated = request.samples is not None or request.length is not None
    if stated or not here.is_file() or maybe_short(here, FEWEST_TOKENS, text.file.form):
        available_text(text, workspace).of(path, request.samples, request.length)


def write_checkpoints(
    request: ConvertRequest, plan: CheckpointPlan, source: Source, say: Callable[[str], None], progress: Report
) -> tuple[tuple[PlannedCheckpoint, ...], dict[str, str]]:
    """Write the checkpoints that are not complete. Returns those that are complete now, and the errors of the others by
    variant: one that fails does not keep the others from being written.

    An interrupted command resumes with what it wrote. Raises InputError if there is only one, and it fails."""
    from transformers.utils import logging as transformers_logging

    from sweep.commands.calibration import available_text

    transformers_logging.disable_progress_bar()  # its progress bars would mix with ours
    transformers_logging.set_verbosity_error()
    workspace = open_workspace(request.workspace)
    cache = workspace.artefacts(source.fingerprint)
    written, failed = [], {}
    with sharing(cache):  # otherwise a sweep of this model that ends now would remove files that are being written
        for variant, planned in zip(plan.variants, plan.planned, strict=True):
            if planned.complete:
                say(f"{planned.path}: is complete, from an earlier run")
                written.append(planned.written(None))
                continue
            assert isinstance(variant, CheckpointVariant)
            progress(variant.name, 0, 1)
            task = CheckpointTask(
                source=source.path,
                out=planned.path,
                text=None if plan.text is None else available_text(plan.text, workspace),
                samples=request.samples,
                length=request.length,
                device=request.device or "cpu",
                cache=cache,
                origin=_origin(request, variant, plan.text, source),
                dequantized=request.dequantized,
                replace=request.replace,
            )
            try:
                written.append(planned.written(variant.write(task, partial(progress, variant.name))))
            except InputError as error:
                if len(plan.planned) == 1:
                    raise
                say(f"{variant.name}: {error}")
                failed[variant.name] = str(error)
    return tuple(written), failed
