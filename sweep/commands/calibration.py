"""The calibration text of commands that quantize in this process."""

from __future__ import annotations

from pathlib import Path

from int8.quantize_model import CalibrationSource
from sweep.jobs.calibration import calibration_source
from sweep.measure.plain_text import save_text
from sweep.planning.texts import FoundText
from sweep.workspace import Workspace


def available_text(text: FoundText, workspace: Workspace) -> CalibrationSource:
    """The text as a model reads it. A published one is downloaded to the workspace when it is read."""
    file, dataset = text.file.file.under(workspace.root), text.dataset

    def available() -> Path:
        if dataset is not None and not file.is_file():
            save_text(dataset.path, dataset.name, dataset.split, file, dataset.option)
        return file

    return calibration_source(text.name, text.file.form, available)
