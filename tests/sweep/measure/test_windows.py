"""Windows of a text, cut for a backend of one token per character; test_text.py cuts them with llama.cpp."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest

from converters.errors import InputError
from sweep.backends.base import Backend
from sweep.measure.perplexity import Windows, cut_windows, require_two_windows, summarize_nll


@dataclass
class Characters:
    """Token t is the character with this number."""

    max_length: int = 640
    add_bos: bool = False
    bos_id: int = 9
    asked: list[tuple[bool, bool]] = field(default_factory=list)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> np.ndarray:
        self.asked.append((add_special, parse_special))
        return np.array([ord(one) for one in text], np.int32)


def cut(
    text: str, n_ctx: int, stride: int | None = None, max_windows: int | None = None, backend: Characters | None = None
) -> Windows:
    backend = backend or Characters()
    return cut_windows(cast(Backend, backend), text, n_ctx=n_ctx, stride=stride, max_windows=max_windows)


def letters(windows: Windows) -> list[str]:
    return ["".join(map(chr, row)) for row in windows.tokens]


TEXT = "abcdefghijklmnopqrstuvwxyz"


def test_what_does_not_fill_a_window_is_dropped() -> None:
    backend = Characters()
    windows = cut(TEXT, 4, backend=backend)
    assert letters(windows) == ["abcd", "efgh", "ijkl", "mnop", "qrst", "uvwx"]
    assert (windows.first, windows.rows_each, windows.heads) == (2, 1, None)
    assert isinstance(windows.first, int)
    assert backend.asked == [(True, False)]  # the tokenizer adds what it always adds, and reads plain text
    cut_windows(cast(Backend, backend), TEXT, n_ctx=4, parse_special=True)
    assert backend.asked[1:] == [(True, True)]
    assert letters(cut(TEXT, 4, max_windows=2)) == ["abcd", "efgh"]
    assert cut(TEXT, 5).first == 2
    assert cut(TEXT, 6).first == 3


def test_bos_replaces_the_first_token_of_each_window_and_not_of_the_text() -> None:
    windows = cut(TEXT, 10, backend=Characters(add_bos=True))
    assert letters(windows) == ["\tbcdefghij", "\tlmnopqrst"]
    assert windows.heads is not None
    assert "".join(map(chr, windows.heads)) == "ak"
    assert (windows.first, windows.rows_each) == (5, 4)
    assert isinstance(windows.first, int)
    assert "".join(map(chr, windows.text.ravel())) == TEXT[:20]
    one = windows.head(1)
    assert (letters(one), one.first) == (["\tbcdefghij"], 5)
    assert one.heads is not None
    assert len(one.heads) == 1


def test_windows_with_a_stride_overlap() -> None:
    assert letters(cut(TEXT, 12, stride=5)) == ["abcdefghijkl", "fghijklmnopq", "klmnopqrstuv"]
    assert letters(cut(TEXT, 12, stride=7)) == ["abcdefghijkl", "hijklmnopqrs"]  # 14 / 7: the last one is left out
    assert letters(cut(TEXT, 12, stride=5, max_windows=2)) == ["abcdefghijkl", "fghijklmnopq"]
    assert (cut(TEXT, 12, stride=5).first, cut(TEXT, 12, stride=5).rows_each) == (6, 5)
    assert cut(TEXT, 12, stride=1).rows_each == 1
    assert cut(TEXT, 12, stride=11).rows_each == 11


@pytest.mark.parametrize(
    ("text", "n_ctx", "stride", "message"),
    [
        (TEXT, 3, None, "a perplexity window of 3 tokens is too short"),
        (TEXT, 12, 0, "a stride of 0 is not possible"),
        (TEXT, 12, 12, "a stride of 12 is not possible"),
        (TEXT * 60, 641, None, "longer than the model's context of 640"),
        (TEXT[:23], 12, None, "the perplexity text has 23 tokens; windows of 12 tokens need at least 24"),
    ],
)
def test_bad_windows_are_rejected(text: str, n_ctx: int, stride: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut(text, n_ctx, stride)


def test_the_limits_themselves_are_possible() -> None:
    assert len(cut(TEXT * 60, 640).tokens) == 2
    assert len(cut(TEXT[:24], 12).tokens) == 2
    require_two_windows(24, 12)
    assert len(cut_windows(cast(Backend, Characters()), TEXT * 60).tokens) == 3  # 512 tokens each by default


def test_the_hash_depends_on_tokens_shape_and_first_position() -> None:
    one = cut(TEXT, 4)
    others = [
        Windows(one.tokens, 3),
        Windows(one.tokens.reshape(3, 8), 2),
        Windows(one.tokens + 1, 2),
        one.head(5),
    ]
    assert len({one.sha256, *(other.sha256 for other in others)}) == 5
    assert one.sha256 == Windows(one.tokens.astype(np.int64), 2, one.tokens[:, 0]).sha256  # the same text
    assert one.sha256 == hashlib.sha256(b"6 4 2 " + TEXT[:24].encode("utf-32-le")).hexdigest()


def test_perplexity_is_the_exponential_of_the_mean_with_its_error() -> None:
    nll = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 5.0]])
    result = summarize_nll(nll)
    assert result.value == pytest.approx(np.exp(2.5))
    assert result.stderr == pytest.approx(np.exp(2.5) * nll.std(ddof=1) / np.sqrt(6))
    assert (result.tokens, result.window_nll) == (6, (2.0, 3.0))
    assert result.low == pytest.approx(np.exp(2.0))  # with two windows every resample is one of three means
    assert result.high == pytest.approx(np.exp(3.0))
    single = summarize_nll(nll[:1])
    assert (single.low, single.high) == (None, None)
    assert single.window_nll == (2.0,)
