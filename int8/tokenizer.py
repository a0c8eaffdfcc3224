"""The tokenizer of a model directory for torch: tokenizer.json itself, so that torch and llama.cpp see the same tokens.

transformers' AutoTokenizer rebuilds the pre-tokenizer and the normalizer for some classes, and chooses the class by
tokenizer_config.json or by the model type in config.json. For one tokenizer.json it can therefore give other tokens
than llama.cpp, and others again for the same tokenizer beside another config.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from converters.checkpoint import read_config, read_json
from converters.errors import InputError
from converters.tokenizer import TokenKind, read_vocabulary
from int8.architectures import is_speech

AS_THE_FILE_SAYS = "PreTrainedTokenizerFast"
"""The tokenizer class for which every version of transformers loads tokenizer.json as it is."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "generation_config.json", "normalizer.json",
)  # fmt: skip
TEMPLATES = "additional_chat_templates"
PROCESSOR_FILES = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json",
)  # fmt: skip
"""What a model that takes images needs besides its tokenizer."""


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model directory, with transformers' interface. It gives the tokens of the exported GGUF file.

    Special tokens and the chat template are those that the GGUF file gets too: see `read_vocabulary`. Raises InputError
    if a file is missing or malformed, or a token is outside the vocabulary of the config.
    """
    read = read_vocabulary(path, read_config(path))
    try:
        tokenizer = Tokenizer.from_str(json.dumps(_with_control_tokens(read.content, read.kinds)))
    except Exception as error:  # the library raises no narrower type
        raise InputError(
            f"{path / 'tokenizer.json'}: cannot be loaded: {' '.join(str(error).split())[:200]}"
        ) from error
    for entry in read.content.get("added_tokens") or []:  # it numbers them itself, in order, without gaps
        token, number = entry["content"], entry["id"]
        if (given := tokenizer.token_to_id(token)) != number:
            raise InputError(
                f"{path / 'tokenizer.json'}: the added token {token!r} has id {number}, but the tokenizers library"
                f" gives it {given}; the ids of added tokens must follow those of the vocabulary without a gap"
            )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=read.chat_template)
    for role, number in read.special.items():  # as arguments they would become added tokens, which cut the text
        setattr(fast, f"{role}_token", read.tokens[number])
    return fast


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy the tokenizer's files of a model directory to another one, whose config may name another model type.

    In the copy, AutoTokenizer loads tokenizer.json as it is, but for a speech model, whose processor needs a class of
    its own. Raises OSError, and InputError for a malformed file.
    """
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    if (source / TEMPLATES).is_dir():
        shutil.copytree(source / TEMPLATES, out / TEMPLATES, dirs_exist_ok=True)  # of an interrupted process
    settings = out / "tokenizer_config.json"
    if (out / "tokenizer.json").is_file() and not is_speech(source):
        known = read_json(settings) if settings.is_file() else {}
        text = json.dumps({**known, "tokenizer_class": AS_THE_FILE_SAYS}, indent=2, ensure_ascii=False)
        settings.write_text(text + "\n", encoding="utf-8")


def copy_processor(source: Path, out: Path) -> None:
    """Copy the settings of the processors of images and videos to another model directory. Raises OSError."""
    for name in PROCESSOR_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _with_control_tokens(content: Any, kinds: tuple[TokenKind, ...]) -> dict[str, Any]:
    """tokenizer.json with every token marked as special that llama.cpp treats so: `<|...|>`, whatever the file says.

    Special tokens are left out of generated text, and are read in a text only if the caller asks for it.
    """
    added = [
        {**entry, "special": kinds[entry["id"]] is TokenKind.CONTROL} for entry in content.get("added_tokens") or []
    ]
    return {**content, "added_tokens": added}
