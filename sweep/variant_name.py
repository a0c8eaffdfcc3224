"""The names of variants: METHOD:SPEC, where METHOD can be several steps joined by +; a quant's name has no method.

The name of a GGUF variant can end with axes, which say how its file is run: the types of its KV cache, Q4_K_M+kv=q8_0
or Q4_K_M+k=q8_0+v=q4_0, and then its projector file, Q4_K_M+mmproj=Q8_0.
"""

from __future__ import annotations

import re

from converters.errors import InputError
from converters.mixes import OWN_TYPE
from sweep.kv_cache import DEFAULT, KVCache

WITHOUT_SPEC = ("billm",)
"""Methods whose names may stand alone, without a colon."""

MMPROJ = "+mmproj="

# Q4_K_M+k=q8_0,v=q4_0 is read too, although a name in a plan has no comma
_CACHE = re.compile(r"(?:\+(?:kv|k|v)=\w*(?:,[kv]=\w*)?)+(?=\+mmproj=|$)")
_CACHE_TYPE = re.compile(r"(kv|k|v)=(\w*)")
_RULE = re.compile(r"[^=]*=\w*")  # a tensor's name as a regular expression, and its type
_SECOND_TYPE = re.compile(r"[kv]=\w*")


def split_projector(name: str) -> tuple[str, str | None]:
    """The name without the projector file, and the projector file's type or path; None if the name has none."""
    found = _cache_in(name)
    base, separator, projector = name.rpartition(MMPROJ)
    if separator and found is not None and found.start() > len(base):  # the axes in the other order
        return base + found[0], name[len(base) + len(MMPROJ) : found.start()]
    return (base, projector) if separator else (name, None)


def split_cache(name: str) -> tuple[str, KVCache | None]:
    """The name without the types of the KV cache, and these types; None if the name has none. Raises InputError."""
    found = _cache_in(name)
    if found is None:
        return name, None
    types = _CACHE_TYPE.findall(found[0])
    given = dict(types)
    if len(given) < len(types) or ("kv" in given and len(given) > 1):
        raise InputError(f"{name}: names a type of the KV cache twice; write +kv=TYPE, or +k=TYPE+v=TYPE")
    types_of = (given.get("kv", given.get(part, default)) for part, default in vars(DEFAULT).items())
    cache = KVCache(*(kind.lower() for kind in types_of))
    try:
        cache.check()
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return name[: found.start()] + name[found.end() :], cache


def cache_axis(cache: KVCache | None) -> str:
    """What a name with this KV cache has after the quant or file; "" for None."""
    if cache is None:
        return ""
    if cache.k == cache.v:
        return f"+kv={cache.k}"
    return "".join(f"+{part}={kind}" for part, kind in vars(cache).items() if kind != getattr(DEFAULT, part))


def _cache_in(name: str) -> re.Match[str] | None:
    """The part of a name that says the types of the KV cache. The last rule of a quant with rules can look like it."""
    before, rules, last = name.rpartition(OWN_TYPE)
    rule = _RULE.match(last) if rules else None
    return _CACHE.search(name, len(before) + 1 + rule.end() if rule is not None else 0)


def variant_names(text: str) -> tuple[str, ...]:
    """The names in a list that is separated by commas. The comma in +k=q8_0,v=q4_0 belongs to a name."""
    names: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if names and _SECOND_TYPE.fullmatch(part.partition("+")[0]) and _cache_in(names[-1]) is not None:
            names[-1] += f",{part}"
        elif part:
            names.append(part)
    return tuple(names)


def prefix_of(name: str) -> str:
    """The method that a variant's name begins with, its first step: "gptq" for gptq:w4g128, "" for Q4_K_M."""
    method, colon, _ = split_projector(name)[0].partition(":")
    if OWN_TYPE in method:  # a quant with rules, which are regular expressions
        return ""
    first = method.partition("+")[0]
    return first if colon or first in WITHOUT_SPEC else ""
