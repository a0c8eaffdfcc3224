"""What calibration looks at while the samples pass through one layer: twice, before its folds and after them."""

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

from int8.activations import LayerInputs
from int8.architectures import AttentionModules
from int8.experts import Experts
from int8.fakequant import attentions, quantized_parts
from int8.fold import Row
from int8.observe import ChannelMax, Range, require_numbers
from int8.recipe import Activations, Insertion, Recipe, Scales
from int8.statistics import Statistics, stack_range

FEW_TOKENS = 16  # an expert that was reached by fewer is shown the first tokens of the text, as if routed to it:
SHOWN_TOKENS = 1024  # so many
WATCHING = "bitsweep_calibration"  # what transformers calls the attention function that shows Q and K after RoPE

See = Callable[[Tensor], None]


class LayerPasses:
    """The passes of the samples through a layer, the decoder's `index`-th; `path` is what messages call it."""

    def __init__(
        self,
        layer: nn.Module,
        index: int,
        path: str,
        recipe: Recipe,
        inputs: LayerInputs,
        statistics: Statistics,
    ) -> None:
        self._layer, self._index, self._path = layer, index, path
        self._recipe, self._inputs, self._statistics = recipe, inputs, statistics

    def smoothing(self, rows: list[Row], last: bool) -> None:
        """The largest magnitude of each channel where a fold's scales will go."""
        found: dict[str, tuple[Row, ChannelMax]] = {}
        self._pass(lambda stack: self._watch_rows(stack, rows, found), last)
        self._keep_maxima(found)

    def channels(self, rows: list[Row], linears: list[str]) -> None:
        """In one pass, with nothing folded: what smoothing sees, and of every channel that any recipe may quantize its
        own range. Q and K are watched at both places, "self_attn.query" and "self_attn.query.rope"."""
        maxima: dict[str, tuple[Row, ChannelMax]] = {}
        found: dict[str, Range] = {}

        def watch(stack: ExitStack) -> None:
            self._watch_rows(stack, rows, maxima)
            for name in linears:
                seen = found[name] = self._range("channel", 1)
                self._watch_input(stack, name, _as_one_head(seen.see))
            for attention, row in attentions(self._layer):
                for name, at, suffix in (
                    *((part, Insertion.PROJECTION, "") for part in ("query", "key", "value")),
                    *((part, Insertion.ROPE, ".rope") for part in ("query", "key")),
                ):
                    seen = found[f"self_attn.{name}{suffix}"] = self._range("channel", 1)
                    self._watch_attention(stack, attention, row, name, at, seen.see)

        self._pass(watch, last=True)
        self._keep_maxima(maxima)
        self._keep_ranges(found)

    def ranges(self, linears: list[str]) -> None:
        """The ranges of the inputs of linear layers, and of Q, K and V."""
        found: dict[str, Range] = {}

        def watch(stack: ExitStack) -> None:
            for name in linears if self._recipe.activations is Activations.STATIC else ():
                width = self._layer.get_submodule(name).get_parameter("weight").shape[1]
                seen = found[name] = self._range("tensor", width)
                self._watch_input(stack, name, seen.see)
            for attention, row in attentions(self._layer):
                for name, scales in quantized_parts(self._recipe):
                    seen = found[f"self_attn.{name}"] = self._range(scales, _group_width(attention, name, scales))
                    self._watch_attention(stack, attention, row, name, self._recipe.insertion, seen.see)

        self._pass(watch, last=True)
        self._keep_ranges(found)

    def _keep_maxima(self, found: Mapping[str, tuple[Row, ChannelMax]]) -> None:
        for key, (row, seen) in found.items():
            if seen.value is not None:
                require_numbers(seen.value, f"{self._path}.{row.producer}")
                self._statistics.channel_max[key] = seen.value.cpu()

    def _keep_ranges(self, found: Mapping[str, Range]) -> None:
        for name, seen in found.items():
            ends = seen.ends()
            assert ends is not None  # experts that no token reached were shown some
            require_numbers(torch.stack(ends), f"{self._path}.{name}")
            self._statistics.ranges[f"{self._index}.{name}"] = stack_range(*ends)

    def _range(self, grouping: str, width: int) -> Range:
        return Range(grouping, self._recipe.percentile, self._inputs.n_tokens * width)

    def _watch_rows(self, stack: ExitStack, rows: list[Row], found: dict[str, tuple[Row, ChannelMax]]) -> None:
        for row in rows:
            seen = ChannelMax()
            found[f"{self._index}.{row.fold}.{row.producer}"] = row, seen
            if row.producer.endswith("layernorm"):  # what all consumers read, whichever tokens an expert gets
                self._watch_output(stack, row.producer, seen.see)
            else:
                self._watch_input(stack, row.consumers[0], seen.see)

    def _watch_input(self, stack: ExitStack, path: str, see: See) -> None:
        hook = self._layer.get_submodule(path).register_forward_pre_hook(lambda _, inputs: see(inputs[0]))
        stack.callback(hook.remove)

    def _watch_output(self, stack: ExitStack, path: str, see: See) -> None:
        hook = self._layer.get_submodule(path).register_forward_hook(lambda _, inputs, out: see(out))
        stack.callback(hook.remove)

    def _watch_attention(
        self, stack: ExitStack, attention: nn.Module, row: AttentionModules, name: str, at: Insertion, see: See
    ) -> None:
        """See Q, K or V [..., heads, head_dim] where a recipe of that insertion quantizes it."""
        width = attention.head_dim
        if name == "value":
            self._watch_output(stack, f"{row.path}.{row.value}", lambda out: see(out.unflatten(-1, (-1, width))))
        elif at is Insertion.PROJECTION:
            norm = row.query_norm if name == "query" else row.key_norm
            self._watch_input(stack, f"{row.path}.{norm}", see)
        else:
            watched = _AT_ROPE.setdefault(attention, {})
            watched[name] = see
            stack.callback(watched.clear)

    def _pass(self, watch: Callable[[ExitStack], None], last: bool) -> None:
        """Run the samples through the layer with `watch`'s hooks; the `last` pass takes them to the next layer.

        A device out of memory gets half the batch, once, and the pass begins anew.
        """
        while True:
            with ExitStack() as stack:
                watch(stack)
                experts = _ExpertCounts(self._layer, stack)
                try:
                    self._inputs.run(self._layer, self._index, last)
                    experts.show_few()
                    break
                except torch.OutOfMemoryError as error:
                    if not self._inputs.halve():
                        raise self._inputs.too_large(self._path) from error
        for number, count in enumerate(experts.counts):
            self._statistics.expert_tokens[f"{self._index}.{number}"] = count


def _as_one_head(see: See) -> See:
    """For x [..., channels], where `see` takes [..., heads, channels]."""
    return lambda x: see(x.unsqueeze(-2))


class _ExpertCounts:
    """How many tokens each expert of a layer gets, and tokens for those that get next to none."""

    def __init__(self, layer: nn.Module, stack: ExitStack) -> None:
        self._experts = next((module for module in layer.modules() if isinstance(module, Experts)), None)
        self._first: list[Tensor] = []
        self.counts: list[int] = []
        if self._experts is not None:
            self.counts = [0] * len(self._experts)
            hook = self._experts.register_forward_pre_hook(lambda _, inputs: self._count(*inputs))
            stack.callback(hook.remove)

    def _count(self, hidden: Tensor, chosen: Tensor, _: Tensor) -> None:
        here = torch.bincount(chosen.flatten(), minlength=len(self.counts)).tolist()
        self.counts = [a + b for a, b in zip(self.counts, here, strict=True)]
        wanted = SHOWN_TOKENS - sum(map(len, self._first))
        if wanted > 0:
            self._first.append(hidden[:wanted])

    def show_few(self) -> None:
        """Let experts of too few tokens read the first of all tokens, so that they have statistics like the others."""
        if self._experts is not None and min(self.counts) < FEW_TOKENS:
            first = torch.cat(self._first)
            for expert, count in zip(self._experts, self.counts, strict=True):
                if count < FEW_TOKENS:
                    expert(first)


def _group_width(attention: nn.Module, name: str, scales: Scales) -> int:
    """How many values of a token share one scale of Q, K or V."""
    config: Any = attention.config
    width = int(attention.head_dim)  # type: ignore[arg-type]  # torch types every attribute as a module
    if scales is Scales.TENSOR:
        return width * int(config.num_attention_heads if name == "query" else config.num_key_value_heads)
    return width if scales is Scales.HEAD else 1


_AT_ROPE: WeakKeyDictionary[nn.Module, dict[str, See]] = WeakKeyDictionary()
"""What wants to see Q and K of an attention after norm and RoPE, where no module's input or output has them."""


def _watching_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    watched = _AT_ROPE.get(module, {})
    for name, states in (("query", query), ("key", key)):
        if name in watched:
            watched[name](states.transpose(1, 2))
    out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return out


AttentionInterface.register(WATCHING, _watching_attention)
AttentionMaskInterface.register(WATCHING, sdpa_mask)
