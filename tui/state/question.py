"""What the Fit screen asks: the model, the GPUs and the options of `sweep fit`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import typer

from converters.errors import InputError
from presets.advice import Tolerance
from sweep.cli.parsers import target as parse_target
from sweep.cli.parsers import tolerance as parse_tolerance
from sweep.defaults import KV_TYPES
from sweep.fit.hardware import ANY_RAM, allows_ram, parse_devices, with_ram, with_reserve
from sweep.kv_cache import KVCache
from sweep.target import Constraint, Target

YES, NO, ON, OFF = "yes", "no", "on", "off"


@dataclass(frozen=True)
class FitField:
    """An option of `sweep fit` that is typed. `empty` describes the default; `values` are the possible other values, if
    there are few; `range` bounds a number."""

    name: str
    label: str
    option: str
    empty: str
    values: tuple[str, ...] = ()
    range: tuple[int, int] | None = None


FIT_FIELDS = (
    FitField("ctx", "context", "--ctx", "8192, or the model's maximum if that is smaller", range=(1, 1 << 31)),
    FitField("kv_type", "KV type", "--kv-type", "f16; the advice may choose q8_0"),
    FitField("offload", "part in RAM", "--no-offload", "allowed", values=(NO,)),
    FitField("ram", "RAM", "--ram", "this machine's; for other GPUs, as much as is needed"),
    FitField("ram_bandwidth", "RAM bandwidth", "--ram-bandwidth", "51.2GB/s, two channels of DDR4-3200"),
    FitField("reserve", "reserve", "--reserve", "1 GiB, and an allowance for the driver"),
    FitField("parallel", "sequences", "--parallel", "1", range=(1, 256)),
    FitField("ubatch", "micro-batch", "--ubatch", "512", range=(1, 1 << 16)),
    FitField("flash_attn", "flash attention", "--flash-attn/--no-flash-attn", "llama.cpp decides", values=(ON, OFF)),
    FitField("projector", "vision encoder", "--projector", "not counted", values=(YES,)),
    FitField("draft", "draft", "--draft", "none"),
    FitField("tolerance", "tolerance", "--tolerance", "2 points"),
    FitField("min_tps", "tokens/s at least", "--min-tps", "30 if possible, otherwise slower"),
    FitField("max_kld", "KLD at most", "--max-kld", "as low as possible, at most 0.3"),
    FitField("min_recovery", "recovery at least", "--min-recovery", "no limit"),
)
"""The dialog of the Fit screen shows them in this order. The texts of their values have the same form as on the command
line; those of flags are one of `values`."""

TARGET_FIELDS = tuple(bound.value for bound in Constraint)
"""The fields of the target, in the order of its bounds."""

ADVICE_FIELDS = (*TARGET_FIELDS, "tolerance")
"""The fields that decide which variant is recommended, and nothing else."""

_FLAGS = {  # (field, value) -> the flag
    ("offload", NO): "--no-offload",
    ("flash_attn", ON): "--flash-attn",
    ("flash_attn", OFF): "--no-flash-attn",
    ("projector", YES): "--projector",
}


@dataclass(frozen=True)
class Question:
    """Empty `gpus`: the GPUs of this machine. `typed` are the values of FIT_FIELDS by name, without empty ones."""

    model: str = "micro"
    gpus: tuple[str, ...] = ()
    typed: Mapping[str, str] = field(default_factory=dict)

    def value(self, name: str) -> str:
        """The text of a field; empty for its default."""
        return self.typed.get(name, "")

    def with_typed(self, **typed: str) -> Question:
        """A copy with these fields set."""
        given = {**self.typed, **{name: text.strip() for name, text in typed.items()}}
        for one in FIT_FIELDS:
            if one.range is not None:
                given[one.name] = given.get(one.name, "").replace(",", "")  # 32,768
        return replace(self, typed={name: text for name, text in given.items() if text})

    @property
    def context(self) -> int:
        """The context that was chosen; 0: the model decides."""
        return _number(self.value("ctx"))

    @property
    def kv_type(self) -> str:
        return self.value("kv_type") or "f16"

    @property
    def tolerance(self) -> Tolerance | None:
        """The loss on tasks that the advice accepts; None: the default. Raises InputError for another text."""
        try:
            return parse_tolerance(self.value("tolerance") or None)
        except typer.BadParameter as error:
            raise InputError(error.message) from error

    @property
    def target(self) -> Target:
        """What the variant to run has to reach. Raises InputError for another text."""
        try:
            return parse_target(*(self.value(name) or None for name in TARGET_FIELDS))
        except typer.BadParameter as error:
            raise InputError(error.message) from error

    @property
    def offload(self) -> bool:
        return self.value("offload") != NO

    @property
    def planned_gpus(self) -> str:
        """The GPUs and the RAM beside them, as `sweep run --gpu` takes them; empty for those of this machine."""
        if not self.gpus:
            return ""
        ram = f"{self.value('ram')} RAM" if self.value("ram") else ANY_RAM
        return ", ".join([*self.gpus, *([ram] if self.offload else [])])

    def with_gpus(self, text: str) -> Question:
        """A copy with these GPUs, and with the RAM that is named among them. Without GPUs: those of this machine."""
        parts = [part.strip() for part in text.split(",") if part.strip()]
        ram = [part for part in parts if part.lower().endswith("ram")]
        cards = ", ".join(part for part in parts if part not in ram)
        same = replace(self, gpus=(cards,) if cards else ())
        if not ram:
            return same
        return same.with_typed(ram="" if ram[-1].lower() == ANY_RAM.lower() else ram[-1][: -len("ram")], offload="")

    def with_planned(self, model: str, gpus: str, context: str, kv_type: str) -> Question:
        """A copy with a model, GPUs and RAM, a context and a KV cache as they are typed for `sweep run`."""
        found = replace(self, model=model).with_typed(ctx=context, kv_type=kv_type).with_gpus(gpus)
        return found if not found.gpus or allows_ram([gpus]) else found.with_typed(offload=NO)

    def arguments(self, workspace: str) -> tuple[str, ...]:
        """The command that answers the question, with JSON output."""
        found = ["fit", self.model, "--workspace", workspace, "--format", "json"]
        for one in FIT_FIELDS:
            value = self.value(one.name)
            if (one.name, value) in _FLAGS:
                found.append(_FLAGS[one.name, value])
            elif value:
                found += [one.option, value]
        return (*found, *(part for gpu in self.gpus for part in ("--gpu", gpu)))

    def check(self) -> None:
        """Raise InputError for a value that `sweep fit` would reject whatever the model."""
        for one in FIT_FIELDS:
            value = self.value(one.name)
            if value and one.range is not None and not one.range[0] <= _number(value) <= one.range[1]:
                raise InputError(f"{one.label} {value}: give a whole number from {one.range[0]:,} to {one.range[1]:,}")
        try:
            KVCache.parse(self.kv_type)
        except InputError as error:
            wanted = f"one of {', '.join(KV_TYPES)}, or one for K and one for V"
            raise InputError(f"KV type {self.kv_type}: {wanted}") from error
        self.tolerance, self.target  # noqa: B018 - raise
        devices = parse_devices(self.gpus or _SOME_RAM)
        devices = with_ram(devices, self.value("ram") or None, self.value("ram_bandwidth") or None)
        with_reserve(devices, self.value("reserve") or None)


_SOME_RAM = ("1GiB RAM",)  # this machine has some


def _number(text: str) -> int:
    """A whole number; 0 for another text."""
    return int(text) if text.isascii() and text.isdigit() else 0


def help_of(field_name: str) -> str:
    """The help of the option in `sweep fit --help`."""
    from sweep.cli.fit import fit

    return str(inspect.signature(fit).parameters[field_name].default.help)
