"""A candidate of the advice: a variant as it would run, with what is known about its loss and its speed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sweep import format as fmt
from sweep.analysis.priors import ExpectedKld
from sweep.variant_name import split_cache

FASTEST_ESTIMATE = 300
"""Tokens per second above which the time between tokens, not the memory bandwidth, decides the speed."""


class AdvisedPlacement(StrEnum):
    """Where a candidate runs."""

    GPU = "gpu"
    EXPERTS = "experts-in-ram"
    LAYERS = "layers-in-ram"
    RAM = "ram"  # there is no GPU


_PLACES = {
    AdvisedPlacement.GPU: "",
    AdvisedPlacement.EXPERTS: " with experts in RAM",
    AdvisedPlacement.LAYERS: " with layers in RAM",
    AdvisedPlacement.RAM: "",
}


class TaskLoss(StrEnum):
    """What tasks say about a loss that matters, which is one of more than the tolerance."""

    SHOWN = "shown"
    RULED_OUT = "ruled out"
    OPEN = "open"


@dataclass(frozen=True)
class TaskEvidence:
    """The loss of a variant on tasks, from its reference, as shares: 0.02 is two percentage points.

    - `loss` is the mean over the tasks, `at_most` the upper end of its one-sided 95 % interval.
    - `shown` says which loss is shown, after the variant's name ("loses 6.7 ± 1.2 points on ..."); empty if none is.
    - `tasks` are the names of the tasks, `items` is the number of items of the task with the fewest.
    - `settling_items` is about the number of items per task that rule out a loss of more than `tolerance`, if there is
      no loss at all; None if that is not known.
    """

    verdict: TaskLoss
    loss: float
    at_most: float
    tolerance: float
    tasks: tuple[str, ...]
    items: int
    settling_items: int | None = None
    shown: str = ""


@dataclass(frozen=True)
class Commands:
    """The command that runs a variant's file, and the one that makes or downloads the file; empty if it is there.
    `layers` is the number of the model's layers as llama.cpp counts them, with the output; None if it is not known."""

    run: str = ""
    get: str = ""
    layers: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A variant with a type of KV cache, as it would run.

    - `obstacle` says why it cannot run ("does not fit: ..."); empty if it can.
    - `kld` includes the loss by the KV cache; None if nothing is known.
    - `tokens_per_s` is for one sequence: an estimate with a full context, or measured (`speed_is_measured`). None if it
      is not known.
    - `tasks` is what tasks say about its loss; None if it was compared on none. `is_reference`: others were compared
      with it.
    - `recovery` is the share of the reference's task score above chance that it keeps, as measured; None if not.
    - `cache_is_given`: there is no choice of the type of KV cache, so one that is not f16 counts as no effort.
    - `ram_bytes` is the part of it that is in RAM beside GPUs.
    - `memory_bytes` is what it needs in all, with the KV cache; 0 if it is not known.
    - `max_context` is the longest context with which it runs on the same memory: on the GPUs alone, or with more in RAM
      if it is partly in RAM. None if it is not known.
    - `commands` say how to run it; `commands.run` is empty if llama.cpp cannot.
    """

    model: str
    variant: str
    file_bytes: int
    kv_type: str
    context: int
    placement: AdvisedPlacement
    kld: ExpectedKld | None
    tokens_per_s: float | None
    speed_is_measured: bool = False
    obstacle: str = ""
    tasks: TaskEvidence | None = None
    recovery: float | None = None
    is_reference: bool = False
    cache_is_given: bool = False
    ram_bytes: int = 0
    memory_bytes: int = 0
    max_context: int | None = None
    commands: Commands = Commands()

    @property
    def name(self) -> str:
        """The variant with what is special about how it runs."""
        is_named = split_cache(self.variant)[1] is not None
        cache = "" if is_named or self.kv_type in ("f16", "f32") else f" with a {self.kv_type} KV cache"
        return f"{fmt.plain(self.variant)}{cache}{_PLACES[self.placement]}"

    @property
    def figures(self) -> str:
        """Its size, what of it is in RAM, and its speed."""
        words = [fmt.size(self.file_bytes)]
        if self.is_in_ram:
            words.append(f"{fmt.size(self.ram_bytes)} of RAM")
        if self.tokens_per_s is not None:
            words.append(self.speed_words)
        return ", ".join(words)

    @property
    def speed_words(self) -> str:
        """Its speed, measured or estimated."""
        tokens_per_s = self.tokens_per_s
        if tokens_per_s is None:
            return "an unknown speed"
        if self.speed_is_measured:
            return f"{fmt.rate(tokens_per_s)} tokens/s"
        if tokens_per_s > FASTEST_ESTIMATE:
            return f"over {FASTEST_ESTIMATE} tokens/s"
        return f"about {tokens_per_s:.{0 if tokens_per_s >= 10 else 1}f} tokens/s"

    @property
    def loss(self) -> float:
        """The divergence, measured or expected; infinite if nothing is known."""
        return float("inf") if self.kld is None else self.kld.value

    @property
    def shown_loss(self) -> str:
        """The loss that tasks show, after the variant's name; empty if they show none."""
        return self.tasks.shown if self.tasks is not None and self.tasks.verdict is TaskLoss.SHOWN else ""

    @property
    def is_measured(self) -> bool:
        """Whether its divergence was measured."""
        return self.kld is not None and self.kld.source == "measured"

    @property
    def is_weakly_known(self) -> bool:
        """Whether its divergence is expected from something else than published divergences."""
        return self.kld is not None and self.kld.is_weak

    @property
    def effort(self) -> int:
        """How far from simple it is to run: 0 for everything on the GPUs with an f16 cache."""
        return 2 * self.is_in_ram + (self.kv_type != "f16" and not self.cache_is_given)

    @property
    def is_in_ram(self) -> bool:
        """Whether a part of it is in RAM beside GPUs."""
        return self.placement in (AdvisedPlacement.EXPERTS, AdvisedPlacement.LAYERS)
