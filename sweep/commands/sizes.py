"""Several runs, one for each model, as one comparison of model sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from converters.errors import InputError
from sweep.analysis.size_scaling import SizedModel, SizeScaling, size_scaling
from sweep.fit.hardware import parse_devices
from sweep.fit.local_devices import local_devices
from sweep.fit.memory_limit import MemoryLimit, memory_of_devices, memory_of_size
from sweep.jobs.base import content_hash
from sweep.jobs.text import TextJob
from sweep.results.plan import Plan
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import Workspace


def require_different_models(models: Sequence[tuple[str, str]]) -> None:
    """Raises InputError if two of `models`, each a name and what identifies its content, are the same model."""
    seen: dict[str, str] = {}
    for name, identity in models:
        if identity in seen:
            first = seen[identity]
            what = f"{name} is named twice" if name == first else f"{first} and {name} are the same model"
            raise InputError(f"{what}; name each model once")
        seen[identity] = name


def sizes_of(plans: Sequence[Plan], workspace: Workspace) -> SizeScaling:
    """The comparison of these runs. Raises InputError if two are of one model, or fewer than two have results."""
    require_different_models([(plan.run, str(plan.about["model"])) for plan in plans])
    with Store(workspace.database) as store:
        return size_scaling([_sized(plan, store) for plan in plans])


def _sized(plan: Plan, store: Store) -> SizedModel:
    text, window, stride = plan.about["text"], plan.settings.window, plan.settings.stride
    words = None if text is None else f"{text}, windows of {window} tokens"
    read = {f"{cell.job.text.identity} {window} {stride}" for cell in plan.cells if isinstance(cell.job, TextJob)}
    return SizedModel(plan.model, plan.run, tuple(records(plan, store)), words, " ".join(sorted(read)))


def sizes_page(plans: Sequence[Plan], workspace: Workspace) -> Path:
    """Where the page of these runs is written."""
    return workspace.sizes / f"sizes-{content_hash(sorted(plan.run for plan in plans))[:8]}.html"


def memory_limit(size: str | None, gpus: Sequence[str]) -> MemoryLimit:
    """The memory to choose for: that of --memory, or of --gpu, or what this machine has free. Raises InputError."""
    if size is not None:
        return memory_of_size(size)
    return memory_of_devices(parse_devices(gpus) if gpus else local_devices())
