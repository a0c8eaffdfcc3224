"""Computes the fit report: the memory and placement of every variant of a model on the given devices.

llama.cpp itself computes the figures: tensor types by a dry run of its quantizer, memory by loads without allocation.
Both use a ghost of the model, a file with its metadata and tensor shapes but without weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from converters.errors import InputError, MissingRuntime
from converters.gguf_repository import publisher_names
from converters.llamacpp import rpc
from converters.llamacpp.container import Field
from converters.recipes import projector_recipes
from converters.resolver import FoundModel, ModelForm, Need, find_model, find_repository, names_repository
from converters.source import Source
from presets.long_context import Yarn, long_context
from sweep.defaults import DEFAULT_CONTEXT
from sweep.fit.contexts import MAX_SEQUENCES
from sweep.fit.draft import model_draft
from sweep.fit.fit_inputs import FitInputs, OwnFile, UnreadableFile
from sweep.fit.fit_report import MTP, FitOptions, FitReport, FitRow
from sweep.fit.formulas import ContextFormulas
from sweep.fit.hardware import Device
from sweep.fit.image_tokens import ProjectorFit
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.placement import FitMachine
from sweep.fit.projector import projector_fit
from sweep.fit.registry import default_variants, fit_kind
from sweep.kv_cache import KVCache
from sweep.variant_name import MMPROJ, cache_axis, split_cache, split_projector


def fit_model(
    model: str,
    variants: Sequence[str],
    devices: Sequence[Device],
    options: FitOptions,
    begin: Callable[[str], None] = lambda _: None,
    unreadable: Mapping[str, str] | None = None,
) -> FitReport:
    """The memory of each variant of `model`, and its placement on `devices`.

    Args:
        model: any model that `find_model` accepts.
        variants: names of quants, `int8:RECIPE`, `gguf:PATH` or `hub:REPO/FILE`, those of GGUF variants perhaps with
            `+kv=TYPE` and `+mmproj=TYPE|PATH`; empty: every variant of the model.
        devices: in llama.cpp's order. A device of the kind "cpu" is the host's RAM. Without one, real GPUs are combined
            with this machine's RAM, and simulated GPUs with as much RAM as is needed.
        options: how the model will run.
        begin: called with the path of a file of a repository before llama.cpp reads it, because it can abort.
        unreadable: files of repositories that are left out, by path, with the reasons.

    A file of a repository that llama.cpp rejects is left out too, with a note. Raises InputError if the model or a
    variant is not found, or if an option is out of range.
    """
    _validate(options)
    found, left_out = find_model(model, Need.HEADERS), dict(unreadable or {})
    while True:
        try:
            return _report(found.without(left_out), variants, devices, options, begin, left_out)
        except UnreadableFile as error:
            left_out[error.path] = error.reason


def _report(
    resolved: FoundModel,
    variants: Sequence[str],
    devices: Sequence[Device],
    options: FitOptions,
    begin: Callable[[str], None],
    unreadable: Mapping[str, str],
) -> FitReport:
    """See fit_model. Raises UnreadableFile if llama.cpp rejects a file of a repository."""
    source = resolved.open(resolved.name, requantize=True)
    shape = ModelShape.of(source.structure, source.tensors)
    if options.draft == MTP and not shape.mtp:
        raise InputError(
            f"{resolved.name}: this model has no layers for multi-token prediction; give a smaller model as the draft"
        )
    counts = options.projector or bool(options.mmproj or options.images)
    projector = _projector(resolved, source, options) if counts else None
    tokens = 0 if projector is None else projector.tokens
    options = replace(options, context=options.context or min(DEFAULT_CONTEXT + tokens, shape.train_context))
    trained = shape.train_context
    if options.context > trained:
        options, shape = _stretched(options, shape, resolved.name, source.structure)
    if tokens >= options.context:
        raise InputError(
            f"{resolved.name}: the images take {tokens} tokens, but the context has {options.context}; give a"
            " longer one by --ctx, or fewer images"
        )
    own_files, names, problems = _own_files(resolved, [name.strip() for name in variants], unreadable)
    named = list(dict.fromkeys(map(_canonical_name, names)))
    machine = FitMachine.of(devices)
    if len(machine.gpus) > rpc.MAX_DEVICES:
        raise InputError(f"{len(machine.gpus)} GPUs; llama.cpp can divide a model among at most {rpc.MAX_DEVICES}")
    found: dict[str, FitRow] = {}
    with ExitStack() as stack:
        remote = _simulated_devices(stack, len(machine.gpus))
        draft = None
        if options.draft not in ("", MTP):
            vocabulary = ContextFormulas.of(source.structure).vocabulary
            draft = stack.enter_context(model_draft(options, shape, vocabulary, remote))
        inputs = FitInputs(source, own_files, shape, machine, remote, options, projector, draft, begin)
        names = named or default_variants(inputs)
        if options.draft:
            names = [name for name in names if fit_kind(name).has_draft or name in named]
            alone = [name for name in names if not fit_kind(name).has_draft]
            if alone:
                raise InputError(
                    f"{', '.join(alone)}: only GGUF variants run with a draft; leave these out of --variants"
                )
        for own in dict.fromkeys(_axes(name) for name in names):
            alike = [name for name in names if _axes(name) == own]
            found |= _rows(alike, _with_axes(inputs, resolved, own))
    return FitReport(
        model=resolved.name,
        context=options.context,
        kv_type=str(options.kv_cache),
        parallel=options.parallel,
        devices=tuple(devices),
        rows=tuple(found[name] for name in names),
        notes=(*resolved.notes, *problems, *_yarn_notes(options.yarn, trained), *_notes(machine, bool(remote))),
        bytes_read=resolved.bytes_read,
        draft=options.draft or None if draft is None else draft.name,
        architecture=shape.architecture,
        trained_context=trained,
        projector=projector,
        yarn=options.yarn,
        unreadable=unreadable,
        published=_published(resolved, own_files),
    )


def _stretched(
    options: FitOptions, shape: ModelShape, model: str, structure: Mapping[str, Field]
) -> tuple[FitOptions, ModelShape]:
    """The options and the model's shape with YaRN, for a context longer than the trained one. Raises InputError if the
    model's makers do not say how, or not for a context of this length."""
    width = int(structure[f"{shape.architecture}.embedding_length"].value)
    known = long_context(shape.architecture, shape.train_context, width)
    if known is None or options.context > known.longest:
        more = "" if known is None else f", and with YaRN {known.longest}"
        raise InputError(
            f"{model}: the model's context is {shape.train_context} tokens{more}; {options.context} is too long"
        )
    if options.draft not in ("", MTP):
        raise InputError(
            f"{model}: a context of more than {shape.train_context} tokens needs YaRN, which llama-server would apply"
            " to the draft too; leave --draft out"
        )
    yarn = known.yarn(options.context)
    longest = min(yarn.factor * yarn.original, known.longest)
    return replace(options, yarn=yarn), replace(shape, train_context=longest)


def _yarn_notes(yarn: Yarn | None, trained: int) -> tuple[str, ...]:
    if yarn is None:
        return ()
    return (
        f"contexts of more than {trained:,} tokens need YaRN, here {yarn.factor} times {yarn.original:,} tokens, which "
        "the command sets. llama.cpp then uses it for short texts too, which costs some accuracy.",
    )


def _canonical_name(name: str) -> str:
    """The variant's name in its canonical spelling, with its KV cache and its projector file if it names them. Raises
    InputError."""
    plain, cache = split_cache(name)
    base, projector = split_projector(plain)
    kind = fit_kind(base)
    if cache is not None and not kind.runs_in_llama_cpp:
        raise InputError(f"{name}: only GGUF variants have types of llama.cpp's KV cache; write {plain}")
    shown = kind.canonical_name(base) + cache_axis(cache)
    if projector is None:
        return shown
    if not kind.runs_in_llama_cpp:
        raise InputError(f"{name}: only GGUF variants have a projector file; leave {MMPROJ}{projector} out")
    if not projector.endswith(".gguf"):
        (projector,) = (recipe.name for recipe in projector_recipes([projector]))
    return f"{shown}{MMPROJ}{projector}"


def _axes(name: str) -> tuple[KVCache | None, str | None]:
    """The KV cache and the projector file that a variant names."""
    plain, cache = split_cache(name)
    return cache, split_projector(plain)[1]


def _projector(model: FoundModel, source: Source, options: FitOptions) -> ProjectorFit:
    """The vision tower. That of a repository on the hub is named as a file there, not by the copy of its header."""
    found = projector_fit(source, model.name, options)
    if model.repository is None or not found.exists:
        return found
    return replace(found, name=model.repository.projector_spec(found.name))


def _with_axes(inputs: FitInputs, model: FoundModel, axes: tuple[KVCache | None, str | None]) -> FitInputs:
    """The inputs of variants that name this KV cache, and the type or the path of this projector file."""
    cache, projector = axes
    if cache is not None:
        options = replace(inputs.options, kv_type_k=cache.k, kv_type_v=cache.v)
        _validate(options)
        inputs = replace(inputs, options=options)
    if projector is None:
        return inputs
    options = replace(inputs.options, mmproj=projector)
    return replace(inputs, options=options, projector=_projector(model, inputs.source, options))


def _rows(names: Sequence[str], inputs: FitInputs) -> dict[str, FitRow]:
    """The rows of variants with the same KV cache and projector file, by name."""
    found: dict[str, FitRow] = {}
    for kind in dict.fromkeys(fit_kind(name) for name in names):
        own = {split_projector(split_cache(name)[0])[0]: name for name in names if fit_kind(name) is kind}
        rows = kind.rows(list(own), inputs)
        found |= {  # a row may have a shorter name, such as that of a recipe without its path
            name: replace(
                rows[base],
                variant=rows[base].variant + name.removeprefix(base),
                kv_type=None if split_cache(name)[1] is None else str(inputs.options.kv_cache),
            )
            for base, name in own.items()
        }
    return found


def _simulated_devices(stack: ExitStack, count: int) -> Sequence[rpc.RemoteDevice]:
    """RPC devices for llama.cpp's loads, until `stack` closes; none if this llama.cpp does not support them."""
    if not count or not rpc.supported():
        return ()
    try:
        return stack.enter_context(rpc.simulated_devices(count))
    except MissingRuntime:
        return ()


def _validate(options: FitOptions) -> None:
    options.kv_cache.check()
    bounds = (
        ("context", options.context, 0, 1 << 31),
        ("parallel", options.parallel, 1, MAX_SEQUENCES),
        ("ubatch", options.ubatch, 1, 1 << 16),
        ("batch", options.batch, 1, 1 << 16),
    )
    for name, value, low, high in bounds:
        if not low <= value <= high:
            raise InputError(f"{name} is {value}; it must be between {low} and {high}")
    if options.flash_attention is False and options.kv_type_v != "f16" and options.kv_type_v != "bf16":
        raise InputError(f"a V cache of {options.kv_type_v} needs flash attention")


def _own_files(
    found: FoundModel, variants: Sequence[str], unreadable: Mapping[str, str]
) -> tuple[dict[str, OwnFile], list[str], list[str]]:
    """The files of the model and of repositories among `variants`, by name, the names of the variants, and notes on
    files of these repositories that are left out.

    A quant that a repository has is one of its files. Raises InputError.
    """
    if found.repository is None and found.form is ModelForm.GGUF:
        name = found.path.name if found.remote is None else found.remote.names[0].rpartition("/")[2]
        return {f"{'gguf' if found.remote is None else 'hub'}:{name}": OwnFile()}, list(variants), []
    # A file may have a name with a folder in it, which has the form of a repository's
    known = {name for name in variants if found.repository is not None and found.repository.find(name) is not None}
    named = {name: find_repository(name) for name in variants if names_repository(name) and name not in known}
    others = {name: one.without(unreadable) for name, one in named.items() if one is not None}
    own = [] if found.repository is None else [found.repository]
    pairs = [(one, file) for one in (*own, *others.values()) for file in one.files]
    names = publisher_names([(one.repository, one.variant(file)) for one, file in pairs])
    files = {name: OwnFile(file.path, one.spec(file)) for name, (one, file) in zip(names, pairs, strict=True)}
    wanted = []
    for name in variants:
        plain, cache = split_cache(name)
        base, projector = split_projector(plain)
        if name in others:
            wanted += [own for own, (one, _) in zip(names, pairs, strict=True) if one is others[name]]
            continue
        file = None if found.repository is None else found.repository.find(base)
        place = None if file is None else next(i for i, (_, one) in enumerate(pairs) if one is file)
        own_name = base if place is None else names[place]
        wanted.append(own_name + cache_axis(cache) + ("" if projector is None else f"{MMPROJ}{projector}"))
    if others and found.repository is not None and len(others) == len(variants):  # in addition to the model's own
        wanted = [*(own for own, (one, _) in zip(names, pairs, strict=True) if one is found.repository), *wanted]
    return files, wanted, [line for one in others.values() for line in one.left_out]


def _published(found: FoundModel, files: Mapping[str, OwnFile]) -> tuple[str, ...]:
    """The names of those of these files that the model's repository has; none if it is no repository."""
    own = set() if found.repository is None else {file.path for file in found.repository.files}
    return tuple(name for name, file in files.items() if file.path in own)


def _notes(machine: FitMachine, has_rpc: bool) -> list[str]:
    notes = []
    if machine.gpus and not has_rpc:
        notes.append(
            "This build of llama.cpp has no RPC, so the compute buffers of the GPUs are estimates. Build"
            " llama-cpp-python with CMAKE_ARGS=-DGGML_RPC=ON to let llama.cpp compute them."
        )
    if machine.gpus and machine.host is None:
        notes.append(
            "The size of RAM is unknown for simulated GPUs; the report assumes that it is large enough."
            " Give the size, for example --ram 64GiB, to check it."
        )
    return notes
