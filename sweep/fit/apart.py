"""A fit in a process of its own: a stranger's config or header can make llama.cpp end the one it runs in."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from converters.errors import InputError
from sweep.fit.device import Device
from sweep.fit.report import DeviceShare, Figure, FitOptions, FitReport, Row
from sweep.running.child import Child, Failed


def fit_apart(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
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
                raise InputError(f"{model}: {answer.message}" if answer.died else answer.message)
            if isinstance(answer, dict):
                return _report(answer)
    raise AssertionError("a job ends with a result or a failure")


def answer_fit(
    model: str, variants: list[str], devices: list[dict[str, Any]], options: dict[str, Any]
) -> dict[str, Any]:
    """The worker's side: the report as plain JSON."""
    from sweep.fit.fitting import fit_here

    return asdict(fit_here(model, variants, [Device(**device) for device in devices], FitOptions(**options)))


def _report(plain: dict[str, Any]) -> FitReport:
    return FitReport(
        **plain
        | {
            "devices": tuple(Device(**device) for device in plain["devices"]),
            "rows": tuple(_row(row) for row in plain["rows"]),
            "notes": tuple(plain["notes"]),
        }
    )


def _row(plain: dict[str, Any]) -> Row:
    return Row(
        **plain
        | {
            "figures": {part: Figure(**figure) for part, figure in plain["figures"].items()},
            "shares": tuple(DeviceShare(**share) for share in plain["shares"]),
            "tensor_split": tuple(plain["tensor_split"]),
        }
    )
