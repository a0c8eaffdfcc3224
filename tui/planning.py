"""A sweep as it is put together on the screen, and the command line that it comes to."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.planning.preset import Preset, load


@dataclass(frozen=True)
class Draft:
    """Empty strings leave it to the preset or the model; `variants` beside the preset's reference."""

    model: str = "micro"
    preset: str = "q2-q8"
    variants: tuple[str, ...] = ()
    tasks: str = ""
    limit: str = ""
    text: str = ""
    ctx: str = ""
    imatrix: str = ""

    def arguments(self) -> tuple[str, ...]:
        """Behind `sweep`: the shortest that comes to the same."""
        preset = load(self.preset)
        found = ["run", self.model]
        found += [] if self.preset == "q2-q8" else ["--preset", self.preset]
        if set(self.variants) != set(preset.variants):
            rest = [name for name in self.variants if name != preset.reference]
            found += ["--variants", f"={','.join(rest or [preset.reference])}"]
        options = (
            ("--tasks", self.tasks, ",".join(preset.tasks or ())),
            ("--limit", self.limit, str(preset.limit or "")),
            ("--perplexity", self.text, ""),
            ("--ctx", self.ctx, str(preset.ctx or "")),
            ("--imatrix", self.imatrix, ""),
        )
        for option, value, known in options:
            found += [option, value.strip()] if value.strip() not in ("", known) else []
        return tuple(found)

    def as_preset(self, name: str) -> Preset:
        """To be saved: what it says of variants and tasks."""
        reference = load(self.preset).reference
        return Preset(
            name=name,
            title=name,
            reference=reference,
            variants=tuple(dict.fromkeys([reference, *self.variants])),
            tasks=tuple(task.strip() for task in self.tasks.split(",") if task.strip()) or None,
            limit=int(self.limit) if self.limit.strip().isdigit() else None,
            ctx=int(self.ctx) if self.ctx.strip().isdigit() else None,
        )
