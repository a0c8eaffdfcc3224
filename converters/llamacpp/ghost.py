"""Ghost files: GGUF files with a real header and length, but a hole instead of data. They take a few kilobytes on disk.

llama.cpp can say from a ghost which type each tensor would get and how much memory the model would take, because both
depend only on names, shapes and metadata.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from converters.errors import InputError
from converters.llamacpp.container import Field, TensorInfo, data_bytes, encode_header, lay_out, string, text, uint32


@contextmanager
def ghost(metadata: Mapping[str, Field], tensors: Sequence[TensorInfo], vocabulary: bool = False) -> Iterator[Path]:
    """Make a ghost of the model with this metadata and these tensors, in a temporary directory; yields its path.

    Without `vocabulary` only the vocabulary's size is kept: llama.cpp's answers stay the same and come several times
    faster. Raises InputError if the file system has no sparse files.
    """
    tensors = lay_out((tensor.name, tensor.shape, tensor.type) for tensor in tensors)
    header = encode_header(metadata if vocabulary else without_vocabulary(metadata), tensors)
    with tempfile.TemporaryDirectory(prefix="bitsweep-ghost-") as directory:
        path = Path(directory) / "ghost.gguf"
        try:
            with path.open("wb") as file:
                file.write(header)
                file.truncate(len(header) + data_bytes(tensors))
        except OSError as error:
            raise InputError(
                f"{directory}: a sparse file of {data_bytes(tensors)} bytes cannot be created here ({error.strerror});"
                " set TMPDIR to a file system that has sparse files"
            ) from error
        yield path


@contextmanager
def vocabulary(metadata: Mapping[str, Field]) -> Iterator[Path]:
    """Make a temporary file with metadata and the whole vocabulary, which is enough to tokenize; yields its path.

    Raises InputError if it cannot be written.
    """
    content = encode_header(metadata, [])
    with tempfile.TemporaryDirectory(prefix="bitsweep-vocabulary-") as directory:
        path = Path(directory) / "vocabulary.gguf"
        try:
            path.write_bytes(content)
        except OSError as error:
            raise InputError(
                f"{directory}: the vocabulary, {len(content)} bytes, cannot be written here ({error.strerror}); set"
                " TMPDIR to a directory with free space"
            ) from error
        yield path


def without_vocabulary(metadata: Mapping[str, Field]) -> dict[str, Field]:
    """The metadata with the vocabulary's size in place of `tokenizer.*`, for a file with the default alignment."""
    kept = {key: field for key, field in metadata.items() if not key.startswith("tokenizer.")}
    kept.pop("general.alignment", None)  # a ghost has llama.cpp's default alignment
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is not None:
        kept[f"{text(metadata, 'general.architecture')}.vocab_size"] = uint32(tokens.count)
    kept["tokenizer.ggml.model"] = string("no_vocab")
    return kept
