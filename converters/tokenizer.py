"""A Hugging Face tokenizer.json as GGUF metadata: byte-level BPE with one of Qwen's pre-tokenizers.

llama.cpp has the pre-tokenizers built in and selects one by name. The name is recognized from the regular expression
with which tokenizer.json splits text. GGUF keys: ggml's docs/gguf.md; token types as llama.cpp's converter sets them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from converters.chat_template import directory_template
from converters.checkpoint import read_json
from converters.errors import InputError
from converters.llamacpp.container import Field, ValueType, boolean, numbers, string, strings, uint32
from converters.llamacpp.pretokenizers import NORMALIZER_KEY, PRE_TOKENIZERS

_NAMES = {one.pattern: one.name for one in PRE_TOKENIZERS}
"""Regular expression in tokenizer.json -> llama.cpp's name of that pre-tokenizer."""

SPECIAL_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # GGUF's spelling
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}
"""Name of a special token in tokenizer_config.json -> GGUF key after `tokenizer.ggml.`"""

MAX_VOCAB = 1 << 22  # sixteen times Qwen's largest vocabulary


class TokenKind(IntEnum):
    """llama.cpp's token types."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True)
class Tokenizer:
    """What GGUF stores of a tokenizer. `normalizer` is "NFC" or "none"; llama.cpp itself does not normalize.

    With `add_bos`, every text begins with the token `special["bos"]`.
    """

    tokens: tuple[str, ...]
    kinds: tuple[TokenKind, ...]
    merges: tuple[str, ...]
    pre_tokenizer: str
    normalizer: str
    special: Mapping[str, int]
    chat_template: str | None
    add_bos: bool = False

    def fields(self) -> dict[str, Field]:
        """The metadata under `tokenizer.`, and this project's own key for the normalizer."""
        result = {
            "tokenizer.ggml.model": string("gpt2"),
            "tokenizer.ggml.pre": string(self.pre_tokenizer),
            "tokenizer.ggml.tokens": strings(self.tokens),
            "tokenizer.ggml.token_type": numbers(ValueType.INT32, self.kinds),
            "tokenizer.ggml.merges": strings(self.merges),
        }
        for name, token in self.special.items():
            result[f"tokenizer.ggml.{SPECIAL_KEYS[name]}"] = uint32(token)
        result["tokenizer.ggml.add_bos_token"] = boolean(self.add_bos)
        if self.chat_template is not None:
            result["tokenizer.chat_template"] = string(self.chat_template)
        result[NORMALIZER_KEY] = string(self.normalizer)
        return result


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model directory: what llama.cpp and torch have in common.

    `content` is tokenizer.json. It alone decides how a text becomes tokens: not the class in tokenizer_config.json, by
    which transformers may build another pre-tokenizer and normalizer, and not tokens or settings that only
    tokenizer_config.json has. From that file come the roles of tokens and the chat template.
    """

    content: Mapping[str, Any]
    tokens: tuple[str, ...]
    kinds: tuple[TokenKind, ...]
    special: Mapping[str, int]
    chat_template: str | None
    add_bos: bool


def read_vocabulary(path: Path, config: Mapping[str, Any]) -> Vocabulary:
    """Read the tokens of a model directory. `config` is the model's config, which has the vocabulary's size.

    Raises InputError if a file is missing or malformed.
    """
    file = path / "tokenizer.json"
    if not file.is_file():
        raise InputError(f"{path}: has no tokenizer.json; save the tokenizer with transformers' fast tokenizer")
    content = read_json(file)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise InputError(f"{file}: the model is not byte-level BPE, the only kind that is supported")
    added = _added_tokens(content, file)
    tokens, kinds = _tokens(model, added, config, file)
    settings = read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
    ids = {token: number for number, (token, _) in added.items()}
    special = _special_tokens(path, settings, config, ids, len(tokens))
    first = _first_token(content, ids, file)
    if first is not None:
        special["bos"] = first
    return Vocabulary(content, tokens, kinds, special, directory_template(path, settings), first is not None)


def read_tokenizer(path: Path, config: Mapping[str, Any], pre_tokenizer: str | None = None) -> Tokenizer:
    """Read the tokenizer of a model directory. `config` is the model's config, which has the vocabulary's size.

    `pre_tokenizer` is llama.cpp's name of the pre-tokenizer, if it cannot be recognized from tokenizer.json.
    Raises InputError if a file is missing or malformed, or if llama.cpp cannot do what the tokenizer does.
    """
    file = path / "tokenizer.json"
    read = read_vocabulary(path, config)
    model = read.content["model"]
    if model.get("byte_fallback"):
        raise InputError(f"{file}: the model is not byte-level BPE, the only kind that is supported")
    if model.get("ignore_merges"):
        raise InputError(f"{file}: ignore_merges is set, which llama.cpp's Qwen pre-tokenizers do not support")
    merges = _merges(model, file)
    _reject_invalid_unicode(file, (*read.tokens, *merges))
    _reject_invalid_unicode(path / "tokenizer_config.json", [read.chat_template or ""])
    return Tokenizer(
        tokens=read.tokens,
        kinds=read.kinds,
        merges=merges,
        pre_tokenizer=_pre_tokenizer(read.content, file, pre_tokenizer),
        normalizer=_normalizer(read.content, file),
        special=read.special,
        chat_template=read.chat_template,
        add_bos=read.add_bos,
    )


def _pre_tokenizer(content: Mapping[str, Any], file: Path, chosen: str | None) -> str:
    if chosen is not None:
        if chosen not in _NAMES.values():
            raise InputError(f"unknown pre-tokenizer {chosen!r}; known: {', '.join(_NAMES.values())}")
        return chosen
    steps = _steps(content, "pre_tokenizer", "pretokenizers")
    if [step.get("type") for step in steps] == ["Split", "ByteLevel"]:
        split, byte_level = steps
        pattern = split.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        name = _NAMES.get(regex) if isinstance(regex, str) else None
        plain = split.get("behavior") == "Isolated" and not split.get("invert")
        if name and plain and not byte_level.get("add_prefix_space") and not byte_level.get("use_regex", True):
            return name
    found = json.dumps(content.get("pre_tokenizer"))[:160]
    raise InputError(
        f"{file}: the pre-tokenizer ({found}) is not one of llama.cpp's for Qwen"
        f" ({', '.join(_NAMES.values())}); if you know which one gives the same tokens, name it by --pre-tokenizer"
    )


def _steps(content: Mapping[str, Any], key: str, inner: str) -> list[dict[str, Any]]:
    """The steps of a section: the list under `inner`, or the section itself. A malformed step becomes {}."""
    section = content.get(key)
    if section is None:
        return []
    steps = section.get(inner, [section]) if isinstance(section, dict) else [section]
    return [step if isinstance(step, dict) else {} for step in steps] if isinstance(steps, list) else [{}]


def _first_token(content: Mapping[str, Any], added: Mapping[str, int], file: Path) -> int | None:
    """The token that the post-processor puts before every text, as in DeepSeek-R1-Distill-Qwen; None: it adds none.

    Raises InputError for a post-processor that adds anything else, as those of embedding models do.
    """
    steps = _steps(content, "post_processor", "processors")
    templates = [_pieces(step["single"]) for step in steps if "single" in step]
    if all(kind == "Sequence" for pieces in templates for kind, _ in pieces):
        return None
    if [[kind for kind, _ in pieces] for pieces in templates] != [["SpecialToken", "Sequence"]]:
        raise InputError(
            f"{file}: the post-processor adds tokens to every text; only one token before the text is supported"
        )
    token = templates[0][0][1]
    if token not in added:
        raise InputError(f"{file}: the post-processor adds {token!r}, which is not among added_tokens")
    return added[token]


def _pieces(template: Any) -> list[tuple[str, str]]:
    """The pieces of a template as (kind, id), such as ("SpecialToken", "<s>"); ("", "") for a malformed one."""
    if not isinstance(template, list):
        return [("", "")]
    pieces = [
        next(iter(piece.items())) if isinstance(piece, dict) and len(piece) == 1 else ("", {}) for piece in template
    ]
    return [(kind, str(what.get("id"))) if isinstance(what, dict) else ("", "") for kind, what in pieces]


def _normalizer(content: Mapping[str, Any], file: Path) -> str:
    kinds = [step.get("type") for step in _steps(content, "normalizer", "normalizers")]
    if kinds in ([], ["NFC"]):
        return "NFC" if kinds else "none"
    raise InputError(
        f"{file}: normalizer {json.dumps(content.get('normalizer'))[:120]} is not supported; only NFC and none are"
    )


def _added_tokens(content: Mapping[str, Any], file: Path) -> dict[int, tuple[str, bool]]:
    added: dict[int, tuple[str, bool]] = {}
    entries = content.get("added_tokens") or []
    if not isinstance(entries, list):
        raise InputError(f"{file}: added_tokens is not a list")
    for entry in entries:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not isinstance(entry.get("content"), str):
            raise InputError(f"{file}: an entry of added_tokens has no id or content: {str(entry)[:120]}")
        added[entry["id"]] = (entry["content"], bool(entry.get("special")))
    return added


def _tokens(
    model: Mapping[str, Any], added: Mapping[int, tuple[str, bool]], config: Mapping[str, Any], file: Path
) -> tuple[tuple[str, ...], tuple[TokenKind, ...]]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(number) is int for number in vocab.values()):
        raise InputError(f"{file}: model.vocab is not a table of tokens and their ids")
    by_id: dict[int, tuple[str, TokenKind]] = {}
    for token, number in vocab.items():
        if number in by_id:
            raise InputError(f"{file}: tokens {by_id[number][0]!r} and {token!r} have the same id {number}")
        by_id[number] = (token, TokenKind.NORMAL)
    for number, (token, special) in added.items():
        if number in by_id and by_id[number][0] != token:
            raise InputError(f"{file}: tokens {by_id[number][0]!r} and {token!r} have the same id {number}")
        control = special or _looks_special(token)
        by_id[number] = (token, TokenKind.CONTROL if control else TokenKind.USER_DEFINED)
    size = config.get("vocab_size", max(by_id, default=0) + 1)
    if type(size) is not int or not 0 < size <= MAX_VOCAB:
        raise InputError(f"config.json: vocab_size is {size!r}; expected a whole number from 1 to {MAX_VOCAB}")
    if by_id and (min(by_id) < 0 or max(by_id) >= size):
        token = by_id[max(by_id)][0]
        raise InputError(f"{file}: token {token!r} has id {max(by_id)}, but vocab_size in config.json is {size}")
    entries = [by_id.get(number, (f"[PAD{number}]", TokenKind.UNUSED)) for number in range(size)]
    tokens = tuple(token for token, _ in entries)
    if len(set(tokens)) != size:
        seen: set[str] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))  # type: ignore[func-returns-value]
        raise InputError(f"{file}: token {twice!r} has two ids")
    return tokens, tuple(kind for _, kind in entries)


def _looks_special(token: str) -> bool:
    """Whether llama.cpp's converter takes an added token for a special one because of its form, as in `<|im_end|>`."""
    return any(
        token.startswith(f"<{bar}") and token.endswith(f"{bar}>") for bar in ("|", "\N{FULLWIDTH VERTICAL LINE}")
    )


def _merges(model: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise InputError(f"{file}: model.merges is not a list")
    pairs = [merge.split(" ") if type(merge) is str else merge for merge in merges]
    for pair, merge in zip(pairs, merges, strict=True):
        if type(pair) is not list or [type(part) for part in pair] != [str, str] or "" in pair:
            raise InputError(f"{file}: {str(merge)[:80]!r} in model.merges is not a pair of tokens")
    # GGUF separates the two tokens by a space; a space inside a token is written in its byte-level form.
    return tuple([f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}" for left, right in pairs])


def _reject_invalid_unicode(file: Path, texts: Sequence[str]) -> None:
    """JSON can express half of a surrogate pair, which has no UTF-8 encoding."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{file}: {error.object[error.start :][:40]!r} is not valid Unicode, which GGUF requires"
        ) from None


def _special_tokens(
    path: Path, settings: Mapping[str, Any], config: Mapping[str, Any], added: Mapping[str, int], size: int
) -> dict[str, int]:
    generation = path / "generation_config.json"
    fallbacks = [config, read_json(generation) if generation.is_file() else {}]
    found: dict[str, int] = {}
    for name in SPECIAL_KEYS:
        entry = settings.get(f"{name}_token")
        token = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(token, str) and token in added:
            found[name] = added[token]
            continue
        for source in fallbacks:
            number = source.get(f"{name}_token_id")
            number = number[0] if isinstance(number, list) and number else number
            if type(number) is int:
                found[name] = number
                break
    for name, number in found.items():
        if not 0 <= number < size:
            raise InputError(f"{path}: {name}_token_id is {number}, outside the vocabulary of {size} tokens")
    if "eos" not in found:  # llama.cpp would use token 11 by default, which is wrong for Qwen
        raise InputError(
            f"{path}: tokenizer_config.json, config.json and generation_config.json define no eos_token; add it"
        )
    return found
