"""Mixes: a plain quant in which rules choose the types of some tensors.

This project's XL mixes are in mixes.toml. Users write files of the same form, or single rules as REGEX=TYPE, as
llama-quantize's `--tensor-type` has them.
"""

import hashlib
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from converters.errors import InputError

MIX_PREFIX = "mix:"
"""Begins the name of a mix that a file describes: mix:FILE.toml."""
OWN_TYPE = ";"
"""Separates a quant from the rules after it: Q4_K_M;attn_v=Q8_0. No tensor's name has this character."""

IMATRIX_TYPES = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S")
"""Types that llama.cpp's quantizer makes only with an importance matrix."""
TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS"),
    *("MXFP4", "IQ3_S", "Q3_K", "Q2_K", "TQ2_0", "TQ1_0", *IMATRIX_TYPES),
)
"""The types that a rule can choose."""
MAX_REGEX = 500  # characters; the C++ library's matcher takes stack space for each

_KEYS = {"tensors", "regex", "type", "layers", "models", "tied", "why"}


@dataclass(frozen=True)
class Rule:
    """The type of some tensors.

    - `tensors`: names without "blk.N." and ".weight"; or `regex`, a regular expression that is searched for in the
      whole name, as in llama-quantize.
    - `edges`: only in the first and last eighth of the layers.
    - `models`: only in models with experts ("experts") or without ("dense"), or in "all".
    - `tied`: the type to use instead if the output matrix is the embedding.
    """

    tensors: tuple[str, ...]
    type: str
    edges: bool = False
    models: str = "all"
    tied: str | None = None
    regex: str | None = None

    def pattern(self, layers: int) -> str:
        """The rule in llama.cpp's form: a regular expression that is searched for in tensor names."""
        if self.regex is not None:
            return self.regex
        names = "|".join(self.tensors)
        edge = max(1, layers // 8)
        if not self.edges:
            return rf"^(blk\.[0-9]+\.)?({names})\.weight$"
        chosen = sorted({*range(edge), *range(layers - edge, layers)})
        return rf"^blk\.({'|'.join(map(str, chosen))})\.({names})\.weight$"


@dataclass(frozen=True)
class Mix:
    """Rules on top of a plain quant; the first rule that matches a tensor decides.

    `release` tells versions apart: "v2", or a hash of the rules. `where` is the file or the option with the rules of a
    user; None: they are this project's. With `strict`, a rule that matches no tensor is an error.
    """

    release: str
    rules: tuple[Rule, ...]
    where: str | None = None
    strict: bool = False

    def overrides(self, layers: int, tied: bool, experts: bool) -> tuple[tuple[str, str], ...]:
        """(regular expression, name of the type) per rule in order, for a model with `layers` layers."""
        kind = "experts" if experts else "dense"
        return tuple(
            (rule.pattern(layers), (tied and rule.tied) or rule.type)
            for rule in self.rules
            if rule.models in ("all", kind)
        )

    def require_matches(self, overrides: Sequence[tuple[str, str]], names: Collection[str]) -> None:
        """Raise InputError if a user's rules match none of the tensors `names`; if `strict`, for each rule."""
        if self.where is None:
            return
        unmatched = [pattern for pattern, _ in overrides if not any(re.search(pattern, name) for name in names)]
        if unmatched and (self.strict or len(unmatched) == len(overrides)):
            example = next((name for name in sorted(names) if name.startswith("blk.")), "token_embd.weight")
            raise InputError(f"{self.where}: no tensor of this model has a name like {unmatched[0]!r}, as {example} is")


@cache
def xl_mixes() -> dict[str, tuple[str, Mix]]:
    """This project's mixes, from mixes.toml: name -> the plain quant that it is based on, and the mix."""
    table: dict[str, Any] = tomllib.loads(files("converters").joinpath("mixes.toml").read_text())
    version, reasons = table.pop("version"), table.pop("why")
    mixes = {}
    for name, entry in table.items():
        rules = tuple(_rule(one, "mixes.toml") for one in entry["rules"])
        if unknown := {one["why"] for one in entry["rules"] if "why" in one} - set(reasons):
            raise InputError(f"mixes.toml: {name}: no reason is called {', '.join(unknown)}")
        mixes[name] = entry["base"], Mix(f"v{version}", rules)
    return mixes


def read_mix(file: Path) -> tuple[str, Mix]:
    """The plain quant that a user's file is based on, and the mix. Raises InputError."""
    try:
        content = file.read_bytes()
        table = tomllib.loads(content.decode())
    except OSError as error:
        raise InputError(f"{file}: the mix cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file}: not a TOML file: {error}") from error
    base, rules = table.get("base"), table.get("rules")
    if unknown := set(table) - {"base", "rules"}:
        raise InputError(f"{file}: unknown key {sorted(unknown)[0]!r}; a mix has base and rules")
    if not isinstance(base, str) or not isinstance(rules, list) or not rules:
        raise InputError(f'{file}: a mix needs base, such as base = "Q4_K_M", and a list of rules')
    return base, Mix(_digest(content), tuple(_rule(one, str(file)) for one in rules), str(file))


def mix_of(rules: Sequence[str]) -> Mix:
    """A mix of rules of the form REGEX=TYPE, as llama-quantize's --tensor-type has them. Raises InputError."""
    made = []
    for text in rules:
        regex, equals, type_ = text.rpartition("=")
        if not equals:
            raise InputError(f"{text!r}: a rule for types is REGEX=TYPE, such as attn_v=Q8_0")
        made.append(_rule({"regex": regex, "type": type_}, f"{text!r}"))
    return Mix(_digest(OWN_TYPE.join(rules).encode()), tuple(made), "--tensor-type", strict=True)


def _rule(entry: Any, where: str) -> Rule:
    """A rule of a TOML file. Raises InputError, whose message begins with `where`."""
    if not isinstance(entry, Mapping) or (unknown := set(entry) - _KEYS):
        what = entry if not isinstance(entry, Mapping) else f"unknown key {sorted(unknown)[0]!r}"
        raise InputError(f"{where}: {what}; a rule has type, and tensors or regex, and may have layers, models, tied")
    tensors, regex = entry.get("tensors"), entry.get("regex")
    if (tensors is None) == (regex is None):
        raise InputError(f"{where}: {dict(entry)}: a rule has either tensors or regex")
    if tensors is not None and not (isinstance(tensors, list) and tensors and all(map(_is_name, tensors))):
        raise InputError(f'{where}: tensors is {tensors!r}; expected a list of names, such as ["attn_v"]')
    layers, models = entry.get("layers", "all"), entry.get("models", "all")
    if layers not in ("all", "edges") or (regex is not None and layers != "all"):
        raise InputError(f'{where}: layers is {layers!r}; expected "all", or "edges" in a rule with tensors')
    if models not in ("all", "dense", "experts"):
        raise InputError(f'{where}: models is {models!r}; expected "all", "dense" or "experts"')
    tied = entry.get("tied")
    return Rule(
        tuple(tensors or ()),
        _type(entry.get("type"), where),
        layers == "edges",
        models,
        None if tied is None else _type(tied, where),
        None if regex is None else _regex(regex, where),
    )


def _is_name(text: Any) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[a-z0-9_]+", text) is not None


def _type(name: Any, where: str) -> str:
    if not isinstance(name, str) or name.upper() not in TYPES:
        raise InputError(f"{where}: {name!r} is not a type that tensors can have; give one of {', '.join(TYPES)}")
    return name.upper()


def _regex(text: Any, where: str) -> str:
    try:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_REGEX:
            raise InputError(f"{where}: the regular expression needs 1 to {MAX_REGEX} characters")
        re.compile(text)
    except re.error as error:
        raise InputError(f"{where}: {text!r} is not a regular expression: {error}") from error
    return text


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]
