"""Compares the records of two machines, if both measured the same text against the same reference.

Where both have the values of the windows or items, differences are paired, as in a comparison of two runs. Where one
has not, a difference has the errors of both sides, which is too much for figures over the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, hypot, sqrt
from typing import Any

import numpy as np

from converters.errors import InputError
from sweep.analysis.record_files import SOURCES, RecordSet, SharedRecord, SharedText
from sweep.record import Samples
from sweep.statistics import PairedDifference, compare_differences
from sweep.statistics.stopping import random_order


@dataclass(frozen=True)
class SharedDifference:
    """One figure of one variant in A and B. `delta` is b - a and `stderr` its error; None if one side has no error.

    `paired` is the difference by window or item; None if one side has no such values. Of a perplexity it is
    ln(PPL b / PPL a), in nats per token.
    """

    variant: str
    figure: str
    a: float
    b: float
    delta: float
    stderr: float | None
    paired: PairedDifference | None = None


@dataclass(frozen=True)
class RecordComparison:
    """The differences between two sets of records: text figures and tasks, then speeds. `notes` say what is not
    compared."""

    a: str
    b: str
    text: str | None
    reference: str
    differences: tuple[SharedDifference, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_records(a: RecordSet, b: RecordSet, pairs: Sequence[tuple[str, str]]) -> RecordComparison:
    """B minus A for these pairs of variants. Raises InputError if text, windows or reference differ, or if the two have
    no figure in common."""
    _require_same_conditions(a, b, pairs)
    differences: list[SharedDifference] = []
    notes: dict[str, None] = {}
    several = any(len(a.records[first].texts) > 1 or len(b.records[second].texts) > 1 for first, second in pairs)
    for first, second in pairs:
        own, other = a.records[first], b.records[second]
        name = first if first == second else f"{first} and {second}"
        for text, against_text in _shared_texts(own, other):
            found, left_out = _text_differences(name, text, against_text, text.name if several else None)
            differences += found
            notes |= dict.fromkeys(left_out)
        notes |= dict.fromkeys(_texts_of_one_side(own, other))
        for task, score in own.tasks.items():
            against = other.tasks.get(task)
            if against is None:
                continue
            if (score.metric, score.n) != (against.metric, against.n):
                notes[
                    f"{task} is not compared: {score.n:,} items by {score.metric} in A, {against.n:,} by "
                    f"{against.metric} in B."
                ] = None
                continue
            items, theirs = own.samples.get(f"task {task}"), other.samples.get(f"task {task}")
            same = items is not None and theirs is not None and items.units == theirs.units
            paired = _paired(items, theirs) if same else None
            differences += _difference(name, task, score.value, against.value, (score.stderr, against.stderr), paired)
        speed = "decode t/s" if own.device == other.device else f"decode t/s ({own.device}, {other.device})"
        differences += _difference(name, speed, own.tokens_per_s, other.tokens_per_s, (None, None))
    if not differences:
        raise InputError(f"{a.name} and {b.name}: the compared variants have no figure in common")
    shared = [pair for first, second in pairs for pair in _shared_texts(a.records[first], b.records[second])]
    texts = list(dict.fromkeys((one.name, one.window) for one, _ in shared if one.sha256 is not None))
    by_window = {window: [str(name) for name, own in texts if own == window] for _, window in texts}
    return RecordComparison(
        a.name,
        b.name,
        "; ".join(f"{', '.join(names)}, windows of {window} tokens" for window, names in by_window.items()) or None,
        next((one.reference for one in a.records.values() if one.reference is not None), "none"),
        tuple(differences),
        tuple(notes),
    )


def _shared_texts(own: SharedRecord, other: SharedRecord) -> list[tuple[SharedText, SharedText]]:
    """The texts that both records have, by their hashes."""
    theirs = {text.sha256: text for text in other.texts if text.sha256 is not None}
    return [(text, theirs[text.sha256]) for text in own.texts if text.sha256 in theirs]


def _texts_of_one_side(own: SharedRecord, other: SharedRecord) -> list[str]:
    """Notes on the texts that only one of two records has."""
    notes = []
    for mine, theirs, side in ((own, other, "A"), (other, own, "B")):
        known = {text.sha256 for text in theirs.texts}
        alone = [str(text.name) for text in mine.texts if text.sha256 not in known and text.name is not None]
        notes += [f"{', '.join(alone)}: measured only in {side}."] if alone and theirs.texts else []
    return notes


def _text_differences(
    variant: str, own: SharedText, other: SharedText, name: str | None
) -> tuple[list[SharedDifference], list[str]]:
    """The differences over a text, whose `name` is said if there are several, and notes on figures that are not
    compared. If the two have different parts of the text, figures are those of the windows that both have."""
    over = "" if name is None else f" over {name}"
    errors = (own.perplexity_stderr, other.perplexity_stderr)
    kld = _same_windows(own, other, own.kld_samples, other.kld_samples)
    nll = _same_windows(own, other, own.nll_samples, other.nll_samples)
    if own.part != other.part:
        rows = [("KL divergence", kld), ("perplexity", nll)] if own.kld is not None else [("perplexity", nll)]
        alone = [figure for figure, windows in rows if windows is None]
        notes = [f"{' and '.join(alone)}{over} not compared: A and B measured other windows."] if alone else []
        return [one for figure, windows in rows for one in _shared_figure(variant, figure, over, windows)], notes
    pairs = [None if windows is None else _paired(*windows) for windows in (kld, nll)]
    figure, errors_of_kld = f"perplexity{over}", (own.kld_stderr, other.kld_stderr)
    return [
        *_difference(variant, f"KL divergence{over}", own.kld, other.kld, errors_of_kld, pairs[0]),
        *_difference(variant, figure, own.perplexity, other.perplexity, errors, pairs[1], is_logarithm=True),
    ], []


def _shared_figure(
    variant: str, figure: str, over: str, windows: tuple[Samples, Samples] | None
) -> list[SharedDifference]:
    """The difference of a figure over windows that both sides have."""
    if windows is None:
        return []
    is_logarithm = figure == "perplexity"
    a, b = (exp(one.values.mean()) if is_logarithm else float(one.values.mean()) for one in windows)
    paired = _paired(*windows)
    return _difference(variant, f"{figure}{over}", a, b, (None, None), paired, is_logarithm=is_logarithm)


def _difference(
    variant: str,
    figure: str,
    a: float | None,
    b: float | None,
    errors: tuple[float | None, float | None],
    paired: PairedDifference | None = None,
    *,
    is_logarithm: bool = False,
) -> list[SharedDifference]:
    """`is_logarithm`: `paired` is of the figure's logarithm."""
    if a is None or b is None:
        return []
    if paired is not None:
        scale = sqrt(a * b) if is_logarithm else 1.0  # of the logarithm's error, to first order
        return [SharedDifference(variant, figure, a, b, b - a, scale * paired.stderr, paired)]
    first, second = errors
    stderr = None if first is None or second is None else hypot(first, second)
    return [SharedDifference(variant, figure, a, b, b - a, stderr)]


def _same_windows(
    own: SharedText, other: SharedText, a: Samples | None, b: Samples | None
) -> tuple[Samples, Samples] | None:
    """The values of the windows that both have, in one order; None if it is not certain that there are any. One may
    have been measured on fewer windows, and in random order."""
    if a is None or b is None or own.in_order_sha256 is None or own.in_order_sha256 != other.in_order_sha256:
        return None
    if own.windows_sha256 != other.windows_sha256:
        a, b = (_in_random_order(text, one) for text, one in ((own, a), (other, b)))
    shared = min(a.values.size, b.values.size)
    return a.head(shared), b.head(shared)


def _in_random_order(text: SharedText, samples: Samples) -> Samples:
    if text.text_windows_sha256 is not None or text.windows_sha256 is None:
        return samples
    return Samples(samples.units, samples.values[random_order(text.windows_sha256, samples.values.size)])


def _paired(a: Samples | None, b: Samples | None) -> PairedDifference | None:
    """B minus A over the same units; None if a side has no values, or others."""
    if a is None or b is None or a.values.shape != b.values.shape or not a.values.size:
        return None
    if not (np.isfinite(a.values).all() and np.isfinite(b.values).all()):
        return None
    binary = all(bool(np.isin(one.values, (0.0, 1.0)).all()) for one in (a, b))
    return compare_differences(b.values - a.values, a.clusters, binary=binary, fewest=2)


def _require_same_conditions(a: RecordSet, b: RecordSet, pairs: Sequence[tuple[str, str]]) -> None:
    """Raises InputError if the text, its windows or the reference of a pair differ."""
    for first, second in pairs:
        own, other = a.records[first], b.records[second]
        if own.reference != other.reference:
            raise InputError(
                f"{a.name} and {b.name}: the references differ: {own.reference} and {other.reference}; their losses "
                "have no common zero"
            )
        if not (own.texts and other.texts):
            continue
        for side, one in ((a, own), (b, other)):
            if all(text.sha256 is None for text in one.texts):
                raise InputError(
                    f"{side.name}: the records do not say which text they are from; write them again with {SOURCES} "
                    "of this version"
                )
        shared = _shared_texts(own, other)
        if not shared:
            raise InputError(f"{a.name} and {b.name}: the texts differ: {_named(own)} and {_named(other)}")
        for text, against in shared:
            _require_same_windows(a, b, own.reference, text, against)


def _require_same_windows(
    a: RecordSet, b: RecordSet, reference: str | None, own: SharedText, other: SharedText
) -> None:
    """Raises InputError if the windows of a text, or the references over it, differ."""
    if (own.window, own.stride) != (other.window, other.stride):
        raise InputError(f"{a.name} and {b.name}: the windows differ: {_window(own)} and {_window(other)}")
    if own.in_order_sha256 and other.in_order_sha256 and own.in_order_sha256 != other.in_order_sha256:
        raise InputError(f"{a.name} and {b.name}: the texts were cut into other tokens: the vocabularies differ")
    if own.reference_model != other.reference_model:
        raise InputError(
            f"{a.name} and {b.name}: both references are called {reference}, but they are files of other "
            "models; their losses have no common zero"
        )


def _named(one: SharedRecord) -> str:
    """The texts with the beginnings of their hashes."""
    return ", ".join(f"{text.name} (hash {str(text.sha256)[:8]})" for text in one.texts if text.sha256 is not None)


def _window(one: SharedText) -> str:
    return f"{one.window} tokens" + ("" if one.stride is None else f" with a stride of {one.stride}")
