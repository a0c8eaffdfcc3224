"""How a text for perplexity or calibration is read."""

from __future__ import annotations

from enum import StrEnum


class TextForm(StrEnum):
    """How a text is read."""

    PLAIN = "plain"  # `<|im_start|>` and other special tokens are ordinary characters
    SPECIAL = "special"  # they are special tokens
    CONVERSATIONS = "conversations"  # JSONL of conversations, which the model's chat template writes
    IMAGES = "images"  # JSONL of conversations with images, which only calibration reads

    @property
    def parses_special(self) -> bool:
        return self is not TextForm.PLAIN

    @property
    def key(self) -> str:
        """What a text's identity ends with. It is empty for a plain text, so that keys of earlier results stay."""
        return f"+{self}" if self.parses_special else ""

    @property
    def suffix(self) -> str:
        """What the name of a text ends with in reports."""
        return _SUFFIXES[self]


_SUFFIXES = {
    TextForm.PLAIN: "",
    TextForm.SPECIAL: " (with special tokens)",
    TextForm.CONVERSATIONS: " (conversations)",
    TextForm.IMAGES: " (conversations with images)",
}
