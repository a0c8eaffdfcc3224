"""A Backend as lm-eval sees a model.

Tokenizing, truncation, stop strings and the cutting of reasoning follow lm-eval's Hugging Face model
(lm_eval.models.huggingface), so that the same weights give the same scores. Only greedy decoding is done. lm_eval takes
seconds to import, so it is imported when first used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from converters.errors import InputError
from sweep.backends.base import Backend, GenerationRequest, ScoreRequest
from sweep.backends.check import SharingSample
from sweep.measure.options import MeasurementError, TaskOptions

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

TaskProgress = Callable[[int, int, str], None]  # requests done, requests in all, the sub-task at work

DEFAULT_MAX_NEW_TOKENS = 256  # of lm-eval's Hugging Face model, where a task names none
THINK_END = "</think>"  # closes the reasoning of Qwen's models
PART_REQUESTS = 512  # sub-tasks are asked one after another, small ones together: enough to fill the batches


def make_lm(backend: Backend, options: TaskOptions | None = None, progress: TaskProgress | None = None) -> TemplateLM:
    """`backend` as a model of lm-eval.

    After generating, its `budget` is the largest bound on new tokens that was used, and `unfinished` how many
    generations reached their bound. `sharing` checks a sample of the choices that were scored.
    """
    return _lm_class()(backend, options or TaskOptions(), progress)


@functools.cache
def _lm_class() -> type[TemplateLM]:
    """Made when lm_eval is first wanted."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class BackendLM(TemplateLM):
        def __init__(self, model: Backend, options: TaskOptions, progress: TaskProgress | None) -> None:
            super().__init__()
            self._model = model
            self._options = options
            self._progress = progress
            self._before = self._total = 0  # requests of earlier parts and of all
            self._part = ""
            self._questions: list[tuple[str | None, int | None]] = []  # of the requests of this part
            self.budget: int | None = None
            self.unfinished = 0
            self.sharing = SharingSample()

        @property
        def eot_token_id(self) -> int:
            return self._model.eos_id

        @property
        def prefix_token_id(self) -> int:
            return self._model.prefix_id

        @property
        def max_length(self) -> int:
            return self._model.max_length

        @property
        def tokenizer_name(self) -> str:
            return "bitsweep"

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            return self._model.chat_template if chat_template else None

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            require_template(self._model.chat_template, self._options.thinking)
            return render_chat(self._model, chat_history, add_generation_prompt, self._options.thinking)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
            special = self._model.add_bos if add_special_tokens is None else add_special_tokens
            if add_special_tokens is None and special:
                special = not string.startswith(self._model.detokenize([self.prefix_token_id], special=True))
            return [int(t) for t in self._model.tokenize(string, add_special=special, parse_special=True)]

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            ask = super().loglikelihood

            def choose(part: list[Any]) -> list[Any]:
                self._questions = [(request.task_name, request.doc_id) for request in part]
                try:
                    return ask(part, disable_tqdm=True)  # progress is shown by the caller
                finally:
                    self._questions = []

            return self._by_part(requests, choose)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            return self._by_part(requests, self._generate)

        def _by_part(self, requests: list[Any], ask: Callable[[list[Any]], list[Any]]) -> list[Any]:
            answers: list[Any] = []
            self._total = len(requests)
            for name, part in _parts(requests):
                self._part, self._before = name, len(answers)
                answers += ask(part)
            return answers

        def _tell(self, done: int, _total: int) -> None:
            if self._progress is not None:
                self._progress(self._before + done, self._total, self._part)

        def _loglikelihood_tokens(
            self, requests: Sequence[tuple[Any, list[int], list[int]]], **unused: Any
        ) -> list[tuple[float, bool]]:
            fitted = [_fit(context, continuation, self.max_length) for _text, context, continuation in requests]
            scores = self._model.loglikelihoods(fitted, self._tell)
            broken = sum(math.isnan(score.logprob) for score in scores)
            if broken:
                raise MeasurementError(
                    f"{broken} of {len(scores)} log-likelihoods are not numbers (nan): these weights give no "
                    "probabilities; look at the file"
                )
            if self._questions:  # there are none where texts are cut in pieces for their perplexity
                self.sharing.take(self._model, fitted, scores, self._questions)
            answers = [(score.logprob, score.is_greedy) for score in scores]
            for (text, *_), answer in zip(requests, answers, strict=True):
                if text is not None:
                    self.cache_hook.add_partial("loglikelihood", text, answer)
            return answers

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
            pieces: list[tuple[None, list[int], list[int]]] = []
            owners: list[int] = []
            for i, request in enumerate(requests):
                windows = get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
                for start, rest in map(make_disjoint_window, windows):
                    pieces.append((None, start, rest))
                    owners.append(i)
            self._before, self._total, self._part = 0, len(pieces), requests[0].task_name or ""
            sums = [0.0] * len(requests)
            for i, (logprob, _) in zip(owners, self._loglikelihood_tokens(pieces), strict=True):
                sums[i] += logprob
            for request, total in zip(requests, sums, strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            return sums

        def _generate(self, requests: list[Any]) -> list[str]:
            eos = self._model.detokenize([self.eot_token_id], special=True)
            # A stop string ends an answer; in reasoning it ends nothing (lm-eval's vLLM model does so; its Hugging
            # Face model would stop there and never see the answer)
            think_end = None if self._options.thinking is None else THINK_END
            wanted, stops = [], []
            for request in requests:
                context, given = request.args
                kwargs = normalize_gen_kwargs(given, DEFAULT_MAX_NEW_TOKENS)
                n_new = self._options.max_gen_toks or int(kwargs["max_gen_toks"])
                room = self.max_length - n_new
                if room < 1:
                    raise MeasurementError(
                        f"{request.task_name} generates {n_new} tokens in a context of {self.max_length}; "
                        "bound them with --max-gen-toks"
                    )
                self.budget = max(n_new, self.budget or 0)
                stops.append(handle_stop_sequences(list(kwargs.get("until") or []), eos=eos))
                ends = () if think_end else tuple(stops[-1])
                wanted.append(GenerationRequest(tuple(self.tok_encode(context)[-room:]), n_new, ends))
            texts = []
            for request, asked, until, answer in zip(
                requests, wanted, stops, self._model.generate(wanted, self._tell), strict=True
            ):
                last = answer.tokens[-1] if answer.tokens else self._model.eos_id
                self.unfinished += len(answer.tokens) == asked.max_new_tokens and last not in self._model.end_ids
                texts.append(postprocess_generated_text(answer.text, until, think_end))
                self.cache_hook.add_partial("generate_until", request.args, texts[-1])
            return texts

    return BackendLM


def _parts(requests: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """The requests of sub-tasks that stand together, and of small ones several, with the name of the first."""
    parts: list[tuple[str, list[Any]]] = []
    for name, group in groupby(requests, lambda request: request.task_name or ""):
        if parts and len(parts[-1][1]) < PART_REQUESTS:
            parts[-1][1].extend(group)
        else:
            parts.append((name, list(group)))
    return parts


def _fit(context: list[int], continuation: list[int], max_length: int) -> ScoreRequest:
    """Cut from the left so that context and all but the last token of the continuation fit, as lm-eval's HF model."""
    if len(continuation) > max_length:
        raise MeasurementError(
            f"a continuation of {len(continuation)} tokens is longer than the model's context of {max_length}"
        )
    kept = context[max(0, len(context) + len(continuation) - (max_length + 1)) :]
    return ScoreRequest(tuple(kept), tuple(continuation))


def require_template(chat_template: str | None, thinking: bool | None) -> None:
    """Raise InputError where a model's template cannot ask as it is wanted."""
    if not chat_template:
        raise InputError("this model has no chat template; leave --chat-template and --thinking out")
    if thinking and "think" not in chat_template:
        raise InputError("this model's chat template knows no thinking; leave --thinking on out")


def render_chat(
    backend: Backend, messages: list[dict[str, str]], add_generation_prompt: bool, thinking: bool | None = None
) -> str:
    """The model's own chat template on `messages`, by the sandboxed Jinja of transformers.

    A template that refuses a system message is given the rest, as lm-eval's Hugging Face model does.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(conversation: list[dict[str, str]]) -> str:
        rendered, _ = render_jinja_template(
            conversations=[conversation],
            chat_template=backend.chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            eos_token=backend.detokenize([backend.eos_id], special=True),
            bos_token=backend.detokenize([backend.bos_id], special=True) if backend.add_bos else "",
            **({} if thinking is None else {"enable_thinking": thinking}),
        )
        return str(rendered[0])

    try:
        return render(messages)
    except TemplateError:
        return render([message for message in messages if message["role"] != "system"])
