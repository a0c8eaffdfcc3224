"""Rows of GGUF files: of those there are, and of quants that can be made of a model."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from converters import recipes
from converters.catalogue import missing_vocabulary_bytes
from converters.gguf_source import GGUFSource
from converters.llamacpp.container import data_bytes, header_bytes
from converters.llamacpp.ghost import ghost
from converters.plan import plan_file
from converters.recipes import recipe
from converters.resolver import Need, find_file
from converters.source import Source
from sweep.fit.account import Account
from sweep.fit.contexts import Contexts
from sweep.fit.fit_report import FitRow
from sweep.fit.formulas import ContextFormulas
from sweep.fit.gguf_rows import FitFile, gguf_row
from sweep.fit.layer_bytes import ModelShape, Weights
from sweep.fit.registry import FitKind
from sweep.fit.subject import FitSubject


def is_file(name: str) -> bool:
    return name.startswith(("gguf:", "hub:"))


def _known_quant(name: str) -> str:
    return recipe(name).name


def _offered_quants(subject: FitSubject) -> Sequence[str]:
    """Those of a model that is not quantized yet."""
    return [] if isinstance(subject.source, GGUFSource) and subject.source.is_quantized else list(recipes.QUANTS)


def _quant_rows(names: Sequence[str], subject: FitSubject) -> dict[str, FitRow]:
    return _rows(subject.source, names, subject)


def _offered_files(subject: FitSubject) -> Sequence[str]:
    """What the model is as it stands."""
    return [] if subject.own is None else [subject.own]


def _file_rows(names: Sequence[str], subject: FitSubject) -> dict[str, FitRow]:
    found: dict[str, FitRow] = {}
    for name in names:
        found |= _rows(subject.source if name == subject.own else _opened(name), [name], subject)
    return found


def _opened(name: str) -> Source:
    """The file that a variant is, as it stands."""
    found = find_file(name, Need.HEADERS)
    return found.open(found.name, requantize=True)


def _rows(source: Source, names: Sequence[str], subject: FitSubject) -> dict[str, FitRow]:
    """Of a source's quants, or of the file that it is."""
    machine, remote, options = subject.machine, subject.remote, subject.options
    shape, formulas = ModelShape.of(source.structure, source.tensors), ContextFormulas.of(source.structure)
    state = formulas.state_bytes * shape.linear_layers
    with (
        ghost(source.structure, source.tensors) as path,
        Contexts(path, shape, options, source.name, remote, state, formulas.embedding) as contexts,
    ):
        if not remote:
            contexts.prepare()  # takes most memory, the state of linear layers: nothing else should at the same time
        with ThreadPoolExecutor(2) as pool:  # one plans types while the other loads: llama.cpp lets go of Python
            telling = pool.submit(contexts.prepare)
            files = list(pool.map(lambda name: _file(source, shape, name, path), names))
            told = telling.result()
        return {
            name: gguf_row(
                name,
                Account(shape, weights, contexts, formulas, told, machine.copies, subject.projector.bytes),
                machine,
                file,
                subject.projector,
            )
            for name, (weights, file) in zip(names, files, strict=True)
        }


def _file(source: Source, shape: ModelShape, name: str, ghost_path: Path) -> tuple[Weights, FitFile]:
    """What a variant's tensors take, and its file."""
    if isinstance(source, GGUFSource) and is_file(name):
        weights = sum(tensor.elements for tensor in source.tensors)
        bits = 8 * sum(tensor.nbytes for tensor in source.tensors) / weights
        file = FitFile(str(source.path), source.file_bytes, bits, exact=True, planned=False)
        return Weights.of(shape, source.tensors), file
    plan = plan_file(source, recipe(name), ghost_path)
    missing = missing_vocabulary_bytes(source)
    size = header_bytes(plan.metadata, plan.tensors) + data_bytes(plan.tensors) + missing
    path = f"{source.name}-{name}.gguf"
    return Weights.of(shape, plan.tensors), FitFile(path, size, plan.bits_per_weight, exact=not missing, planned=True)


QUANTS = FitKind(_known_quant, _offered_quants, _quant_rows)
FILES = FitKind(str, _offered_files, _file_rows)
HUB_FILES = FitKind(str, lambda _subject: [], _file_rows)
