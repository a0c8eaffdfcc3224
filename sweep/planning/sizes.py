"""What variants take before they are made: file bytes, bits per weight and memory, worked out by a worker process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from sweep.execution.child import Child, Failed
from sweep.planning.model import Model


def sizes(
    model: Model,
    quants: list[str],
    settings: dict[str, Any],
    imatrix: bool,
    torch: dict[str, tuple[str, dict[str, Any] | None]] | None = None,
) -> dict[str, dict[str, float]]:
    """By quant, and by variant of `torch` (its kind and int8 recipe): see worker's sizes. Raises InputError, or
    MissingRuntime where llama.cpp cannot be asked."""
    job: dict[str, Any] = {"kind": "sizes", "source": str(model.path), "name": model.name, "quants": quants}
    with tempfile.TemporaryDirectory() as directory, Child(Path(directory) / "sizes.log") as child:
        for answer in child.submit(job | {"settings": settings, "imatrix": imatrix, "torch": torch or {}}):
            if isinstance(answer, Failed):
                raise answer.error
            if isinstance(answer, dict):
                return answer
    raise AssertionError("a job ends with a result or a failure")
