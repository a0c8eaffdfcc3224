"""The advice: which variant to run on given devices, with which KV cache, and with what in RAM.

Each candidate is a variant with a type of KV cache where `sweep fit` placed it. Its KL divergence was measured, or is
expected from published measurements (priors.py); its speed follows from the bytes that a token reads and the bandwidth
of the memory that they are in. presets/advice.toml says what is demanded of both.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from presets.advice import Demand, advice_rules
from sweep import format as fmt
from sweep.analysis.priors import ExpectedKld, MeasuredKld, expected_klds, measured_kld
from sweep.fit.fit_report import FitReport, FitRow, Verdict, verdict


class AdvisedPlacement(StrEnum):
    """Where a candidate runs."""

    GPU = "gpu"
    EXPERTS = "experts-in-ram"
    LAYERS = "layers-in-ram"
    RAM = "ram"  # there is no GPU


ABOUT_AS_LOW = 1.3
"""Ratio of two expected divergences of one model that are about as low: the spread of types around the prior's formula
is 24 %."""

FASTEST_ESTIMATE = 300
"""Tokens per second above which the time between tokens, not the memory bandwidth, decides the speed."""

_PLACES = {
    AdvisedPlacement.GPU: "",
    AdvisedPlacement.EXPERTS: " with experts in RAM",
    AdvisedPlacement.LAYERS: " with layers in RAM",
    AdvisedPlacement.RAM: "",
}


@dataclass(frozen=True)
class Candidate:
    """A variant with a type of KV cache, as it would run.

    `tokens_per_s` is an estimate for one sequence with a full context; None if the kind of variant has no estimate.
    `kld` includes the loss by the KV cache; None if nothing is known.
    """

    model: str
    row: FitRow
    kv_type: str
    context: int
    placement: AdvisedPlacement
    kld: ExpectedKld | None
    tokens_per_s: float | None

    @property
    def name(self) -> str:
        """The variant with what is special about how it runs."""
        cache = "" if self.kv_type == "f16" else f" with a {self.kv_type} KV cache"
        return f"{fmt.plain(self.row.variant)}{cache}{_PLACES[self.placement]}"

    @property
    def figures(self) -> str:
        """Its size, what of it is in RAM, and its speed."""
        words = [fmt.size(self.row.file_bytes)]
        if self.placement in (AdvisedPlacement.EXPERTS, AdvisedPlacement.LAYERS):
            words.append(f"{fmt.size(self.row.shares[-1].total_bytes)} of RAM")
        if self.tokens_per_s is not None:
            words.append(_rate(self.tokens_per_s))
        return ", ".join(words)

    @property
    def command(self) -> str:
        """The command that runs it; empty if llama.cpp cannot run the variant."""
        return f"llama-server {self.row.arguments}" if self.row.arguments else ""


@dataclass(frozen=True)
class Excluded:
    """A candidate that is not considered, and the one reason."""

    variant: str
    kv_type: str
    reason: str


@dataclass(frozen=True)
class Advice:
    """The variant to run, or None, and why.

    `smaller` is the best candidate that is smaller and at least as fast, `better` the simplest and fastest that loses
    less. `other_model` is a smaller model that runs well, if the pick is poor.
    """

    model: str
    pick: Candidate | None
    reason: str
    smaller: Candidate | None
    better: Candidate | None
    excluded: tuple[Excluded, ...]
    other_model: Candidate | None = None

    @property
    def is_poor(self) -> bool:
        """Whether the pick is slower than people read or has a clear loss, or there is no pick."""
        rules = advice_rules()
        return self.pick is None or not any(_meets(self.pick, demand) for demand in rules.demands[:2])

    @property
    def runs_well(self) -> bool:
        """Whether the pick is good enough to name it beside a poor pick of a larger model."""
        pick, rules = self.pick, advice_rules()
        return (
            pick is not None
            and pick.placement is not AdvisedPlacement.LAYERS
            and _value(pick) <= rules.adequate
            and (pick.tokens_per_s or 0.0) >= rules.other_model_speed
        )

    @property
    def is_simple(self) -> bool:
        """Whether the pick runs on the GPUs alone with an f16 cache, and its loss is adequate: a smaller cache would
        not change the pick."""
        pick = self.pick
        return pick is not None and _effort(pick) == 0 and _value(pick) <= advice_rules().adequate

    @property
    def confidence(self) -> str:
        """ "measured" or "prior": where the divergence of the pick comes from; "cannot-tell" without a pick."""
        if self.pick is None or self.pick.kld is None:
            return "cannot-tell"
        return self.pick.kld.source


def candidates(report: FitReport, klds: Mapping[str, MeasuredKld]) -> list[Candidate]:
    """The variants of a fit report as candidates; `klds` are the divergences that were measured, by variant."""
    added = advice_rules().kv_types.get(report.kv_type)
    has_gpu = any(device.kind != "cpu" for device in report.devices)
    expected: dict[str, ExpectedKld] = {
        **expected_klds(
            {row.variant: row.weight_types for row in report.rows},
            report.architecture,
            {name: found.kld for name, found in klds.items()},
        ),
        **{name: measured_kld(found) for name, found in klds.items()},
    }
    return [
        Candidate(
            report.model,
            row,
            report.kv_type,
            report.context,
            _placement(row, has_gpu),
            _with_cache(expected.get(row.variant), added),
            estimated_speed(row, report),
        )
        for row in report.rows
    ]


def estimated_speed(row: FitRow, report: FitReport) -> float | None:
    """Tokens per second of one sequence with a full context: each device reads its part of the weights and the cache
    one after another. None for a kind of variant for which these bytes are not known."""
    speed = advice_rules().speed
    gpus = [device for device in report.devices if device.kind != "cpu"]
    host = next((device for device in report.devices if device.kind == "cpu"), None)
    iq = (
        0.0
        if row.weight_types is None
        else sum(share for name, share in row.weight_types.shares.items() if name.startswith("IQ"))
    )
    seconds = 0.0
    for place, share in enumerate(row.shares):
        if not share.read_bytes:
            continue
        if place < len(gpus):
            bandwidth, reached = gpus[place].bandwidth or speed.gpu_bandwidth, speed.devices
        else:
            known = None if host is None else host.bandwidth
            bandwidth = known or speed.ram_bandwidth
            reached = speed.experts_in_ram if row.cpu_moe_layers else speed.ram
            reached *= 1 - iq + iq * speed.iq_types_in_ram
        seconds += share.read_bytes / (bandwidth * reached)
    return 1 / seconds if seconds else None


def advise(model: str, found: Sequence[Candidate]) -> Advice:
    """Choose among the candidates of one model."""
    excluded = [Excluded(one.row.variant, one.kv_type, why) for one in found if (why := _exclusion(one))]
    usable = [one for one in found if not _exclusion(one)]
    pick = _pick(usable)
    if pick is None:
        return Advice(model, None, _why_none(found), None, None, tuple(excluded))
    others = [one for one in usable if one.row.variant != pick.row.variant]
    smaller = [one for one in others if _is_smaller(one, pick)]
    better = [one for one in others if _value(one) < 0.8 * _value(pick)]
    return Advice(
        model,
        pick,
        _why(pick),
        min(smaller, key=_value, default=None),
        min(better, key=lambda one: (_effort(one), -(one.tokens_per_s or 0.0), one.row.file_bytes), default=None),
        tuple(excluded),
    )


def to_json(advice: Advice) -> dict[str, Any]:
    """The advice as the JSON field "advice" of `sweep fit`."""
    alternatives = [("smaller", advice.smaller), ("better", advice.better), ("other model", advice.other_model)]
    pick = advice.pick
    return {
        "model": advice.model,
        **(_candidate(pick) if pick is not None else dict.fromkeys(_FIELDS)),
        "confidence": advice.confidence,
        "reason": advice.reason,
        "alternatives": [
            {"direction": direction, "model": one.model, **_candidate(one)} for direction, one in alternatives if one
        ],
        "excluded": [{"variant": one.variant, "kv_type": one.kv_type, "reason": one.reason} for one in advice.excluded],
        "settle": _settle(advice),
    }


def _settle(advice: Advice) -> dict[str, Any] | None:
    """The sweep that replaces expected figures by measured ones; None if the pick's are measured."""
    pick = advice.pick
    if pick is None or advice.confidence == "measured":
        return None
    names = dict.fromkeys(one.row.variant for one in (pick, advice.smaller, advice.better) if one is not None)
    return {"items": None, "command": f"sweep run {shlex.quote(advice.model)} --variants {','.join(names)}"}


_FIELDS = ("variant", "kv_type", "ctx", "placement", "tokens_per_s", "expected_kld", "command")


def _candidate(one: Candidate) -> dict[str, Any]:
    kld = one.kld
    return {
        "variant": one.row.variant,
        "kv_type": one.kv_type,
        "ctx": one.context,
        "placement": one.placement.value,
        "tokens_per_s": one.tokens_per_s,
        "expected_kld": None if kld is None else vars(kld),
        "command": one.command,
    }


def _placement(row: FitRow, has_gpu: bool) -> AdvisedPlacement:
    if not has_gpu:
        return AdvisedPlacement.RAM
    if verdict(row) is not Verdict.PARTLY:
        return AdvisedPlacement.GPU
    return AdvisedPlacement.EXPERTS if row.gpu_layers == row.n_layers else AdvisedPlacement.LAYERS


def _with_cache(kld: ExpectedKld | None, added: float | None) -> ExpectedKld | None:
    if kld is None or added is None:
        return None
    return ExpectedKld(kld.value + added, kld.low + added, kld.high + added, kld.source)


def _exclusion(one: Candidate) -> str | None:
    """The one reason why a candidate is not considered, or None."""
    rules = advice_rules()
    if verdict(one.row) is Verdict.DOES_NOT_FIT:
        return f"does not fit: it needs {fmt.size(-one.row.headroom_bytes)} more"
    if one.kld is None:
        return "no published measurement says what it loses; measure it with `sweep run`"
    why = rules.not_chosen.get(one.row.variant)
    if why is not None and one.kld.source != "measured":
        return why
    worst = rules.demands[-1]
    if one.kld.value > worst.kld:
        return f"its expected KL divergence of {fmt.small(one.kld.value)} nats is beyond use"
    if one.tokens_per_s is not None and one.tokens_per_s < worst.tokens_per_s:
        return f"about {one.tokens_per_s:.1f} tokens/s"
    return None


def _pick(usable: Sequence[Candidate]) -> Candidate | None:
    """The best candidate of those that meet the first demand that any meets."""
    for demand in advice_rules().demands:
        meeting = [one for one in usable if _meets(one, demand)]
        if meeting:
            return _best(meeting, demand.share_of_fastest)
    return None


def _meets(one: Candidate, demand: Demand) -> bool:
    return _value(one) <= demand.kld and (one.tokens_per_s or 0.0) >= demand.tokens_per_s


def _best(found: Sequence[Candidate], share_of_fastest: float) -> Candidate:
    """The candidate to choose among those that meet a demand, with this share of the speed of the fastest.

    What is simplest to run comes first, if its divergence is adequate: everything on the GPUs with an f16 cache, then
    with a smaller cache, then with something in RAM. There, the lowest divergence wins, but a larger file does not win
    by a difference that nobody notices, and what was measured comes before what is expected. If nothing is adequate,
    the lowest divergence wins; of those that are about as low, the simplest to run.
    """
    rules = advice_rules()
    for effort in range(4):
        adequate = [one for one in found if _effort(one) == effort and _value(one) <= rules.adequate]
        adequate = [one for one in adequate if _is_measured(one)] or adequate
        if adequate:
            fastest = max(one.tokens_per_s or 0.0 for one in adequate)
            least = share_of_fastest * fastest
            return min(
                (one for one in adequate if (one.tokens_per_s or 0.0) >= least),
                key=lambda one: (max(_value(one), rules.unnoticeable), one.row.file_bytes),
            )
    lowest = min(_value(one) for one in found)
    near = [one for one in found if _value(one) <= ABOUT_AS_LOW * lowest]
    return min(near, key=lambda one: (_effort(one), _value(one), one.row.file_bytes))


def _rate(tokens_per_s: float) -> str:
    if tokens_per_s > FASTEST_ESTIMATE:
        return f"over {FASTEST_ESTIMATE} tokens/s"
    return f"about {tokens_per_s:.{0 if tokens_per_s >= 10 else 1}f} tokens/s"


def _is_measured(one: Candidate) -> bool:
    return one.kld is not None and one.kld.source == "measured"


def _effort(one: Candidate) -> int:
    """How far from simple it is to run: 0 for everything on the GPUs with an f16 cache."""
    in_ram = one.placement in (AdvisedPlacement.EXPERTS, AdvisedPlacement.LAYERS)
    return 2 * in_ram + (one.kv_type != "f16")


def _value(one: Candidate) -> float:
    return float("inf") if one.kld is None else one.kld.value


def _is_smaller(one: Candidate, pick: Candidate) -> bool:
    return one.row.file_bytes < pick.row.file_bytes and (one.tokens_per_s or 0.0) >= (pick.tokens_per_s or 0.0)


def _why(pick: Candidate) -> str:
    """What the pick is, how fast it runs and what it loses, in sentences."""
    text = f"Run {pick.name} ({pick.figures})."
    assert pick.kld is not None  # no candidate without one is usable
    span = f"95 % interval {fmt.small(pick.kld.low)} to {fmt.small(pick.kld.high)}"
    text += f" Its {_SOURCES[pick.kld.source]} is {fmt.small(pick.kld.value)} nats per token ({span})."
    if pick.kld.value > advice_rules().clear_loss:
        text += " This is a clear loss: expect worse answers than those of the unquantized model."
    if pick.kld.source == "prior":
        text += " `sweep run` measures it."
    return text


_SOURCES = {
    "measured": "measured KL divergence",
    "prior": "expected KL divergence, by published measurements of other models,",
}


def _why_none(found: Sequence[Candidate]) -> str:
    fitting = [one for one in found if verdict(one.row) is not Verdict.DOES_NOT_FIT]
    if not fitting:
        return "No variant fits."
    return "No variant that fits is worth running: each is too slow, beyond use, or unknown."
