"""What a layer's linear layers read: sums over the calibration tokens, gathered by hooks in one pass.

Linear layers that read the same tensor (Q, K and V; gate and up) share one sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from converters.errors import InputError
from int8.experts import Experts


@dataclass
class InputSums:
    """Sums over the inputs x of a linear layer, in float32 on the layer's device.

    `tokens`: their number. `second` [columns, columns]: sum of x x^T. `magnitude` [columns]: sum of |x|. `highest`
    [columns]: the largest |x|. `shift` [columns, columns], only for GPTAQ: sum of (x_float - x) x^T, where x_float is
    the input of the same layer in the unquantized model.
    """

    tokens: int
    second: Tensor
    magnitude: Tensor
    highest: Tensor
    shift: Tensor | None = None

    @classmethod
    def empty(cls, columns: int, device: torch.device) -> InputSums:
        row = torch.zeros(columns, device=device)
        return cls(0, torch.zeros(columns, columns, device=device), row, row.clone())

    def add(self, x: Tensor, unquantized: Tensor | None = None) -> None:
        """Add inputs [..., columns]; `unquantized` are those of the unquantized model for the same tokens."""
        x = x.detach().reshape(-1, x.shape[-1]).float()
        self.tokens += len(x)
        self.second.addmm_(x.T, x)
        magnitudes = x.abs()
        self.magnitude += magnitudes.sum(0)
        self.highest = torch.maximum(self.highest, magnitudes.amax(0) if len(x) else self.highest)
        if unquantized is not None:
            if self.shift is None:
                self.shift = torch.zeros_like(self.second)
            self.shift.addmm_((unquantized.reshape(x.shape).float() - x).T, x)

    @property
    def hessian(self) -> Tensor:
        """H [columns, columns] of the squared error of the outputs, a mean over tokens: 2 / n * sum of x x^T."""
        return self.second * (2 / max(1, self.tokens))

    @property
    def mean_shift(self) -> Tensor | None:
        """`shift`, scaled as `hessian` is."""
        return None if self.shift is None else self.shift * (2 / max(1, self.tokens))

    def divide(self, scales: Tensor) -> None:
        """Make the sums those of x / scales, after `scales` [columns] were folded into what computes x."""
        self.second /= scales[:, None] * scales
        self.magnitude /= scales
        self.highest /= scales
        if self.shift is not None:
            self.shift /= scales[:, None] * scales


class InputRecorder:
    """Sums of the inputs of some linear layers of a decoder layer, while its hooks are attached.

    `sums` has an entry per linear layer; those that read the same tensor, one after the other, have the same object.
    """

    def __init__(self, layer: nn.Module, names: list[str], path: str) -> None:
        self._layer, self._names, self._path = layer, names, path
        self._latest: tuple[str, Tensor] | None = None  # the layer that read a tensor first, and this tensor
        self._first: dict[str, str] = {}
        self._unquantized: dict[str, Tensor] | None = None  # the inputs of the unquantized model's latest batch
        self._is_unquantized = False
        self._routed = False  # experts read what the quantized model's router sends them, of the unquantized model
        self._hidden: dict[Experts, Tensor] = {}  # what experts read in the unquantized model's latest batch
        self.sums: dict[str, InputSums] = {}

    @contextmanager
    def of_unquantized(self) -> Iterator[None]:
        """What passes inside the block are the samples of the unquantized model; the same samples follow."""
        self._unquantized, self._is_unquantized = {}, True
        try:
            yield
        finally:
            self._is_unquantized = False

    def attach(self, stack: ExitStack) -> None:
        """Attach the hooks until `stack` is closed. Sums begin at zero, also if an earlier pass was interrupted."""
        self._latest, self._first, self.sums, self._unquantized, self._hidden = None, {}, {}, None, {}
        for experts in (module for module in self._layer.modules() if isinstance(module, Experts)):
            hook = experts.register_forward_pre_hook(lambda module, inputs: self._route(module, *inputs))
            stack.callback(hook.remove)
        for name in self._names:
            module = self._layer.get_submodule(name)
            hook = module.register_forward_pre_hook(lambda _, inputs, name=name: self._see(name, inputs[0]))
            stack.callback(hook.remove)
        stack.callback(self._forget)

    def _forget(self) -> None:
        self._latest, self._unquantized, self._hidden = None, None, {}

    def _route(self, experts: Experts, hidden: Tensor, chosen: Tensor, shares: Tensor) -> None:
        """Let experts read the same tokens in both models: those that the quantized model's router sends to them."""
        if self._is_unquantized:
            self._hidden[experts] = hidden
        elif experts in self._hidden:
            self._routed = self._is_unquantized = True
            try:
                experts.forward(self._hidden.pop(experts), chosen, shares)  # without hooks, which count tokens
            finally:
                self._routed = self._is_unquantized = False

    def _see(self, name: str, x: Tensor) -> None:
        if self._is_unquantized:
            # Experts come later: the router may send other tokens to them than in the quantized model.
            if self._unquantized is not None and (self._routed or ".experts." not in name):
                self._unquantized[name] = x
            return
        shared = self._latest is not None and self._latest[1] is x
        first = self._first.setdefault(name, self._latest[0] if shared and self._latest else name)
        if first != name:
            if not shared:
                raise AssertionError(f"{self._path}.{name} no longer reads the input of {first}")
            self.sums[name] = self.sums[first]
            return
        self._latest = name, x
        if name not in self.sums:
            self.sums[name] = InputSums.empty(x.shape[-1], x.device)
        # Tokens that experts read in addition, because too few were routed to them, have no counterpart.
        self.sums[name].add(x, None if self._unquantized is None else self._unquantized.pop(name, None))

    def require_all(self) -> None:
        """Raise InputError that names a linear layer whose inputs were never seen or are not finite."""
        for name in self._names:
            found = self.sums.get(name)
            if found is None or not found.tokens:
                raise InputError(
                    f"{self._path}.{name}: no calibration token reached this layer; quantizing it would be a guess."
                    " Use a longer calibration text"
                )
            if not torch.isfinite(found.highest).all() or not torch.isfinite(torch.diag(found.second)).all():
                raise InputError(
                    f"{self._path}.{name}: its inputs or their squares are NaN or infinite with this calibration text;"
                    " the checkpoint is damaged, or another text is needed"
                )
