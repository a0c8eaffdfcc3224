"""Answers what fits: every variant of a model, on the devices asked for.

llama.cpp decides: types by its quantizer's dry run, memory by loads without allocation, both on a ghost of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from converters.errors import InputError, MissingRuntime
from converters.huggingface_source import HuggingFaceSource
from converters.llamacpp import rpc
from converters.resolver import FoundModel, ModelForm, Need, find_model
from converters.source import Source
from sweep.defaults import DEFAULT_CONTEXT, KV_TYPES
from sweep.fit.contexts import MAX_SEQUENCES
from sweep.fit.fit_report import FitOptions, FitReport, FitRow
from sweep.fit.hardware import Device
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.placement import Machine
from sweep.fit.projector import NOT_ASKED, projector_figure
from sweep.fit.registry import fit_kind, offered
from sweep.fit.subject import FitSubject


def fit_here(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
    """The memory of each variant of `model` and where it goes on `devices`; all variants there are where none is named.

    A model is what `find_model` knows, a variant a quant's name, `int8:RECIPE`, `gguf:PATH` or `hub:REPO/FILE`.
    Devices are in llama.cpp's order; one of the kind "cpu" is the host. Without one, the RAM beside simulated devices
    is taken to suffice. Raises InputError where the model, a variant or an option cannot be had.
    """
    _check(options)
    resolved = find_model(model, Need.HEADERS)
    source = resolved.open(resolved.name, requantize=True)
    shape = ModelShape.of(source.structure, source.tensors)
    options = replace(options, context=options.context or min(DEFAULT_CONTEXT, shape.train_context))
    if options.context > shape.train_context:
        raise InputError(
            f"{resolved.name}: has a context of {shape.train_context} tokens; {options.context} is too long"
        )
    asked = list(dict.fromkeys(fit_kind(name.strip()).known(name.strip()) for name in variants))
    projector = projector_figure(_config(source), resolved.name) if options.projector else NOT_ASKED
    machine = Machine.of(devices)
    if len(machine.gpus) > rpc.MAX_DEVICES:
        raise InputError(f"llama.cpp divides a model among {rpc.MAX_DEVICES} devices at most, not {len(machine.gpus)}")
    found: dict[str, FitRow] = {}
    with ExitStack() as stack:
        remote = _stand_ins(stack, len(machine.gpus))
        subject = FitSubject(source, _own_name(resolved), shape, machine, remote, options, projector)
        names = asked or offered(subject)
        for kind in dict.fromkeys(fit_kind(name) for name in names):
            found |= kind.rows([name for name in names if fit_kind(name) is kind], subject)
    return FitReport(
        model=resolved.name,
        context=options.context,
        kv_type=",".join(dict.fromkeys((options.kv_type_k, options.kv_type_v))),
        parallel=options.parallel,
        devices=tuple(devices),
        rows=tuple(found[name] for name in names),
        notes=(*resolved.notes, *_notes(machine, bool(remote))),
        bytes_read=resolved.bytes_read,
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
    return source.config if isinstance(source, HuggingFaceSource) else {}


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


def _own_name(found: FoundModel) -> str | None:
    """What the variant is called that the model is as it stands; None of a model that is no GGUF file."""
    if found.form is not ModelForm.GGUF:
        return None
    return f"gguf:{found.path.name}" if found.remote is None else f"hub:{found.remote.names[0].rpartition('/')[2]}"


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
