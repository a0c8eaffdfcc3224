"""Calibration: a model reads a text layer by layer, and each layer is folded and quantized as it is left behind.

Of every layer the samples' inputs are kept, not the model's activations: it reads them once for the folds' channels and
once more, folded, for the ranges of the quantizers. So what must fit a device is one layer (in float32) and one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from converters.errors import InputError
from int8.experts import Experts
from int8.fakequant import (
    FakeQuantLinear,
    add_quantizer,
    attach_attention,
    attentions,
    quantized_linear,
    quantized_parts,
    replace_linear,
)
from int8.fold import Row, apply_row, row_scales, rows_of
from int8.model import Decoder, decoder_of
from int8.observe import ChannelMax, Range, require_numbers
from int8.quantize import Quantizer, scale_and_zero_point
from int8.recipe import Activations, Insertion, Recipe, Scales
from int8.statistics import Statistics, stack_range

FEW_TOKENS = 16  # an expert that was reached by fewer is shown the first tokens of the text, as if routed to it:
SHOWN_TOKENS = 1024  # so many
BATCH_TOKENS = 8192

Progress = Callable[[int, int], None]
"""(samples read, samples to be read): of every layer, in both passes."""


def needs_text(recipe: Recipe) -> bool:
    """Whether anything of a recipe depends on activations that a calibration text shows."""
    return bool(recipe.folds) or recipe.quantizes_attention or recipe.activations is Activations.STATIC


@torch.no_grad()
def calibrate(
    model: PreTrainedModel,
    tokens: Tensor,
    recipe: Recipe,
    *,
    device: str = "cpu",
    known: Statistics | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Fold and fake-quantize `model` (on the CPU, experts separate) in place by what it makes of `tokens`.

    `tokens` int64 [samples, length]. Layers go to `device` one by one and come back. What `known` holds is not measured
    again. Returns all that was used, known or measured. Raises InputError for activations or weights that are NaN or
    infinite (naming the layer), an architecture without a table of folds, and a device without memory for one layer.
    """
    decoder = decoder_of(model)
    statistics = Statistics() if known is None else known
    work = _Calibration(decoder, recipe, torch.device(device), statistics)
    if needs_text(recipe):
        work.activations = _Activations(decoder, tokens, work.device, _Steps(progress, work.passes * len(tokens)))
    before = model.config._attn_implementation
    model.set_attn_implementation(WATCHING)
    try:
        for index in range(len(decoder.layers)):
            work.layer(index)
    finally:
        model.set_attn_implementation(before)
    attach_attention(model, recipe)
    return statistics


@dataclass
class _Steps:
    """Progress, counted."""

    progress: Progress | None
    total: int
    done: int = 0

    def add(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


class _Calibration:
    def __init__(self, decoder: Decoder, recipe: Recipe, device: torch.device, statistics: Statistics) -> None:
        self.decoder, self.recipe, self.device, self.statistics = decoder, recipe, device, statistics
        self.activations: _Activations | None = None
        self.smooths = bool(recipe.folds) and not statistics.channel_max
        static = recipe.activations is Activations.STATIC
        self.measures = (static or recipe.quantizes_attention) and not statistics.ranges

    @property
    def passes(self) -> int:
        """Over the text, all layers together."""
        return len(self.decoder.layers) * (self.smooths + self.measures)

    def layer(self, index: int) -> None:
        """Take one layer from float to fake-quant, and its activations on to the next."""
        layer, path = self.decoder.layers[index], f"{self.decoder.path}.{index}"
        dtype = layer.get_submodule("input_layernorm").get_parameter("weight").dtype
        layer.to(self.device, torch.float32)
        linears = [
            name
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear) and not self.recipe.keeps(f"{path}.{name}")
        ]
        rows = rows_of(layer, self.decoder.model_type, self.recipe.folds)
        run = _Run(layer, index, path, self)
        if self.smooths:
            run.smoothing(rows, last=not self.measures)
        for row in rows:
            seen = self.statistics.channel_max.get(f"{index}.{row.fold}.{row.producer}")
            if seen is not None:
                apply_row(layer, row, row_scales(layer, row, seen.to(self.device), set(linears), self.recipe.alpha))
        if self.measures:
            run.ranges(linears)
        self._quantize(layer, index, path, linears)
        layer.to("cpu")
        for parameter in layer.parameters():
            parameter.data = parameter.data.to(dtype)

    def _quantize(self, layer: nn.Module, index: int, path: str, linears: list[str]) -> None:
        recipe = self.recipe
        for name in linears:
            linear = layer.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            if not torch.isfinite(linear.weight).all():
                raise InputError(f"{path}.{name}: its weights are NaN or infinite; the checkpoint is damaged")
            static = recipe.activations is Activations.STATIC
            range_ = self._quantizer(f"{index}.{name}", recipe.symmetric, ()) if static else None
            replace_linear(layer, name, FakeQuantLinear(quantized_linear(linear, range_), recipe))
        for attention in attentions(layer):
            for name, scales in quantized_parts(recipe):
                shape = {
                    Scales.TENSOR: (1, 1), Scales.HEAD: (-1, 1), Scales.CHANNEL: (-1, int(attention.head_dim)),  # type: ignore[arg-type]
                }[scales]  # fmt: skip
                quantizer = self._quantizer(f"{index}.self_attn.{name}", recipe.attention_symmetric, shape)
                add_quantizer(attention, name, quantizer)

    def _quantizer(self, key: str, symmetric: bool, shape: tuple[int, ...]) -> Quantizer:
        low, high = self.statistics.ranges[key].to(self.device)
        scale, zero_point = scale_and_zero_point(low, high, symmetric)
        return Quantizer(scale.reshape(shape), zero_point.reshape(shape))


class _Run:
    """The passes of one layer over the samples."""

    def __init__(self, layer: nn.Module, index: int, path: str, work: _Calibration) -> None:
        assert work.activations is not None or not (work.smooths or work.measures)
        self._layer, self._index, self._path, self._work = layer, index, path, work
        self._activations = work.activations

    def smoothing(self, rows: list[Row], last: bool) -> None:
        """The largest magnitude of each channel where a fold's scales will go."""
        found: dict[str, ChannelMax] = {}

        def watch(stack: ExitStack) -> None:
            for row in rows:
                key = f"{self._index}.{row.fold}.{row.producer}"
                seen = found[key] = ChannelMax()
                if row.producer.endswith("layernorm"):
                    self._watch_output(stack, row.producer, seen.see)
                else:
                    self._watch_input(stack, row.consumers[0], seen.see)

        self._pass(watch, last)
        for key, seen in found.items():
            if seen.value is not None:
                require_numbers(seen.value, f"{self._path}.{key.rpartition('>')[2].partition('.')[2]}")
                self._work.statistics.channel_max[key] = seen.value.cpu()

    def ranges(self, linears: list[str]) -> None:
        """The ranges of the inputs of linear layers, and of Q, K and V."""
        recipe, found = self._work.recipe, dict[str, Range]()
        assert self._activations is not None
        n_tokens = self._activations.n_tokens

        def watch(stack: ExitStack) -> None:
            if recipe.activations is Activations.STATIC:
                for name in linears:
                    width = self._layer.get_submodule(name).get_parameter("weight").shape[1]
                    seen = found[name] = Range("tensor", recipe.percentile, n_tokens * width)
                    self._watch_input(stack, name, seen.see)
            for attention in attentions(self._layer):
                heads = {"query": int(attention.config.num_attention_heads)}  # type: ignore[union-attr, arg-type]
                for name, scales in quantized_parts(recipe):
                    width = int(attention.head_dim)  # type: ignore[arg-type]
                    values = {
                        Scales.TENSOR: heads.get(name, int(attention.config.num_key_value_heads)) * width,  # type: ignore[union-attr, arg-type]
                        Scales.HEAD: width,
                        Scales.CHANNEL: 1,
                    }[scales]
                    seen = found[f"self_attn.{name}"] = Range(scales, recipe.percentile, n_tokens * values)
                    self._watch_attention(stack, attention, name, seen.see)

        self._pass(watch, last=True)
        for name, seen in found.items():
            ends = seen.ends()
            assert ends is not None  # experts that no token reached were shown some
            require_numbers(torch.stack(ends), f"{self._path}.{name}")
            self._work.statistics.ranges[f"{self._index}.{name}"] = stack_range(*ends)

    def _watch_input(self, stack: ExitStack, path: str, see: Callable[[Tensor], None]) -> None:
        hook = self._layer.get_submodule(path).register_forward_pre_hook(lambda _, inputs: see(inputs[0]))
        stack.callback(hook.remove)

    def _watch_output(self, stack: ExitStack, path: str, see: Callable[[Tensor], None]) -> None:
        hook = self._layer.get_submodule(path).register_forward_hook(lambda _, inputs, out: see(out))
        stack.callback(hook.remove)

    def _watch_attention(
        self, stack: ExitStack, attention: nn.Module, name: str, see: Callable[[Tensor], None]
    ) -> None:
        """See Q, K or V [..., heads, head_dim] where the recipe quantizes it."""
        width = attention.head_dim
        if name == "value":
            self._watch_output(stack, "self_attn.v_proj", lambda out: see(out.unflatten(-1, (-1, width))))
        elif self._work.recipe.insertion is Insertion.PROJECTION:
            self._watch_input(stack, f"self_attn.{name[0]}_norm", see)
        else:
            watched = _AT_ROPE.setdefault(attention, {})
            watched[name] = see
            stack.callback(watched.clear)

    def _pass(self, watch: Callable[[ExitStack], None], last: bool) -> None:
        """Run the samples through the layer with `watch`'s hooks; the `last` pass takes them to the next layer.

        A device out of memory gets half the batch, once, and the pass begins anew.
        """
        activations = self._activations
        assert activations is not None
        while True:
            with ExitStack() as stack:
                watch(stack)
                experts = _ExpertCounts(self._layer, stack)
                try:
                    activations.run(self._layer, self._index, last)
                    experts.show_few()
                except torch.OutOfMemoryError as error:
                    activations.halve(self._path, error)
                    continue
            break
        for number, count in enumerate(experts.counts):
            self._work.statistics.expert_tokens[f"{self._index}.{number}"] = count


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


class _Activations:
    """The samples on their way through the layers: [samples, tokens, width] on the CPU, in the model's dtype."""

    def __init__(self, decoder: Decoder, tokens: Tensor, device: torch.device, steps: _Steps) -> None:
        self._decoder, self._tokens, self._device, self._steps = decoder, tokens, device, steps
        self._batch = max(1, BATCH_TOKENS // tokens.shape[1])
        self._halved = False
        self._options: dict[int, list[dict[str, Any]]] = {}
        self.n_tokens = tokens.numel()
        self._hidden = torch.cat([_recorded(decoder, part)[0] for part in tokens.split(self._batch)])

    def run(self, layer: nn.Module, index: int, keep: bool) -> None:
        """Run a layer (float32, on the device) over all samples; with `keep` what comes out becomes the samples."""
        outs, began = [], self._steps.done
        try:
            for part in self._hidden.split(self._batch):
                out = layer(part.to(self._device, torch.float32), **self._layer_options(index, len(part)))
                if keep:
                    outs.append(out.to("cpu", part.dtype))
                self._steps.add(len(part))
        except torch.OutOfMemoryError:
            self._steps.done = began
            raise
        if keep:
            self._hidden = torch.cat(outs)

    def halve(self, path: str, error: torch.OutOfMemoryError) -> None:
        """Raises InputError where that was done before, or a batch is one sample."""
        length = self._tokens.shape[1]
        if self._halved or self._batch == 1:
            raise InputError(
                f"{path}: {self._device} has no memory for this layer and {self._batch} samples of {length} tokens;"
                " take shorter samples, another device or the CPU"
            ) from error
        self._halved, self._batch = True, self._batch // 2
        torch.cuda.empty_cache()

    def _layer_options(self, index: int, size: int) -> dict[str, Any]:
        """What the model passes to a layer beside the activations: the same for every batch of a size."""
        if size not in self._options:
            options = _recorded(self._decoder, self._tokens[:size])[1]
            self._options[size] = [{key: _on(value, self._device) for key, value in one.items()} for one in options]
        return self._options[size][index]


def _recorded(decoder: Decoder, tokens: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    """What the first layer is given for these tokens [n, length], and each layer's other arguments; no layer is run."""
    seen: list[tuple[Tensor, dict[str, Any]]] = []

    def recorder(hidden_states: Tensor, **options: Any) -> Tensor:
        seen.append((hidden_states, options))
        return hidden_states

    with _forwards_of(decoder.layers, recorder):
        decoder.module(input_ids=tokens, use_cache=False)
    return seen[0][0], [options for _, options in seen]


@contextmanager
def _forwards_of(layers: nn.ModuleList, forward: Callable[..., Tensor]) -> Iterator[None]:
    for layer in layers:
        layer.forward = forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return tuple(_on(item, device) for item in value) if isinstance(value, tuple) else value


_AT_ROPE: WeakKeyDictionary[nn.Module, dict[str, Callable[[Tensor], None]]] = WeakKeyDictionary()
"""What wants to see Q and K of an attention after norm and RoPE."""


def _watching_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    watched = _AT_ROPE.get(module, {})
    for name, states in (("query", query), ("key", key)):
        if name in watched:
            watched[name](states.transpose(1, 2))
    out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return out


WATCHING = "bitsweep_calibration"
AttentionInterface.register(WATCHING, _watching_attention)
AttentionMaskInterface.register(WATCHING, sdpa_mask)
