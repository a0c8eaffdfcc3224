"""A model of which only config.json is known, seen as a source: all tensors by name, shape and type, and no weights.

What can be planned is planned exactly as for the checkpoint: types, sizes, memory.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from converters.architectures.family import MAX_LAYERS, Config, Stored, integer, naming
from converters.architectures.layers import layer_count
from converters.checkpoint import read_json
from converters.described_source import DescribedSource
from converters.errors import InputError
from converters.llamacpp.bindings import TYPES, TensorType

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""`dtype` of a config -> type of the weights. Qwen publishes in the first, which is taken where the config has none."""

MAX_WEIGHTS = 1 << 41  # four times Qwen's largest; in float32 still a file that file systems can have


class ConfigSource(DescribedSource):
    """The model that a config describes, as a checkpoint of it would be read; output.weight is left out if it is tied.

    Without a `tokenizer` `metadata` tells the vocabulary's size and nothing else of it, which is enough to plan. `mtp`
    is how many multi-token prediction layers to count: by default what the config says, for families that have them.
    Making one raises InputError for a config that cannot be exported.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        path: Path,
        name: str | None = None,
        tokenizer: Path | None = None,
        pre_tokenizer: str | None = None,
        mtp: int | None = None,
    ) -> None:
        with naming(path):
            config = _merged(config)
        super().__init__(config, path, name or _name(path), tokenizer, pre_tokenizer)
        with naming(path):
            stated = integer(config, "mtp_num_hidden_layers", 0, low=0, high=MAX_LAYERS) if mtp is None else mtp
            if mtp and not self.family.mtp:
                raise InputError(f"config.json: a {self.family.name} model has no multi-token prediction layers")
            weights = self._describe(stated if self.family.mtp else 0, _fused_experts(config, stated))
            self._dtype = TYPES[_dtype(config)]
            total = sum(math.prod(weight.shape) for weight in weights)
            if total >= MAX_WEIGHTS:
                raise InputError(f"config.json: the sizes that it names make {total} weights; no model has as many")
        self._take([weight for weight in weights if not weight.optional])

    def _type(self, name: str) -> TensorType:
        return self._dtype

    @classmethod
    def open(
        cls, path: Path, name: str | None = None, pre_tokenizer: str | None = None, mtp: int | None = None
    ) -> Self:
        """From a config's file, or the directory with config.json; tokenizer.json beside it is the tokenizer."""
        path = Path(path)
        file = path / "config.json" if path.is_dir() else path
        if not file.is_file():
            raise InputError(f"{path}: has no config.json" if path.is_dir() else f"{path}: no such file")
        tokenizer = file.parent if (file.parent / "tokenizer.json").is_file() else None
        return cls(read_json(file), file, name, tokenizer, pre_tokenizer, mtp)

    @property
    def fingerprint(self) -> str:
        """Hash of the config; no checkpoint has it."""
        return hashlib.sha256(b"config\0" + json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def stored_name(self, name: str, row: int = 0) -> str:
        """See `Source.stored_name`."""
        return self._weights[name].part_at(row).source

    def read_rows(self, name: str, start: int, stop: int) -> tuple[npt.NDArray[np.generic], TensorType]:
        """Raises InputError: there are no weights."""
        raise InputError(f"{self.path}: is a config without weights; to export {name}, give the whole checkpoint")


def _name(path: Path) -> str:
    """The directory's name for config.json, the file's own for any other."""
    return path.resolve().parent.name if path.name == "config.json" else path.stem


def _merged(config: Config) -> dict[str, Any]:
    """The config with the entries of `text_config` at the root."""
    text_config = config.get("text_config", {})
    if not isinstance(text_config, dict):
        raise InputError("config.json: text_config is no object")
    return {**config, **text_config}


def _fused_experts(config: Config, mtp: int) -> Stored:
    """Experts as if fused, which gives the same tensors and is several times quicker than 512 of them one by one."""
    sources = [f"model.layers.{i}" for i in range(layer_count(config))] + [f"mtp.layers.{i}" for i in range(mtp)]
    return {f"{source}.mlp.experts.gate_up_proj": () for source in sources}


def _dtype(config: Config) -> str:
    stated = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    if not isinstance(stated, str) or stated not in DTYPES:
        raise InputError(f"config.json: dtype is {str(stated)[:40]!r}; known: {', '.join(DTYPES)}")
    return DTYPES[stated]
