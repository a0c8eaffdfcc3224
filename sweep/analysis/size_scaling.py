"""Several models next to each other: what each quant costs each of them, and how good each variant is absolutely.

A KL divergence is from a model's own reference, so it says what quantization costs, not which model is better. Two
figures compare models: perplexity, if the models scored the same tokens (which takes the same tokenizer), and the
scores of tasks of which they answered the same items. Both are compared pair by pair, over the same windows and items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from converters.errors import InputError
from sweep import format as fmt
from sweep.analysis import figures
from sweep.analysis.pareto_sets import Losses, perplexity_losses, score_losses
from sweep.record import Record


@dataclass(frozen=True)
class SizedModel:
    """A model as one run measured it. `text` says what was read, in which windows; None without a text. `text_identity`
    is equal for runs that read the same text in the same windows."""

    name: str
    run: str
    records: tuple[Record, ...]
    text: str | None = None
    text_identity: str | None = None

    @cached_property
    def parameters(self) -> float | None:
        """The number of weights: from the sizes of two variants, which have about the same header; None while no size
        is known."""
        sizes = sorted(
            (record.bits_per_weight, record.file_bytes)
            for record in self.records
            if record.bits_per_weight is not None and record.file_bytes is not None and record.kind == "gguf"
        )
        if not sizes:
            return None
        (few, small), (many, large) = sizes[0], sizes[-1]
        return 8 * (large - small) / (many - few) if many > few else 8 * large / many

    @property
    def token_hashes(self) -> set[str]:
        """What identifies the tokens that perplexities are about. Earlier versions did not store it, and the reference
        that divergences are from stands in its place."""
        return {found.units for record in self.records if (found := record.samples.get("nll")) is not None}

    @property
    def tokens_are_known(self) -> bool:
        pairs = [(record.samples.get("nll"), record.samples.get("kld")) for record in self.records]
        return all(nll is None or kld is None or nll.units != kld.units for nll, kld in pairs)

    @property
    def is_measured(self) -> bool:
        return any(record.tasks or record.perplexity is not None for record in self.records)


def key_of(model: str, variant: str) -> str:
    """The name of a variant of one of several models."""
    return f"{model} {variant}"


@dataclass(frozen=True)
class SizeScaling:
    """The models, the smallest first, with what compares them.

    - `scores`: the negated mean score over `tasks`, which all models answered; None if there is no such task.
    - `texts`: perplexity over the same tokens; None if the models cannot be compared by it.
    - The names of variants in both are those of `key_of`.
    - `notes` say what is not compared, and why.
    """

    models: tuple[SizedModel, ...]
    tasks: tuple[str, ...]
    scores: Losses | None
    texts: Losses | None
    notes: tuple[str, ...]

    @property
    def variants(self) -> list[str]:
        """The variants of all models, from fewest to most bits per weight."""
        rows = figures.by_size(record for model in self.models for record in model.records)
        return list(dict.fromkeys(record.variant for record in rows))

    def record(self, model: str, variant: str) -> Record | None:
        found = (one for one in self.models if one.name == model)
        return next((record for one in found for record in one.records if record.variant == variant), None)

    def score(self, model: str, variant: str) -> float | None:
        """The mean score over the shared tasks, as a share."""
        loss = None if self.scores is None else self.scores.values.get(key_of(model, variant))
        return None if loss is None else -loss

    def perplexity(self, model: str, variant: str) -> float | None:
        return None if self.texts is None else self.texts.values.get(key_of(model, variant))

    def kld(self, model: str, variant: str) -> figures.Figure | None:
        """The divergence from the model's own reference, which has none from itself."""
        record = self.record(model, variant)
        return None if record is None or record.variant == record.reference else figures.kld(record)


def size_scaling(models: Sequence[SizedModel]) -> SizeScaling:
    """Put the models next to each other. Raises InputError if fewer than two of them have results."""
    measured = [model for model in models if model.is_measured]
    if len(measured) < 2:
        raise InputError(
            f"{', '.join(model.run for model in models)}: two models with results are needed to compare sizes, and "
            f"there {'is one' if measured else 'is none'}; repeat the `sweep run` command to resume the others"
        )
    measured = _with_unique_names(sorted(measured, key=lambda model: model.parameters or float("inf")))
    pooled = [
        replace(record, variant=key_of(model.name, record.variant), reference=None, task_reference=None)
        for model in measured
        for record in model.records
    ]
    tasks, task_notes = _shared_tasks(measured)
    text_note = _why_other_tokens(measured)
    return SizeScaling(
        models=tuple(measured),
        tasks=tasks,
        scores=score_losses(pooled, tasks)[0] if tasks else None,
        texts=perplexity_losses(pooled)[0] if text_note == "" else None,
        notes=(
            *(f"{model.name} is left out: it has no results yet." for model in models if not model.is_measured),
            *([text_note] if text_note else []),
            *task_notes,
            *_other_references(measured),
            *_memory_in_torch(measured),
        ),
    )


def _with_unique_names(models: Sequence[SizedModel]) -> list[SizedModel]:
    """Models of the same name (checkpoints in folders of the same name) have the names of their runs."""
    names = [model.name for model in models]
    return [replace(model, name=model.run) if names.count(model.name) > 1 else model for model in models]


def _shared_tasks(models: Sequence[SizedModel]) -> tuple[tuple[str, ...], list[str]]:
    """The tasks whose scores can be compared between the models, and notes on the others."""
    every = [record for model in models for record in model.records]
    scales = figures.task_scales(every)
    shared, notes = [], []
    for task in figures.task_names(every):
        without = [model.name for model in models if not any(task in record.tasks for record in model.records)]
        having = [record for record in every if task in record.tasks]
        units = {found.units for record in having if (found := record.samples.get(f"task {task}")) is not None}
        name = fmt.plain(task)
        if without:
            notes.append(f"{name} is not compared: {', '.join(without)} did not answer it.")
        elif len({record.tasks[task].metric for record in having}) > 1 or scales[task] != 100:
            notes.append(f"{name} is not compared: its scores are not shares of right answers.")
        elif len(units) != 1:
            notes.append(f"{name} is not compared: the models answered different items or prompts.")
        else:
            shared.append(task)
    return tuple(shared), notes


def _why_other_tokens(models: Sequence[SizedModel]) -> str | None:
    """Why perplexity does not compare the models; empty if it does, None if no model has one."""
    units = {model.name: model.token_hashes for model in models}
    if not any(units.values()):
        return None
    without = [name for name, found in units.items() if not found]
    if without:
        return f"Perplexity is not compared: {', '.join(without)} has none."
    if len(set.union(*units.values())) == 1:
        return ""
    unknown = [model.run for model in models if not model.tokens_are_known]
    if unknown:
        return (
            "Perplexity is not compared: it is not certain that the models scored the same tokens, because an earlier "
            f"version of bitsweep measured {', '.join(unknown)} and did not store which. Measure again in another "
            "workspace."
        )
    if len({model.text_identity for model in models}) > 1:
        said = "; ".join(f"{model.name}: {model.text}" for model in models)
        return f"Perplexity is not compared, because the models read different texts or windows ({said})."
    return (
        "Perplexity is not compared: the models cut the same text into different tokens (their tokenizers differ), so "
        "their perplexities are about different things."
    )


def _other_references(models: Sequence[SizedModel]) -> list[str]:
    """A note if divergences are from different kinds of references."""
    by_model = {model.name: sorted(figures.reference_names(model.records)) for model in models}
    if len({tuple(names) for names in by_model.values()}) < 2:
        return []
    said = "; ".join(f"{name}: {' and '.join(map(fmt.plain, found)) or 'none'}" for name, found in by_model.items())
    return [f"The KL divergences are from different references ({said}), so they cost different things."]


def _memory_in_torch(models: Sequence[SizedModel]) -> list[str]:
    """A note on variants whose memory is not that of a server, because they are measured with dequantized weights."""
    rows = figures.by_size(record for model in models for record in model.records if record.kind != "gguf")
    names = dict.fromkeys(fmt.plain(record.variant) for record in rows if record.variant != record.reference)
    if not names:
        return []
    return [
        f"The memory of {', '.join(names)} is what torch needs here: that of the float model, except for int8. "
        "`sweep fit` says what a server with packed weights needs."
    ]
