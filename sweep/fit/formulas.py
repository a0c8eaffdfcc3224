"""Formulas for the memory of a context, which explain llama.cpp's figures and make them exact to the byte.

llama.cpp's log gives sizes rounded to 0.01 MiB. If a formula agrees with such a figure, its exact value is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from converters.llamacpp.bindings import type_named
from converters.llamacpp.container import Field, text

CELLS = 256  # llama.cpp pads the context of a sequence to a multiple of this
ROUNDING = (1 << 20) // 100  # rounding of the log's figures in bytes


@dataclass(frozen=True)
class ContextFormulas:
    """The numbers of a model's metadata that the memory of its context depends on; 0 if the model does not have one."""

    kv_heads: int
    key_length: int
    value_length: int
    conv_kernel: int
    inner_size: int
    groups: int
    state_size: int
    vocabulary: int
    embedding: int

    @classmethod
    def of(cls, structure: Mapping[str, Field]) -> ContextFormulas:
        """From a model's metadata, which must contain the size of the vocabulary."""
        architecture = text(structure, "general.architecture")

        def number(key: str, default: int = 0) -> int:
            field = structure.get(f"{architecture}.{key}")
            value = default if field is None else field.value
            return int(max(value) if isinstance(value, list) else value)

        heads = number("attention.head_count", 1)
        length = number("embedding_length") // max(heads, 1)
        return cls(
            kv_heads=number("attention.head_count_kv", heads),
            key_length=number("attention.key_length", length),
            value_length=number("attention.value_length", length),
            conv_kernel=number("ssm.conv_kernel"),
            inner_size=number("ssm.inner_size"),
            groups=number("ssm.group_count"),
            state_size=number("ssm.state_size"),
            vocabulary=number("vocab_size"),
            embedding=number("embedding_length"),
        )

    def cell_bytes(self, type_k: str, type_v: str) -> int:
        """Bytes of the KV cache per token and attention layer."""
        key = type_named(type_k).row_bytes(self.kv_heads * self.key_length)
        return key + type_named(type_v).row_bytes(self.kv_heads * self.value_length)

    def explained_cell(self, type_k: str, type_v: str) -> str:
        """`cell_bytes` as text with numbers."""
        return f"{self.kv_heads} KV heads x ({self.key_length} K {type_k} + {self.value_length} V {type_v})"

    @property
    def state_bytes(self) -> int:
        """Bytes of the recurrent state per sequence and linear layer: always float32, whatever the KV cache's type."""
        convolution = max(self.conv_kernel - 1, 0) * (self.inner_size + 2 * self.groups * self.state_size)
        return 4 * (convolution + self.state_size * self.inner_size)

    @property
    def explained_state(self) -> str:
        """`state_bytes` as text with numbers."""
        return (
            f"4 B x ({self.conv_kernel - 1} x ({self.inner_size} + 2 x {self.groups} x {self.state_size})"
            f" + {self.state_size} x {self.inner_size})"
        )


def counted_sequences(parallel: int) -> str:
    """ "1 sequence", "4 sequences"."""
    return f"{parallel} sequence{'' if parallel == 1 else 's'}"


def exact(logged: int, computed: int) -> int:
    """`computed` bytes if llama.cpp's rounded figure agrees with it; otherwise llama.cpp's figure plus its rounding."""
    return computed if abs(logged - computed) <= ROUNDING else logged + ROUNDING


def padded(context: int) -> int:
    """KV cells of a sequence with `context` tokens: the next multiple of CELLS."""
    return -(-context // CELLS) * CELLS
