"""Answers what fits: every variant of a model, on the devices asked for.

llama.cpp decides: types by its quantizer's dry run, memory by loads without allocation, both on a ghost of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from converters.catalogue import missing_vocabulary_bytes
from converters.errors import InputError
from converters.gguf_source import GGUFSource
from converters.llamacpp import rpc
from converters.llamacpp.container import TensorInfo
from converters.llamacpp.ghost import ghost
from converters.plan import foreseen_file
from converters.recipes import QUANTS, recipe
from converters.source import Source
from sweep.fit.account import Account
from sweep.fit.contexts import MAX_SEQUENCES, Contexts
from sweep.fit.device import Device
from sweep.fit.formulas import ContextFormulas
from sweep.fit.int8 import PREFIX, RECIPES
from sweep.fit.int8_rows import int8_row
from sweep.fit.layers import Shape, Weights
from sweep.fit.report import DEFAULT_CONTEXT, Figure, FitOptions, FitReport, Row
from sweep.fit.rows import File, Machine, gguf_row
from sweep.fit.subject import Subject, open_file, open_subject

KV_TYPES = ("f16", "bf16", "q8_0", "q5_1", "q4_0")
NO_PROJECTOR = Figure(0, "formula", "not asked for")


def fit(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
    """The memory of each variant of `model` and where it goes on `devices`; all variants there are where none is named.

    A model is what `open_subject` knows, a variant a quant's name, `int8:RECIPE`, `gguf:PATH` or `hub:REPO/FILE`.
    Devices are in llama.cpp's order; one of the kind "cpu" is the host. Without one, the RAM beside simulated devices
    is taken to suffice. Raises InputError where the model, a variant or an option cannot be had.
    """
    _check(options)
    subject = open_subject(model)
    shape = Shape.of(subject.source.structure, subject.source.tensors)
    longest = shape.train_context or DEFAULT_CONTEXT
    options = replace(options, context=options.context or min(DEFAULT_CONTEXT, longest))
    if options.context > shape.train_context > 0:
        raise InputError(
            f"{subject.name}: has a context of {shape.train_context} tokens; {options.context} is too long"
        )
    names = _names(subject, variants)
    files = {name: subject.file if name == _own_name(subject) else open_file(name) for name in names if _is_file(name)}
    machine = Machine.of(devices)
    found: dict[str, Row] = {}
    with ExitStack() as stack:
        asks = bool(machine.gpus) and rpc.supported()
        remote = stack.enter_context(rpc.simulated_devices(len(machine.gpus))) if asks else ()
        quants = [name for name in names if name in QUANTS]
        for source, wanted in [(subject.source, quants), *((file, [name]) for name, file in files.items() if file)]:
            if wanted:
                found |= _gguf_rows(source, wanted, machine, remote, options)
        for name in names:
            if name.startswith(PREFIX):
                found[name] = int8_row(name, subject.source, shape, machine, options)
    return FitReport(
        model=subject.name,
        context=options.context,
        kv_type=",".join(dict.fromkeys((options.kv_type_k, options.kv_type_v))),
        parallel=options.parallel,
        devices=tuple(devices),
        rows=tuple(found[name] for name in names),
        notes=(*subject.notes, *_notes(machine, asks)),
        bytes_read=subject.bytes_read,
    )


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


def _is_file(name: str) -> bool:
    return name.startswith(("gguf:", "hub:"))


def _own_name(subject: Subject) -> str | None:
    """What the variant is called that the model is as it stands."""
    if subject.file is None:
        return None
    return f"{'gguf' if subject.bytes_read is None else 'hub'}:{subject.file.path.name}"


def _names(subject: Subject, variants: Sequence[str]) -> list[str]:
    """The variants asked for, each once; or the file itself, what can be made of the model, and the int8 recipes."""
    own = _own_name(subject)
    if variants:
        return list(dict.fromkeys(_known(name) for name in variants))
    if subject.file is not None and subject.file.is_quantized:
        return [str(own)]
    recipes = [] if own else [PREFIX + name for name in RECIPES]
    return [*([own] if own else []), *QUANTS, *recipes]


def _known(name: str) -> str:
    name = name.strip()
    if _is_file(name):
        return name
    if not name.startswith(PREFIX):
        return recipe(name).name
    if name.removeprefix(PREFIX) not in RECIPES:
        raise InputError(f"{name}: no such recipe; known: {', '.join(PREFIX + one for one in RECIPES)}")
    return name


def _gguf_rows(
    source: Source, names: Sequence[str], machine: Machine, remote: Sequence[rpc.RemoteDevice], options: FitOptions
) -> dict[str, Row]:
    """Rows of a source's quants, or of the file that it is."""
    shape, formulas = Shape.of(source.structure, source.tensors), ContextFormulas.of(source.structure)
    state = formulas.state_bytes * shape.linear_layers
    with ghost(source.structure, source.tensors) as path:
        contexts = Contexts(path, shape, options, source.name, remote, state)
        with ThreadPoolExecutor(2) as pool:  # they wait for llama.cpp, which lets other threads go on
            telling = pool.submit(contexts.memory, True, options.context)
            files = list(pool.map(lambda name: _file(source, name, path), names))
            told = telling.result()
        return {
            name: gguf_row(
                name,
                Account(shape, Weights.of(shape, tensors), contexts, formulas, told, machine.copies),
                machine,
                file,
                NO_PROJECTOR,
            )
            for name, (tensors, file) in zip(names, files, strict=True)
        }


def _file(source: Source, name: str, ghost_path: Path) -> tuple[tuple[TensorInfo, ...], File]:
    """The tensors of a variant in its file, and the file."""
    if isinstance(source, GGUFSource) and _is_file(name):
        weights = sum(tensor.elements for tensor in source.tensors)
        bits = 8 * sum(tensor.nbytes for tensor in source.tensors) / weights
        return source.tensors, File(str(source.path), source.file_bytes, bits, exact=True, planned=False)
    plan = foreseen_file(source, recipe(name), ghost_path)
    missing = missing_vocabulary_bytes(source)
    file = f"{source.name}-{name}.gguf"
    return plan.tensors, File(file, plan.file_bytes + missing, plan.bits_per_weight, exact=not missing, planned=True)


def _notes(machine: Machine, asked: bool) -> list[str]:
    notes = []
    if machine.gpus and not asked:
        notes.append(
            "this build of llama.cpp has no RPC, so memory of devices is an estimate; build llama-cpp-python with"
            " CMAKE_ARGS=-DGGML_RPC=ON"
        )
    if machine.gpus and machine.host is None:
        notes.append("RAM beside the devices is taken to suffice; a row tells how much it needs")
    return notes
