"""Groups of tensors, what they take in each type, and the recipe file that gives them their types."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import presets
from converters.errors import InputError
from converters.llamacpp.container import padded
from converters.plan import plan_export
from converters.resolver import open_source
from converters.source import Source
from sweep.mixing.budget import Budget, budget_of, parse_budget
from sweep.mixing.sensitivity import Sensitivities
from sweep.mixing.tensor_groups import alone, tensor_groups, typed_tensors, uniform
from sweep.mixing.type_sizes import BASES, TypeSizes

MODELS = ("nano", "micro", "micro-moe")


def source_of(name: str) -> Source:
    return open_source(presets.builtin_models()[name].directory, name)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("each", [False, True])
def test_every_tensor_that_can_be_quantized_is_in_one_group(name: str, each: bool) -> None:
    source = source_of(name)
    groups = tensor_groups(source, each)
    names = [tensor for group in groups for tensor in group.tensors]
    plan = plan_export(source, ["Q4_K_M"])["Q4_K_M"]
    quantized = {tensor.name for tensor in plan.tensors if "F" not in tensor.type.name}
    assert len(names) == len(set(names))
    assert set(names) == quantized
    for group in groups:
        found = [tensor.name for tensor in source.tensors if re.search(group.pattern, tensor.name)]
        assert sorted(found) == sorted(group.tensors)
    assert len({group.name for group in groups}) == len(groups)
    assert len(groups) == len(names) if each else len(groups) <= len(names)


def test_thirds_of_six_layers() -> None:
    groups = {group.name: group.tensors for group in tensor_groups(source_of("micro"))}
    assert groups["ffn_down, middle third"] == ("blk.2.ffn_down.weight", "blk.3.ffn_down.weight")
    assert groups["token_embd"] == ("token_embd.weight",)
    assert len(groups) == 22


@pytest.mark.parametrize("name", MODELS)
def test_the_recipe_gives_exactly_the_planned_types_and_bytes(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    groups = tensor_groups(source)
    table = TypeSizes.of(source, groups, tuple(BASES))
    chosen = np.random.default_rng(1).integers(0, len(BASES), len(groups)).tolist()
    file = tmp_path / "random.toml"
    file.write_text(table.recipe(chosen, ["a comment"]))
    plan = plan_export(source, [f"mix:{file}"])[f"mix:{file}"]
    types = {tensor.name: tensor for tensor in plan.tensors}
    expected = {type_: typed_tensors(source, type_) for type_ in BASES}
    for group, at in zip(groups, chosen, strict=True):
        for tensor in group.tensors:
            assert types[tensor].type == expected[table.types[at]][tensor].type
    inside = {tensor for group in groups for tensor in group.tensors}
    outside = sum(padded(tensor.nbytes) for tensor in plan.tensors if tensor.name not in inside)
    assert plan.file_bytes == len(plan.parts[0].header) + outside + table.total(chosen)


def test_the_names_of_probes_are_quants() -> None:
    source = source_of("nano")
    (group, *_) = tensor_groups(source)
    plan = plan_export(source, [alone(group, "Q3_K", "Q8_0"), uniform("Q6_K")])
    own, others = (plan[name] for name in (alone(group, "Q3_K", "Q8_0"), uniform("Q6_K")))
    kinds = {tensor.name: tensor.type.name for tensor in own.tensors}
    assert all(kinds[name] in ("Q3_K", "IQ4_NL", "Q4_0") for name in group.tensors)
    assert {kind for name, kind in kinds.items() if name not in group.tensors} <= {"Q8_0", "F32"}
    assert {tensor.type.name for tensor in others.tensors} <= {"Q6_K", "Q8_0", "F32"}


def test_costs_add_up_to_those_of_files_of_one_type() -> None:
    found = Sensitivities("Q3_K", {"a": 0.03, "b": 0.01, "c": -1e-9}, {"Q2_K": 0.2, "Q4_K": 0.02})
    costs = found.costs(["a", "b", "c"], ["Q2_K", "Q4_K"])
    assert costs.sum(0) == pytest.approx([0.2, 0.02])
    assert costs[:, 0] == pytest.approx([0.15, 0.05, 0.0])


def test_sizes_are_read_as_people_write_them() -> None:
    assert parse_budget("5.5GiB") == Budget("5.5GiB", bytes=5_905_580_032)
    assert parse_budget("6 gb") == Budget("6gb", bytes=6_000_000_000)
    assert parse_budget("4.5bpw") == Budget("4.5bpw", bits=4.5)
    assert parse_budget("2115392B") == Budget("2115392B", bytes=2_115_392)
    assert parse_budget("Q4_K_M") is None
    assert parse_budget("4.5bpw").limit(1000, 800) == 1450  # type: ignore[union-attr]
    assert budget_of(["Q4_K_M", "Q2_K"]) is None
    with pytest.raises(InputError, match=r"a size is searched by itself; give 5\.5GiB alone"):
        budget_of(["Q4_K_M", "5.5GiB"])
    with pytest.raises(InputError, match="needs some bytes"):
        parse_budget("0GiB")
