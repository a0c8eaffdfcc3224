"""The scores of a reference on the items of a task, in a file, for variants that are compared with it while they are
measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from converters.atomic import write_text


@dataclass(frozen=True)
class ReferenceItems:
    """`scores` and `clusters` by `Item.question_key`: the value of the primary metric, and the subject or image of the
    item. The test takes clusters as its units if there are at least `fewest_clusters` of them."""

    scores: Mapping[str, float]
    clusters: Mapping[str, str]
    fewest_clusters: int

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, msgspec.json.encode(self).decode())

    @classmethod
    def load(cls, file: Path) -> ReferenceItems:
        """Raises OSError if there is no such file, ValueError if it is damaged."""
        return msgspec.json.decode(file.read_bytes(), type=cls)
