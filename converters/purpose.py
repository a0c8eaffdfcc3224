"""Recognizes models that are published in the form of a language model, but whose answers are not text."""

import re
from pathlib import Path

from converters.errors import InputError

_REASONS = {
    "embedding": "an embedding model: it gives vectors, so perplexity and tasks with text say nothing about it",
    "reranker": "a reranker: it gives a relevance, so perplexity and tasks with text say nothing about it",
}
_PUBLISHED = re.compile(r"qwen3(?:-vl)?-(embedding|reranker)", re.IGNORECASE)


def require_language_model(name: str, directory: Path | None) -> None:
    """Raise InputError for an embedding model or a reranker.

    It is recognized by its name, by the files of the sentence-transformers library in `directory`, or, as llama.cpp's
    converter does, by the heading of its README.
    """
    named = _PUBLISHED.search(name)
    kind = named[1].lower() if named else _kind_by_files(directory)
    if kind is not None:
        raise InputError(
            f"{directory or name}: this is {_REASONS[kind]}; convert it with llama.cpp's own convert_hf_to_gguf.py"
        )


def _kind_by_files(directory: Path | None) -> str | None:
    if directory is None:
        return None
    if (directory / "modules.json").is_file() and (directory / "1_Pooling").is_dir():
        return "embedding"
    readme = directory / "README.md"
    if readme.is_file():
        heading = re.search(r"^# .*", readme.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        named = _PUBLISHED.search(heading[0]) if heading else None
        return named[1].lower() if named else None
    return None
