"""Writes conversations in a model's own chat template, with the sandboxed Jinja of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from converters.errors import InputError
from sweep.measure.reasoning import THINK_START

Message = dict[str, str]


class ChatTemplateError(InputError):
    """A model has no chat template, or its template cannot write a conversation."""


@dataclass(frozen=True)
class TemplateAlone:
    """A template whose model is not opened."""

    chat_template: str | None
    eos_id: int = 0
    bos_id: int = 0
    add_bos: bool = False

    def detokenize(self, tokens: list[int], *, special: bool = False) -> str:
        return ""


class ChatVocabulary(Protocol):
    """What a chat template needs of a model; see Backend."""

    @property
    def chat_template(self) -> str | None: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def bos_id(self) -> int: ...

    @property
    def add_bos(self) -> bool: ...

    def detokenize(self, tokens: list[int], *, special: bool = False) -> str: ...


def require_template(chat_template: str | None, thinking: bool | None) -> None:
    """Raise ChatTemplateError if the model has no chat template, or if its template does not support `thinking`."""
    if not chat_template:
        raise ChatTemplateError("this model has no chat template; run without --chat-template and --thinking")
    if thinking and "enable_thinking" not in chat_template and THINK_START not in chat_template:
        raise ChatTemplateError("this model's chat template does not support thinking; run without --thinking on")


def render_chat(
    vocabulary: ChatVocabulary,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    thinking: bool | None = None,
    complete: bool = False,
) -> str:
    """`messages` in the model's template. Raises ChatTemplateError with the template's own words if it fails.

    Without `add_generation_prompt` the last message is to be continued, unless the conversation is `complete`.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered, _ = render_jinja_template(
            conversations=[list(messages)],
            chat_template=vocabulary.chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not (add_generation_prompt or complete),
            eos_token=vocabulary.detokenize([vocabulary.eos_id], special=True),
            bos_token=vocabulary.detokenize([vocabulary.bos_id], special=True) if vocabulary.add_bos else "",
            **({} if thinking is None else {"enable_thinking": thinking}),
        )
    except Exception as error:  # a template is a program, which can fail in any way
        line = getattr(error, "lineno", None)  # of a syntax error
        at = "" if line is None else f" in line {line}"
        raise ChatTemplateError(f"the chat template fails{at}: {' '.join(str(error).split())[:300]}") from error
    return str(rendered[0])


def rejects_system(vocabulary: ChatVocabulary) -> bool:
    """Whether the template writes a conversation, but not if it begins with a system message."""
    user = {"role": "user", "content": "question"}
    try:
        render_chat(vocabulary, [user], True)
    except ChatTemplateError:
        return False
    try:
        render_chat(vocabulary, [{"role": "system", "content": "description"}, user], True)
    except ChatTemplateError:
        return True
    return False


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The conversation with the text of its system messages before that of the user's first message.

    For templates that reject system messages. lm-eval's Hugging Face model would leave the text out.
    """
    system = [message["content"].strip() for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    first = next((i for i, message in enumerate(others) if message["role"] == "user"), None)
    if first is None:
        return list(messages)
    content = "\n\n".join([*system, others[first]["content"]])
    return [*others[:first], others[first] | {"content": content}, *others[first + 1 :]]
