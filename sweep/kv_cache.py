"""The types of llama.cpp's KV cache that a user can choose."""

from __future__ import annotations

from dataclasses import dataclass

from converters.errors import InputError
from sweep.defaults import KV_TYPES


@dataclass(frozen=True)
class KVCache:
    """The types of a KV cache: of K and of V. As text it is one type if both are equal, otherwise "K,V"."""

    k: str = "f16"
    v: str = "f16"

    @classmethod
    def parse(cls, text: str) -> KVCache:
        """The types of "q8_0" (both) or "f16,q8_0" (K and V). Raises InputError."""
        types = [name.strip().lower() for name in text.split(",")]
        if len(types) > 2 or not all(types):
            raise InputError(f"--kv-type {text!r} is neither one type nor two (K,V); write it as f16,q8_0")
        found = cls(types[0], types[-1])
        found.check()
        return found

    def check(self) -> None:
        """Raise InputError for a type that cannot be chosen."""
        for name, kind in (("K", self.k), ("V", self.v)):
            if kind not in KV_TYPES:
                raise InputError(
                    f"{kind or 'nothing'} is not a type of the {name} cache; choose one of {', '.join(KV_TYPES)}"
                )

    @property
    def is_default(self) -> bool:
        return self == DEFAULT

    def __str__(self) -> str:
        return self.k if self.k == self.v else f"{self.k},{self.v}"


DEFAULT = KVCache()
