"""The calibration passes of all samples through one layer, with observers: before its folds, and after them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from int8.architectures import AttentionModules
from int8.expert_tokens import ExpertTokens
from int8.fakequant import attentions, quantized_parts
from int8.fold import FoldRule
from int8.layer_inputs import StackInputs
from int8.observers import ChannelMaxObserver, RangeObserver, require_finite
from int8.recipe import Activations, Insertion, Recipe, Scales
from int8.statistics import Statistics, stack_range

OBSERVED_ATTENTION = "bitsweep_calibration"
"""transformers' name of the attention function that observes Q and K after RoPE."""

Observer = Callable[[Tensor], None]


class LayerPasses:
    """The passes of the samples through the layer number `index` of a stack. Statistics have its `key`; messages call
    it `path`."""

    def __init__(
        self,
        layer: nn.Module,
        index: int,
        key: str,
        path: str,
        recipe: Recipe,
        inputs: StackInputs,
        statistics: Statistics,
    ) -> None:
        self._layer, self._index, self._key, self._path = layer, index, key, path
        self._recipe, self._inputs, self._statistics = recipe, inputs, statistics

    def measure_maxima(self, rules: list[FoldRule], last: bool) -> None:
        """Measure the largest magnitude of each channel that a fold will scale."""
        found: dict[str, tuple[FoldRule, ChannelMaxObserver]] = {}
        self._pass(lambda stack: self._watch_folds(stack, rules, found), last)
        self._keep_maxima(found)

    def measure_channels(self, rules: list[FoldRule], linears: list[str]) -> None:
        """Measure in one pass, without folds, the maxima for all folds and the range of every single channel.

        The channels are those that any recipe may quantize. Q and K are observed at both places, "self_attn.query" and
        "self_attn.query.rope".
        """
        maxima: dict[str, tuple[FoldRule, ChannelMaxObserver]] = {}
        found: dict[str, RangeObserver] = {}

        def watch(stack: ExitStack) -> None:
            self._watch_folds(stack, rules, maxima)
            for name in linears:
                seen = found[name] = self._range("channel", 1)
                self._watch_input(stack, name, _as_one_head(seen.observe))
            for attention, modules in attentions(self._layer):
                for name, at, suffix in (
                    *((part, Insertion.PROJECTION, "") for part in ("query", "key", "value")),
                    *((part, Insertion.ROPE, ".rope") for part in ("query", "key")),
                ):
                    seen = found[f"{modules.path}.{name}{suffix}"] = self._range("channel", 1)
                    self._watch_attention(stack, attention, modules, name, at, seen.observe)

        self._pass(watch, last=True)
        self._keep_maxima(maxima)
        self._keep_ranges(found)

    def measure_ranges(self, linears: list[str]) -> None:
        """Measure the ranges of the inputs of linear layers, and of Q, K and V."""
        found: dict[str, RangeObserver] = {}

        def watch(stack: ExitStack) -> None:
            for name in linears:
                if self._recipe.activations_of(name) is not Activations.STATIC:
                    continue
                width = self._layer.get_submodule(name).get_parameter("weight").shape[1]
                seen = found[name] = self._range("tensor", width)
                self._watch_input(stack, name, seen.observe)
            for attention, modules in attentions(self._layer):
                for name, scales in quantized_parts(self._recipe):
                    seen = found[f"{modules.path}.{name}"] = self._range(
                        scales, _group_width(attention, modules, name, scales)
                    )
                    self._watch_attention(stack, attention, modules, name, self._recipe.insertion, seen.observe)

        self._pass(watch, last=True)
        self._keep_ranges(found)

    def _keep_maxima(self, found: Mapping[str, tuple[FoldRule, ChannelMaxObserver]]) -> None:
        for key, (rule, seen) in found.items():
            if seen.value is not None:
                require_finite(seen.value, f"{self._path}.{rule.producer}")
                self._statistics.channel_max[key] = seen.value.cpu()

    def _keep_ranges(self, found: Mapping[str, RangeObserver]) -> None:
        for name, seen in found.items():
            ends = seen.ends()
            assert ends is not None  # experts that no token reached have read the first tokens
            require_finite(torch.stack(ends), f"{self._path}.{name}")
            self._statistics.ranges[f"{self._key}.{name}"] = stack_range(*ends)

    def _range(self, grouping: str, width: int) -> RangeObserver:
        return RangeObserver(grouping, self._recipe.percentile, self._inputs.n_tokens * width)

    def _watch_folds(
        self, stack: ExitStack, rules: list[FoldRule], found: dict[str, tuple[FoldRule, ChannelMaxObserver]]
    ) -> None:
        for rule in rules:
            seen = ChannelMaxObserver()
            found[f"{self._key}.{rule.fold}.{rule.producer}"] = rule, seen
            if rule.producer.endswith("layernorm"):  # observed at the output, because an expert reads only some tokens
                self._watch_output(stack, rule.producer, seen.observe)
            else:
                self._watch_input(stack, rule.consumers[0], seen.observe)

    def _watch_input(self, stack: ExitStack, path: str, observe: Observer) -> None:
        hook = self._layer.get_submodule(path).register_forward_pre_hook(lambda _, inputs: observe(inputs[0]))
        stack.callback(hook.remove)

    def _watch_output(self, stack: ExitStack, path: str, observe: Observer) -> None:
        hook = self._layer.get_submodule(path).register_forward_hook(lambda _, inputs, out: observe(out))
        stack.callback(hook.remove)

    def _watch_attention(
        self,
        stack: ExitStack,
        attention: nn.Module,
        modules: AttentionModules,
        name: str,
        at: Insertion,
        observe: Observer,
    ) -> None:
        """Observe Q, K or V [..., heads, head_dim] at the place where a recipe with insertion `at` quantizes it."""
        width = attention.head_dim
        if name == "value":
            self._watch_output(
                stack, f"{modules.path}.{modules.value}", lambda out: observe(out.unflatten(-1, (-1, width)))
            )
        elif at is Insertion.PROJECTION:
            is_query = name == "query"
            norm, linear = (modules.query_norm, modules.query) if is_query else (modules.key_norm, modules.key)
            if norm is not None:
                self._watch_input(stack, f"{modules.path}.{norm}", observe)
            else:
                self._watch_output(
                    stack, f"{modules.path}.{linear}", lambda out: observe(out.unflatten(-1, (-1, width)))
                )
        else:
            watched = _AT_ROPE.setdefault(attention, {})
            watched[name] = observe
            stack.callback(watched.clear)

    def _pass(self, watch: Callable[[ExitStack], None], last: bool) -> None:
        """Run the samples through the layer with the hooks of `watch`; the `last` pass gives the next layer's inputs.

        If the device runs out of memory, the pass is repeated once with half the batch.
        """
        while True:
            with ExitStack() as stack:
                watch(stack)
                experts = ExpertTokens(self._layer, stack)
                try:
                    self._inputs.run(self._layer, self._index, last)
                    experts.show_few()
                    break
                except torch.OutOfMemoryError as error:
                    if not self._inputs.halve():
                        raise self._inputs.too_large(self._path) from error
        for number, count in enumerate(experts.counts):
            self._statistics.expert_tokens[f"{self._key}.{number}"] = count


def _as_one_head(observe: Observer) -> Observer:
    """An observer for x [..., channels] from one that takes [..., heads, channels]."""
    return lambda x: observe(x.unsqueeze(-2))


def _group_width(attention: nn.Module, modules: AttentionModules, name: str, scales: Scales) -> int:
    """The number of values per token that share one scale of Q, K or V."""
    width = int(attention.head_dim)  # type: ignore[arg-type]  # torch types every attribute as a module
    if scales is Scales.TENSOR:  # the projection of Q may have a gate as well
        linear, axis = (modules.output, 1) if name == "query" else (modules.key, 0)
        return int(attention.get_submodule(linear).get_parameter("weight").shape[axis])
    return width if scales is Scales.HEAD else 1


_AT_ROPE: WeakKeyDictionary[nn.Module, dict[str, Observer]] = WeakKeyDictionary()
"""Attention module -> observers of Q and K after norm and RoPE, which no module has as its input or output."""


def _watching_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    watched = _AT_ROPE.get(module, {})
    for name, states in (("query", query), ("key", key)):
        if name in watched:
            watched[name](states.transpose(1, 2))
    out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return out


AttentionInterface.register(OBSERVED_ATTENTION, _watching_attention)
AttentionMaskInterface.register(OBSERVED_ATTENTION, sdpa_mask)
