"""The chat template of a model: of a checkpoint directory, as transformers finds it, or of a GGUF file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.checkpoint import read_json
from converters.errors import InputError
from converters.llamacpp.container import Field, ValueType, text
from converters.llamacpp.reader import read_header

_KEY = "tokenizer.chat_template"
_DEFAULT = "default"


def chat_template(path: Path) -> str | None:
    """The template in Jinja of a checkpoint directory or a GGUF file; None if it has none. Raises InputError."""
    if path.is_dir():
        settings = path / "tokenizer_config.json"
        return directory_template(path, read_json(settings) if settings.is_file() else {})
    if path.suffix == ".gguf":
        return file_template(path, read_header(path).metadata)
    return None


def file_template(path: Path, metadata: Mapping[str, Field]) -> str | None:
    """The template in the metadata of a GGUF file: the only one, or the one named "default".

    Raises InputError if the file has templates, but llama.cpp cannot read the one that conversations without tools use.
    """
    if _KEY in metadata and metadata[_KEY].type is not ValueType.STRING:
        raise InputError(f"{path}: {_KEY} is {metadata[_KEY].type.name}, not a text; run without --chat-template")
    named = {key.removeprefix(f"{_KEY}."): key for key in metadata if key.startswith(f"{_KEY}.")}
    found = text(metadata, _KEY) or text(metadata, named.get(_DEFAULT, ""))
    if not found and named:
        raise InputError(
            f"{path}: has no default chat template, only {', '.join(sorted(named))}; run without --chat-template"
        )
    return found or None


def directory_template(path: Path, settings: Mapping[str, Any]) -> str | None:
    """The template of a checkpoint directory, whose tokenizer_config.json is `settings`.

    As in transformers, files replace all templates of tokenizer_config.json, and of several named templates the one
    named "default" is used for conversations without tools. Raises InputError if a file cannot be read.
    """
    named = {_DEFAULT: path / "chat_template.jinja"} if (path / "chat_template.jinja").is_file() else {}
    named |= {file.stem: file for file in sorted((path / "additional_chat_templates").glob("*.jinja"))}
    if named:
        return _read(named[_DEFAULT]) if _DEFAULT in named else None
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
    if isinstance(template, dict):
        template = template.get(_DEFAULT)
    return template if isinstance(template, str) else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
