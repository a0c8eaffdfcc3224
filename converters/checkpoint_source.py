"""A Hugging Face checkpoint as a source of weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.architectures.family import canonical_name, config_path_in_errors, is_mtp, mtp_layers, tower_name
from converters.architectures.layers import layer_count
from converters.checkpoint import Checkpoint
from converters.checkpoint_weights import CheckpointWeights
from converters.errors import InputError
from converters.huggingface_source import HuggingFaceSource
from converters.llamacpp.bindings import TensorType


class CheckpointSource(HuggingFaceSource):
    """A Hugging Face checkpoint of a supported architecture. The constructor checks all names, shapes and dtypes.

    `mtp` says whether multi-token prediction layers, if the checkpoint has them, are part of the model. Raises
    InputError for a checkpoint that cannot be exported.
    """

    def __init__(self, checkpoint: Checkpoint, pre_tokenizer: str | None = None, mtp: bool = True) -> None:
        super().__init__(checkpoint.config, checkpoint.path, checkpoint.name, checkpoint.path, pre_tokenizer)
        self.checkpoint = checkpoint
        self._stored = CheckpointWeights(checkpoint, canonical_name, self.fp8_block)
        with config_path_in_errors(self.config_file):
            self._reject_missing_layers()
            weights = self._describe(mtp_layers(self._stored.stored) if mtp else 0, self._stored.shapes)
        self._set_tensors(self._stored.choose(weights))
        self._stored.reject_unexpected(f"{self.family.name} model", lambda name: is_mtp(name) and not mtp)

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def fingerprint(self) -> str:
        """A hash of config, tokenizer and weights (`Checkpoint.fingerprint`)."""
        return self.checkpoint.fingerprint

    def read_rows(self, name: str, start: int, stop: int) -> tuple[npt.NDArray[np.generic], TensorType]:
        """See `Source.read_rows`."""
        return self._stored.read_rows(name, start, stop)

    def stored_name(self, name: str, row: int = 0) -> str:
        """See `Source.stored_name`."""
        return self._stored.stored_name(name, row)

    @property
    def tower_parameters(self) -> Mapping[str, tuple[int, ...]]:
        """See `HuggingFaceSource.tower_parameters`; a checkpoint may lack the tower that its config describes."""
        named = ((tower_name(name), tensor) for name, tensor in self.checkpoint.tensors.items())
        return {name: tensor.shape for name, tensor in named if name is not None}

    def _type(self, name: str) -> TensorType:
        return self._stored.type_of(name)

    def _reject_missing_layers(self) -> None:
        """Checked first, so that a config with a huge number of layers does not make us describe all their tensors."""
        found = {name.split(".")[2] for name in self._stored.stored if name.startswith("model.layers.")}
        for layer in range(layer_count(self.checkpoint.config)):
            if str(layer) not in found:
                raise InputError(
                    f"{self.path}: every tensor of layer {layer} is missing; num_hidden_layers in config.json is"
                    f" {layer_count(self.checkpoint.config)}"
                )
