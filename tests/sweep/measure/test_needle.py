"""Needle tasks: a text of the wanted length with numbers at even distances, the same each time."""

from __future__ import annotations

import pytest

from sweep.measure.needle import LEAST_TOKENS, RESERVED_TOKENS, needle_task


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("tokens", [LEAST_TOKENS, 1000, 8192])
def test_the_text_fills_the_length_and_has_every_number_once_at_even_distances(tokens: int) -> None:
    task = needle_task(tokens, words)
    assert 0 <= tokens - RESERVED_TOKENS - words(task.text) < 20  # less than a sentence is missing
    assert len({one.key for one in task.needles}) == len(task.needles) == min(40, tokens // 64)
    places = []
    for one in task.needles:
        sentence = f"The number of the {one.key} is {one.number}."
        assert task.text.count(sentence) == 1
        assert task.text.count(one.number) == 1
        places.append(words(task.text[: task.text.index(sentence)]))
    distances = [after - before for before, after in zip(sorted(places), sorted(places)[1:], strict=False)]
    assert max(distances) - min(distances) < 40
    assert places != sorted(places)  # the first questions are not all about the beginning
    assert needle_task(tokens, words) == task


def test_a_text_without_room_is_rejected() -> None:
    with pytest.raises(ValueError, match="100 tokens are fewer than 256"):
        needle_task(100, words)
