"""The calibration text of a recipe, as a model reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from int8.quantize_model import CalibrationSource, CalibrationText
from sweep.backends.torch_vocabulary import TorchVocabulary
from sweep.measure.image_conversations import image_prompts
from sweep.measure.text_form import TextForm
from sweep.measure.texts import as_conversations, model_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from int8.samples import Samples


@dataclass(frozen=True)
class ImageConversations:
    """A CalibrationSource: conversations with images. `file` gives the path of their file. Each one is a sample."""

    name: str
    file: Callable[[], Path]

    @property
    def is_cut(self) -> bool:
        return False

    def of(self, path: Path, count: int | None, length: int | None) -> Samples:
        return image_prompts(self.file(), TorchVocabulary.open(path), path, count, length)


def calibration_source(name: str, form: TextForm, file: Callable[[], Path]) -> CalibrationSource:
    """The text `name` of this form. `file` gives its path when the text is read."""
    if form is TextForm.IMAGES:
        return ImageConversations(name, file)
    return CalibrationText(
        name, lambda tokenizer: model_text(file(), form, TorchVocabulary(tokenizer)), form.parses_special
    )


def chat_source(name: str, form: TextForm, file: Callable[[], Path]) -> CalibrationSource:
    """The same, with the paragraphs of the text as conversations in the model's chat template."""
    if form is TextForm.IMAGES:
        return ImageConversations(name, file)

    def read(tokenizer: PreTrainedTokenizerBase) -> str:
        vocabulary = TorchVocabulary(tokenizer)
        text = model_text(file(), form, vocabulary)
        return text if form is TextForm.CONVERSATIONS else as_conversations(text, vocabulary, name)

    return CalibrationText(name, read, parse_special=True)
