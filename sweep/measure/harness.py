"""lm-eval's own `simple_evaluate` over any Backend: its prompts, its filters, its metrics, our log-probabilities.

Tokenizing, truncation and stop strings follow lm-eval's Hugging Face model, so that the same weights give the same
scores. Only greedy decoding is done. lm_eval takes seconds to import, so this module imports it when first used.
"""

from __future__ import annotations

import functools
import logging
import math
import numbers
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.errors import InputError
from sweep.backends.base import Backend, GenerationRequest, Progress, ScoreRequest

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager

BOOTSTRAP_ITERATIONS = 1000  # for metrics that have no closed form; 0 would take away every standard error
DEFAULT_MAX_NEW_TOKENS = 256  # of lm-eval's Hugging Face model, where a task names none


@dataclass(frozen=True)
class Metric:
    """One figure of a task: `name` under the answer filter `filter`. `stderr` is None where lm-eval gives none."""

    name: str
    filter: str
    value: float
    stderr: float | None
    higher_is_better: bool

    @property
    def key(self) -> str:
        return f"{self.name},{self.filter}"


@dataclass(frozen=True)
class Item:
    """One document: hashes that prove two runs asked the same, its value of each metric (by Metric.key), and the answer
    by filter: the text, or the index of the choice.
    """

    task: str
    doc_id: int
    doc_hash: str
    prompt_hash: str
    values: dict[str, float]
    answers: dict[str, str]


@dataclass(frozen=True)
class TaskRun:
    """`metrics` in the task file's order, the first of them `primary`; `items` of all its sub-tasks in order.

    `chance` is what blind guessing scores: the mean of 1 / choices, 0 where answers are generated.
    """

    task: str
    metrics: tuple[Metric, ...]
    items: tuple[Item, ...]
    num_fewshot: int | None
    chance: float

    @property
    def n(self) -> int:
        return len(self.items)

    @property
    def primary(self) -> Metric:
        return self.metrics[0]


def run_task(
    backend: Backend,
    task: str,
    *,
    include_path: Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat_template: bool = False,
    progress: Progress | None = None,
) -> TaskRun:
    """Evaluate one task, group or YAML path.

    `include_path` is a directory of task files: then only those are known and no network is touched; without it
    lm-eval's own tasks are known. `limit` takes the first documents of each (sub-)task. Progress counts requests.

    Raises InputError where the task is unknown or its data cannot be had.
    """
    os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval's bootstrap would start a process for every core
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with _offline(include_path is not None), _quiet():
        from lm_eval import simple_evaluate

        manager = _task_manager(include_path)
        loaded = _load(manager, task, include_path)
        roots = [loaded["groups"][task]] if task in loaded["groups"] else list(loaded["tasks"].values())
        results = simple_evaluate(
            model=make_lm(backend, progress),
            tasks=roots,
            num_fewshot=num_fewshot,
            limit=limit,
            bootstrap_iters=BOOTSTRAP_ITERATIONS,
            apply_chat_template=chat_template,
            task_manager=manager,
        )
    return _task_run(task, results)


def check_task(task: str, include_path: Path | None = None) -> None:
    """Load a task and its data without measuring anything. Raises InputError as `run_task` would."""
    with _offline(include_path is not None), _quiet():
        _load(_task_manager(include_path), task, include_path)


@functools.lru_cache(maxsize=4)
def _task_manager(include_path: Path | None) -> TaskManager:
    """Indexing lm-eval's own 14,000 task files takes seconds, a directory of a few takes none."""
    from lm_eval.tasks import TaskManager

    if include_path is not None and not include_path.is_dir():
        raise InputError(f"{include_path}: no such directory of task files")
    return TaskManager(include_path=include_path, include_defaults=include_path is None)


def _load(manager: TaskManager, task: str, include_path: Path | None) -> dict[str, Any]:
    if task not in manager.task_index and not Path(task).is_file():
        where = (
            f"in {include_path}: {', '.join(manager.all_tasks)}" if include_path else "to lm-eval (lm_eval ls tasks)"
        )
        raise InputError(f"unknown task {task!r}; known {where}")
    try:
        return dict(manager.load([task]))
    except (OSError, ImportError, ValueError, KeyError) as error:  # datasets' own errors are kinds of these
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"task {task}: it cannot be loaded, or its data cannot be had: {reason}") from error


def make_lm(backend: Backend, progress: Progress | None = None) -> TemplateLM:
    """`backend` as lm-eval sees a model."""
    return _lm_class()(backend, progress)


@functools.cache
def _lm_class() -> type[TemplateLM]:
    """Made when lm_eval is first wanted."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class BackendLM(TemplateLM):
        def __init__(self, model: Backend, progress: Progress | None) -> None:
            super().__init__()
            self._model = model
            self._progress = progress

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
            if not self._model.chat_template:
                raise InputError("this model has no chat template")
            return render_chat(self._model, chat_history, add_generation_prompt)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
            special = self._model.add_bos if add_special_tokens is None else add_special_tokens
            if add_special_tokens is None and special:
                special = not string.startswith(self._model.detokenize([self.prefix_token_id], special=True))
            return [int(t) for t in self._model.tokenize(string, add_special=special, parse_special=True)]

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            return super().loglikelihood(requests, disable_tqdm=True)  # progress is shown by the caller

        def _loglikelihood_tokens(
            self, requests: Sequence[tuple[Any, list[int], list[int]]], **unused: Any
        ) -> list[tuple[float, bool]]:
            fitted = [_fit(context, continuation, self.max_length) for _text, context, continuation in requests]
            scores = self._model.loglikelihoods(fitted, self._progress)
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
            sums = [0.0] * len(requests)
            for i, (logprob, _) in zip(owners, self._loglikelihood_tokens(pieces), strict=True):
                sums[i] += logprob
            for request, total in zip(requests, sums, strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            return sums

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            eos = self._model.detokenize([self.eot_token_id], special=True)
            wanted = []
            for request in requests:
                context, given = request.args
                options = normalize_gen_kwargs(given, DEFAULT_MAX_NEW_TOKENS)
                if options.get("do_sample"):
                    raise InputError(f"task {request.task_name} samples; only greedy decoding is comparable")
                n_new = int(options["max_gen_toks"])
                room = self.max_length - n_new
                if room < 1:
                    raise InputError(
                        f"task {request.task_name} generates {n_new} tokens in a context of {self.max_length}"
                    )
                stops = tuple(handle_stop_sequences(list(options.get("until") or []), eos=eos))
                wanted.append(GenerationRequest(tuple(self.tok_encode(context)[-room:]), n_new, stops))
            texts = [answer.text for answer in self._model.generate(wanted, self._progress)]
            for request, text in zip(requests, texts, strict=True):
                self.cache_hook.add_partial("generate_until", request.args, text)
            return texts

    return BackendLM


def _fit(context: list[int], continuation: list[int], max_length: int) -> ScoreRequest:
    """Cut from the left so that context and all but the last token of the continuation fit, as lm-eval's HF model."""
    if len(continuation) > max_length:
        raise InputError(f"a continuation of {len(continuation)} tokens is longer than the context of {max_length}")
    kept = context[max(0, len(context) + len(continuation) - (max_length + 1)) :]
    return ScoreRequest(tuple(kept), tuple(continuation))


def render_chat(backend: Backend, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
    """The model's own chat template on `messages`, by the sandboxed Jinja of transformers."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        conversations=[messages],
        chat_template=backend.chat_template,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
        eos_token=backend.detokenize([backend.eos_id], special=True),
        bos_token=backend.detokenize([backend.bos_id], special=True) if backend.add_bos else "",
    )
    return str(rendered[0])


def _task_run(task: str, results: dict[str, Any]) -> TaskRun:
    leaves = list(results["samples"])
    root = task if task in results["results"] else leaves[0]
    figures, config = results["results"][root], results["configs"].get(leaves[0], {})
    better = results["higher_is_better"].get(root) or {}
    metrics = []
    for key, value in figures.items():
        name, _, answer_filter = key.partition(",")
        if not answer_filter or name.endswith("_stderr") or not isinstance(value, numbers.Real):
            continue
        stderr = figures.get(f"{name}_stderr,{answer_filter}")
        stderr = float(stderr) if isinstance(stderr, numbers.Real) and math.isfinite(stderr) else None
        metrics.append(Metric(name, answer_filter, float(value), stderr, better.get(name) is not False))
    order = [entry["metric"] for entry in config.get("metric_list") or ()]
    metrics.sort(key=lambda m: order.index(m.name) if m.name in order else len(order))
    if not metrics:
        raise InputError(f"task {task}: lm-eval gave no figure for it")
    items: dict[tuple[str, int], Item] = {}
    chances = []
    for leaf in leaves:
        by_choice = results["configs"][leaf]["output_type"] == "multiple_choice"
        for sample in results["samples"][leaf]:
            item = items.get((leaf, sample["doc_id"]))
            if item is None:
                item = Item(leaf, sample["doc_id"], sample["doc_hash"], sample["prompt_hash"], {}, {})
                items[leaf, item.doc_id] = item
                chances.append(1 / len(sample["filtered_resps"]) if by_choice else 0.0)
            for name in sample["metrics"]:
                if isinstance(sample[name], numbers.Real):
                    item.values[f"{name},{sample['filter']}"] = float(sample[name])
            item.answers[sample["filter"]] = _answer(sample["filtered_resps"])
    shots = {results["n-shot"].get(leaf) for leaf in leaves}
    return TaskRun(
        task=task,
        metrics=tuple(metrics),
        items=tuple(items.values()),
        num_fewshot=shots.pop() if len(shots) == 1 else None,
        chance=sum(chances) / len(chances),
    )


def _answer(responses: list[Any]) -> str:
    """What the model said: the index of the likeliest choice, or the filtered text."""
    if all(isinstance(r, tuple | list) and len(r) == 2 and isinstance(r[0], float) for r in responses):
        return str(max(range(len(responses)), key=lambda i: responses[i][0]))
    return str(responses[0])


class _Expected(logging.Filter):
    """Drops the advice that lm-eval gives for every task whose data come from a function."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "Custom kwargs can be passed to" not in str(record.msg)


@contextmanager
def _quiet() -> Iterator[None]:
    """Put aside what in lm-eval writes to the terminal, starts programs, or does the same work over and over."""
    import lm_eval.api.task
    import lm_eval.evaluator
    import lm_eval.utils

    replaced: tuple[tuple[Any, str, Any], ...] = (
        (lm_eval.api.task, "tqdm", lambda documents, **_: documents),
        # pip, lscpu and git are run for a description of the machine that is not used here: seconds a task
        (lm_eval.evaluator, "add_env_info", lambda results: None),
        (lm_eval.evaluator, "get_git_commit_hash", lambda: None),
        # a task's few templates are compiled anew for every document: most of the time of a small model's task
        (lm_eval.utils.env, "from_string", functools.lru_cache(maxsize=64)(lm_eval.utils.env.from_string)),
    )
    expected, logger = _Expected(), logging.getLogger("lm_eval.api.task")
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    logger.addFilter(expected)
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)
        logger.removeFilter(expected)


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """While local tasks run, the hub's clients refuse to connect."""
    import datasets
    import huggingface_hub.constants

    saved = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    if wanted:
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = saved
