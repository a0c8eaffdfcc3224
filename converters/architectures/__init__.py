"""Families of models: for each family a module that maps a config to GGUF metadata and tensor names.

`layers`, `deltanet` and `hybrid` contain what several families share.
"""

from collections.abc import Collection

from converters.architectures import qwen2, qwen3, qwen3_5, qwen3_moe, qwen3_next, qwen_vl
from converters.architectures.family import Architecture, Config
from converters.errors import InputError
from converters.llamacpp.container import GGUFHeader

ARCHITECTURES: tuple[Architecture, ...] = tuple(
    architecture
    for family in (qwen2, qwen3, qwen3_moe, qwen3_next, qwen3_5, qwen_vl)
    for architecture in family.ARCHITECTURES
)


def architecture(config: Config) -> Architecture:
    """The architecture that a config names. Raises InputError that says what was found."""
    classes = config.get("architectures")
    found = classes[0] if isinstance(classes, list) and classes else None
    for family in ARCHITECTURES:
        if found in family.classes:
            return family
    if config.get("model_type") == "whisper":
        raise InputError(
            "config.json: is a speech model; `sweep run MODEL --preset whisper-int8 --audio DIR` measures it, and"
            " `sweep int8` quantizes it"
        )
    known = ", ".join(name for family in ARCHITECTURES for name in family.classes)
    what = f"{found!r}" if found else f"of model_type {config.get('model_type')!r} (the config names no architecture)"
    raise InputError(
        f"config.json: architecture {what} is not supported; give its F16, BF16 or F32 file that llama.cpp's "
        f"convert_hf_to_gguf.py writes, or a checkpoint of {known}"
    )


def is_known(name: str) -> bool:
    """Whether llama.cpp's name of an architecture is that of a family of this package. Files of others are quantized
    by llama.cpp's own rules."""
    return any(family.name == name for family in ARCHITECTURES)


def check_file(header: GGUFHeader, names: Collection[str]) -> None:
    """Let the architecture of a GGUF file check its header and the names of its tensors. Raises InputError."""
    for family in ARCHITECTURES:
        if family.name == header.architecture:
            family.check_file(header, names)
