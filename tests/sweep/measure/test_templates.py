"""Small chat templates, rendered for a vocabulary of two tokens; test_chat.py renders Qwen's."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sweep.measure.chat import (
    ChatTemplateError,
    TemplateAlone,
    rejects_system,
    render_chat,
    require_template,
    without_system,
)

PLAIN = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
    "{% if enable_thinking is defined %} {{ enable_thinking }}{% endif %}"
)
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
USER = {"role": "user", "content": "question"}
SYSTEM = {"role": "system", "content": " description\n"}


@dataclass
class Vocabulary:
    chat_template: str | None = PLAIN
    eos_id: int = 7
    bos_id: int = 8
    add_bos: bool = False

    def detokenize(self, tokens: list[int], *, special: bool = False) -> str:
        return "".join(f"<{token}>" for token in tokens) if special else ""


def test_templates_get_special_tokens_as_text_and_bos_only_if_the_model_adds_it() -> None:
    assert render_chat(Vocabulary(), [USER], True) == "[user] question<7>[assistant]"
    assert render_chat(Vocabulary(add_bos=True), [USER], True) == "<8>[user] question<7>[assistant]"
    assert render_chat(TemplateAlone(PLAIN), [USER], True) == "[user] question[assistant]"


def test_a_last_message_is_continued_unless_the_conversation_is_complete() -> None:
    begun = [USER, {"role": "assistant", "content": "Answer:"}]
    assert render_chat(Vocabulary(), begun, False) == "[user] question<7>[assistant] Answer:"
    assert render_chat(Vocabulary(), begun, False, complete=True) == "[user] question<7>[assistant] Answer:<7>"


def test_thinking_is_given_to_the_template_only_if_it_is_chosen() -> None:
    assert render_chat(Vocabulary(), [USER], True, True).endswith("[assistant] True")
    assert render_chat(Vocabulary(), [USER], True, False).endswith("[assistant] False")


def test_a_template_that_cannot_do_what_is_asked_is_rejected() -> None:
    for missing in (None, ""):
        with pytest.raises(ChatTemplateError, match="this model has no chat template"):
            require_template(missing, None)
    with pytest.raises(ChatTemplateError, match="does not support thinking"):
        require_template("{{ messages }}", True)
    for template, thinking in (("{{ messages }}", False), ("{{ messages }}", None), ("<think>", True), (PLAIN, True)):
        require_template(template, thinking)


def test_the_error_of_a_template_is_one_line_and_has_its_place() -> None:
    with pytest.raises(ChatTemplateError) as caught:
        render_chat(Vocabulary("{{ raise_exception('two\n  lines') }}"), [USER], True)
    assert str(caught.value) == "the chat template fails: two lines"
    with pytest.raises(ChatTemplateError, match=r"^the chat template fails in line 2: "):
        render_chat(Vocabulary("\n{% if %}"), [USER], True)
    with pytest.raises(ChatTemplateError) as caught:
        render_chat(Vocabulary("{{ raise_exception('x' * 400) }}"), [USER], True)
    assert str(caught.value) == "the chat template fails: " + "x" * 300


def test_only_a_template_that_fails_for_system_messages_alone_rejects_them() -> None:
    assert rejects_system(Vocabulary(STRICT))
    assert not rejects_system(Vocabulary(PLAIN))
    assert not rejects_system(Vocabulary("{{ raise_exception('always') }}"))
    # the question about a system message is followed by a question of the user, for templates that demand one
    demanding = "{% if messages[-1].role != 'user' or not add_generation_prompt %}{{ raise_exception('') }}{% endif %}"
    assert not rejects_system(Vocabulary(demanding))
    described = "{% if messages[0].role == 'system' and not messages[0].content %}{{ raise_exception('') }}{% endif %}"
    assert not rejects_system(Vocabulary(described))


def test_the_text_of_system_messages_is_put_before_the_first_question() -> None:
    answer = {"role": "assistant", "content": "answer"}
    again = {"role": "user", "content": "again"}
    moved = {"role": "user", "content": "description\n\nquestion"}
    assert without_system([SYSTEM, USER, answer, again]) == [moved, answer, again]
    assert without_system([answer, SYSTEM, USER]) == [answer, moved]
    assert without_system([SYSTEM, SYSTEM, USER])[0]["content"] == "description\n\ndescription\n\nquestion"
    assert without_system([SYSTEM, answer]) == [SYSTEM, answer]  # there is no question
    assert without_system([USER]) == [USER]
    assert USER["content"] == "question"
