"""Compares two runs of a workspace, or two variants of one run: which differences are significant.

Tasks are paired by document, so two models can be compared too. Perplexity is paired by window if both runs scored the
same tokens, KL divergence only if both have the same reference. A variant's losses in the two runs are compared by a
difference of differences, e.g. Card and Krueger (1994).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from sweep.analysis.differences import Comparison, LossDifference, Side, TaskDifference, TextDifference
from sweep.endings import Ending
from sweep.items import Item
from sweep.jobs.cell import Cell
from sweep.jobs.task import TaskJob, TaskResult
from sweep.jobs.text import TextJob, TextResult
from sweep.jobs.text_rounds import TextRoundsResult
from sweep.results import paired_items
from sweep.results.history import find_variant
from sweep.results.plan import Plan
from sweep.results.records import reference_units
from sweep.results.store import Outcome, Store
from sweep.results.text_rounds import with_last_rounds
from sweep.statistics import PairedDifference, compare_differences, flips, holm
from sweep.statistics.stopping import random_order
from sweep.workspace import Workspace

_Difference = TypeVar("_Difference", TaskDifference, LossDifference, TextDifference)


@dataclass(frozen=True)
class _ComparedRun:
    """A run with its cells by (variant, name) and their outcomes by key."""

    plan: Plan
    cells: dict[tuple[str, str], Cell]
    outcomes: dict[str, Outcome]

    def result(self, variant: str, name: str) -> Any:
        """The result of a cell, None if it has none."""
        cell = self.cells.get((variant, name))
        outcome = self.outcomes.get(cell.key) if cell is not None else None
        return None if cell is None or outcome is None else outcome.result(cell, self.plan.run)

    def task(self, variant: str, name: str) -> TaskResult | None:
        found = self.result(variant, name)
        return found if isinstance(found, TaskResult) else None

    def key(self, variant: str, name: str) -> str:
        return self.cells[variant, name].key

    def items(self, variant: str, name: str, store: Store) -> list[Item]:
        return store.items_of(self.cells[variant, name], self.plan.run)

    def endings(self, variants: set[str]) -> set[str]:
        """How those cells of the variants ended that have no whole result."""
        cells = (cell for cell in self.plan.cells if cell.variant in variants and cell.key in self.outcomes)
        return {self.outcomes[cell.key].status for cell in cells} & set(Ending)

    def why_missing(self, variant: str, name: str) -> str:
        """Why a figure of a variant is missing: how its cell ended, or "Not measured"."""
        cell = self.cells.get((variant, name))
        outcome = None if cell is None else self.outcomes.get(cell.key)
        return "Not measured" if outcome is None or outcome.status == "ok" else outcome.status.capitalize()

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(cell.name for cell in self.plan.cells if isinstance(cell.job, TaskJob)))

    @property
    def side(self) -> Side:
        return Side(self.plan.run, self.plan.about["model"], self.plan.reference)

    @property
    def texts(self) -> dict[str, tuple[str, str]]:
        """By identity of a text: the name of its cells, and its own name. The first text comes first."""
        jobs = ((cell.name, cell.job) for cell in self.plan.cells)
        return {job.text.identity: (name, job.text.name) for name, job in jobs if isinstance(job, TextJob)}

    def reference(self, variant: str, name: str) -> str | None:
        """Identifies the reference and the windows of a variant's divergence on a text. None without the text."""
        return reference_units(self.plan, variant, name, in_any_order=True)

    @property
    def model(self) -> str:
        """The file and folder of the reference. Their names depend on the content: runs of one model share them."""
        model = self.plan.model_of(self.plan.reference)
        if model is None or self.plan.reference not in self.plan.variants:
            return str(self.plan.about["model"])
        return "/".join(PurePath(model.file.name).parts[-2:])


def compare(workspace: Workspace, first: str, second: str, variant: str | None = None) -> Comparison:
    """B (`second`) minus A (`first`). Each is RUN or RUN:VARIANT; `variant` names one variant of both runs.

    Without a variant, all variants that both runs have are compared, each with the one of the same name. Raises
    InputError if a run or variant is unknown, nothing was measured, or the two have nothing in common.
    """
    plan_a, variant_a = find_variant(workspace, first)
    plan_b, variant_b = find_variant(workspace, second)
    pairs = _pairs(plan_a, variant_a, plan_b, variant_b, variant)
    with Store(workspace.database) as store:
        a, b = _results(plan_a, store), _results(plan_b, store)
        notes = _Notes(_settings(a, b))
        tasks = _holm(list(_tasks(a, b, pairs, store, notes)))
        losses = _holm(list(_losses(a, b, pairs, store)))
    text = _holm(list(_text(a, b, pairs, notes)))
    if not (tasks or text):
        reason = " ".join(notes.lines()) or "they have neither a task nor a text in common"
        raise InputError(f"{first} and {second}: there is nothing to compare: {reason}")
    return Comparison(
        a=a.side,
        b=b.side,
        tasks=tuple(tasks),
        losses=tuple(losses),
        text=tuple(text),
        notes=tuple(notes.lines()),
        endings=frozenset(a.endings({pair[0] for pair in pairs}) | b.endings({pair[1] for pair in pairs})),
    )


class _Notes:
    """Notes of a comparison, each given once: sentences, and messages that apply to several variants and figures."""

    def __init__(self, sentences: list[str]) -> None:
        self._sentences = dict.fromkeys(sentences)
        self._figures: dict[str, dict[str, list[str]]] = {}  # by message and variant

    def add(self, sentence: str) -> None:
        self._sentences[sentence] = None

    def add_figure(self, message: str, variant: str, figure: str) -> None:
        self._figures.setdefault(message, {}).setdefault(variant, []).append(figure)

    def lines(self) -> list[str]:
        """The sentences, then one line for each message and set of figures, with all variants that it applies to."""
        lines = list(self._sentences)
        for message, by_variant in self._figures.items():
            variants: dict[tuple[str, ...], list[str]] = {}
            for variant, figures in by_variant.items():
                variants.setdefault(tuple(figures), []).append(variant)
            lines += [f"{message}: {', '.join(figures)} of {', '.join(names)}." for figures, names in variants.items()]
        return lines


# --- what is compared -----------------------------------------------------------------------------------------------


def _pairs(a: Plan, variant_a: str | None, b: Plan, variant_b: str | None, both: str | None) -> list[tuple[str, str]]:
    """The pairs of variants to compare. A side without a variant uses the other side's."""
    if both is not None and (variant_a is not None or variant_b is not None):
        raise InputError("name the variant once: with --variant or as RUN:VARIANT")
    variant_a, variant_b = (variant_a or both or variant_b), (variant_b or both or variant_a)
    if variant_a is None or variant_b is None:
        if a.run == b.run:
            raise InputError(f"{a.run}: the same run twice; name two of its variants, such as {a.run}:{a.variants[0]}")
        shared = [(name, name) for name in a.variants if name in b.variants]
        if not shared:
            raise InputError(
                f"{a.run} ({', '.join(a.variants)}) and {b.run} ({', '.join(b.variants)}) have no variant in common; "
                "name one of each as RUN:VARIANT"
            )
        return shared
    for plan, name in ((a, variant_a), (b, variant_b)):
        if name not in plan.variants:
            raise InputError(f"run {plan.run} has no variant {name!r}; it has {', '.join(plan.variants)}")
    if (a.run, variant_a) == (b.run, variant_b):
        raise InputError(f"{a.run}:{variant_a}: the same variant of the same run twice")
    return [(variant_a, variant_b)]


def _results(plan: Plan, store: Store) -> _ComparedRun:
    plan = with_last_rounds(plan, store)
    outcomes = store.outcomes(cell.key for cell in plan.cells)
    compared = (cell.key for cell in plan.cells if isinstance(cell.job, TextJob | TaskJob))
    measured = any(outcomes[key].row or outcomes[key].damage for key in compared if key in outcomes)
    if not measured:
        raise InputError(f"run {plan.run} has no results yet; repeat its `sweep run` command to resume it")
    return _ComparedRun(plan, {(cell.variant, cell.name): cell for cell in plan.cells}, outcomes)


def _settings(a: _ComparedRun, b: _ComparedRun) -> list[str]:
    """A note on the settings that differ between the runs: a difference may come from them, not from the model."""
    if a.plan.run == b.plan.run:
        return []
    before, after = a.plan.to_json(), b.plan.to_json()
    fields: dict[str, tuple[Any, Any]] = {"reference": (a.plan.reference, b.plan.reference)}
    for part in ("settings", "where", "about"):
        for name in dict.fromkeys([*before[part], *after[part]]):
            x, y = before[part].get(name), after[part].get(name)
            if isinstance(x, dict) and isinstance(y, dict):  # settings by task: only of tasks that both runs have
                fields |= {key: (x[key], y[key]) for key in x if key in y and name != "tasks"}
            elif name != "model":
                fields[name] = x, y
    different = [f"{name}: {_plain(x)} in A, {_plain(y)} in B" for name, (x, y) in fields.items() if x != y]
    return [f"Measured differently: {'; '.join(different)}."] if different else []


def _plain(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


# --- the differences ------------------------------------------------------------------------------------------------


def _holm(found: list[_Difference]) -> list[_Difference]:
    adjusted = holm([entry.difference.p_value for entry in found])
    return [replace(entry, p_holm=float(p)) for entry, p in zip(found, adjusted, strict=True)]


def _is_comparable(
    a: _ComparedRun, b: _ComparedRun, pair: tuple[str, str], names: tuple[str, str], notes: _Notes
) -> bool:
    """Whether both sides have the figure, from two different measurements. `names` are those of its cells in A and in
    B. If not, a note says why."""
    sides = tuple(zip((a, b), pair, names, strict=True))
    missing = [(run, variant, name) for run, variant, name in sides if run.result(variant, name) is None]
    for run, variant, name in missing:
        notes.add_figure(f"{run.why_missing(variant, name)} in {run.plan.run}", variant, name)
    if missing:
        return False
    if a.key(pair[0], names[0]) == b.key(pair[1], names[1]):
        notes.add_figure("Not compared, because both runs share one measurement", pair[0], names[0])
        return False
    return True


def _tasks(
    a: _ComparedRun, b: _ComparedRun, pairs: list[tuple[str, str]], store: Store, notes: _Notes
) -> Iterator[TaskDifference]:
    for alone, other in ((a, b), (b, a)):
        only = [task for task in alone.tasks if task not in other.tasks]
        if only:
            notes.add(f"Tasks only in {alone.plan.run}: {', '.join(only)}.")
    for pair in pairs:
        for task in (task for task in a.tasks if task in b.tasks):
            if not _is_comparable(a, b, pair, (task, task), notes):
                continue
            result_a, result_b = a.task(pair[0], task), b.task(pair[1], task)
            assert result_a is not None
            assert result_b is not None
            if result_a.metric != result_b.metric:
                notes.add(f"{task}: {result_a.metric} in A and {result_b.metric} in B cannot be compared.")
                continue
            of_a, of_b = (run.items(variant, task, store) for run, variant in zip((a, b), pair, strict=True))
            found = _task(pair, task, result_a, of_a, of_b)
            if found is None:
                notes.add(f"{task}: no document is scored in both runs.")
            else:
                yield found


def _task(
    pair: tuple[str, str], task: str, result: TaskResult, of_a: list[Item], of_b: list[Item]
) -> TaskDifference | None:
    shared = paired_items.pair_items([of_a, of_b])
    if not shared.n:
        return None
    first, second = shared.of([of_a, of_b])
    before, after = paired_items.values(first), paired_items.values(second)
    units = paired_items.units(first)
    gold_a, gold_b = paired_items.gold(first), paired_items.gold(second)
    return TaskDifference(
        variant_a=pair[0],
        variant_b=pair[1],
        task=task,
        metric=result.metric,
        higher_is_better=result.higher_is_better,
        a=float(before.mean()),
        b=float(after.mean()),
        difference=_difference([before, after], after - before, units),
        cluster_kind=units.kind,
        p_holm=1.0,
        flips=flips(before, after),
        answers_changed=paired_items.answers_changed(first, second),
        only_a=shared.unmatched[0],
        only_b=shared.unmatched[1],
        reworded=shared.reworded,
        gold=None
        if gold_a is None or gold_b is None
        else compare_differences(gold_b - gold_a, units.labels, fewest=units.fewest),
    )


def _difference(
    scores: Sequence[paired_items.Values], differences: paired_items.Values, units: paired_items.Units
) -> PairedDifference:
    binary = all(bool(np.isin(row, (0.0, 1.0)).all()) for row in scores)
    return compare_differences(differences, units.labels, binary=binary, fewest=units.fewest)


def _losses(a: _ComparedRun, b: _ComparedRun, pairs: list[tuple[str, str]], store: Store) -> Iterator[LossDifference]:
    """Losses of the variants against their own baselines, for tasks whose four measurements are all different."""
    for variant_a, variant_b in pairs:
        base_a, base_b = a.plan.reference_of(variant_a), b.plan.reference_of(variant_b)
        if variant_a == base_a or variant_b == base_b:
            continue
        for task in (task for task in a.tasks if task in b.tasks):
            sources = ((a, base_a), (a, variant_a), (b, base_b), (b, variant_b))
            results = [run.task(variant, task) for run, variant in sources]
            present = [result for result in results if result is not None]
            keys = [run.key(variant, task) for (run, variant), result in zip(sources, results, strict=True) if result]
            if len(present) < 4 or len(set(keys)) < 4 or len({result.metric for result in present}) > 1:
                continue
            lists = [run.items(variant, task, store) for run, variant in sources]
            shared = paired_items.pair_items(lists)
            if not shared.n:
                continue
            paired = shared.of(lists)
            scores = [paired_items.values(found) for found in paired]
            units = paired_items.units(paired[0])
            loss_a, loss_b = scores[1] - scores[0], scores[3] - scores[2]
            yield LossDifference(
                variant_a=variant_a,
                variant_b=variant_b,
                task=task,
                higher_is_better=present[0].higher_is_better,
                a=_difference(scores[:2], loss_a, units),
                b=_difference(scores[2:], loss_b, units),
                difference=_difference(scores, loss_b - loss_a, units),
                p_holm=1.0,
            )


def _text(a: _ComparedRun, b: _ComparedRun, pairs: list[tuple[str, str]], notes: _Notes) -> Iterator[TextDifference]:
    own, other = a.texts, b.texts
    shared = [text for text in own if text in other]
    for run, texts in ((a, own), (b, other)):
        only = [name for text, (_, name) in texts.items() if text not in shared]
        if shared and only:
            notes.add(f"Texts only in {run.plan.run}: {', '.join(only)}.")
    for text in shared:
        named = own[text][1] if len(shared) > 1 else ""
        yield from _one_text(a, b, pairs, (own[text][0], other[text][0]), named, notes)
    if not shared:
        yield from _one_text(a, b, pairs, ("text", "text"), "", notes)


def _one_text(
    a: _ComparedRun, b: _ComparedRun, pairs: list[tuple[str, str]], names: tuple[str, str], text: str, notes: _Notes
) -> Iterator[TextDifference]:
    """The differences over one text: `names` are those of its cells in A and in B, `text` is its own; empty if there is
    only one."""
    for pair in pairs:
        references = a.reference(pair[0], names[0]), b.reference(pair[1], names[1])
        same_reference = references[0] is not None and references[0] == references[1]
        if references == (None, None):
            continue
        if not _is_comparable(a, b, pair, names, notes):
            continue
        first, second = a.result(pair[0], names[0]), b.result(pair[1], names[1])
        shared = _shared_windows(first, second, same_reference=same_reference)
        if shared is not None:
            if any(len(own) < len(one.perplexity.window_nll) for own, one in zip(shared, (first, second), strict=True)):
                what = f"Compared over the {len(shared[0]):,} windows that both measured"
                notes.add_figure(what, pair[0], names[0])
            nlls = [one.perplexity.window_nll for one in (first, second)]
            yield _text_difference(pair, "perplexity", *_picked(nlls, shared), text)
        else:
            notes.add("Perplexity is not compared: it is not certain that both runs scored the same tokens.")
        if first.divergence is None and second.divergence is None:
            continue
        if not same_reference:
            notes.add(_other_reference(a, b, pair))
        elif shared is not None and first.divergence is not None and second.divergence is not None:
            klds = [one.divergence.window_kld for one in (first, second)]  # a reference has none
            yield _text_difference(pair, "divergence", *_picked(klds, shared), text)


def _shared_windows(
    first: TextResult, second: TextResult, *, same_reference: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """The numbers of the windows that both results have, in the same order; None if it is not certain that they have
    the same ones. One may have fewer, if enough was known, and in another order."""
    counts = [len(one.perplexity.window_nll) for one in (first, second)]
    in_rounds = [isinstance(one, TextRoundsResult) for one in (first, second)]
    if first.windows_sha256 is not None and first.windows_sha256 == second.windows_sha256:
        orders = [np.arange(count) for count in counts]
    elif in_rounds[0] != in_rounds[1]:
        hashes = [
            one.text_sha256 if isinstance(one, TextRoundsResult) else one.windows_sha256 for one in (first, second)
        ]
        if hashes[0] is None or hashes[0] != hashes[1]:
            return None
        orders = [
            np.arange(count) if rounds else random_order(hashes[0], count)
            for count, rounds in zip(counts, in_rounds, strict=True)
        ]
    elif same_reference and counts[0] == counts[1]:  # results of earlier versions have no hash
        orders = [np.arange(count) for count in counts]
    else:
        return None
    return orders[0][: min(counts)], orders[1][: min(counts)]


def _picked(
    values: Sequence[Sequence[float]], shared: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = (np.array(own)[which] for own, which in zip(values, shared, strict=True))
    return first, second


def _text_difference(
    pair: tuple[str, str], figure: str, before: NDArray[np.float64], after: NDArray[np.float64], text: str
) -> TextDifference:
    """From the means of the windows, which all have the same number of tokens."""
    a, b = (float(np.exp(row.mean()) if figure == "perplexity" else row.mean()) for row in (before, after))
    return TextDifference(*pair, figure, a, b, compare_differences(after - before), p_holm=1.0, text=text)


def _other_reference(a: _ComparedRun, b: _ComparedRun, pair: tuple[str, str]) -> str:
    across = a.model != b.model
    why = (
        "divergences of different models have no common zero"
        if across
        else "the references were measured with other settings or on another text"
    )
    return (
        f"KL divergence is not compared: in A it is from {a.plan.reference_of(pair[0])} of {a.plan.model}, in B from "
        f"{b.plan.reference_of(pair[1])} of {b.plan.model}; {why}."
    )
