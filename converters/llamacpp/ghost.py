"""Ghost GGUF files: header and length of a real one, data a hole. A few kilobytes on disk, whatever the model.

llama.cpp answers from them which type each tensor would get and how much memory it would take, because both depend on
names, shapes and metadata alone.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from converters.errors import InputError
from converters.llamacpp.container import Field, TensorInfo, data_bytes, encode_header, lay_out, string, text, uint32


@contextmanager
def ghost(metadata: Mapping[str, Field], tensors: Sequence[TensorInfo]) -> Iterator[Path]:
    """A ghost of the model with this metadata and these tensors, in a temporary directory that goes with the block.

    A vocabulary is left out (its size is kept): llama.cpp's answers are the same without, and several times faster.
    """
    tensors = lay_out((tensor.name, tensor.shape, tensor.type) for tensor in tensors)
    header = encode_header(without_vocabulary(metadata), tensors)
    with tempfile.TemporaryDirectory(prefix="bitsweep-ghost-") as directory:
        path = Path(directory) / "ghost.gguf"
        try:
            with path.open("wb") as file:
                file.write(header)
                file.truncate(len(header) + data_bytes(tensors))
        except OSError as error:
            raise InputError(
                f"{directory}: a sparse file of {data_bytes(tensors)} bytes cannot be made here ({error.strerror});"
                " set TMPDIR to a file system that has sparse files"
            ) from error
        yield path


@contextmanager
def vocabulary(metadata: Mapping[str, Field]) -> Iterator[Path]:
    """A file of the metadata alone, vocabulary and all: enough to tokenize by. It goes with the block."""
    with tempfile.TemporaryDirectory(prefix="bitsweep-vocabulary-") as directory:
        path = Path(directory) / "vocabulary.gguf"
        path.write_bytes(encode_header(metadata, []))
        yield path


def without_vocabulary(metadata: Mapping[str, Field]) -> dict[str, Field]:
    """The metadata with `tokenizer.*` replaced by the vocabulary's size, fit for a file of default alignment."""
    kept = {key: field for key, field in metadata.items() if not key.startswith("tokenizer.")}
    kept.pop("general.alignment", None)  # a ghost has llama.cpp's default one
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is not None:
        kept[f"{text(metadata, 'general.architecture')}.vocab_size"] = uint32(tokens.count)
    kept["tokenizer.ggml.model"] = string("no_vocab")
    return kept
