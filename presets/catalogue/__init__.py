"""Public models: the parts of their config.json that decide sizes and memory. The keys are explained in models.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "models.toml"


@dataclass(frozen=True)
class CatalogueEntry:
    """A public model.

    `config` has the keys of config.json that a GGUF file depends on, with those of `text_config` at the root.
    `mtp_layers` is the number of multi-token prediction layers in the checkpoint. `assembled` says that the config was
    assembled from several sources that agree, not read from the published file.
    """

    name: str
    hub_id: str
    config: Mapping[str, Any]
    mtp_layers: int
    assembled: bool


@cache
def models() -> Mapping[str, CatalogueEntry]:
    """Name -> model, ordered by family and size."""
    with open(_FILE, "rb") as file:
        content = tomllib.load(file)
    return {
        name: _entry(name, content["owner"], {**content["families"][own["family"]], **own}, content["towers"])
        for name, own in content["models"].items()
    }


def _entry(name: str, owner: str, keys: dict[str, Any], towers: Mapping[str, Any]) -> CatalogueEntry:
    del keys["family"]
    tower = keys.pop("tower", None)
    if tower is not None:
        keys["vision_config"] = {**towers[tower], "out_hidden_size": keys["hidden_size"]}
    assembled, pattern = keys.pop("assembled", False), keys.pop("layer_pattern", None)
    mtp_layers = keys.pop("mtp_layers", keys.get("mtp_num_hidden_layers", 0))
    if pattern is not None:
        keys["layer_types"] = list(islice(cycle(pattern), keys["num_hidden_layers"]))
    return CatalogueEntry(name, f"{keys.pop('owner', owner)}/{name}", keys, mtp_layers, assembled)
