"""The calibration text of a recipe, as a model reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from int8.quantize_model import CalibrationText
from sweep.backends.torch_vocabulary import TorchVocabulary
from sweep.measure.text_form import TextForm
from sweep.measure.texts import as_conversations, model_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def calibration_source(name: str, form: TextForm, file: Callable[[], Path]) -> CalibrationText:
    """The text `name` of this form. `file` gives its path when the text is read."""
    return CalibrationText(
        name, lambda tokenizer: model_text(file(), form, TorchVocabulary(tokenizer)), form.parses_special
    )


def chat_source(name: str, form: TextForm, file: Callable[[], Path]) -> CalibrationText:
    """The same, with the paragraphs of the text as conversations in the model's chat template."""

    def read(tokenizer: PreTrainedTokenizerBase) -> str:
        vocabulary = TorchVocabulary(tokenizer)
        text = model_text(file(), form, vocabulary)
        return text if form is TextForm.CONVERSATIONS else as_conversations(text, vocabulary, name)

    return CalibrationText(name, read, parse_special=True)
