"""The order in which the linear layers of a decoder layer are rounded, if each shall read what earlier ones give."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ptq.hessian import InputSums

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def stages(linears: Sequence[str], sums: Mapping[str, InputSums]) -> list[list[str]]:
    """The linear layers in stages: those that read the same tensor, in the order in which they first read.

    The same part of all experts is one stage. `sums` are those of a pass over all of `linears`.
    """
    first: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for name in sums:  # in the order in which they read
        leader = first.setdefault(id(sums[name]), _NUMBER.sub("*", name))
        found.setdefault(leader, []).append(name)
    assert {name for names in found.values() for name in names} == set(linears)
    return list(found.values())
