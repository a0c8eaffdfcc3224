"""A sweep as it is put together on the screen, and the command line that it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from converters.errors import InputError
from sweep.cli.options import RUN
from sweep.methods.registry import method, parse
from sweep.planning.baseline import AUTO
from sweep.planning.preset import Preset, load

OPTIONS = {option.field: option for option in RUN}


@dataclass(frozen=True)
class Draft:
    """`variants` with or without the reference, which is measured anyway; `typed` are other fields of a Request as
    people say them, and what is not there or empty is left to the preset and the model."""

    model: str = "micro"
    preset: str = "q2-q8"
    variants: tuple[str, ...] = ()
    typed: Mapping[str, str] = field(default_factory=dict)

    def said(self, name: str) -> str:
        """What was typed into a field."""
        return self.typed.get(name, "").strip()

    def saying(self, **typed: str) -> Draft:
        """With these fields typed."""
        return replace(self, typed={**self.typed, **typed})

    def arguments(self) -> tuple[str, ...]:
        """Behind `sweep`: the shortest that comes to the same. Raises InputError where there is no such preset."""
        preset = load(self.preset)
        known = said_by(preset)
        found = ["run", self.model]
        found += OPTIONS["preset"].words("" if self.preset == "q2-q8" else self.preset)
        found += OPTIONS["variants"].words(self._variants(preset))
        for name, option in OPTIONS.items():
            if self.said(name) != known.get(name, ""):
                found += option.words(self.said(name))
        return tuple(found)

    def _variants(self, preset: Preset) -> str:
        """As --variants has them. The reference need not be among them, but where torch runs all the others: then it
        is measured only if it is named."""
        asked = self.said("reference")
        reference = preset.reference if asked in ("", AUTO) else asked
        if reference == preset.reference and set(self.variants) == set(preset.variants):
            return ""
        rest = [name for name in self.variants if name != reference]
        return "=" + ",".join(rest if any(method(name).baseline is None for name in rest) else self.variants)

    def as_preset(self, name: str) -> Preset:
        """To be saved: what it says of variants and tasks. Raises InputError where a preset cannot hold that."""
        asked = self.said("reference")
        reference = load(self.preset).reference if asked in ("", AUTO) else asked
        tasks = tuple(task.strip() for task in self.said("tasks").split(",") if task.strip())
        return Preset(
            name=name,
            title=name,
            reference=reference,
            variants=tuple(dict.fromkeys([reference, *self.variants])),
            tasks=tasks or None,
            limit=self._number("limit"),
            ctx=self._number("ctx"),
        )

    def _number(self, name: str) -> int | None:
        text = self.said(name)
        if text and not (text.isascii() and text.isdigit() and int(text) > 0):
            raise InputError(f"{OPTIONS[name].name} {text}: not a positive integer")
        return int(text) if text else None


def said_by(preset: Preset) -> dict[str, str]:
    """What a preset says of the fields that can be typed."""
    said = {"tasks": ",".join(preset.tasks or ()), "limit": preset.limit, "ctx": preset.ctx}
    return {name: str(value or "") for name, value in said.items()}


def called(variant: str) -> str:
    """What a plan calls the variant that was asked for by this name."""
    if ":" not in variant:
        return variant
    try:
        return parse(variant).name
    except InputError:  # the plan itself will say so
        return variant


def added(text: str) -> str:
    """A variant as it was typed, to be understood from any directory. Raises InputError where it is none."""
    text = text.strip()
    parse(text)
    prefix, colon, rest = text.partition(":")
    path = Path(rest).expanduser()
    return f"{prefix}:{path.resolve()}" if colon and prefix != "hub" and path.is_file() else text
