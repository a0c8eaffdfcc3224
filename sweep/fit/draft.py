"""Speculative decoding: a second context, which drafts tokens for the model to check.

It runs on the model's own layers for multi-token prediction (MTP), or on a second, smaller model. Its options are those
of llama-server (llama.cpp, common/speculative.cpp): the context length of the model, an f16 KV cache and one output per
sequence. With MTP the model itself keeps DRAFTED_TOKENS more copies of its recurrent states, to go back to when a
drafted token is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from converters.errors import InputError
from converters.gguf_source import GGUFSource
from converters.llamacpp.ghost import ghost
from converters.llamacpp.memory import ContextMemory
from converters.llamacpp.rpc import RemoteDevice
from converters.plan import plan_file
from converters.recipes import recipe
from converters.resolver import Need, find_model
from converters.shell import quote
from sweep.defaults import DRAFTED_TOKENS
from sweep.fit.contexts import ContextRole, Contexts
from sweep.fit.fit_report import MTP, FitOptions
from sweep.fit.formulas import ContextFormulas, exact, padded
from sweep.fit.layer_bytes import Bytes, ModelShape, Weights
from sweep.fit.placement import LayerPlacement, proportional
from sweep.fit.variant_memory import MemoryParts, VariantMemory, owners, whole

QUANT = "Q8_0"  # of a draft that is a checkpoint
VOCABULARY_DIFFERENCE = 128  # tokens; llama.cpp rejects drafts whose vocabulary differs more

MODEL_WITH_MTP = ContextRole(loads_mtp=True, copies=DRAFTED_TOKENS)
"""The role of a model whose own layers draft."""
MTP_DRAFT = ContextRole(loads_mtp=True, runs_mtp=True, drafts=True)
MODEL_DRAFT = ContextRole(drafts=True)


def draft_options(options: FitOptions) -> FitOptions:
    """The options of the draft's context, for those of the model's."""
    return replace(options, kv_type_k="f16", kv_type_v="f16", projector=False, draft="")


@dataclass(frozen=True)
class MtpDraft:
    """The model's own layers for multi-token prediction. Their weights are placed with the model's."""

    shape: ModelShape
    shared_weights: int
    contexts: Contexts
    formulas: ContextFormulas
    memory: ContextMemory  # for the requested context
    name: str = MTP
    arguments: str = "--spec-type draft-mtp"

    def parts(self, placement: LayerPlacement, context: int) -> MemoryParts:
        places, options = len(placement.layers) + 1, self.contexts.options
        owner = owners(placement)[sorted(self.memory.attention_layers)]
        requested = padded(options.context) * options.parallel * len(owner)
        cell = exact(self.memory.kv_bytes, self.formulas.cell_bytes("f16", "f16") * requested) / requested
        none = np.zeros(places, np.int64)
        output = none.copy()
        output[-1] = self.memory.output_bytes
        return MemoryParts(
            weights=none,
            kv=whole(np.bincount(owner, minlength=places) * cell * padded(context) * options.parallel),
            recurrent=none,
            compute=self._compute(placement, context),
            output=output,
        )

    def _compute(self, placement: LayerPlacement, context: int) -> Bytes:
        """The buffers of the draft are where its layers are and, no larger, where the model's output is.

        In llama.cpp's loads both are on the last device.
        """
        if not placement.layers:
            return np.array(self.contexts.compute_buffers(placement, context), np.int64)
        loaded = self.contexts.compute_buffers(self.contexts.example(self.contexts.is_full(placement)), context)
        owner = owners(placement)
        result = np.zeros(len(loaded), np.int64)
        result[owner[[*sorted(self.memory.attention_layers), -1]]] = max(loaded[:-1])
        result[-1] += loaded[-1]
        return result

    def is_exact(self, placement: LayerPlacement, context: int) -> bool:
        return self.contexts.is_exact(placement, context)

    def compute_exactly(self, placement: LayerPlacement, context: int) -> None:
        self.contexts.compute_exactly(placement, context)


@dataclass(frozen=True)
class ModelDraft:
    """A second model. All of it is on the devices, if there are any, and divided among them as the first one."""

    name: str
    file: str
    memory: VariantMemory
    shared_weights: int = 0

    @property
    def arguments(self) -> str:
        return f"-md {quote(self.file)} --spec-type draft-simple"

    def parts(self, placement: LayerPlacement, context: int) -> MemoryParts:
        return self.memory.parts(self._placement(placement), context)

    def is_exact(self, placement: LayerPlacement, context: int) -> bool:
        return self.memory.is_exact(self._placement(placement), context)

    def compute_exactly(self, placement: LayerPlacement, context: int) -> None:
        self.memory.compute_exactly(self._placement(placement), context)

    def _placement(self, placement: LayerPlacement) -> LayerPlacement:
        total, shares = self.memory.shape.layers + 1, placement.layers
        return LayerPlacement.whole(total, proportional(total, shares if any(shares) else [1.0] * len(shares)))


@contextmanager
def model_draft(
    options: FitOptions, shape: ModelShape, vocabulary: int, remote: Sequence[RemoteDevice]
) -> Iterator[ModelDraft]:
    """The draft that `options` names, for a model of this shape and vocabulary.

    Raises InputError if it is not found, or if llama.cpp rejects it for the model.
    """
    found = find_model(options.draft, Need.HEADERS)
    source = found.open(found.name, requantize=True)
    formulas = ContextFormulas.of(source.structure)
    if abs(formulas.vocabulary - vocabulary) > VOCABULARY_DIFFERENCE:
        raise InputError(
            f"{found.name}: a draft of {formulas.vocabulary} tokens for a model of {vocabulary}; llama.cpp allows a "
            f"difference of {VOCABULARY_DIFFERENCE}. Choose a draft of the same family"
        )
    own = replace(ModelShape.of(source.structure, source.tensors), train_context=shape.train_context)
    state = formulas.state_bytes * own.linear_layers
    with (
        ghost(source.structure, source.tensors) as path,
        Contexts(
            path, own, draft_options(options), found.name, remote, state, formulas.embedding, MODEL_DRAFT
        ) as contexts,
    ):
        if isinstance(source, GGUFSource):
            name, file, tensors = found.name, str(source.path), source.tensors
        else:
            name, file = f"{found.name} {QUANT}", f"{found.name}-{QUANT}.gguf"
            tensors = plan_file(source, recipe(QUANT), path).tensors
        weights = Weights.of(own, tensors)
        yield ModelDraft(name, file, VariantMemory(own, weights, contexts, formulas, contexts.prepare(), False))
