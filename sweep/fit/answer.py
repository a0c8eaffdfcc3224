"""Answers what fits: every variant of a model, on the devices asked for.

llama.cpp decides: types by its quantizer's dry run, memory by loads without allocation, both on a ghost of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from converters.catalogue import missing_vocabulary_bytes
from converters.described_source import DescribedSource
from converters.errors import InputError, MissingRuntime
from converters.gguf_source import GGUFSource
from converters.llamacpp import rpc
from converters.llamacpp.container import data_bytes, header_bytes
from converters.llamacpp.ghost import ghost
from converters.plan import foreseen_file
from converters.recipes import QUANTS, recipe
from converters.resolver import FoundModel, ModelForm, Need, find_file, find_model
from converters.source import Source
from int8.recipe import PUBLISHED, Recipe
from int8.recipe import recipe as int8_recipe
from sweep.defaults import DEFAULT_CONTEXT, KV_TYPES
from sweep.fit.account import Account
from sweep.fit.contexts import MAX_SEQUENCES, Contexts
from sweep.fit.fit_report import FitFigure, FitOptions, FitReport, FitRow
from sweep.fit.formulas import ContextFormulas
from sweep.fit.gguf_rows import FitFile, gguf_row
from sweep.fit.hardware import Device
from sweep.fit.layer_bytes import ModelShape, Weights
from sweep.fit.placement import Machine
from sweep.fit.projector import NOT_ASKED, projector_figure
from sweep.fit.torch_memory import PREFIX, int8_row


def fit_here(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
    """The memory of each variant of `model` and where it goes on `devices`; all variants there are where none is named.

    A model is what `find_model` knows, a variant a quant's name, `int8:RECIPE`, `gguf:PATH` or `hub:REPO/FILE`.
    Devices are in llama.cpp's order; one of the kind "cpu" is the host. Without one, the RAM beside simulated devices
    is taken to suffice. Raises InputError where the model, a variant or an option cannot be had.
    """
    _check(options)
    subject = find_model(model, Need.HEADERS)
    source = subject.open(subject.name, requantize=True)
    shape = ModelShape.of(source.structure, source.tensors)
    options = replace(options, context=options.context or min(DEFAULT_CONTEXT, shape.train_context))
    if options.context > shape.train_context:
        raise InputError(
            f"{subject.name}: has a context of {shape.train_context} tokens; {options.context} is too long"
        )
    own = _own_name(subject)
    names = _names(source, own, variants)
    files = {name: source if name == own else _open_file(name) for name in names if is_file(name)}
    projector = projector_figure(_config(source), subject.name) if options.projector else NOT_ASKED
    machine = Machine.of(devices)
    if len(machine.gpus) > rpc.MAX_DEVICES:
        raise InputError(f"llama.cpp divides a model among {rpc.MAX_DEVICES} devices at most, not {len(machine.gpus)}")
    found: dict[str, FitRow] = {}
    with ExitStack() as stack:
        remote = _stand_ins(stack, len(machine.gpus))
        quants = [name for name in names if name in QUANTS]
        for file, wanted in [(source, quants), *((file, [name]) for name, file in files.items())]:
            if wanted:
                found |= _gguf_rows(file, wanted, machine, remote, options, projector)
        for name in names:
            if name.startswith(PREFIX):
                found[name] = int8_row(_recipe(name), source, shape, machine, options, projector)
    return FitReport(
        model=subject.name,
        context=options.context,
        kv_type=",".join(dict.fromkeys((options.kv_type_k, options.kv_type_v))),
        parallel=options.parallel,
        devices=tuple(devices),
        rows=tuple(found[name] for name in names),
        notes=(*subject.notes, *_notes(machine, bool(remote))),
        bytes_read=subject.bytes_read,
    )


def _stand_ins(stack: ExitStack, count: int) -> Sequence[rpc.RemoteDevice]:
    """RPC devices as long as the stack is open, none where llama.cpp cannot have them: then figures are estimates."""
    if not count or not rpc.supported():
        return ()
    try:
        return stack.enter_context(rpc.simulated_devices(count))
    except MissingRuntime:
        return ()


def _config(source: Source) -> Mapping[str, Any]:
    """The model's config.json, empty where it is a GGUF."""
    return source.config if isinstance(source, DescribedSource) else {}


def _check(options: FitOptions) -> None:
    for name, kind in (("K", options.kv_type_k), ("V", options.kv_type_v)):
        if kind not in KV_TYPES:
            raise InputError(f"{kind}: no type of the {name} cache; known: {', '.join(KV_TYPES)}")
    bounds = (
        ("context", options.context, 0, 1 << 31),
        ("parallel", options.parallel, 1, MAX_SEQUENCES),
        ("ubatch", options.ubatch, 1, 1 << 16),
        ("batch", options.batch, 1, 1 << 16),
    )
    for name, value, low, high in bounds:
        if not low <= value <= high:
            raise InputError(f"{name} is {value}; it must be from {low} to {high}")
    if options.flash_attention is False and options.kv_type_v != "f16" and options.kv_type_v != "bf16":
        raise InputError(f"a V cache of {options.kv_type_v} needs flash attention")


def is_file(name: str) -> bool:
    return name.startswith(("gguf:", "hub:"))


def _open_file(name: str) -> Source:
    """The file that a variant is, as it stands."""
    found = find_file(name, Need.HEADERS)
    return found.open(found.name, requantize=True)


def _own_name(found: FoundModel) -> str | None:
    """What the variant is called that the model is as it stands; None of a model that is no GGUF file."""
    if found.form is not ModelForm.GGUF:
        return None
    return f"gguf:{found.path.name}" if found.remote is None else f"hub:{found.remote.names[0].rpartition('/')[2]}"


def _names(source: Source, own: str | None, variants: Sequence[str]) -> list[str]:
    """The variants asked for, each once; or the file itself, what can be made of the model, and the int8 recipes."""
    if variants:
        return list(dict.fromkeys(_known(name) for name in variants))
    if own is not None and isinstance(source, GGUFSource) and source.is_quantized:
        return [own]
    recipes = [] if own else [PREFIX + name for name in PUBLISHED]
    return [*([own] if own else []), *QUANTS, *recipes]


def _known(name: str) -> str:
    name = name.strip()
    if is_file(name):
        return name
    if not name.startswith(PREFIX):
        return recipe(name).name
    _recipe(name)
    return name


def _recipe(name: str) -> Recipe:
    """Of a variant `int8:RECIPE`, a named one or a file of one."""
    try:
        return int8_recipe(name.removeprefix(PREFIX))
    except InputError as error:
        raise InputError(f"{PREFIX}{error}") from error


def _gguf_rows(
    source: Source,
    names: Sequence[str],
    machine: Machine,
    remote: Sequence[rpc.RemoteDevice],
    options: FitOptions,
    projector: FitFigure,
) -> dict[str, FitRow]:
    """Rows of a source's quants, or of the file that it is."""
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
                Account(shape, weights, contexts, formulas, told, machine.copies, projector.bytes),
                machine,
                file,
                projector,
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
    plan = foreseen_file(source, recipe(name), ghost_path)
    missing = missing_vocabulary_bytes(source)
    size = header_bytes(plan.metadata, plan.tensors) + data_bytes(plan.tensors) + missing
    path = f"{source.name}-{name}.gguf"
    return Weights.of(shape, plan.tensors), FitFile(path, size, plan.bits_per_weight, exact=not missing, planned=True)


def _notes(machine: Machine, asked: bool) -> list[str]:
    notes = []
    if machine.gpus and not asked:
        notes.append(
            "llama.cpp has no RPC here, so memory of devices is an estimate; build llama-cpp-python with"
            " CMAKE_ARGS=-DGGML_RPC=ON"
        )
    if machine.gpus and machine.host is None:
        notes.append("RAM beside the devices is taken to suffice; a row tells how much it needs")
    return notes
