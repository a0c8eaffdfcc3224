"""The sweep that is being planned on the screen, and the command line for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import typer

from converters.errors import InputError
from sweep.cli.options import RUN
from sweep.cli.parsers import target as parse_target
from sweep.methods.registry import method, parse
from sweep.planning.baseline import AUTO
from sweep.planning.effort import parse_effort
from sweep.planning.precision import checked_precision
from sweep.planning.preset import Preset, load
from sweep.target import Constraint, Target

OPTIONS = {option.field: option for option in RUN}


@dataclass(frozen=True)
class Draft:
    """A planned sweep. `variants` need not contain the reference, which is measured anyway. `typed` are the other
    fields of a Request as text; the preset and the model decide about those that are missing or empty.

    `published` are the variants of the model if it is a repository of GGUF files; those of a preset do not apply then.
    `ladder` are those that are measured by default, None until a plan has said it."""

    model: str = "micro"
    preset: str = "q2-q8"
    variants: tuple[str, ...] = ()
    typed: Mapping[str, str] = field(default_factory=dict)
    published: tuple[str, ...] = ()
    ladder: tuple[str, ...] | None = None

    def with_model(self, model: str) -> Draft:
        """A copy for another model. Variants that only a repository has are replaced by those of the preset."""
        return replace(self if model == self.model else self._without_published(), model=model)

    def with_published(self, published: Sequence[str]) -> Draft:
        """A copy that knows which variants the repository has; none: the model is no repository. A repository that was
        not known before is planned with the variants that are measured by default."""
        if not published:
            return self._without_published()
        return replace(self, published=tuple(published), variants=self.variants if self.published else ())

    def with_plan(self, published: Sequence[str], planned: Sequence[str]) -> Draft:
        """A copy that knows which variants the repository has, as above, from the plan of this draft. If no variants
        were chosen, those of the plan are the ones that are measured by default."""
        if not published:
            return self._without_published()
        draft = replace(self, published=tuple(published))
        if self._variants(load(self.preset)):
            return draft
        return replace(draft, variants=tuple(planned), ladder=tuple(planned))

    def _without_published(self) -> Draft:
        if not self.published:
            return self
        return replace(self, variants=load(self.preset).variants, published=(), ladder=None)

    def typed_value(self, name: str) -> str:
        """The text of a field."""
        return self.typed.get(name, "").strip()

    def with_typed(self, **typed: str) -> Draft:
        """A copy with these fields set."""
        return replace(self, typed={**self.typed, **typed})

    def arguments(self) -> tuple[str, ...]:
        """The shortest equivalent arguments of `sweep`. Raises InputError if there is no such preset."""
        preset = load(self.preset)
        defaults = preset_fields(preset)
        arguments = ["run", self.model]
        arguments += OPTIONS["preset"].arguments("" if self.preset == "q2-q8" else self.preset)
        arguments += OPTIONS["variants"].arguments(self._variants(preset))
        for name, option in OPTIONS.items():
            if self.typed_value(name) != defaults.get(name, ""):
                arguments += option.arguments(self.typed_value(name))
        return tuple(arguments)

    def _variants(self, preset: Preset) -> str:
        """The value of --variants. The reference can be left out, unless torch runs all other variants: then it is
        measured only if it is named."""
        if self.published:
            return "" if set(self.variants) == set(self.ladder or ()) else "=" + ",".join(self.variants)
        typed = self.typed_value("reference")
        reference = preset.reference if typed in ("", AUTO) else typed
        if reference == preset.reference and set(self.variants) == set(preset.variants):
            return ""
        rest = [name for name in self.variants if name != reference]
        return "=" + ",".join(rest if any(method(name).baseline is None for name in rest) else self.variants)

    def as_preset(self, name: str) -> Preset:
        """As a preset to save, with every option that a preset can have. Raises InputError for an invalid value."""
        typed, precision = self.typed_value("reference"), self.typed_value("precision")
        reference = load(self.preset).reference if typed in ("", AUTO) else typed
        measure, tasks = (
            tuple(word.strip() for word in self.typed_value(name).split(",") if word.strip())
            for name in ("measure", "tasks")
        )
        return Preset(
            name=name,
            title=name,
            reference=reference,
            variants=tuple(dict.fromkeys([reference, *self.variants])),
            tasks=tasks or None,
            limit=self._number("limit"),
            ctx=self._number("ctx"),
            window=self._number("window"),
            target=self._target(),
            precision=checked_precision(precision, "--precision") if precision else None,
            effort=parse_effort(self.typed_value("effort") or None, "--effort"),
            measure=measure or None,
        )

    def _target(self) -> Target:
        try:
            return parse_target(*(self.typed_value(name) or None for name in Constraint))
        except typer.BadParameter as error:
            raise InputError(error.message) from error

    def _number(self, name: str) -> int | None:
        text = self.typed_value(name)
        if text and not (text.isascii() and text.isdigit() and int(text) > 0):
            raise InputError(f"{OPTIONS[name].name} {text}: not a positive integer")
        return int(text) if text else None


def preset_fields(preset: Preset) -> dict[str, str]:
    """The fields of a Draft that a preset sets, as text."""
    fields = {
        "measure": ",".join(preset.measure or ()),
        "tasks": ",".join(preset.tasks or ()),
        "limit": preset.limit,
        "ctx": preset.ctx,
        "window": preset.window,
        "effort": preset.effort,
        "precision": preset.precision,
    }
    bounds = {one.value: preset.target.number(one) if one in preset.target.bounds else "" for one in Constraint}
    return {name: str(value or "") for name, value in fields.items()} | bounds


def plan_name(variant: str) -> str:
    """The name that a plan gives to a variant, from the name that was typed."""
    if ":" not in variant and "+" not in variant:
        return variant
    try:
        return parse(variant).name
    except InputError:  # the plan will give the message
        return variant


def variant_from_input(text: str) -> str:
    """The name of a typed variant, with an absolute path. Raises InputError if it is not a variant."""
    text = text.strip()
    parse(text)
    prefix, colon, rest = text.partition(":")
    path = Path(rest).expanduser()
    return f"{prefix}:{path.resolve()}" if colon and prefix != "hub" and path.is_file() else text
