"""The answer of `sweep fit` as the Fit screen shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from converters.errors import InputError
from sweep.commands.launch import run_command
from sweep.fit.fit_report import FitOptions, FitReport, from_json
from sweep.fit.hardware import Device
from tui.state.question import Question

Run = Callable[[Question], dict[str, Any]]


@dataclass(frozen=True)
class Loss:
    """The KL divergence of a variant: "measured", or expected from published measurements ("prior")."""

    value: float
    source: str


@dataclass(frozen=True)
class FitAnswer:
    """`advised` is the variant to run, or None, and `reason` says why. `losses` and `speeds` (tokens per second) are by
    variant, where they are known. `shortened` is the context that was asked for, if the model's maximum is shorter.
    `commands` get and run the advised variant."""

    report: FitReport
    advised: str | None
    reason: str
    losses: Mapping[str, Loss] = field(default_factory=dict)
    speeds: Mapping[str, float] = field(default_factory=dict)
    shortened: int | None = None
    commands: tuple[str, ...] = ()


def read_answer(answer: Mapping[str, Any], shortened: int | None = None) -> FitAnswer:
    """The answer from the JSON object that `sweep fit` printed."""
    rows = answer["rows"]
    losses = {row["variant"]: row["expected_kld"] for row in rows if row.get("expected_kld")}
    return FitAnswer(
        report=from_json(dict(answer)),
        advised=answer["advice"]["variant"],
        reason=answer["advice"]["reason"],
        losses={variant: Loss(kld["value"], kld["source"]) for variant, kld in losses.items()},
        speeds={row["variant"]: row["tokens_per_s"] for row in rows if row.get("tokens_per_s")},
        shortened=shortened,
        commands=tuple(answer["advice"].get(name) or "" for name in ("get", "command")),
    )


def ask_within_maximum(question: Question, run: Run) -> FitAnswer:
    """The answer of `run`, with the model's maximum as the context if the one that was chosen is longer.

    Raises InputError with the message of `run`.
    """
    try:
        return read_answer(run(question))
    except InputError:
        if not question.context:
            raise
        # A context that was chosen for another model may be too long for this one, whose maximum is not known yet.
        most = run(question.with_typed(ctx=""))["trained_context"]
        if question.context <= most:
            raise
        return read_answer(run(question.with_typed(ctx=str(most))), shortened=question.context)


def fit_elsewhere(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
    """The fit of these variants on simulated devices, computed by `sweep fit` in a process of its own. Raises
    InputError."""
    return _fit_by_command(
        *("fit", model, "--variants", ",".join(variants), "--ctx", str(options.context)),
        *("--kv-type", f"{options.kv_type_k},{options.kv_type_v}", "--ubatch", str(options.ubatch)),
        *([] if options.offload == "auto" else ["--no-offload"]),
        *(["--projector"] if options.projector else []),
        *(word for device in devices for word in ("--gpu", device.name)),
        *("--format", "json"),
    )


@lru_cache(maxsize=32)  # the screen reads its results again whenever a job has ended
def _fit_by_command(*arguments: str) -> FitReport:
    return from_json(run_command(arguments)[-1])
