"""What the advice on a run is asked. A plan keeps what `sweep run` was given; reports take it from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from converters.shell import join
from presets.advice import Tolerance
from sweep.target import NO_TARGET, Target


@dataclass(frozen=True)
class RunQuestion:
    """The loss on tasks that is accepted, the target, and the GPUs to fit on, as --gpu takes them, with this context in
    tokens (None: the context of the run).

    Without GPUs and without a context, every variant runs as it was measured.
    """

    tolerance: Tolerance | None = None
    target: Target = NO_TARGET
    gpu: tuple[str, ...] = ()
    ctx: int | None = None

    @property
    def needs_fit(self) -> bool:
        """Whether `sweep fit` has to say what fits."""
        return bool(self.gpu) or self.ctx is not None

    @property
    def options(self) -> Mapping[str, str]:
        """The options that ask it, by name, as they are typed: {"--gpu": "--gpu '24GiB'", ...}."""
        found = {}
        if self.gpu:
            found["--gpu"] = join([part for name in self.gpu for part in ("--gpu", name)])
        if self.ctx is not None:
            found["--ctx"] = f"--ctx {self.ctx}"
        found |= {bound.option: self.target.words(bound) for bound in self.target.bounds}
        if self.tolerance is not None:
            unit = "%" if self.tolerance.of_score else ""
            found["--tolerance"] = f"--tolerance {100 * self.tolerance.value:.10g}{unit}"
        return found

    def overridden(self, given: RunQuestion) -> RunQuestion:
        """A copy in which each option that is `given` has the value given."""
        bounds = {bound.value: value for bound, value in given.target.bounds.items()}
        return RunQuestion(
            given.tolerance or self.tolerance,
            replace(self.target, **bounds),
            given.gpu or self.gpu,
            self.ctx if given.ctx is None else given.ctx,
        )

    def origin_words(self, given: RunQuestion) -> str:
        """Which options of `self.overridden(given)` the run was started with, and which were given instead; empty if
        the run has none."""
        own, new = self.options, given.options
        kept = [words for option, words in own.items() if option not in new]
        replaced = [(new[option], words) for option, words in own.items() if new.get(option, words) != words]
        counts = [f"{words} counts instead of the run's {before}" for words, before in replaced]
        if not kept:
            return f"{' and '.join(counts)}." if counts else ""
        first = f"The advice is for {' '.join(kept)}, which `sweep run` was given"
        return f"{'; '.join([first, *counts])}."


NO_QUESTION = RunQuestion()
