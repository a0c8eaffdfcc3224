"""What a backend is asked for the requests of lm-eval, and what lm-eval is told of its answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from letters_backend import BOS, END, LettersBackend

from converters.errors import InputError
from sweep.backends.base import ScoreRequest
from sweep.measure import lm_eval_model
from sweep.measure.lm_eval_model import make_lm
from sweep.measure.reasoning import Opening
from sweep.measure.task_options import MeasurementError, TaskOptions, ThinkingScoring


def request(kind: str, *args: Any, task: str | None = "t", doc: int = 0) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, args, 0, (task, doc, 1))


def scoring(context: str, continuation: str, **of: Any) -> Any:
    return request("loglikelihood", context, continuation, **of)


def writing(prompt: str, **settings: Any) -> Any:
    return request("generate_until", prompt, settings)


def letters(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def test_a_context_is_cut_from_the_left_where_all_but_the_last_token_would_not_fit() -> None:
    model = LettersBackend(max_length=10)
    pairs = [("abcdefgh", "xyz"), ("abcdefghi", "xyz"), ("abc", "0123456789"), ("", "xyz")]
    answers = make_lm(model).loglikelihood([scoring(*pair) for pair in pairs])
    assert model.scored[0] == [
        ScoreRequest(letters("abcdefgh"), letters("xyz")),
        ScoreRequest(letters("bcdefghi"), letters("xyz")),
        ScoreRequest(letters("c"), letters("0123456789")),
        ScoreRequest((END,), letters("xyz")),
    ]
    assert answers == [(-3.63, False), (-3.63, False), (-5.25, False), (-3.63, False)]
    with pytest.raises(MeasurementError, match=r"continuation of 11 tokens is longer than the model's context of 10$"):
        make_lm(model).loglikelihood([scoring("abc", "0123456789X")])


def test_bos_is_added_once_unless_the_caller_decides() -> None:
    lm = make_lm(LettersBackend(add_bos=True))
    lm._model.prefix_id = BOS
    assert lm.tok_encode("ab") == [BOS, *letters("ab")]
    assert lm.tok_encode("<bos>ab") == [BOS, *letters("ab")]
    assert lm.tok_encode("<end>ab") == [BOS, END, *letters("ab")]
    assert lm.tok_encode("<bos>ab", add_special_tokens=True) == [BOS, BOS, *letters("ab")]
    assert lm.tok_encode("ab", add_special_tokens=False) == [*letters("ab")]
    assert make_lm(LettersBackend()).tok_encode("ab") == [*letters("ab")]


def test_a_text_is_scored_in_windows_and_its_parts_are_added_to_its_own_sum() -> None:
    model, seen = LettersBackend(max_length=4), []
    lm = make_lm(model, progress=lambda *at: seen.append(at))
    texts = ["abcdefghij", "xy"]
    sums = lm.loglikelihood_rolling([request("loglikelihood_rolling", text, task=None) for text in texts])
    assert sums == pytest.approx([-sum(letters(text)) / 100 for text in texts])
    assert ["".join(map(chr, one.continuation)) for one in model.scored[0]] == ["abcd", "efgh", "ij", "xy"]
    assert [one.context[-1] for one in model.scored[0]] == [END, ord("d"), ord("h"), END]
    assert seen == [(done, 4, "") for done in (1, 2, 3, 4)]
    assert lm.sharing.check is None  # texts share nothing


def test_scores_that_are_no_numbers_are_counted() -> None:
    model = LettersBackend(score=lambda text: math.nan if "x" in text else -1.0)
    with pytest.raises(MeasurementError, match="2 of 3 log-likelihoods are not numbers"):
        make_lm(model).loglikelihood([scoring("a", one) for one in ("x", "b", "cx")])


def test_small_sub_tasks_are_joined_up_to_the_size_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_model, "PART_REQUESTS", 3)
    model, seen = LettersBackend(), []
    names = ["one", "two", "two", None, None, None, "three", "last"]
    requests = [scoring("Q", chr(97 + i), task=name, doc=i) for i, name in enumerate(names)]
    lm = make_lm(model, progress=lambda *at: seen.append(at))
    answers = lm.loglikelihood(requests)
    assert answers == [(-(97 + i) / 100, i == 1) for i in range(8)]
    assert [len(part) for part in model.scored] == [3, 3, 2]
    assert seen == [(i + 1, 8, ("one", "", "three")[i // 3]) for i in range(8)]


def test_a_sample_of_the_questions_is_scored_again_by_the_model() -> None:
    model = LettersBackend()
    lm = make_lm(model)
    contexts = [f"{chr(65 + doc)} long question {doc}" for doc in range(60)]
    lm.loglikelihood([scoring(text, one, doc=doc) for doc, text in enumerate(contexts) for one in ("ab", "cd")])
    assert [len(part) for part in model.scored] == [120, 2, 2]
    assert (lm.sharing.check.questions, lm.sharing.check.requests) == (2, 4)
    assert lm.sharing.check.largest_difference == 0.0
    lm.loglikelihood_rolling([request("loglikelihood_rolling", "a text of its own")])
    assert lm.sharing.check.questions == 2


def test_generations_are_asked_with_the_limit_and_the_stop_strings_of_the_task() -> None:
    model, seen = LettersBackend(max_length=300), []
    lm = make_lm(model, progress=lambda *at: seen.append(at))
    assert lm.max_gen_toks_used is None
    given = [writing("abcdefgh", until=["\n"], max_gen_toks=297), writing("Q:", until="Q", max_new_tokens=5)]
    assert lm.generate_until([*given, writing("A:")]) == ["so"] * 3
    assert [(one.prompt, one.max_new_tokens, one.stops) for one in model.asked] == [
        (letters("fgh"), 297, ("\n", "<end>")),
        (letters("Q:"), 5, ("Q", "<end>")),
        (letters("A:"), 256, ("<end>",)),
    ]
    assert (lm.max_gen_toks_used, seen) == (297, [(3, 3, "t")])
    assert make_lm(model).generate_until([writing("abc", max_gen_toks=299)]) == ["so"]
    assert model.asked[-1].prompt == letters("c")
    with pytest.raises(MeasurementError, match="task t generates up to 300 tokens, which does not fit"):
        make_lm(model).generate_until([writing("abc", max_gen_toks=300)])
    assert make_lm(model, TaskOptions(max_gen_toks=1)).generate_until([writing("abc", max_gen_toks=9)]) == ["s"]


@pytest.mark.parametrize(
    ("said", "text", "unfinished"),
    [
        ("four", "four", 1),
        ("longer", "long", 1),
        ("six", "six", 0),
        ("six<end>", "six", 0),
        ("a.cd", "a", 0),  # a stop string
        ("<end>six", "six", 1),
        ("", "", 0),
    ],
)
def test_an_answer_that_reached_its_limit_without_an_end_is_unfinished(said: str, text: str, unfinished: int) -> None:
    lm = make_lm(LettersBackend(said))
    given = writing("Q", until=["."], max_gen_toks=4)
    assert lm.generate_until([given, given]) == [text] * 2
    assert lm.generate_until([given]) == [text]
    assert (lm.unfinished, lm.in_reasoning, lm.openings) == (3 * unfinished, 0, set())


CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}"
ASKS = CHAT + "{% if add_generation_prompt %}[assistant]{% if enable_thinking %}<think>{% endif %}{% endif %}"
USER = [{"role": "user", "content": "Q"}]


def test_every_answer_that_ends_inside_its_reasoning_is_counted() -> None:
    lm = make_lm(LettersBackend("why", chat_template=ASKS), TaskOptions(chat_template=True, thinking=True))
    prompt = lm.apply_chat_template(USER)
    assert prompt == "[user]Q<end>[assistant]<think>"
    closed = writing("[assistant]</think>", max_gen_toks=9)
    assert lm.generate_until([writing(prompt, max_gen_toks=9)] * 2) == ["", ""]
    assert lm.generate_until([closed]) == ["why"]
    assert (lm.unfinished, lm.in_reasoning, lm.openings) == (2, 2, {Opening.OPEN, Opening.CLOSED})
    assert lm.generate_until([writing(prompt, max_gen_toks=9)]) == [""]
    assert (lm.unfinished, lm.in_reasoning) == (3, 3)


def test_the_reasoning_that_lm_eval_removes_is_not_searched_for_stop_strings() -> None:
    options = TaskOptions(chat_template=True, thinking=True, thinking_scoring=ThinkingScoring.LM_EVAL)
    model = LettersBackend("a.b</think> c.d", chat_template=ASKS)
    assert make_lm(model, options).generate_until([writing("Q", until=["."])]) == ["c"]
    assert model.asked[-1].stops == ()
    assert make_lm(model).generate_until([writing("Q", until=["."])]) == ["a"]
    assert model.asked[-1].stops == (".", "<end>")


def test_system_messages_are_moved_only_if_there_are_any_and_the_template_rejects_them() -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + ASKS
    system = [{"role": "system", "content": "S"}, *USER]
    lm = make_lm(LettersBackend(chat_template=strict), TaskOptions(chat_template=True))
    assert lm.apply_chat_template(USER) == "[user]Q<end>[assistant]"
    assert not lm.moved_system
    assert lm.apply_chat_template(system) == "[user]S\n\nQ<end>[assistant]"
    assert lm.apply_chat_template(USER) == "[user]Q<end>[assistant]"
    assert lm.moved_system
    with pytest.raises(InputError, match="this model has no chat template"):
        make_lm(LettersBackend()).apply_chat_template(USER)
    with pytest.raises(InputError, match="does not support thinking"):
        make_lm(LettersBackend(chat_template=CHAT), TaskOptions(thinking=True)).apply_chat_template(USER)
