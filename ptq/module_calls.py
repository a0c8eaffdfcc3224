"""A module of a decoder layer, run again on the inputs that it had in a pass over the calibration samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

CACHES = ("past_key_values", "past_key_value")
"""Arguments that are not replayed: a cache would grow with every run, and its keys would be read again."""


class ModuleCalls:
    """The calls of a module while its hook is attached: all arguments, among them attention's position embeddings."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def attach(self, stack: ExitStack) -> None:
        """Attach the hook until `stack` is closed. Calls of an earlier pass, which was interrupted, are forgotten."""
        self._calls = []
        stack.callback(self._module.register_forward_pre_hook(self._see, with_kwargs=True).remove)

    def _see(self, module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._calls.append((args, {key: value for key, value in options.items() if key not in CACHES}))

    def run(self) -> Iterator[Tensor]:
        """The module's outputs, call by call, with the weights that it has now."""
        for args, options in self._calls:
            out = self._module(*args, **options)
            yield out[0] if isinstance(out, tuple) else out  # attention also returns its weights
