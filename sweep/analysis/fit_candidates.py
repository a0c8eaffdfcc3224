"""The variants of a fit report as candidates of the advice: what they lose, and how fast they are, before a run.

The speed follows from the bytes that a token reads and the bandwidth of the memory that they are in;
presets/advice.toml has the shares of the bandwidth that llama.cpp reaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from presets.advice import advice_rules
from sweep import format as fmt
from sweep.analysis.candidate import AdvisedPlacement, Candidate, TaskEvidence
from sweep.analysis.fit_commands import fit_commands
from sweep.analysis.priors import (
    MEASURED_WITH_F16,
    ExpectedKld,
    MeasuredKld,
    RelativeKld,
    expected_int8_klds,
    expected_klds,
    measured_kld,
)
from sweep.fit.fit_report import GGUF, FitReport, FitRow, Verdict, verdict
from sweep.variant_name import split_cache

F16 = "f16"  # the type of KV cache that expected and most measured divergences are for


@dataclass(frozen=True)
class MeasuredSpeed:
    """The stable decode speed of a variant on this machine, with its type of KV cache and the layers on its GPU."""

    tokens_per_s: float
    kv_type: str
    gpu_layers: int


@dataclass(frozen=True)
class Losses:
    """What runs measured with one type of KV cache, by variant: divergences, what tasks say, and the share of the
    reference's task score that is kept."""

    klds: Mapping[str, MeasuredKld] = field(default_factory=dict)
    tasks: Mapping[str, TaskEvidence] = field(default_factory=dict)
    recovery: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurements:
    """What runs measured of a model, by variant: divergences from one reference over one text, what tasks say, and
    speeds, the latest first. `klds`, `tasks` and `recovery` were measured with an f16 cache, `other_caches` by type
    with others. `files` are the files that were kept, `relatives` what was measured of other models of the series.
    `workspace` is the option that names the workspace in a command."""

    klds: Mapping[str, MeasuredKld] = field(default_factory=dict)
    tasks: Mapping[str, TaskEvidence] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    relatives: Sequence[RelativeKld] = ()
    speeds: Mapping[str, Sequence[MeasuredSpeed]] = field(default_factory=dict)
    other_caches: Mapping[str, Losses] = field(default_factory=dict)
    workspace: Sequence[str] = ()
    recovery: Mapping[str, float] = field(default_factory=dict)

    def losses(self, row: FitRow, kv_type: str) -> Losses:
        """What was measured with this type of cache. It does not matter for variants that llama.cpp does not run."""
        if kv_type == F16 or row.kind != GGUF:
            return Losses(self.klds, self.tasks, self.recovery)
        return self.other_caches.get(kv_type, Losses())


def expected_losses(report: FitReport, measured: Measurements) -> dict[str, ExpectedKld]:
    """By variant, the divergence that was measured, or else is expected, with the report's type of KV cache.

    What was measured with an f16 cache says what to expect with another one. Variants about which nothing is known are
    left out, and so are those of llama.cpp that were not measured if nothing is known about the type of the cache. Int8
    variants have a cache of their own.
    """
    plain = {row.variant: split_cache(row.variant)[0] for row in report.rows}
    found = {
        row.variant: measured.losses(row, report.kv_type_of(row)).klds.get(plain[row.variant]) for row in report.rows
    }
    own = {name: measured_kld(one) for name, one in found.items() if one is not None}
    added = {row.variant: advice_rules().kv_types.get(report.kv_type_of(row)) for row in report.rows}
    expected = expected_klds(
        {plain[row.variant]: row.weight_types for row in report.rows},
        report.architecture,
        {name: one.kld for name, one in measured.klds.items()},
        measured.relatives,
    )
    known = {**expected, **{name: measured_kld(one) for name, one in measured.klds.items()}}
    with_cache = {
        name: replace(known[base].plus(cost), source="prior", basis=_basis(known[base]))
        for name, base in plain.items()
        if base in known and (cost := added[name]) is not None
    }
    return _int8_losses(report) | with_cache | own


def _basis(known: ExpectedKld) -> str:
    """What the divergence with another KV cache rests on."""
    return MEASURED_WITH_F16 if known.source == "measured" else known.basis or MEASURED_WITH_F16


def _int8_losses(report: FitReport) -> dict[str, ExpectedKld]:
    found = [row for row in report.rows if row.recipe is not None and row.bits_per_weight]
    parameters = max((8 * row.file_bytes / row.bits_per_weight for row in found), default=0.0)
    return expected_int8_klds({row.variant: row.recipe or "" for row in found}, parameters, report.architecture)


def fit_candidates(report: FitReport, measured: Measurements, model: str = "") -> list[Candidate]:
    """The variants of a fit report as candidates, with what was measured of them before. `model` is the MODEL that the
    report was asked for; empty: its name."""
    has_gpu = any(device.kind != "cpu" for device in report.devices)
    losses = expected_losses(report, measured)
    found = {
        row.variant: measured_speed(row, report, measured.speeds.get(split_cache(row.variant)[0], ()))
        for row in report.rows
    }
    speeds = _speeds(report, found)
    own = {row.variant: measured.losses(row, report.kv_type_of(row)) for row in report.rows}
    return [
        Candidate(
            model=report.model,
            variant=row.variant,
            file_bytes=row.file_bytes,
            kv_type=report.kv_type_of(row) if row.kind == GGUF else F16,
            context=report.context,
            placement=_placement(row, has_gpu),
            kld=losses.get(row.variant),
            tokens_per_s=speeds[row.variant],
            speed_is_measured=found[row.variant] is not None,
            obstacle=_obstacle(row, row.variant in losses, speeds[row.variant]),
            tasks=own[row.variant].tasks.get(split_cache(row.variant)[0]),
            recovery=own[row.variant].recovery.get(split_cache(row.variant)[0]),
            is_reference=_is_reference(split_cache(row.variant)[0], own[row.variant]),
            ram_bytes=row.shares[-1].total_bytes,
            memory_bytes=row.total_bytes,
            max_context=row.max_context_with_ram if verdict(row) is Verdict.PARTLY else row.max_context,
            commands=replace(
                fit_commands(row, model or report.model, measured.files, report.context, measured.workspace),
                layers=row.n_layers,
            ),
        )
        for row in report.rows
    ]


def _is_reference(variant: str, measured: Losses) -> bool:
    kld = measured.klds.get(variant)
    return kld is not None and kld.reference == variant


def _obstacle(row: FitRow, has_loss: bool, speed: float | None) -> str:
    if verdict(row) is Verdict.DOES_NOT_FIT:
        return f"does not fit: it needs {fmt.size(-row.headroom_bytes)} more"
    if speed is None:
        return "has no estimate of its speed" if has_loss else "has no estimate of its loss and its speed"
    return ""


def _placement(row: FitRow, has_gpu: bool) -> AdvisedPlacement:
    if not has_gpu:
        return AdvisedPlacement.RAM
    if verdict(row) is not Verdict.PARTLY:
        return AdvisedPlacement.GPU
    return AdvisedPlacement.EXPERTS if row.gpu_layers == row.n_layers else AdvisedPlacement.LAYERS


def _speeds(report: FitReport, measured: Mapping[str, float | None]) -> dict[str, float | None]:
    """By variant, its measured speed, or else its estimate.

    An estimate for a GGUF variant that is placed like measured ones is multiplied by what these reach of their own
    estimates (the median), so that two speeds of which one is measured can be compared.
    """
    estimates = {row.variant: estimated_speed(row, report) for row in report.rows}
    ratios = [speed / estimate for name, speed in measured.items() if speed and (estimate := estimates[name])]
    reached = median(ratios) if ratios else 1.0
    alike = {row.variant for row in report.rows if row.kind == GGUF and _is_placed_as_measured(row, report)}
    expected = {
        name: estimate and estimate * (reached if name in alike else 1.0) for name, estimate in estimates.items()
    }
    return {name: speed or expected[name] for name, speed in measured.items()}


def _is_placed_as_measured(row: FitRow, report: FitReport) -> bool:
    """Whether the row is wholly on the one GPU of this machine, or in RAM if there is none, as runs measure."""
    gpus = [device for device in report.devices if device.kind != "cpu"]
    elsewhere = any(device.simulated for device in report.devices)
    return verdict(row) is Verdict.FITS and len(gpus) <= 1 and not elsewhere and not report.draft


def measured_speed(row: FitRow, report: FitReport, measured: Sequence[MeasuredSpeed]) -> float | None:
    """Tokens per second that this machine decodes with this placement; None if that was not measured."""
    if not _is_placed_as_measured(row, report):
        return None
    gpus = [device for device in report.devices if device.kind != "cpu"]
    placed = (one for one in measured if (one.gpu_layers >= row.n_layers if gpus else one.gpu_layers == 0))
    return next((one.tokens_per_s for one in placed if one.kv_type == report.kv_type_of(row)), None)


def estimated_speed(row: FitRow, report: FitReport) -> float | None:
    """Tokens per second of one sequence with a full context: each device reads its part of the weights and the cache
    one after another. None for a kind of variant for which these bytes are not known."""
    speed = advice_rules().speed
    gpus = [device for device in report.devices if device.kind != "cpu"]
    if row.kind != GGUF and not (gpus and gpus[0].kind in speed.torch_kinds):
        return None
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
            if any(name.lower() in gpus[place].name.lower() for name in speed.older_gpus):
                reached *= 1 - iq + iq * speed.iq_types_on_older_gpus
        else:
            known = None if host is None else host.bandwidth
            bandwidth = known or speed.ram_bandwidth
            reached = speed.experts_in_ram if row.cpu_moe_layers else speed.ram
            reached *= 1 - iq + iq * speed.iq_types_in_ram
        seconds += share.read_bytes / (bandwidth * reached)
    return 1 / seconds if seconds else None
