"""Rows of GGUF variants: files that exist, and quants that could be made of a model."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from converters import recipes
from converters.catalogue import missing_vocabulary_bytes
from converters.errors import InputError
from converters.gguf_source import GGUFSource
from converters.llamacpp.container import data_bytes, header_bytes
from converters.llamacpp.ghost import ghost
from converters.loadable import faults_in_errors
from converters.plan import plan_file
from converters.recipes import recipe
from converters.resolver import Need, find_file
from converters.source import Source
from sweep.fit.contexts import ALONE, Contexts
from sweep.fit.draft import MODEL_WITH_MTP, MTP_DRAFT, MtpDraft, draft_options
from sweep.fit.fit_inputs import FitInputs, OwnFile, UnreadableFile
from sweep.fit.fit_report import MTP, FitRow
from sweep.fit.formulas import ContextFormulas
from sweep.fit.gguf_rows import FitFile, gguf_row
from sweep.fit.layer_bytes import ModelShape, Weights
from sweep.fit.projector import NOT_COUNTED, projector_figure
from sweep.fit.registry import FitKind, is_file
from sweep.fit.variant_memory import Draft, VariantMemory
from sweep.fit.weight_types import WeightTypes


def _quant_name(name: str) -> str:
    return recipe(name).name


def _default_quants(inputs: FitInputs) -> Sequence[str]:
    """All quants if the model is not quantized; otherwise none, and none of a repository, which has its own."""
    if any(one.path is not None for one in inputs.own_files.values()):
        return []
    return [] if isinstance(inputs.source, GGUFSource) and inputs.source.is_quantized else list(recipes.QUANTS)


def _quant_rows(names: Sequence[str], inputs: FitInputs) -> dict[str, FitRow]:
    return _rows(inputs.source, names, inputs)


def _default_files(inputs: FitInputs) -> Sequence[str]:
    """The files that the model itself is or has."""
    return list(inputs.own_files)


def _file_rows(names: Sequence[str], inputs: FitInputs) -> dict[str, FitRow]:
    found: dict[str, FitRow] = {}
    for name in names:
        own = inputs.own_files.get(name)
        path = None if own is None else own.path
        inputs.begin(name if path is None else str(path))
        source = inputs.source if own is not None and path is None else _opened(name, own)
        try:
            found |= _rows(source, [name], inputs, None if own is None else own.spec)
        except InputError as error:
            if path is None:
                raise
            raise UnreadableFile(str(path), str(error).removeprefix(f"{source.name}: ")) from error
    return found


def _opened(name: str, own: OwnFile | None) -> Source:
    """The source of a variant that is a GGUF file."""
    if own is not None and own.path is not None:
        return GGUFSource(own.path, requantize=True)
    found = find_file(name, Need.HEADERS)
    return found.open(found.name, requantize=True)


def _rows(source: Source, names: Sequence[str], inputs: FitInputs, spec: str | None = None) -> dict[str, FitRow]:
    """The rows of quants of a source, or of the file that the source is; `spec` names that file in commands."""
    machine, remote, options = inputs.machine, inputs.remote, inputs.options
    shape, formulas = ModelShape.of(source.structure, source.tensors), ContextFormulas.of(source.structure)
    if options.yarn is not None:
        shape = replace(shape, train_context=inputs.shape.train_context)
    role = ALONE
    if options.draft == MTP:
        shape, role = replace(shape, loads_mtp=True), MODEL_WITH_MTP
    state = formulas.state_bytes * shape.linear_layers * (1 + role.copies)
    with (
        faults_in_errors(source),
        ghost(source.structure, source.tensors) as path,
        Contexts(path, shape, options, source.name, remote, state, formulas.embedding, role) as contexts,
        Contexts(path, shape, draft_options(options), source.name, remote, 0, formulas.embedding, MTP_DRAFT) as drafts,
    ):
        if not remote:
            contexts.prepare()  # not in parallel with other work: it allocates the recurrent states, the most memory
        # One thread plans tensor types while the other loads: llama.cpp releases Python's global lock.
        with ThreadPoolExecutor(2) as pool:
            preparation = pool.submit(contexts.prepare)
            files = list(pool.map(lambda name: _file(source, shape, name, path, spec), names))
            context_memory = preparation.result()
        projector = NOT_COUNTED if inputs.projector is None else projector_figure(inputs.projector, options)
        draft_memory = drafts.prepare() if options.draft == MTP else None

        def draft_of(weights: Weights) -> Draft | None:
            if draft_memory is None:
                return inputs.draft
            return MtpDraft(shape, weights.mtp, drafts, formulas, draft_memory)

        return {
            name: gguf_row(
                name,
                VariantMemory(
                    shape,
                    weights,
                    contexts,
                    formulas,
                    context_memory,
                    machine.copies_weights,
                    projector.bytes,
                    draft_of(weights),
                ),
                machine,
                file,
                projector,
                inputs.projector,
                inputs.source.name,
            )
            for name, (weights, file) in zip(names, files, strict=True)
        }


def _file(source: Source, shape: ModelShape, name: str, ghost_path: Path, spec: str | None) -> tuple[Weights, FitFile]:
    """The weights of a variant, and its file."""
    if isinstance(source, GGUFSource) and is_file(name):
        weights = sum(tensor.elements for tensor in source.tensors)
        bits = 8 * sum(tensor.nbytes for tensor in source.tensors) / weights
        types = WeightTypes.of(shape, source.tensors)
        file = FitFile(spec or str(source.path), source.file_bytes, bits, exact=True, planned=False, types=types)
        return Weights.of(shape, source.tensors), file
    chosen = recipe(name)
    plan = plan_file(source, chosen, ghost_path)
    missing = missing_vocabulary_bytes(source)
    size = header_bytes(plan.metadata, plan.tensors) + data_bytes(plan.tensors) + missing
    path, types = f"{source.name}-{chosen.title}.gguf", WeightTypes.of(shape, plan.tensors)
    file = FitFile(path, size, plan.bits_per_weight, exact=not missing, planned=True, types=types)
    return Weights.of(shape, plan.tensors), file


QUANTS = FitKind(_quant_name, _default_quants, _quant_rows, has_draft=True, runs_in_llama_cpp=True)
FILES = FitKind(str, _default_files, _file_rows, is_file=True, has_draft=True, runs_in_llama_cpp=True)
HUB_FILES = FitKind(str, lambda _inputs: [], _file_rows, is_file=True, has_draft=True, runs_in_llama_cpp=True)
