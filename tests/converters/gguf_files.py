"""Changes GGUF files: other names of tensors, other metadata, tensors more or less."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from converters.llamacpp.bindings import TYPES
from converters.llamacpp.container import Field, encode_header, lay_out, padded
from converters.llamacpp.reader import read_header


def rewrite(
    source: Path,
    target: Path,
    *,
    renamed: Callable[[str], str | None] = lambda name: name,
    more: Mapping[str, np.ndarray] | None = None,
    fields: Mapping[str, Field] | None = None,
    without: Sequence[str] = (),
) -> Path:
    """Copy a GGUF file with changes. `renamed` gives None for a tensor to leave out; keys of `fields` and `without`
    have no architecture in front of them, unless they begin with "tokenizer.". Tensors in `more` become F32."""
    header, data = read_header(source), source.read_bytes()

    def whole(key: str) -> str:
        return key if key.startswith("tokenizer.") else f"{header.architecture}.{key}"

    dropped = set(map(whole, without))
    metadata = {key: field for key, field in header.metadata.items() if key not in dropped}
    metadata |= {whole(key): field for key, field in (fields or {}).items()}
    tensors = [
        (name, one.shape, one.type, data[header.data_offset + one.offset :][: one.nbytes])
        for one in header.tensors
        if (name := renamed(one.name)) is not None
    ]
    tensors += [
        (name, values.shape, TYPES["F32"], values.astype(np.float32).tobytes()) for name, values in (more or {}).items()
    ]
    infos = lay_out(tensor[:3] for tensor in tensors)
    content = b"".join(tensor[3].ljust(padded(info.nbytes), b"\0") for info, tensor in zip(infos, tensors, strict=True))
    target.write_bytes(encode_header(metadata, infos) + content)
    return target
