"""Runs lm-eval's `simple_evaluate` with a Backend as the model.

Prompts, answer filters and metrics are lm-eval's; log-probabilities and generated text come from the Backend.
"""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import InputError
from images.file import ImageFile
from sweep.backends.base import Backend
from sweep.backends.sharing_check import SharingCheck
from sweep.items import LONGEST_CHOICE, LONGEST_TEXT, Item, Question, QuestionImage
from sweep.measure.chat import ChatTemplateError, ChatVocabulary
from sweep.measure.lm_eval_model import TaskProgress, UnusableItems, images_of, make_lm
from sweep.measure.lm_eval_tasks import LoadedTask, TaskLocation, load_task, quiet
from sweep.measure.reasoning import Opening
from sweep.measure.simple_evaluate import evaluate, requests_of
from sweep.measure.task_options import MeasurementError, TaskOptions


@dataclass(frozen=True)
class Metric:
    """A figure of a task: the metric `name` with the answer filter `filter`. `stderr` is None if lm-eval gives none."""

    name: str
    filter: str
    value: float
    stderr: float | None
    higher_is_better: bool

    @property
    def key(self) -> str:
        return f"{self.name},{self.filter}"


@dataclass(frozen=True)
class TaskItem:
    """The result of one document.

    `doc_hash` and `prompt_hash` show whether two runs had the same question. `values` has the value of each metric,
    by Metric.key. `answers` has the answer by filter: the generated text, or the index of the chosen answer.
    `gold_probability` is the right choice's share of the probability of all choices (softmax of their log-likelihoods);
    None for tasks that generate text. `cluster` is equal for documents with the same images; empty without images.
    """

    task: str
    doc_id: int
    doc_hash: str
    prompt_hash: str
    values: dict[str, float]
    answers: dict[str, str]
    gold_probability: float | None = None
    cluster: str = ""

    def scored(self, metric: Metric) -> Item:
        """The item with its value of the metric, and the answer of the metric's filter."""
        return Item(
            self.doc_id,
            self.doc_hash,
            self.prompt_hash,
            self.values[metric.key],
            self.answers.get(metric.filter, ""),
            self.gold_probability,
            self.task,
            self.cluster,
        )


@dataclass(frozen=True)
class TaskRun:
    """The results of a task.

    Attributes:
        metrics: in the order of the task file.
        items: of all its sub-tasks, in order.
        num_fewshot: examples in each prompt; None if the sub-tasks differ.
        chance: the score of random guessing, the mean of 1 / number of choices; 0 for tasks that generate text.
        left_out: number of items that cannot be scored on this machine.
        pixels: the limits for the resized images, (lowest, highest); None without images, or if the sub-tasks differ.
        unusable: what is wrong with further items, which are not scored either, one line for each.
        max_gen_toks: for tasks that generate text, the largest limit on new tokens that was used.
        unfinished: number of answers that reached that limit, or ended inside the reasoning.
        in_reasoning: number of answers that ended inside the reasoning. They are empty.
        thinking_ignored: whether a prompt began or ended the reasoning although the options say otherwise.
        moved_system: whether the text of a system message was moved, because the template rejects such messages.
        questions: what the documents of `items` ask, in the same order.
        sharing: for multiple choice, the check of the shared prefixes on a sample of questions; None if too few items
            were scored to afford one.
    """

    task: str
    metrics: tuple[Metric, ...]
    items: tuple[TaskItem, ...]
    num_fewshot: int | None
    chance: float
    left_out: int = 0
    unusable: tuple[str, ...] = ()
    pixels: tuple[int, int] | None = None
    max_gen_toks: int | None = None
    unfinished: int = 0
    in_reasoning: int = 0
    thinking_ignored: bool = False
    moved_system: bool = False
    questions: tuple[Question, ...] = ()
    sharing: SharingCheck | None = None

    @property
    def n(self) -> int:
        return len(self.items)

    @property
    def primary(self) -> Metric:
        """The first metric that is the mean of its items' values, so that two models can be compared item by item.

        If no metric is such a mean (a perplexity, for example), it is the first metric.
        """
        return next((metric for metric in self.metrics if self._is_mean(metric)), self.metrics[0])

    def items_of(self, metric: Metric) -> tuple[Item, ...]:
        """The items that have a value of this metric, with that value and the answer of its filter."""
        return tuple(item.scored(metric) for item in self.items if metric.key in item.values)

    def _is_mean(self, metric: Metric) -> bool:
        values = [item.values.get(metric.key, math.nan) for item in self.items]
        return math.isclose(sum(values) / len(values), metric.value, rel_tol=1e-6, abs_tol=1e-9)


def run_task(
    backend: Backend,
    task: str,
    location: TaskLocation | None = None,
    options: TaskOptions | None = None,
    progress: TaskProgress | None = None,
) -> TaskRun:
    """Evaluate a task, group or tag. Progress counts requests and names the sub-task.

    Raises InputError if the task is unknown, its data is not available or it must not be run; MeasurementError if the
    model gives no valid figure.
    """
    location, options = location or TaskLocation(), options or TaskOptions()
    with quiet(location.offline):
        loaded = load_task(task, location, options)
        results = None
        while results is None:
            lm = make_lm(backend, options, progress)
            try:
                results = evaluate(lm, loaded, options, options.limit)
            except UnusableItems as found:  # before the model answers; the task goes on without them
                loaded.leave_out(found.reasons, options.limit)
        return as_run(task, backend, loaded, lm, results, options)


def as_run(
    task: str, backend: Backend, loaded: LoadedTask, lm: Any, results: dict[str, Any], options: TaskOptions
) -> TaskRun:
    """What lm-eval gave for a task, and what its model `lm` noticed. Raises MeasurementError for nan, InputError if
    there is no figure."""
    items = items_of_results(loaded, results)
    shots = {results["n-shot"].get(leaf) for leaf in loaded.tasks}
    chances = [_chance(loaded.tasks[item.task], sample) for item, sample in items]
    return TaskRun(
        task=task,
        metrics=metrics_of_results(loaded, results),
        items=tuple(item for item, _ in items),
        num_fewshot=shots.pop() if len(shots) == 1 else None,
        chance=sum(chances) / len(chances),
        left_out=sum(loaded.left_out.values()),
        unusable=tuple(loaded.unusable.values()),
        pixels=None
        if loaded.pixels is None or backend.preprocessing is None
        else backend.preprocessing.limits(loaded.pixels),
        max_gen_toks=lm.max_gen_toks_used,
        unfinished=lm.unfinished,
        in_reasoning=lm.in_reasoning,
        thinking_ignored=(Opening.CLOSED if options.thinking else Opening.OPEN) in lm.openings
        and options.thinking is not None,
        moved_system=lm.moved_system,
        questions=tuple(_question(loaded.tasks[item.task], item, sample) for item, sample in items),
        sharing=lm.sharing.check,
    )


def check_task(task: str, location: TaskLocation | None = None, options: TaskOptions | None = None) -> None:
    """Load a task and its data without running the model. Raises InputError as `run_task` would."""
    location = location or TaskLocation()
    with quiet(location.offline):
        load_task(task, location, options or TaskOptions())


def check_prompts(vocabulary: ChatVocabulary, task: str, location: TaskLocation, options: TaskOptions) -> None:
    """Build the prompt of the first item of every sub-task as `run_task` does, without a model that answers.

    Raises InputError as `run_task` would for the task, its data or the chat template.
    """
    with quiet(location.offline):
        loaded = load_task(task, location, options)
        lm: Any = make_lm(vocabulary, options)  # type: ignore[arg-type]  # asked for nothing but prompts
        try:
            requests = requests_of(lm, loaded, options, limit=1)
        except InputError:
            raise
        except Exception as error:  # a task's file contains code, which can fail in any way
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(f"task {task}: its prompts cannot be built: {reason}") from error
        for request in requests:
            try:
                lm.texts_around_images(request)
            except ChatTemplateError:
                raise
            except InputError:  # the fault of one item, which is left out
                continue


def metrics_of_results(loaded: LoadedTask, results: dict[str, Any]) -> tuple[Metric, ...]:
    """The figures that lm-eval gives for the task. Raises MeasurementError for nan, InputError if there are none."""
    figures = results["results"][loaded.name]
    better = results["higher_is_better"].get(loaded.name) or {}
    metrics = []
    for key, value in figures.items():
        name, _, answer_filter = key.partition(",")
        if not answer_filter or name.endswith("_stderr") or not isinstance(value, numbers.Real):
            continue
        if math.isnan(value):
            raise MeasurementError(f"task {loaded.name}: its {name} is not a number (nan)")
        stderr = figures.get(f"{name}_stderr,{answer_filter}")
        stderr = float(stderr) if isinstance(stderr, numbers.Real) and math.isfinite(stderr) else None
        metrics.append(Metric(name, answer_filter, float(value), stderr, better.get(name) is not False))
    if not metrics:
        raise InputError(f"task {loaded.name}: lm-eval gave no figure for it")
    leaf = next(iter(loaded.tasks.values()))
    order = [entry["metric"] for entry in getattr(leaf.config, "metric_list", None) or ()]
    return tuple(sorted(metrics, key=lambda m: order.index(m.name) if m.name in order else len(order)))


def items_of_results(loaded: LoadedTask, results: dict[str, Any]) -> list[tuple[TaskItem, dict[str, Any]]]:
    """The item of each document, with one of lm-eval's samples of that document."""
    items: dict[tuple[str, int], tuple[TaskItem, dict[str, Any]]] = {}
    for leaf, task in loaded.tasks.items():
        for sample in results["samples"][leaf]:
            at = leaf, sample["doc_id"]
            if at not in items:
                gold = _gold_probability(task, sample)
                images = _images_hash(sample)
                document = _hash([sample["doc_hash"], images]) if images else sample["doc_hash"]
                item = TaskItem(leaf, sample["doc_id"], document, sample["prompt_hash"], {}, {}, gold, images)
                items[at] = item, sample
            item = items[at][0]
            for name in sample["metrics"]:
                value = _item_value(sample[name])
                if value is not None:
                    item.values[f"{name},{sample['filter']}"] = value
            item.answers[sample["filter"]] = _answer(sample["filtered_resps"])
    return list(items.values())


def _images_hash(sample: dict[str, Any]) -> str:
    """A hash of the content of the images of a document, of which lm-eval's hash may have only the paths; empty without
    images."""
    images = images_of(sample["arguments"][0])
    return _hash([image.content for image in images if isinstance(image, ImageFile)]) if images else ""


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _item_value(value: Any) -> float | None:
    """The value of a metric for one document; None if the metric has a value only for all documents together.

    A list of booleans gives the share of true ones.
    """
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, list) and value and all(isinstance(part, bool) for part in value):
        return sum(value) / len(value)
    return None


def _choices(task: Any, sample: dict[str, Any]) -> list[float]:
    """Log-likelihoods of the choices in nats; empty for tasks that generate text."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return []
    logprobs = [response[0] for response in sample["filtered_resps"]]
    return logprobs[: len(task.doc_to_choice(sample["doc"]))]  # acc_mutual_info scores each again without context


def _chance(task: Any, sample: dict[str, Any]) -> float:
    choices = _choices(task, sample)
    return 1 / len(choices) if choices else 0.0


def _gold_probability(task: Any, sample: dict[str, Any]) -> float | None:
    logprobs, document = _choices(task, sample), sample["doc"]
    if not logprobs:
        return None
    gold = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    names = task.doc_to_choice(document)
    right = {
        names.index(one) if isinstance(one, str) and one in names else one
        for one in (gold if isinstance(gold, list) else [gold])
    }
    top = max(logprobs)
    weights = [math.exp(logprob - top) for logprob in logprobs]
    return sum(weight for index, weight in enumerate(weights) if index in right) / sum(weights)


def _question(task: Any, item: TaskItem, sample: dict[str, Any]) -> Question:
    """What a document asks, in words."""
    document = sample["doc"]
    choices = [str(choice) for choice in task.doc_to_choice(document)] if task.OUTPUT_TYPE == "multiple_choice" else []
    text, target = task.doc_to_text(document), task.doc_to_target(document)
    if getattr(task, "multiple_input", False):  # the choices are texts that the same answer follows
        text, target = target, text
    right = [_named(one, choices) for one in (target if isinstance(target, list) else [target])]
    images = [image for image in images_of(sample["arguments"][0]) if isinstance(image, ImageFile)]
    return Question(
        item.task,
        item.doc_hash,
        item.prompt_hash,
        _shortened(str(text), LONGEST_TEXT, keep_end=True),
        tuple(_shortened(choice, LONGEST_CHOICE) for choice in choices),
        " or ".join(_shortened(one, LONGEST_CHOICE) for one in right),
        tuple(QuestionImage(image.name if isinstance(image.data, Path) else "", image.digest) for image in images),
    )


def _named(target: Any, choices: Sequence[str]) -> str:
    """The right answer: a text, or the index of a choice."""
    return choices[target] if isinstance(target, int) and 0 <= target < len(choices) else str(target)


def _shortened(text: str, longest: int, *, keep_end: bool = False) -> str:
    if len(text) <= longest:
        return text
    return f"…{text[1 - longest :]}" if keep_end else f"{text[: longest - 1]}…"


def _answer(responses: Sequence[Any]) -> str:
    """The model's answer: the index of the most probable choice, or the filtered text."""
    if all(isinstance(r, tuple | list) and len(r) == 2 and isinstance(r[0], float) for r in responses):
        return str(max(range(len(responses)), key=lambda i: responses[i][0]))
    first = responses[0]
    return str(first[0] if isinstance(first, list) and len(first) == 1 else first)
