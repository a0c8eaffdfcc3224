"""Quotes words of printed commands, so that bash, zsh and other POSIX shells read them back unchanged."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def quote(word: str) -> str:
    """The word as a shell reads it.

    shlex quotes for POSIX shells, with single quotes, within which bash and zsh expand nothing: no `~`, `!`, `[`, `^`,
    `#`, `*`, `{`. It leaves `=` alone, but zsh replaces a word `=NAME` by the path of the program NAME, or fails.
    """
    quoted = shlex.quote(word)
    return f"'{word}'" if quoted == word and word.startswith("=") else quoted


def join(words: Iterable[str]) -> str:
    """The words as one command."""
    return " ".join(map(quote, words))
