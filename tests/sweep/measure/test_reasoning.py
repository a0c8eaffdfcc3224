"""Reasoning is removed from answers where it was opened, at its first closing tag, and never searched for an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from sweep.backends.base import Generation
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.measure.lm_eval_model import make_lm
from sweep.measure.reasoning import Opening, Reasoning
from sweep.measure.task_options import TaskOptions, ThinkingScoring

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nPREFILL{% endif %}"
)
OPENS = CHAT.replace("PREFILL", "<think>\n")  # as that of Qwen3-4B-Thinking-2507, whatever --thinking says
CLOSES = CHAT.replace("PREFILL", "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}")  # as Qwen3's
QUOTING = 'plan</think>\nUse s.split("</think>")[-1] here'


@pytest.fixture(scope="module")
def backend(tiny: Any) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(tiny.gguf, LlamaOptions(n_threads=1))
    yield backend
    backend.close()


class Scripted:
    """A backend that writes `said` after every prompt, up to the limit, and remembers the requests."""

    def __init__(self, backend: LlamaBackend, chat_template: str, said: str) -> None:
        self._backend, self.chat_template, self._said = backend, chat_template, said
        self.asked: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def generate(self, requests: Sequence[Any], _progress: Any) -> list[Generation]:
        self.asked = list(requests)
        tokens = self._backend.tokenize(self._said)
        return [
            Generation(tuple(map(int, tokens[: r.max_new_tokens])), self._backend.detokenize(tokens)) for r in requests
        ]


def answered(model: Scripted, limit: int = 200, until: Sequence[str] = (), **options: Any) -> tuple[str, Any]:
    """The graded text, and the model of lm-eval that gave it."""
    lm = make_lm(model, TaskOptions(chat_template=True, **options))
    prompt = lm.apply_chat_template([{"role": "user", "content": "Is <think> closed by </think>? Open it: <think>"}])
    return lm.generate_until([generation(prompt, limit, until)])[0], lm


def generation(prompt: str, limit: int, until: Sequence[str]) -> Any:
    from lm_eval.api.instance import Instance

    arguments = (prompt, {"until": list(until), "max_gen_toks": limit})
    return Instance("generate_until", {}, arguments, 0, metadata=("task", 0, 1))


@pytest.mark.parametrize("thinking", [True, False, None])
def test_reasoning_that_the_template_opened_ends_at_its_first_closing_tag(backend, thinking):
    graded, lm = answered(Scripted(backend, OPENS, QUOTING), thinking=thinking)
    assert graded == 'Use s.split("</think>")[-1] here'
    assert (lm.unfinished, lm.in_reasoning, lm.openings) == (0, 0, {Opening.OPEN})


def test_reasoning_that_the_model_opened_ends_there_too(backend):
    assert answered(Scripted(backend, CLOSES, "\n<think>" + QUOTING))[0] == 'Use s.split("</think>")[-1] here'


@pytest.mark.parametrize("thinking", [False, None])
def test_an_answer_without_reasoning_is_graded_as_it_is(backend, thinking):
    said = "  Use <think> or s.split('</think>')"
    graded, lm = answered(Scripted(backend, CLOSES, said), thinking=thinking)
    assert graded == said
    assert lm.openings == {Opening.NONE if thinking is None else Opening.CLOSED}


@pytest.mark.parametrize("said", ["12 apples and 7 more", "<think>12 apples"])
def test_an_answer_that_ends_inside_its_reasoning_is_empty_and_counted(backend, said):
    graded, lm = answered(Scripted(backend, OPENS, said), thinking=False)
    assert (graded, lm.unfinished, lm.in_reasoning) == ("", 1, 1)


def test_a_stop_string_ends_an_answer_but_not_its_reasoning(backend):
    model = Scripted(backend, OPENS, "one\n\ntwo</think>three\n\nfour")
    graded, lm = answered(model, until=["\n\n"], limit=len(backend.tokenize("one\n\ntwo</think>three\n\nfour")))
    assert graded == "three"
    assert lm.unfinished == 0  # the answer ended, although the generation reached its limit
    assert model.asked[0].stops == ()
    closed = Scripted(backend, CLOSES, "three")
    answered(closed, until=["\n\n"], thinking=False)
    assert "\n\n" in closed.asked[0].stops  # nothing is left to reason about, so the generation may end there


def test_the_scores_of_lm_eval_are_available(backend):
    theirs = {"thinking_scoring": ThinkingScoring.LM_EVAL}
    assert answered(Scripted(backend, OPENS, QUOTING), thinking=False, **theirs)[0] == '")[-1] here'
    assert answered(Scripted(backend, OPENS, "I have 12"), thinking=True, **theirs)[0] == "I have 12"
    assert answered(Scripted(backend, OPENS, QUOTING), **theirs)[0] == QUOTING


@pytest.mark.parametrize(
    ("closes", "prefix", "opening"),
    [
        (True, "Answer:", Opening.CLOSED),  # Qwen3's template writes an empty reasoning before it, whatever --thinking
        (False, "Answer:", Opening.CLOSED),
        (False, "<think>\nI see", Opening.OPEN),
    ],
)
def test_a_prompt_that_begins_the_answer_leaves_nothing_to_reason_about(backend, closes, prefix, opening):
    before = "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}" if closes else ""
    template = CLOSES.replace("{{ m['content'] }}", before + "{{ m['content'] }}")
    model = Scripted(backend, template, "12</think>7")
    lm = make_lm(model, TaskOptions(chat_template=True, thinking=True))
    history = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": prefix}]
    prompt = lm.apply_chat_template(history, add_generation_prompt=False)
    assert prompt.endswith(prefix)
    request = generation(prompt, limit=200, until=["\n\n"])
    assert lm.generate_until([request]) == ["12</think>7" if opening is Opening.CLOSED else "7"]
    assert lm.openings == {opening}
    assert bool(model.asked[0].stops) is (opening is Opening.CLOSED)


class Letters:
    """A vocabulary of letters, the end of a message and both tags, as Qwen3's has tokens for the tags."""

    END, START_TAG, END_TAG = 200, 201, 202
    end_ids = frozenset({END})

    def __init__(self) -> None:
        self._special = {self.END: "<|im_end|>", self.START_TAG: "<think>", self.END_TAG: "</think>"}

    def tokenize(self, text: str, **_: Any) -> Any:
        known = {name: token for token, name in self._special.items()}
        return np.array([known[text]] if text in known else [ord(letter) for letter in text])

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> str:
        return "".join(self._special.get(t, chr(t)) for t in tokens if special or t not in self._special)


def test_a_tag_that_is_a_token_is_not_found_in_the_same_letters():
    letters = Letters()
    reasoning, spelled = Reasoning(letters), [ord(letter) for letter in "</think>"]
    said = [*spelled, ord("a"), Letters.END_TAG, ord("\n"), ord("b"), Letters.END_TAG, ord("c")]
    assert reasoning.answer(said, Opening.OPEN).text == "bc"
    assert reasoning.answer([ord("\n"), Letters.START_TAG, *said], Opening.NONE).text == "bc"
    assert reasoning.answer([ord("x"), Letters.START_TAG, *said], Opening.NONE).text == "x</think>a\nbc"
    assert reasoning.answer(spelled, Opening.OPEN).in_reasoning
    assert reasoning.opening([Letters.START_TAG, Letters.END, ord("x")]) is Opening.NONE
    assert reasoning.opening([Letters.END, Letters.START_TAG, *spelled]) is Opening.OPEN
    assert reasoning.opening([Letters.START_TAG, Letters.END_TAG]) is Opening.CLOSED
