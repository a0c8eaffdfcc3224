"""Checkpoints as they lie on disks: links into a cache, a padded vocabulary, a tensor stored twice."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_logits import llama_cpp_logits, transformers_logits

from converters.errors import InputError
from converters.export import export
from converters.llamacpp.reader import read_header
from converters.resolver import open_source


def as_in_a_cache(model: Path, root: Path) -> Path:
    """The model as huggingface_hub stores it: a snapshot of relative links to blobs without extensions."""
    blobs, snapshot = root / "models--a--b" / "blobs", root / "models--a--b" / "snapshots" / ("0a" * 20)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        blob = blobs / f"{number:064x}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def test_shards_that_are_links_into_a_cache_give_the_same_file(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    model = checkpoint(shard="300KB")
    assert len(list(model.glob("*.safetensors"))) > 2
    snapshot = as_in_a_cache(model, tmp_path / "hub")
    (tmp_path / "linked").symlink_to(snapshot)
    for place, target in ((model, "plain"), (snapshot, "snapshot"), (tmp_path / "linked", "linked")):
        export(open_source(place, "m"), {"BF16": tmp_path / f"{target}.gguf"})
    plain = (tmp_path / "plain.gguf").read_bytes()
    assert (tmp_path / "snapshot.gguf").read_bytes() == plain
    assert (tmp_path / "linked.gguf").read_bytes() == plain
    shard = snapshot / "model-00002-of-00011.safetensors"
    shard.resolve().unlink()
    with pytest.raises(InputError, match=f"shard {shard.name} is missing"):
        open_source(snapshot)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_tensor_that_is_in_two_shards_is_named(checkpoint: Callable[..., Path], indexed: bool) -> None:
    model = checkpoint(shard="300KB")
    first, second = sorted(model.glob("*.safetensors"))[:2]
    one, two = load_file(first), load_file(second)
    name = next(iter(one))
    save_file({**two, name: one[name] + 1}, second, metadata={"format": "pt"})
    if not indexed:
        (model / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=rf"tensor '{name}' is in both {first.name} and in {second.name}"):
        open_source(model)


def test_a_padded_embedding_gives_unused_tokens_and_transformers_logits(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Like Qwen3.5, whose embedding has 248,320 rows for 248,077 tokens."""
    model = checkpoint(vocab_size=600, dtype=torch.float32)
    export(open_source(model), {"F32": tmp_path / "m.gguf"})
    metadata = read_header(tmp_path / "m.gguf").metadata
    tokens = metadata["tokenizer.ggml.tokens"].value
    assert len(tokens) == 600
    assert tokens[509:] == [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        *(f"[PAD{number}]" for number in range(512, 600)),
    ]
    assert metadata["tokenizer.ggml.token_type"].value[512:] == [5] * 88  # LLAMA_TOKEN_TYPE_UNUSED
    ids = [*range(40, 60), 509, 511, 512, 599]
    ours, theirs = llama_cpp_logits(tmp_path / "m.gguf", ids), transformers_logits(model, ids)
    assert ours.shape == (len(ids), 600)
    assert abs(ours - theirs).max() <= 1e-3 * theirs.std()


def test_an_added_token_beyond_the_embedding_is_named(checkpoint: Callable[..., Path]) -> None:
    model = checkpoint()
    content = json.loads((model / "tokenizer.json").read_text())
    entry = {"id": 700, "content": "<|x|>", "special": True, "single_word": False, "lstrip": False, "rstrip": False}
    content["added_tokens"].append({**entry, "normalized": False})
    (model / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"token '<\|x\|>' has id 700, but vocab_size in config\.json is 512"):
        open_source(model).metadata  # noqa: B018  # reads the vocabulary
