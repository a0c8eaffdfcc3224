"""Whether llama.cpp can load a model, before it is exported or measured."""

from collections.abc import Iterator
from contextlib import contextmanager

from converters.errors import InputError
from converters.gguf_source import GGUFSource
from converters.llamacpp.ghost import ghost
from converters.llamacpp.memory import require_loadable
from converters.shell import quote
from converters.source import Source


def require_loadable_source(source: Source) -> None:
    """Let llama.cpp load the source without its weights. Takes milliseconds, and up to a second for a vocabulary.

    The vocabulary of a GGUF file is loaded too; that of a checkpoint is made by this program. Raises InputError with
    llama.cpp's reason and, for a GGUF file, its known faults. llama.cpp aborts the process for some files, so a worker
    does this.
    """
    with faults_in_errors(source):
        _load(source)


@contextmanager
def faults_in_errors(source: Source) -> Iterator[None]:
    """Add the known faults of a GGUF file to the message of an InputError that llama.cpp's load of it raises."""
    try:
        yield
    except InputError as error:
        hint = _known_faults(source) if isinstance(source, GGUFSource) else ""
        if not hint:
            raise
        raise InputError(f"{error}{hint}") from error


def _load(source: Source) -> None:
    is_file = isinstance(source, GGUFSource)
    metadata = source.metadata if is_file else source.structure
    with ghost(metadata, source.tensors, vocabulary=is_file) as path:
        require_loadable([path], source.path)


def _known_faults(source: GGUFSource) -> str:
    """The known faults of a file that does not load, and the way to repair them if that is enough."""
    try:
        candidate = source.with_repairs()
    except InputError:  # the repaired contents are invalid in another way, which the user cannot change by --repair
        return ""
    if not candidate.repairs:
        return ""
    faults = "; ".join(repair.fault for repair in candidate.repairs)
    try:
        _load(candidate)
    except InputError as error:
        return f". Known faults: {faults}. They can be repaired, but then {error}"
    requantize = " --requantize" if source.is_quantized else ""
    command = f"sweep convert {quote(str(source.path))} --repair{requantize} --to QUANT"
    return f". Known faults: {faults}. Write a repaired file: {command}"
