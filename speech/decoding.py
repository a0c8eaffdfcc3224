"""How a checkpoint decodes: the tokens that a transcript begins with, the tokens that never come, and text to tokens.

The settings are deterministic: greedy, without timestamps, one window at a time, without a fallback to sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from converters.checkpoint import read_config, read_json
from converters.errors import InputError

START, END, TRANSCRIBE, NO_TIMESTAMPS = "<|startoftranscript|>", "<|endoftext|>", "<|transcribe|>", "<|notimestamps|>"


@dataclass(frozen=True)
class Decoding:
    """`prompt` are the first tokens of every transcript, `end` the last one. `never` are tokens that are never chosen,
    `never_first` those that are not chosen as the first one. `longest` is the most tokens of a transcript, with its
    prompt and end."""

    prompt: tuple[int, ...]
    end: int
    never: tuple[int, ...]
    never_first: tuple[int, ...]
    longest: int


class SpeechTokenizer:
    """tokenizer.json of a checkpoint. Raises InputError if it is missing or malformed."""

    def __init__(self, checkpoint: Path) -> None:
        self._path = checkpoint / "tokenizer.json"
        if not self._path.is_file():
            raise InputError(f"{self._path}: is missing; download the checkpoint again with its tokenizer")
        try:
            self._tokenizer = Tokenizer.from_file(str(self._path))
        except Exception as error:  # the library raises no narrower type
            raise InputError(f"{self._path}: cannot be loaded: {' '.join(str(error).split())[:200]}") from error

    def tokens(self, text: str) -> tuple[int, ...]:
        """The tokens of a transcript's text, which begins with a space there; without special tokens."""
        return tuple(self._tokenizer.encode(f" {text}", add_special_tokens=False).ids)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def special(self, token: str) -> int | None:
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def require(self, token: str) -> int:
        """The number of a special token. Raises InputError if there is none."""
        found = self.special(token)
        if found is None:
            raise InputError(f"{self._path}: has no token {token}; it is no tokenizer of Whisper")
        return found


def read_decoding(checkpoint: Path, tokenizer: SpeechTokenizer, language: str) -> Decoding:
    """The settings of a checkpoint for a language ("en"). Raises InputError for a language that it does not know."""
    config = read_config(checkpoint)
    file = checkpoint / "generation_config.json"
    settings: dict[str, Any] = {**config, **(read_json(file) if file.is_file() else {})}
    start, end, no_timestamps = (tokenizer.require(token) for token in (START, END, NO_TIMESTAMPS))
    prompt = [start]
    if settings.get("is_multilingual", int(config.get("vocab_size", 0)) >= 51865):
        spoken = tokenizer.special(f"<|{language}|>")
        if spoken is None:
            raise InputError(f"{checkpoint.name} knows no language {language!r}; give a code such as en, de or fr")
        prompt += [spoken, tokenizer.require(TRANSCRIBE)]
    elif language != "en":
        raise InputError(f"{checkpoint.name} is a model for English; --language {language} is for multilingual ones")
    suppressed = {int(token) for token in settings.get("suppress_tokens") or ()}
    timestamps = range(no_timestamps + 1, int(config["vocab_size"]))
    never = suppressed | set(timestamps) | {*prompt, no_timestamps}
    never_first = {int(token) for token in settings.get("begin_suppress_tokens") or ()}
    prompt.append(no_timestamps)
    return Decoding(
        tuple(prompt),
        end,
        tuple(sorted(never - {end})),
        tuple(sorted(never_first)),
        int(config["max_target_positions"]),
    )
