"""How much of a text is measured: all of it, or as much as the answer needs (--precision)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from converters.errors import InputError
from presets.advice import advice_rules
from sweep.jobs.inputs import Task
from sweep.methods.base import Variant
from sweep.planning.baseline import ReferenceFile
from sweep.planning.request import Request
from sweep.statistics.stopping import StopRule
from sweep.statistics.task_stopping import TaskStopRule

FULL, DECIDE = "full", "decide"
MOST_PERCENT = 50.0


def checked_precision(text: str, where: str) -> str:
    """The value of --precision. Raises InputError, which names `where` it stands."""
    if text not in (FULL, DECIDE):
        _share(text, where)
    return text


def stop_rule(request: Request, variants: Sequence[Variant], file: ReferenceFile | None) -> StopRule | None:
    """The rule for the variants of a sweep; None: texts are measured in full. Raises InputError if the reference is a
    file.

    Every variant is decided on each bound: the divergence that the advice takes as adequate, or that of --max-kld. The
    variants are also ordered by their divergence.
    """
    if request.precision in (None, FULL):
        return None
    if file is not None:
        raise InputError(
            f"--precision {request.precision}: {file.name} has the text's windows in its order, but windows in random "
            f"order are needed; choose {FULL}, or leave --reference out"
        )
    bounds = (request.max_kld or advice_rules().adequate,)
    compared = _compared(variants)
    share = None if request.precision == DECIDE else _share(str(request.precision), "--precision")
    return StopRule(share, bounds, max(1, compared * len(bounds) + compared - 1))


def task_stop_rule(variants: Sequence[Variant], tasks: Collection[Task]) -> TaskStopRule:
    """The rule for the tasks of a sweep whose texts stop by a rule."""
    return TaskStopRule(max(1, _compared(variants) * len(tasks)))


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
