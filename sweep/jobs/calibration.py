"""The calibration text of int8 recipes, as a model reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from int8.quantize_model import CalibrationText
from sweep.backends.torch_vocabulary import TorchVocabulary
from sweep.measure.text_form import TextForm
from sweep.measure.texts import model_text


def calibration_source(name: str, form: TextForm, file: Callable[[], Path]) -> CalibrationText:
    """The text `name` of this form. `file` gives its path when the text is read."""
    return CalibrationText(
        name, lambda tokenizer: model_text(file(), form, TorchVocabulary(tokenizer)), form.parses_special
    )
