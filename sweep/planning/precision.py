"""How much of a text is measured: all of it, or as much as the answer needs (--precision)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from converters.errors import InputError
from presets.advice import advice_rules
from sweep.jobs.inputs import Task
from sweep.methods.base import Variant
from sweep.planning.baseline import ReferenceFile
from sweep.planning.request import Request
from sweep.statistics.stopping import StopRule
from sweep.statistics.task_stopping import TaskStopRule

FULL, DECIDE = "full", "decide"
DEFAULT = "5%"
MOST_PERCENT = 50.0


@dataclass(frozen=True)
class Precision:
    """How much of each text and task a sweep measures: "full", "decide" or a percentage, and, in words, why it is that
    if the user does not say it."""

    value: str
    reason: str = ""

    @property
    def is_full(self) -> bool:
        return self.value == FULL

    @property
    def is_default(self) -> bool:
        return bool(self.reason)

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})" if self.reason else self.value


def chosen_precision(chosen: str | None, *, is_builtin: bool, has_file: bool) -> Precision:
    """What the user chose, or the default. `is_builtin`: the model is a built-in one, whose texts are short.
    `has_file`: the reference is a file, which has the windows in the order of the text."""
    if chosen is not None:
        return Precision(chosen)
    if has_file:
        return Precision(FULL, "the reference is a file")
    return Precision(FULL, "the default of built-in models") if is_builtin else Precision(DEFAULT, "default")


def checked_precision(text: str, where: str) -> str:
    """The value of --precision. Raises InputError, which names `where` it stands."""
    if text not in (FULL, DECIDE):
        _share(text, where)
    return text


def stop_rule(
    precision: Precision, request: Request, variants: Sequence[Variant], file: ReferenceFile | None
) -> StopRule | None:
    """The rule for the variants of a sweep; None: texts are measured in full. Raises InputError if the reference is a
    file.

    Every variant is decided on each bound: the divergence that the advice takes as adequate, or that of --max-kld. The
    variants are also ordered by their divergence. The number of decisions is rounded up to a power of 2, so that most
    sweeps with another variant have the same rule, under which results are stored.
    """
    if precision.is_full:
        return None
    if file is not None:
        raise InputError(
            f"--precision {precision.value}: {file.name} has the text's windows in its order, but windows in random "
            f"order are needed; choose {FULL}, or leave --reference out"
        )
    bounds = (request.max_kld or advice_rules().adequate,)
    compared = _compared(variants)
    share = None if precision.value == DECIDE else _share(precision.value, "--precision")
    return StopRule(share, bounds, _rounded_up(compared * len(bounds) + compared - 1))


def rule_alone(precision: Precision) -> StopRule | None:
    """The rule for a model that is compared with nothing: the 95 % interval of its perplexity has at most this width;
    None: texts are measured in full. Raises InputError for "decide"."""
    if precision.value == DECIDE:
        raise InputError(
            f"--precision {DECIDE}: `sweep eval` compares nothing, so there is nothing to decide; choose {FULL}, or a "
            "precision of the perplexity such as 2%"
        )
    return None if precision.is_full else StopRule(_share(precision.value, "--precision"))


def task_stop_rule(variants: Sequence[Variant], tasks: Collection[Task]) -> TaskStopRule:
    """The rule for the tasks of a sweep whose texts stop by a rule. The number of tests is rounded up, as in
    `stop_rule`."""
    return TaskStopRule(_rounded_up(_compared(variants) * len(tasks)))


def _rounded_up(count: int) -> int:
    """To a power of 2."""
    return 1 << (max(1, count) - 1).bit_length()


def _compared(variants: Sequence[Variant]) -> int:
    """The number of variants that are compared with another one."""
    return sum(variant.name != variants[0].name and variant.name != variant.baseline for variant in variants)


def _share(text: str, where: str) -> float:
    """The share that a text such as "5%" names."""
    number = text.removesuffix("%").strip()
    try:
        percent = float(number)
    except ValueError:
        percent = math.nan
    if not text.endswith("%") or not 0.0 < percent <= MOST_PERCENT:
        raise InputError(f"{where} {text}: choose {FULL}, {DECIDE}, or a precision such as 5% (at most 50%)")
    return percent / 100.0
