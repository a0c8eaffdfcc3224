"""The common part of the sources that read Hugging Face formats: what follows from the config alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from converters import fp8
from converters.architectures import architecture
from converters.architectures.family import Config, Stored, Weight, config_path_in_errors, integer, is_mtp
from converters.llamacpp.bindings import TYPES, TensorType
from converters.llamacpp.container import Field, TensorInfo, lay_out, tensor_order
from converters.purpose import require_language_model
from converters.tokenizer import read_tokenizer

EXPERTS = ".mlp.experts."
"""The part of a parameter's name between the layer and the expert."""


class HuggingFaceSource:
    """Base class of `CheckpointSource` and `ConfigSource`.

    `path` is the path that messages name, `name` the model's name in files, `family` its architecture, and `tokenizer`
    the directory with its tokenizer.json or None. `_set_tensors` sets `tensors`.
    """

    tensors: tuple[TensorInfo, ...]

    def __init__(
        self, config: Config, path: Path, name: str, tokenizer: Path | None, pre_tokenizer: str | None
    ) -> None:
        require_language_model(name, tokenizer)
        self.config, self.path, self.name = config, path, name
        self.tokenizer, self._pre_tokenizer = tokenizer, pre_tokenizer
        with config_path_in_errors(self.config_file):
            self.family = architecture(config)
            self.fp8_block = fp8.block_size(config)
        self._weights: dict[str, Weight] = {}

    @property
    def config_file(self) -> Path:
        """The path that messages name instead of config.json."""
        return self.path

    def _describe(self, mtp: int, stored: Stored) -> Sequence[Weight]:
        """Read the metadata from the config, and return all tensors of the model with `mtp` MTP layers.

        `stored` has the names and shapes of the tensors that exist. Raises InputError for a config that cannot be
        exported; its message begins with config.json.
        """
        self._general = self.family.general(self.name, self.family.fields(self.config, mtp))
        self._vocabulary_size = self.family.vocabulary_size(self.config)
        return self.family.weights(self.config, mtp, stored)

    def _set_tensors(self, weights: Sequence[Weight]) -> None:
        """Set the model's tensors, in llama.cpp's order."""
        self._weights = {weight.name: weight for weight in weights}
        self.tensors = lay_out(
            (name, self._weights[name].shape, TYPES["F32"] if self._weights[name].always_f32 else self._type(name))
            for name in sorted(self._weights, key=tensor_order)
        )

    def _type(self, name: str) -> TensorType:
        """The type of a tensor's rows before quantization, for tensors that are not always float32."""
        raise NotImplementedError

    @property
    def float_type(self) -> TensorType:
        """The type of most weights before quantization."""
        return next((tensor.type for tensor in self.tensors if tensor.type.name != "F32"), TYPES["F32"])

    @cached_property
    def metadata(self) -> Mapping[str, Field]:
        """General keys, the architecture's keys, and the tokenizer's (or only the vocabulary's size if it is unknown).

        The tokenizer is read at the first use.
        """
        if self.tokenizer is None:
            return self.structure
        with config_path_in_errors(self.config_file):
            return self._general | read_tokenizer(self.tokenizer, self.config, self._pre_tokenizer).fields()

    @property
    def structure(self) -> Mapping[str, Field]:
        """See `Source.structure`."""
        return self._general | self._vocabulary_size

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the model's parameters by their names in transformers, without MTP layers.

        The experts of a layer, however they are stored, are one entry per kind, with `*` for the expert's number:
        "model.layers.0.mlp.experts.*.up_proj.weight" [experts, out, in].
        """
        found: dict[str, tuple[int, ...]] = {}
        for weight in self._weights.values():
            for part in weight.parts:
                block, expert, _ = part.source.partition(EXPERTS)
                if expert:
                    kind = weight.name.rpartition(".ffn_")[2].partition("_")[0]  # of blk.0.ffn_up_exps.weight
                    found[f"{block}{EXPERTS}*.{kind}_proj.weight"] = weight.shape
                    break
                found[part.source] = part.shape
        return {name: shape for name, shape in found.items() if not is_mtp(name)}

    @property
    def tower_parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the parameters of the vision tower, by their names from "visual." on; empty without a tower.

        Raises InputError for the config of a tower that llama.cpp cannot run.
        """
        vision = self.config.get("vision_config")
        if self.family.tower is None or not isinstance(vision, dict):
            return {}
        with config_path_in_errors(self.config_file):
            weights = self.family.tower.weights(vision, integer(self.config, "hidden_size"))
        return {part.source: part.shape for weight in weights for part in weight.parts}
