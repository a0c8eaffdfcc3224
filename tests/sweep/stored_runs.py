"""Writes runs with given results and items into a store, without running them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sweep.artefact import Artefact
from sweep.items import Item
from sweep.jobs.base import StoredJob
from sweep.jobs.cell import Cell
from sweep.jobs.inputs import Task, TextFile
from sweep.jobs.model import MeasuredModel
from sweep.jobs.settings import ComputeResources, Settings
from sweep.jobs.speed import SpeedJob
from sweep.jobs.task import TaskJob
from sweep.jobs.text import TextJob
from sweep.results.plan import Plan
from sweep.results.store import Outcome, Store
from sweep.workspace import Workspace

_DEFAULT = Settings()


def items(
    values: Sequence[float], answers: Sequence[str] | None = None, *, task: str = "t", prompt: str = "p", first: int = 0
) -> list[Item]:
    """One item per value. Documents are numbered from `first`; items with another `prompt` have other prompts."""
    texts = answers or [f"{value:g}" for value in values]
    return [
        Item(i, f"doc{i}", f"{prompt}{i}", float(value), answer, subject=task)
        for i, (value, answer) in enumerate(zip(values, texts, strict=True), first)
    ]


def measured(name: str = "micro", settings: Settings = _DEFAULT) -> MeasuredModel:
    """A GGUF file that does not exist."""
    return MeasuredModel("gguf", Artefact(f"/artefacts/{name}.gguf"), "c", "e", settings)


@dataclass(frozen=True)
class Stored:
    """A run. `tasks` (items) and `text` (NLL and KLD of the windows) are by variant; None is a cell that failed.

    Keys depend on `mark`: runs with the same mark share the results of equal variants, as real runs do.
    """

    run: str
    tasks: Mapping[str, Mapping[str, list[Item] | None]] = field(default_factory=dict)
    text: Mapping[str, tuple[np.ndarray, np.ndarray | None] | None] = field(default_factory=dict)
    variants: tuple[str, ...] = ("BF16", "Q4", "Q2")
    model: str = "micro"
    mark: str = ""
    windows: str | None = None
    metric: str = "acc"
    settings: Settings = _DEFAULT
    higher_is_better: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None  # a file; None: the first variant
    # by variant, each timing in tokens/s, or the median alone, as earlier versions stored it
    speeds: Mapping[str, Sequence[float] | float] = field(default_factory=dict)

    def key(self, variant: str, name: str) -> str:
        return hashlib.sha256(f"{self.mark or self.run} {variant} {name}".encode()).hexdigest()

    def put(self, workspace: Workspace) -> Plan:
        """Store the run and all its outcomes."""
        jobs = {
            **({"text": self._text_job()} if self.text else {}),
            **{task: self._task_job(task) for task in self.tasks},
            **({"speed": SpeedJob(measured(self.model, self.settings))} if self.speeds else {}),
        }
        plan = Plan(
            run=self.run,
            model=self.model,
            preset="q",
            reference=self.reference or self.variants[0],
            variants=self.variants,
            settings=self.settings,
            resources=ComputeResources(),
            about={
                "model": self.model,
                "text": "words",
                "tasks": dict.fromkeys(self.tasks),
                "engine": "e",
                **self.about,
            },
            cells=tuple(Cell(self.key(v, name), v, name, job) for v in self.variants for name, job in jobs.items()),
        )
        with Store(workspace.database) as store:
            store.add_run(plan.run, plan.to_json())
            for task, by_variant in self.tasks.items():
                for variant, found in by_variant.items():
                    self._put(store, variant, task, None if found is None else self._score(found), found or [])
            for variant, values in self.text.items():
                self._put(store, variant, "text", None if values is None else self._text(*values), [])
            for variant, timings in self.speeds.items():
                self._put(store, variant, "speed", self._speed(timings), [])
        return plan

    def _text_job(self) -> StoredJob[Any]:
        reference = None if self.reference is None else Artefact(self.reference)
        return TextJob(
            measured(self.model, self.settings), TextFile("words", Artefact("/words"), "w"), reference=reference
        )

    def _task_job(self, task: str) -> StoredJob[Any]:
        return TaskJob(measured(self.model, self.settings), Task(task))

    def _put(self, store: Store, variant: str, name: str, result: dict[str, Any] | None, found: list[Item]) -> None:
        outcome = Outcome("ok", result, None, 1.0) if result else Outcome("failed", None, "it broke", 1.0)
        store.put(self.key(variant, name), outcome, found)

    def _score(self, found: list[Item]) -> dict[str, Any]:
        values = np.array([item.value for item in found])
        return {
            "metric": self.metric,
            "value": float(values.mean()),
            "stderr": float(values[np.isfinite(values)].std() / np.sqrt(len(values))),
            "n": len(values),
            "chance": 0.0,
            "higher_is_better": self.higher_is_better,
            "other": {},
        }

    def _speed(self, timings: Sequence[float] | float) -> dict[str, Any]:
        rates = {"prompt_tokens_per_s": 1000.0, "decode_tokens_per_s": float(np.median(timings))}
        rates |= {"prompt_tokens": 512, "decode_tokens": 128, "prompt_repeats": 5, "decode_repeats": 5}
        return {
            "speed": {**rates, **({} if isinstance(timings, float) else {"decode_runs": list(timings)})},
            "memory": {"predicted_bytes": 1, "measured_bytes": 1},
            "file_bytes": 5_000_000,
            "bits_per_weight": 5.0,
        }

    def _text(self, nll: np.ndarray, kld: np.ndarray | None) -> dict[str, Any]:
        divergence = kld is not None and {
            "figures": {
                "kld_mean": float(kld.mean()),
                "kld_stderr": float(kld.std() / np.sqrt(len(kld))),
                "kld_p99_9": 1.0,
                "kld_max": 2.0,
                "top1_agreement": 0.9,
            },
            "tokens": 255 * len(kld),
            "window_kld": kld.tolist(),
        }
        return {
            "windows_sha256": self.windows,
            "perplexity": {
                "value": float(np.exp(nll.mean())),
                "stderr": 0.1,
                "low": None,
                "high": None,
                "tokens": 255 * len(nll),
                "window_nll": nll.tolist(),
            },
            "divergence": divergence or None,
            "noise_floor": {"kld_mean": 1e-6, "windows": 8},
        }
