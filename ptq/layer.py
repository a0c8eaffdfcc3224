"""One decoder layer from float to quantized: its scales are folded, then its weights rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from converters.errors import InputError
from int8.architectures import FoldRule
from int8.expert_tokens import ExpertTokens
from int8.fakequant import replace_linear
from int8.fold import apply_fold, column_scales, fold_scales
from int8.layer_inputs import LayerInputs
from ptq.awq import Loss, awq_scales, compared_module, output_loss
from ptq.gptq import layer_error
from ptq.hessian import InputRecorder, InputSums
from ptq.linear import RoundedInputLinear
from ptq.module_calls import ModuleCalls
from ptq.recipe import AwqLoss, Inputs, PtqRecipe
from ptq.rotation import Rotation, keep_rotation, rotate_layer, rotate_sums, rotation_of
from ptq.rounding import QuantizedWeight, Task, round_weight
from ptq.stages import stages
from ptq.stored_weight import values_in_model

Sums = dict[str, InputSums]


@dataclass(frozen=True)
class LinearReport:
    """What happened to a linear layer: its shape, the calibration tokens that it read (0: it was rounded without), its
    relative error tr(dW H dW^T) / tr(W H W^T) (None: not known), and whether GPTQ needed more damping."""

    rows: int
    columns: int
    tokens: int = 0
    error: float | None = None
    damped_more: bool = False


@dataclass
class QuantizedLayer:
    """The quantized weights of a layer by the paths of its linear layers, and what happened to them."""

    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    reports: dict[str, LinearReport] = field(default_factory=dict)
    expert_tokens: list[int] = field(default_factory=list)


class SampleInputs(Protocol):
    """The calibration samples before a layer: LayerInputs of a decoder, or TowerInputs of a vision tower. `index` says
    which layer it is."""

    @property
    def batches(self) -> int: ...

    def run(self, layer: nn.Module, index: Any, keep: bool) -> None: ...

    def outputs(self, layer: nn.Module, index: Any) -> Iterator[Tensor]: ...

    def halve(self) -> bool: ...

    def too_large(self, path: str) -> InputError: ...


class LayerWork:
    """Quantizes `layer`, a layer of the decoder or a part of the vision tower (float32, on the device), in place.

    `rules` are the layer's folds. `inputs` are the calibration samples before this layer, or None for methods that need
    none; `unquantized`, for GPTAQ, are the same samples in the unquantized model. `dtype` is the model's: weights that
    stay float and scales are rounded to it. Messages call the layer `path`.
    """

    def __init__(
        self,
        layer: nn.Module,
        index: Any,
        path: str,
        model_type: str,
        rules: Sequence[FoldRule],
        recipe: PtqRecipe,
        dtype: torch.dtype,
        inputs: SampleInputs | None,
        unquantized: LayerInputs | None = None,
    ) -> None:
        self._layer, self._index, self._path, self._recipe = layer, index, path, recipe
        self._model_type, self._rules, self._dtype = model_type, rules, dtype
        self._inputs, self._unquantized = inputs, unquantized
        self._linears = [
            name
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear) and not recipe.keeps(f"{path}.{name}")
        ]
        self.result = QuantizedLayer()

    def run(self) -> QuantizedLayer:
        """Fold and round the layer; the samples become the inputs of the next one."""
        self._require_finite()
        floats = self._recipe.inputs is Inputs.FLOAT
        sums: Sums = {}
        if self._inputs is not None:
            sums = self._sums(self._linears, keep=floats)
            self._fold(sums)
            if rotation_of(self._recipe) is Rotation.INPUTS:
                rotate_layer(self._layer, self._model_type, Rotation.INPUTS)
                for one in {id(one): one for one in sums.values()}.values():
                    rotate_sums(one)
        for number, names in enumerate(self._stages(sums)):
            if number:
                sums = self._sums(names, keep=False)
            for name in names:
                self._round(name, sums.get(name))
        if self._inputs is not None and not floats:
            self._pass(lambda stack: None, lambda inputs, _: inputs.run(self._layer, self._index, keep=True))
        return self.result

    def _stages(self, sums: Sums) -> list[list[str]]:
        return stages(self._linears, sums) if self._recipe.inputs is Inputs.INSIDE else [self._linears]

    def _require_finite(self) -> None:
        for name in self._linears:
            if not torch.isfinite(self._layer.get_submodule(name).get_parameter("weight")).all():
                raise InputError(
                    f"{self._path}.{name}: its weights are NaN or infinite; the checkpoint is damaged: download it"
                    " again"
                )

    def _sums(self, names: list[str], keep: bool) -> Sums:
        recorder = InputRecorder(self._layer, names, self._path)
        if self._unquantized is None:
            self._pass(recorder.attach, lambda inputs, _: inputs.run(self._layer, self._index, keep))
        else:
            self._pass(recorder.attach, lambda inputs, experts: self._run_both(inputs, recorder, experts))
        recorder.require_all()
        return recorder.sums

    def _run_both(self, inputs: SampleInputs, recorder: InputRecorder, experts: ExpertTokens) -> None:
        """Run the samples of the unquantized model and those of the quantized one in turns, batch by batch."""
        assert self._unquantized is not None
        kept = []
        quantized, unquantized = (one.outputs(self._layer, self._index) for one in (inputs, self._unquantized))
        for _ in range(inputs.batches):
            with recorder.of_unquantized(), experts.uncounted():
                kept.append(next(unquantized).cpu())
            next(quantized)
        for finished in (quantized, unquantized):
            next(finished, None)  # counts the last batch as progress
        self._unquantized.replace(kept)

    def _pass(self, watch: Callable[[ExitStack], None], run: Callable[[SampleInputs, ExpertTokens], None]) -> None:
        """Run all samples through the layer with hooks. On the first lack of memory, again with half the batch."""
        assert self._inputs is not None
        while True:
            with ExitStack() as stack:
                watch(stack)
                experts = ExpertTokens(self._layer, stack)
                try:
                    run(self._inputs, experts)
                    experts.show_few()
                    break
                except torch.OutOfMemoryError as error:
                    streams = [one for one in (self._inputs, self._unquantized) if one is not None]
                    if not [one for one in streams if one.halve()]:
                        raise self._inputs.too_large(self._path) from error
        self.result.expert_tokens = self.result.expert_tokens or experts.counts  # of the first pass, over all samples

    def _fold(self, sums: Sums) -> None:
        """Move scales between channels, as SmoothQuant or AWQ choose them, and adapt the sums."""
        if not (self._recipe.smooth or self._recipe.awq):
            return
        for rule in self._rules:
            readers = [path for path in rule.consumers if path in sums]
            if not readers:
                continue
            scales = self._scales(rule, readers, sums)
            apply_fold(self._layer, rule, scales)
            for one in {id(sums[path]): sums[path] for path in readers}.values():
                one.divide(column_scales(self._layer, rule, scales, len(one.highest)))
        self._round_kept()

    def _scales(self, rule: FoldRule, readers: list[str], sums: Sums) -> Tensor:
        recipe = self._recipe
        if recipe.awq:
            loss = self._output_loss(rule) if recipe.awq_loss is AwqLoss.OUTPUT else None
            return awq_scales(self._layer, rule, sums, recipe.grid, set(readers), self._dtype, loss=loss)
        highest = torch.stack([sums[path].highest for path in readers]).amax(0)
        return fold_scales(self._layer, rule, highest, set(readers), recipe.alpha)

    def _output_loss(self, rule: FoldRule) -> Loss:
        """AWQ's published loss, on the first batch of the samples."""
        calls = ModuleCalls(self._layer.get_submodule(compared_module(rule)))

        def first_batch(inputs: SampleInputs, _: ExpertTokens) -> None:
            next(inputs.outputs(self._layer, self._index))

        self._pass(calls.attach, first_batch)
        return output_loss(self._layer, calls.run)

    def _round_kept(self) -> None:
        """Round what stays float to the model's dtype, so that weights are chosen for what the file will hold."""
        quantized = {f"{name}.weight" for name in self._linears}
        for name, parameter in self._layer.named_parameters():
            if name not in quantized:
                parameter.data.copy_(parameter.data.to(self._dtype))

    def _round(self, name: str, sums: InputSums | None) -> None:
        linear = self._layer.get_submodule(name)
        weight = linear.get_parameter("weight")
        rounded = round_weight(Task(weight.detach(), sums, self._recipe, self._dtype, f"{self._path}.{name}"))
        values = values_in_model(rounded.weight, self._recipe).float()
        (rows, columns), tokens, error = weight.shape, 0, None
        if sums is not None:
            tokens, error = sums.tokens, relative_error(weight.detach(), values, sums.hessian)
        weight.data.copy_(values)
        self.result.weights[name] = rounded.weight
        self.result.reports[name] = LinearReport(rows, columns, tokens, error, rounded.damped_more)
        if self._recipe.activation_bits < 16:
            assert isinstance(linear, nn.Linear)
            rounding_input = RoundedInputLinear(linear, self._recipe.activation_bits)
            keep_rotation(linear, rounding_input)
            replace_linear(self._layer, name, rounding_input)


def relative_error(weight: Tensor, rounded: Tensor, hessian: Tensor) -> float:
    """tr(dW H dW^T) / tr(W H W^T): the squared error of the outputs per square of the outputs; 0 if these are all 0."""
    whole = layer_error(weight, torch.zeros_like(weight), hessian)
    return layer_error(weight, rounded, hessian) / whole if whole else 0.0


def named_weights(layer: nn.Module, quantized: QuantizedLayer) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a layer that are not in `quantized`, by their paths in the layer."""
    for name, parameter in layer.named_parameters():
        if name.removesuffix(".weight") not in quantized.weights:
            yield name, parameter.data
