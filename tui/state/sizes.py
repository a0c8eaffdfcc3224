"""The sizes of all variants of a model, chosen or not: those that `sweep fit` shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from converters.errors import InputError
from sweep.commands.launch import run_command

_LARGE = "1024TiB"  # a device that holds every variant, so that no time is spent on placing layers


@dataclass(frozen=True)
class VariantSize:
    """What is known of a variant's size. `file_bytes` is that of its file or checkpoint, `memory_bytes` the predicted
    memory for model and context."""

    bits_per_weight: float | None
    file_bytes: int | None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a model's variants, and the variants that the model has if it is a repository of GGUF files."""

    sizes: Mapping[str, VariantSize] = field(default_factory=dict)
    published: tuple[str, ...] = ()


def model_sizes(model: str, is_cancelled: Callable[[], bool]) -> ModelSizes:
    """The sizes by variant; none if the model cannot be read: its plan gives the message. Raises CommandCancelled."""
    arguments = ["fit", model, "--gpu", _LARGE, "--no-offload", "--format", "json"]
    try:
        answer = run_command(arguments, is_cancelled=is_cancelled)[-1]
    except InputError:
        return ModelSizes()
    sizes = {row["variant"]: VariantSize(row["bits_per_weight"], row["file_bytes"]) for row in answer["rows"]}
    return ModelSizes(sizes, tuple(answer["published"]))
