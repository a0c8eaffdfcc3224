"""Rotations of a model's activations by Hadamard matrices, which spread outlier channels over all channels.

Source: QuaRot (arXiv 2404.00456). A rotated model computes the same as before. There are two ways:

- `Rotation.RESIDUAL` is QuaRot's. The residual stream is rotated through the weights around it (R1), and the values of
  each attention head through v_proj and o_proj (R2). The input of down_proj is rotated while the model runs (R4), as is
  that of o_proj or out_proj if a gate is between it and the values. The weights of the norms are merged into what reads
  them, so the head can no longer be the embeddings.
- `Rotation.INPUTS` rotates the input of every linear layer while the model runs. It can follow smoothing: merged norms
  would undo the scales that were folded into them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from int8.architectures import ARCHITECTURES, FoldRule, ProducerKind, Spread
from int8.fold import fold_rules
from int8.model import decoder_of, has_tied_head
from int8.recipe import Fold
from int8.tower import tower_outputs
from ptq.hadamard import hadamard, require_hadamard
from ptq.hessian import InputSums
from ptq.recipe import PtqRecipe

NORMS, OUTPUTS = (Fold.NORM_QKV, Fold.NORM_GATE_UP), (Fold.V_O, Fold.UP_DOWN)
ROWS_AT_ONCE = 8192  # of the embeddings, in float32
_ROTATED = "is_hadamard_rotated"  # an attribute of modules with a hook that rotates


class Rotation(StrEnum):
    """What is rotated, and when; see above."""

    RESIDUAL = "residual"
    INPUTS = "inputs"


def rotation_of(recipe: PtqRecipe) -> Rotation | None:
    """The rotation of a recipe."""
    if not recipe.rotate:
        return None
    return Rotation.RESIDUAL if recipe.unties_head else Rotation.INPUTS


def require_rotatable(layer: nn.Module, path: str, model_type: str, rotation: Rotation) -> None:
    """Raise InputError that names a module of the layer (at `path`) whose size has no Hadamard matrix."""
    for rule in fold_rules(layer, model_type, NORMS):
        require_hadamard(len(_weight(layer, rule.producer)), f"{path}.{rule.producer}")
    for name in online_modules(layer, model_type, rotation):
        require_hadamard(_weight(layer, name).shape[-1], f"{path}.{name}")
    if rotation is Rotation.RESIDUAL:
        for rule in _head_rules(layer, model_type):
            require_hadamard(_head_dim(layer, rule), f"{path}.{rule.producer} (each head)")


def online_modules(layer: nn.Module, model_type: str, rotation: Rotation) -> list[str]:
    """Paths, in a decoder layer (with separate experts), of the modules that `attach_rotations` is for.

    They depend only on the shapes of the layer, so that a stored model can be rebuilt from its recipe.
    """
    outputs = list(_output_linears(layer, model_type))
    if rotation is Rotation.INPUTS:
        return [*(rule.producer for rule in fold_rules(layer, model_type, NORMS)), *outputs]
    offline = {path for rule in _head_rules(layer, model_type) for path in rule.consumers}
    return [path for path in outputs if path not in offline]


@torch.no_grad()
def rotate_layer(layer: nn.Module, model_type: str, rotation: Rotation) -> list[str]:
    """Rotate the weights of a decoder layer (float32, with separate experts) in place, and attach what rotates online.

    Returns the paths of `online_modules`. For Rotation.RESIDUAL all layers must be rotated, and `rotate_ends` called.
    """
    online = online_modules(layer, model_type, rotation)
    for path in online:
        weight = _weight(layer, path)
        if weight.ndim == 2:
            weight.copy_(hadamard(weight))
    for rule in fold_rules(layer, model_type, NORMS):
        if rotation is Rotation.RESIDUAL:
            _merge_norm(layer, rule)
        for path in rule.consumers:
            weight = _weight(layer, path)
            weight.copy_(_rotated_residual(weight) if rotation is Rotation.RESIDUAL else hadamard(weight))
    if rotation is Rotation.RESIDUAL:
        for rule in _head_rules(layer, model_type):
            _rotate_heads(layer, rule)
        for path in _output_linears(layer, model_type):
            for parameter in _parameters(layer, path):
                parameter.copy_(_rotated_residual(parameter.movedim(0, -1)).movedim(-1, 0))
    attach_rotations(layer, online)
    return online


@torch.no_grad()
def rotate_ends(model: PreTrainedModel) -> None:
    """Rotate the embeddings and the head of a model for Rotation.RESIDUAL, and merge the final norm into the head.

    A head that is the embeddings becomes a tensor of its own, and the config says so. The final norm must be the
    decoder's `norm`.
    """
    decoder = decoder_of(model)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if has_tied_head(model):
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    norm = decoder.module.get_submodule("norm").get_parameter("weight")
    kind = next(rule.kind for rule in ARCHITECTURES[decoder.model_type].folds if rule.fold is Fold.NORM_QKV)
    require_hadamard(len(norm), "the embeddings")
    factors = _take_factors(norm, kind)
    for start in range(0, len(head.weight), ROWS_AT_ONCE):
        rows = head.weight[start : start + ROWS_AT_ONCE]
        rows.copy_(_rotated_residual(rows.float() * factors))
    for start in range(0, len(embeddings.weight), ROWS_AT_ONCE):
        rows = embeddings.weight[start : start + ROWS_AT_ONCE]
        rows.copy_(_rotated_residual(rows.float()))
    for linear in tower_outputs(decoder.base):
        for parameter in linear.parameters():
            parameter.copy_(_rotated_residual(parameter.movedim(0, -1).float()).movedim(-1, 0))


def attach_rotations(module: nn.Module, paths: Iterable[str]) -> None:
    """Rotate, while the model runs, the inputs of the linear layers and the outputs of the norms at these paths.

    Hooks that are attached to a linear layer later see the rotated input. A module that already has a rotation keeps it
    and gets no second one.
    """
    for path in paths:
        found = module.get_submodule(path)
        if hasattr(found, _ROTATED):
            continue
        if found.get_parameter("weight").ndim == 2:
            found.register_forward_pre_hook(_rotate_input)
        else:
            found.register_forward_hook(_rotate_output)
        setattr(found, _ROTATED, True)


def keep_rotation(old: nn.Module, new: nn.Module) -> None:
    """Rotate the input of a module that replaces a linear layer if that of the linear layer was rotated."""
    if hasattr(old, _ROTATED):
        attach_rotations(new, [""])


def rotate_sums(sums: InputSums) -> None:
    """Make the sums those of the inputs after the Hadamard matrix, without another pass over the calibration text.

    Magnitudes of channels do not follow from the sums before; they become NaN.
    """
    for held in (sums.second, sums.shift):
        if held is not None:
            held.copy_(hadamard(hadamard(held).T).T)
    sums.magnitude.fill_(torch.nan)
    sums.highest.fill_(torch.nan)


def _rotate_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return hadamard(inputs[0]), *inputs[1:]


def _rotate_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return hadamard(output)


def _output_linears(layer: nn.Module, model_type: str) -> Iterator[str]:
    """The linear layers that write to the residual stream."""
    for rule in fold_rules(layer, model_type, OUTPUTS):
        yield from rule.consumers


def _head_rules(layer: nn.Module, model_type: str) -> Iterator[FoldRule]:
    """The folds of values into o_proj, if nothing but attention's weights comes between them.

    With a gate, q_proj has more rows than o_proj has columns. A gate multiplies channels, which must not be mixed then.
    """
    for rule in fold_rules(layer, model_type, (Fold.V_O,)):
        if rule.spread is Spread.QUERY_HEADS:
            queries = _weight(layer, f"{rule.producer.rpartition('.')[0]}.q_proj")
            if len(queries) == _weight(layer, rule.consumers[0]).shape[1]:
                yield rule


def _rotate_heads(layer: nn.Module, rule: FoldRule) -> None:
    """R2: rotate the values of each head, and the columns of o_proj for each head."""
    width = _head_dim(layer, rule)
    for parameter in _parameters(layer, rule.producer):
        heads = parameter.movedim(0, -1).unflatten(-1, (-1, width))
        parameter.copy_(hadamard(heads).flatten(-2).movedim(-1, 0))
    for path in rule.consumers:
        weight = _weight(layer, path)
        weight.copy_(hadamard(weight.unflatten(1, (-1, width))).flatten(1))


def _merge_norm(layer: nn.Module, rule: FoldRule) -> None:
    factors = _take_factors(_weight(layer, rule.producer), rule.kind)
    for path in rule.consumers:
        weight = _weight(layer, path)
        weight.copy_(weight.float() * factors)


def _take_factors(norm: Tensor, kind: ProducerKind) -> Tensor:
    """The factors by which a norm multiplies its channels, float32; it then multiplies them by 1."""
    one_plus = kind is ProducerKind.NORM_ONE_PLUS
    factors = norm.float() + 1 if one_plus else norm.float().clone()
    norm.fill_(0 if one_plus else 1)
    return factors


def _rotated_residual(x: Tensor) -> Tensor:
    """R1: x [..., width], with random signs before the Hadamard matrix, so that a mean is spread too."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (x.shape[-1],), generator=generator) * 2 - 1
    return hadamard(x * signs.to(x.device, x.dtype))


def _weight(layer: nn.Module, path: str) -> nn.Parameter:
    return layer.get_submodule(path).get_parameter("weight")


def _parameters(layer: nn.Module, path: str) -> Iterator[nn.Parameter]:
    yield _weight(layer, path)
    if getattr(layer.get_submodule(path), "bias", None) is not None:
        yield layer.get_submodule(path).get_parameter("bias")


def _head_dim(layer: nn.Module, rule: FoldRule) -> int:
    attention = layer.get_submodule(rule.producer.rpartition(".")[0])
    width: int = attention.head_dim  # type: ignore[assignment]  # torch types every attribute as a module
    return width
