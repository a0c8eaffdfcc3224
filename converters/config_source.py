"""A model known only from its config.json, as a source: all tensors by name, shape and type, but no weights.

Types, file sizes and memory are planned exactly as for the full checkpoint.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from converters.architectures.family import MAX_LAYERS, Config, Stored, config_path_in_errors, integer
from converters.architectures.layers import layer_count
from converters.checkpoint import read_json
from converters.errors import InputError
from converters.huggingface_source import HuggingFaceSource
from converters.llamacpp.bindings import TYPES, TensorType

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""`dtype` in a config -> type of the weights. The default is bfloat16, in which Qwen publishes its models."""

MAX_WEIGHTS = 1 << 41  # four times Qwen's largest; its float32 file still fits the limits of file systems


class ConfigSource(HuggingFaceSource):
    """The model that a config describes, with the tensors of its checkpoint; a tied output.weight is left out.

    Without `tokenizer` (a directory with tokenizer.json), `metadata` has only the size of the vocabulary, which is
    enough to plan. `mtp` is the number of multi-token prediction layers to count; the default is the config's, for
    architectures that have them. Raises InputError for a config that cannot be exported.
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
        with config_path_in_errors(path):
            config = _merged(config)
        super().__init__(config, path, name or _name(path), tokenizer, pre_tokenizer)
        with config_path_in_errors(path):
            stated = integer(config, "mtp_num_hidden_layers", 0, low=0, high=MAX_LAYERS) if mtp is None else mtp
            if mtp and not self.family.mtp:
                raise InputError(f"config.json: a {self.family.name} model has no multi-token prediction layers")
            weights = self._describe(stated if self.family.mtp else 0, _fused_experts(config, stated))
            self._dtype = TYPES[_dtype(config)]
            total = sum(math.prod(weight.shape) for weight in weights)
            if total >= MAX_WEIGHTS:
                raise InputError(f"config.json: its sizes give {total} weights; no supported model has as many")
        self._set_tensors([weight for weight in weights if not weight.optional])

    def _type(self, name: str) -> TensorType:
        return self._dtype

    @classmethod
    def open(
        cls, path: Path, name: str | None = None, pre_tokenizer: str | None = None, mtp: int | None = None
    ) -> Self:
        """Open a config file, or a directory with config.json. A tokenizer.json in the same directory is used."""
        path = Path(path)
        file = path / "config.json" if path.is_dir() else path
        if not file.is_file():
            raise InputError(f"{path}: has no config.json" if path.is_dir() else f"{path}: there is no such file")
        tokenizer = file.parent if (file.parent / "tokenizer.json").is_file() else None
        return cls(read_json(file), file, name, tokenizer, pre_tokenizer, mtp)

    @property
    def fingerprint(self) -> str:
        """A hash of the config, different from that of every checkpoint."""
        return hashlib.sha256(b"config\0" + json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def stored_name(self, name: str, row: int = 0) -> str:
        """See `Source.stored_name`."""
        return self._weights[name].part_at(row).source

    def read_rows(self, name: str, start: int, stop: int) -> tuple[npt.NDArray[np.generic], TensorType]:
        """Raises InputError, because there are no weights."""
        raise InputError(f"{self.path}: is a config without weights; to export {name}, give the complete checkpoint")


def _name(path: Path) -> str:
    """The directory's name if the file is called config.json, otherwise the file's name without its extension."""
    return path.resolve().parent.name if path.name == "config.json" else path.stem


def _merged(config: Config) -> dict[str, Any]:
    """The config with the entries of `text_config` merged into the root."""
    text_config = config.get("text_config", {})
    if not isinstance(text_config, dict):
        raise InputError("config.json: text_config is not a JSON object")
    return {**config, **text_config}


def _fused_experts(config: Config, mtp: int) -> Stored:
    """Describe experts as fused tensors: the same GGUF tensors, several times faster than 512 separate experts."""
    sources = [f"model.layers.{i}" for i in range(layer_count(config))] + [f"mtp.layers.{i}" for i in range(mtp)]
    return {f"{source}.mlp.experts.gate_up_proj": () for source in sources}


def _dtype(config: Config) -> str:
    stated = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    if not isinstance(stated, str) or stated not in DTYPES:
        raise InputError(f"config.json: dtype is {str(stated)[:40]!r}; known: {', '.join(DTYPES)}")
    return DTYPES[stated]
