"""The formulas of a context's memory, to explain llama.cpp's figures and to make them exact to the byte.

llama.cpp says sizes to 0.01 MiB; where a formula agrees with it so far, the formula's value is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from converters.llamacpp.bindings import type_named
from converters.llamacpp.container import Field, text

CELLS = 256  # llama.cpp's steps of a sequence's context
ROUNDING = (1 << 20) // 100  # bytes; what a figure of the log may be off


@dataclass(frozen=True)
class ContextFormulas:
    """Numbers of a model's metadata that its context's memory depends on; 0 where it has none such."""

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
        """From metadata in which the vocabulary's size stands."""
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
        """Bytes of the KV cache for one token and one attention layer."""
        key = type_named(type_k).row_bytes(self.kv_heads * self.key_length)
        return key + type_named(type_v).row_bytes(self.kv_heads * self.value_length)

    def explained_cell(self, type_k: str, type_v: str) -> str:
        """The same in words and numbers."""
        return f"{self.kv_heads} KV heads x ({self.key_length} K {type_k} + {self.value_length} V {type_v})"

    @property
    def state_bytes(self) -> int:
        """Bytes of the recurrent state of one sequence and one linear layer: float32, whatever the cache's type."""
        convolution = max(self.conv_kernel - 1, 0) * (self.inner_size + 2 * self.groups * self.state_size)
        return 4 * (convolution + self.state_size * self.inner_size)

    @property
    def explained_state(self) -> str:
        """The same in words and numbers."""
        return (
            f"4 B x ({self.conv_kernel - 1} x ({self.inner_size} + 2 x {self.groups} x {self.state_size})"
            f" + {self.state_size} x {self.inner_size})"
        )


def exact(logged: int, computed: int) -> int:
    """The formula's value where llama.cpp's rounded one agrees with it, else llama.cpp's, and its rounding on top."""
    return computed if abs(logged - computed) <= ROUNDING else logged + ROUNDING


def padded(context: int) -> int:
    """Cells of a sequence's cache for so many tokens."""
    return -(-context // CELLS) * CELLS
