"""A Backend as a model of lm-eval.

Tokenizing, truncation, stop strings and the removal of reasoning follow lm-eval's Hugging Face model
(lm_eval.models.huggingface), so that the same weights give the same scores. Decoding is always greedy. lm_eval takes
seconds to import, so it is imported when it is first used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from converters.errors import InputError
from images.file import ImageFile
from sweep.backends.base import Backend, GenerationRequest, PlacedImage, ScoreRequest
from sweep.backends.sharing_check import SharingSample
from sweep.measure.chat import ChatTemplateError, rejects_system, render_chat, require_template, without_system
from sweep.measure.image_prompt import ChatPrompt, chat_pieces, text_pieces
from sweep.measure.item_images import Unusable
from sweep.measure.reasoning import THINK_END, Answer, Opening, Reasoning, can_reason
from sweep.measure.task_options import MeasurementError, TaskOptions

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

T = TypeVar("T")
TaskProgress = Callable[[int, int, str], None]  # requests done, total requests, name of the running sub-task

DEFAULT_MAX_NEW_TOKENS = 256  # default of lm-eval's Hugging Face model for tasks without a limit
PART_REQUESTS = 512  # sub-tasks run one after another; small ones are joined up to this size to fill the batches


def make_lm(backend: Backend, options: TaskOptions | None = None, progress: TaskProgress | None = None) -> TemplateLM:
    """`backend` as a model of lm-eval.

    After a task that generates text, the attribute `max_gen_toks_used` of the model is the largest limit on new tokens
    that was used. `unfinished` is the number of answers that did not end: they reached their limit, or ended inside the
    reasoning, and `in_reasoning` is the number of the latter. `openings` has what the prompts say about reasoning, if
    it is removed. `moved_system`: whether the template rejects system messages and the text
    of one was moved. `sharing` checks a sample of the choices that were scored; see SharingSample.
    """
    return _lm_class()(backend, options or TaskOptions(), progress)


class UnusableItems(Exception):
    """Items that cannot be measured: `reasons` by sub-task and number of the document."""

    def __init__(self, reasons: Mapping[tuple[str, int], str]) -> None:
        super().__init__(f"{len(reasons)} items")
        self.reasons = reasons


@dataclass(frozen=True)
class _Context:
    """A prompt: its tokens, and its images, which take `image_tokens` in addition."""

    tokens: tuple[int, ...]
    images: tuple[PlacedImage, ...] = ()
    image_tokens: int = 0

    def __add__(self, tokens: Sequence[int]) -> _Context:
        return replace(self, tokens=(*self.tokens, *tokens))


@dataclass(frozen=True)
class _Prompt:
    """A request to generate, the strings that end its answer, and what the prompt says about reasoning."""

    generation: GenerationRequest
    stops: tuple[str, ...]
    opening: Opening


@functools.cache
def _lm_class() -> type[TemplateLM]:
    """The class is created when lm_eval is first used."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class BackendLM(TemplateLM):
        MULTIMODAL = True

        def __init__(self, model: Backend, options: TaskOptions, progress: TaskProgress | None) -> None:
            super().__init__()
            self._model = model
            self._options = options
            self._progress = progress
            self._before = self._total = 0  # number of requests in earlier parts, and in all parts
            self._part = ""
            self.max_gen_toks_used: int | None = None
            self.unfinished = 0
            self.in_reasoning = 0
            self.moved_system = False
            self._continued: set[str] = set()  # prompts that begin the answer itself, so that no reasoning comes first
            self.openings: set[Opening] = set()
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

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            require_template(self._model.chat_template, self._options.thinking)
            rejected = any(message["role"] == "system" for message in chat_history) and self._rejects_system
            self.moved_system |= rejected
            messages = without_system(chat_history) if rejected else chat_history
            rendered = self._render(messages, add_generation_prompt)
            if not add_generation_prompt:
                self._continued.add(rendered)
            return ChatPrompt.of(rendered, messages, add_generation_prompt)

        def _render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
            return render_chat(self._model, messages, add_generation_prompt, self._options.thinking)

        @functools.cached_property
        def _rejects_system(self) -> bool:
            return rejects_system(self._model)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
            special = self._model.add_bos if add_special_tokens is None else add_special_tokens
            if add_special_tokens is None and special:
                special = not string.startswith(self._model.detokenize([self.prefix_token_id], special=True))
            return [int(t) for t in self._model.tokenize(string, add_special=special, parse_special=True)]

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            with_images = self._with_images(requests, self.score_request)

            def score_part(part: list[Any]) -> list[Any]:
                asked = [with_images.get(id(request)) or self.score_request(request) for request in part]
                return self._score(asked, [(request.task_name, request.doc_id) for request in part])

            return self._by_part(requests, score_part)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            reasoning = self._reasoning()

            def prompt(request: Any) -> _Prompt:
                return self._prompt(request, reasoning)

            with_images = self._with_images(requests, prompt)

            def generate_part(part: list[Any]) -> list[str]:
                return self._generate([with_images.get(id(one)) or prompt(one) for one in part], reasoning)

            return self._by_part(requests, generate_part)

        def _with_images(self, requests: list[Any], make: Callable[[Any], T]) -> dict[int, T]:
            """What `make` makes of the requests with images, by their id. They are made before any is answered.

            Raises UnusableItems, so that the items are left out before any work; InputError if the model takes none.
            """
            found: dict[int, T] = {}
            reasons: dict[tuple[str, int], str] = {}
            for request in (one for one in requests if images_of(one.args)):
                if self._model.preprocessing is None:
                    raise InputError(
                        f"task {request.task_name}: it uses images, which this model does not take; measure a "
                        "vision-language model, or choose other tasks"
                    )
                try:
                    found[id(request)] = make(request)
                except ChatTemplateError:
                    raise
                except InputError as error:
                    reasons.setdefault((request.task_name, request.doc_id), str(error))
            if reasons:
                raise UnusableItems(reasons)
            return found

        def _by_part(self, requests: list[Any], answer: Callable[[list[Any]], list[Any]]) -> list[Any]:
            answers: list[Any] = []
            self._total = len(requests)
            for name, part in _parts(requests):
                self._part, self._before = name, len(answers)
                answers += answer(part)
            return answers

        def _report_progress(self, done: int, _total: int) -> None:
            if self._progress is not None:
                self._progress(self._before + done, self._total, self._part)

        def _loglikelihood_tokens(
            self, requests: Sequence[tuple[Any, list[int], list[int]]], **unused: Any
        ) -> list[tuple[float, bool]]:
            return self._score([_truncated(context, text, self.max_length) for _, context, text in requests])

        def _score(self, fitted: list[ScoreRequest], questions: Sequence[Hashable] = ()) -> list[tuple[float, bool]]:
            """`questions`: the question of each request; none if a text is scored in pieces for its perplexity."""
            scores = self._model.loglikelihoods(fitted, self._report_progress)
            broken = sum(math.isnan(score.logprob) for score in scores)
            if broken:
                raise MeasurementError(
                    f"{broken} of {len(scores)} log-likelihoods are not numbers (nan): the weights of this file give "
                    "no probabilities; check the file"
                )
            if questions:
                self.sharing.add(self._model, fitted, scores, questions)
            return [(score.logprob, score.is_greedy) for score in scores]

        def score_request(self, request: Any) -> ScoreRequest:
            """The tokens and images of a request, whose arguments are a prompt and what is scored after it.

            Raises InputError if an image cannot be used or the request does not fit the context.
            """
            text, continuation = request.args[:2]
            if text == "":
                scored = self.tok_encode(continuation, add_special_tokens=False)
                if scored[0] == self.prefix_token_id:
                    return _truncated(scored[:1], scored[1:], self.max_length)
                return _truncated([self.prefix_token_id], scored, self.max_length)
            *before, last = self.texts_around_images(request)
            start = self._context(request, before)
            own, scored = self._encode_pair(last, continuation, add_special_tokens=False if before else None)
            if not start.images:
                return _truncated(own, scored, self.max_length)
            context = start + own
            self._require_room(context, len(scored) - 1, "its continuation")
            return ScoreRequest(context.tokens, tuple(scored), context.images)

        def _encode_pair(
            self, context: str, continuation: str, add_special_tokens: bool | None = None
        ) -> tuple[list[int], list[int]]:
            blanks = len(context) - len(context.rstrip())
            if blanks:
                context, continuation = context[:-blanks], context[-blanks:] + continuation
            whole = self.tok_encode(context + continuation, add_special_tokens)
            own = self.tok_encode(context, add_special_tokens)
            return own, whole[len(own) :]

        def texts_around_images(self, request: Any) -> list[str]:
            """The texts around the images of a prompt. Raises InputError as `text_pieces` and `chat_pieces` do."""
            text, images = request.args[0], images_of(request.args)
            if not images or not isinstance(text, ChatPrompt):
                return text_pieces(text, len(images))
            return chat_pieces(
                text.messages, len(images), lambda messages: self._render(messages, text.add_generation_prompt)
            )

        def _context(self, request: Any, pieces: Sequence[str]) -> _Context:
            """The tokens of the texts, each followed by an image of the request, as far as there are any.

            Raises InputError for an image that cannot be used.
            """
            images = images_of(request.args)
            tokens: list[int] = []
            placed = []
            n = 0
            for i, piece in enumerate(pieces):
                tokens += self.tok_encode(piece, False if i else None)
                if i < len(images):
                    image = images[i]
                    if isinstance(image, Unusable):
                        raise InputError(image.reason)
                    assert self._model.preprocessing is not None
                    n += self._model.preprocessing.grid(image).tokens
                    placed.append(PlacedImage(image, len(tokens)))
            return _Context(tuple(tokens), tuple(placed), n)

        def _require_room(self, context: _Context, more: int, what: str) -> None:
            total = len(context.tokens) + context.image_tokens + more
            if total > self.max_length:
                names = ", ".join(dict.fromkeys(placed.image.name for placed in context.images))
                raise InputError(
                    f"{names}: the prompt has {len(context.tokens) + context.image_tokens} tokens, of which "
                    f"{context.image_tokens} are of images, and with {what} it needs {total}, but the context has "
                    f"{self.max_length}"
                )

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
            return sums

        def _generate(self, prompts: Sequence[_Prompt], reasoning: Reasoning | None) -> list[str]:
            generations = self._model.generate([prompt.generation for prompt in prompts], self._report_progress)
            texts = []
            for prompt, generation in zip(prompts, generations, strict=True):
                if reasoning is not None:
                    answer = reasoning.answer(generation.tokens, prompt.opening)
                else:
                    whole = self._model.detokenize(generation.tokens)
                    answer = Answer(postprocess_generated_text(whole, None, self._think_end))
                text = postprocess_generated_text(answer.text, list(prompt.stops), None)
                last = generation.tokens[-1] if generation.tokens else self._model.eos_id
                at_limit = len(generation.tokens) == prompt.generation.max_new_tokens
                ended = last in self._model.end_ids or text != answer.text  # by an end token or by a stop string
                self.unfinished += answer.in_reasoning or (at_limit and not ended)
                self.in_reasoning += answer.in_reasoning
                texts.append(text)
            if reasoning is not None:
                self.openings |= {prompt.opening for prompt in prompts}
            return texts

        @property
        def _think_end(self) -> str | None:
            """lm-eval's `think_end_token`."""
            return None if self._options.thinking is None or self._options.scores_answers else THINK_END

        def _reasoning(self) -> Reasoning | None:
            """What removes reasoning from answers; None if the model does not reason, or lm-eval's way is chosen."""
            used = self._options.scores_answers and can_reason(self._model.chat_template)
            return Reasoning(self._model) if used else None

        def _prompt(self, request: Any, reasoning: Reasoning | None) -> _Prompt:
            text, task_kwargs = request.args[:2]
            kwargs = normalize_gen_kwargs(task_kwargs, DEFAULT_MAX_NEW_TOKENS)
            n_new = self._options.max_gen_toks or int(kwargs["max_gen_toks"])
            room = self.max_length - n_new
            if room < 1:
                raise MeasurementError(
                    f"task {request.task_name} generates up to {n_new} tokens, which does not fit into the context "
                    f"of {self.max_length} tokens; give a lower limit with --max-gen-toks"
                )
            self.max_gen_toks_used = max(n_new, self.max_gen_toks_used or 0)
            eos = self._model.detokenize([self.eot_token_id], special=True)
            stops = tuple(handle_stop_sequences(list(kwargs.get("until") or []), eos=eos))
            context = self._context(request, self.texts_around_images(request))
            if context.images:
                self._require_room(context, n_new, f"an answer of {n_new} tokens")
            else:
                context = _Context(context.tokens[-room:])
            opening = Opening.CLOSED if reasoning is None else reasoning.opening(context.tokens)
            if opening is Opening.NONE and text in self._continued:
                opening = Opening.CLOSED
            # A stop string ends the answer, but not the reasoning before it. lm-eval's vLLM model works in this way;
            # its Hugging Face model would stop within the reasoning and never reach the answer.
            may_reason = opening is not Opening.CLOSED or self._think_end is not None
            asked = GenerationRequest(context.tokens, n_new, () if may_reason else stops, context.images)
            return _Prompt(asked, stops, opening)

    return BackendLM


def images_of(arguments: Sequence[Any]) -> Sequence[ImageFile | Unusable]:
    """The images in the arguments of a request of lm-eval: (prompt, settings or continuation[, {"visual": images}])."""
    images: Sequence[ImageFile | Unusable] = arguments[2].get("visual") or () if len(arguments) > 2 else ()
    return images


def _parts(requests: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Consecutive requests, split by sub-task, with the name of the first sub-task of each part.

    Sub-tasks are joined until a part has PART_REQUESTS requests.
    """
    parts: list[tuple[str, list[Any]]] = []
    for name, group in groupby(requests, lambda request: request.task_name or ""):
        if parts and len(parts[-1][1]) < PART_REQUESTS:
            parts[-1][1].extend(group)
        else:
            parts.append((name, list(group)))
    return parts


def _truncated(context: list[int], continuation: list[int], max_length: int) -> ScoreRequest:
    """A request whose context is cut from the left, as in lm-eval's Hugging Face model.

    The context and all tokens of the continuation except the last then fit into `max_length` tokens. Raises
    MeasurementError if the continuation alone does not fit.
    """
    if len(continuation) > max_length:
        raise MeasurementError(
            f"a continuation of {len(continuation)} tokens is longer than the model's context of {max_length}"
        )
    fitting = context[max(0, len(context) + len(continuation) - (max_length + 1)) :]
    return ScoreRequest(tuple(fitting), tuple(continuation))
