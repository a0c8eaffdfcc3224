"""Tied and untied heads: a written checkpoint says what it holds, and gives its model's logits in every reader.

A checkpoint can say that its head is tied to the embeddings and have a head of its own. transformers and llama.cpp then
use that head.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import make, rewrite
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from converters.errors import InputError
from converters.resolver import open_source
from int8.calibrate import calibrate
from int8.checkpoint import CalibrationRecord, load, save
from int8.model import has_tied_head, load_checkpoint, open_model
from int8.recipe import NAMED, Recipe

TOKENS = torch.randint(1, 500, (2, 24), generator=torch.Generator().manual_seed(3))
DENSE = ("qwen35", "qwen35, multi-modal")


def with_head(directory: Path, head: str) -> Path:
    """Give a tied checkpoint a head: "own", "same" as the embeddings, or "none"."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        embeddings = next(tensor for name, tensor in tensors.items() if name.endswith("embed_tokens.weight"))
        own = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(4)).to(embeddings.dtype) / 16
        return {**tensors, "lm_head.weight": own if head == "own" else embeddings.clone()}

    return directory if head == "none" else rewrite(directory, change)


def tie(directory: Path, *, root: bool | None, text: bool | None) -> None:
    """Set the flags of a multi-modal config; None removes one."""
    config = json.loads((directory / "config.json").read_text())
    for table, flag in ((config, root), (config["text_config"], text)):
        table.pop("tie_word_embeddings", None)
        table |= {} if flag is None else {"tie_word_embeddings": flag}
    (directory / "config.json").write_text(json.dumps(config))


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(TOKENS).logits.float()


def written(source: Path, recipe: Recipe, out: Path) -> PreTrainedModel:
    model = open_model(source)
    calibrate(model, TOKENS.repeat(4, 1), recipe)
    save(model, recipe, CalibrationRecord(None), source, out)
    return model


def stored(out: Path) -> set[str]:
    return {name for file in out.glob("model-*.safetensors") for name in safe_open(file, "pt").keys()}  # noqa: SIM118


@pytest.mark.parametrize("head", ["own", "same", "none"])
@pytest.mark.parametrize(
    ("family", "recipe"), [("qwen35", "w8a8"), ("qwen35, multi-modal", "w8a8-dyn"), ("qwen3moe", "w8a16")]
)
def test_config_and_tensors_agree_and_every_reader_gives_the_same_logits(
    tmp_path: Path, family: str, head: str, recipe: str
) -> None:
    source = with_head(make(family, tmp_path / "source", tie_word_embeddings=True), head)
    model = written(source, NAMED[recipe], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    names = stored(tmp_path / "out")
    assert config["tie_word_embeddings"] is not any(name.startswith("lm_head.") for name in names)
    assert config["tie_word_embeddings"] is (head != "own")
    ours, _ = load(tmp_path / "out")
    assert torch.equal(logits(ours), logits(model))
    if family in DENSE:  # transformers rejects int8 experts
        pytest.importorskip("compressed_tensors")
        theirs, found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not found["missing_keys"]
        assert not found["unexpected_keys"]
        assert not found["mismatched_keys"]
        expected = logits(model)
        assert (logits(theirs) - expected).abs().median() < 0.02 * expected.std()


def test_a_directory_of_an_earlier_version_is_read_with_its_own_head(tmp_path: Path) -> None:
    """Its config says that the head is tied, beside a head of its own."""
    source = with_head(make("qwen35", tmp_path / "source", tie_word_embeddings=True), "own")
    model = written(source, NAMED["w8a16"], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert torch.equal(logits(load(tmp_path / "out")[0]), logits(model))


@pytest.mark.parametrize(("root", "text"), [(True, None), (None, True), (True, True), (False, True)])
def test_the_flags_of_a_multi_modal_config_tie_the_head_as_in_gguf(
    tmp_path: Path, root: bool | None, text: bool | None
) -> None:
    """Without a head of its own; transformers fills the head with random values if only the root has the flag."""
    source = make("qwen35, multi-modal", tmp_path / "source", tie_word_embeddings=True)
    expected = logits(load_checkpoint(source))
    tie(source, root=root, text=text)
    assert not any(tensor.name == "output.weight" for tensor in open_source(source).tensors)
    model = written(source, NAMED["w8a16"], tmp_path / "out")
    assert has_tied_head(load_checkpoint(source))
    assert torch.equal(logits(load_checkpoint(source)), expected)
    assert torch.equal(logits(load(tmp_path / "out")[0]), logits(model))


@pytest.mark.parametrize("family", ["qwen35", "qwen3moe"])
def test_a_missing_tensor_is_rejected_instead_of_filled_with_random_values(tmp_path: Path, family: str) -> None:
    source = make(family, tmp_path / "source", tie_word_embeddings=False)
    rewrite(source, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"})
    with pytest.raises(InputError, match=r"'lm_head\.weight' is missing; tie_word_embeddings .* is not true"):
        load_checkpoint(source)
    rewrite(source, lambda tensors: {name: t for name, t in tensors.items() if "layers.1.mlp" not in name})
    with pytest.raises(InputError, match="is missing"):
        open_model(source)
