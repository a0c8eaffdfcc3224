"""Which of the files that a sweep made stay when it is through."""

from __future__ import annotations

from enum import StrEnum


class Keep(StrEnum):
    """All of them; the recommended variant's alone; or none, each going as soon as it is measured."""

    ALL = "all"
    BEST = "best"
    NONE = "none"
