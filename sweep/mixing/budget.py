"""How large a file may be: a number of bytes, or bits per weight."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from converters.errors import InputError
from converters.mixes import MIX_PREFIX

_BITS = re.compile(r"(\d+(?:\.\d+)?)\s*bpw", re.IGNORECASE)
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:(K|M|G|T)(i?))?B", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """`text` as it was typed, without spaces. `bytes` of the whole file, or `bits` of tensor data per weight."""

    text: str
    bytes: int | None = None
    bits: float | None = None

    def limit(self, header_bytes: int, weights: int) -> int:
        """The bytes of the whole file, for a model with this header and this number of weights."""
        return self.bytes if self.bytes is not None else header_bytes + int((self.bits or 0.0) * weights / 8)


def budget_of(names: Sequence[str]) -> Budget | None:
    """The budget among the names of variants; None if there is none. Raises InputError if there are other names."""
    budgets = [budget for budget in map(parse_budget, names) if budget is not None]
    if budgets and len(names) > 1:
        raise InputError(f"--to {','.join(names)}: a size is searched by itself; give {budgets[0].text} alone")
    return next(iter(budgets), None)


def mix_budget(variant: str) -> Budget | None:
    """The budget in the name of a variant, mix:5.5GiB; None for another variant."""
    base = variant.partition("+")[0]
    return parse_budget(base.removeprefix(MIX_PREFIX)) if base.startswith(MIX_PREFIX) else None


def parse_budget(text: str) -> Budget | None:
    """The budget of `5.5GiB` (powers of 1024), `6GB` (powers of 1000) or `4.5bpw`; None for another text. Raises
    InputError for a budget of nothing."""
    plain = "".join(text.split())
    bits, size = _BITS.fullmatch(plain), _BYTES.fullmatch(plain)
    if bits is None and size is None:
        return None
    if bits is not None:
        found = Budget(plain, bits=float(bits[1]))
    else:
        assert size is not None
        unit = 1 if size[2] is None else (1024 if size[3] else 1000) ** ("KMGT".index(size[2].upper()) + 1)
        found = Budget(plain, bytes=int(float(size[1]) * unit))
    if not (found.bytes or found.bits):
        raise InputError(f"{text}: a file needs some bytes; write for example 5.5GiB or 4.5bpw")
    return found
