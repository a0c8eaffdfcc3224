"""The shape of micro-vl, and its start: the text decoder is cut out of `micro`.

Row lengths of the text decoder are multiples of 256, so every K-quant applies to its matrices; the tower is narrower.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from torch import nn
from transformers import Qwen3ForCausalLM, Qwen3VLConfig, Qwen3VLForConditionalGeneration

MICRO = Path(__file__).parent.parent / "micro" / "model"
MICRO_LAYERS = (0, 1, 5)  # the layers of micro that become the layers of this model
FEED_FORWARD = 256  # of micro's 768 channels
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")  # after micro's vocabulary
PATCH, MERGE, FRAMES = 8, 2, 2
POSITIONS = 12  # side of the learned grid of positions
POSITION_STD = 0.3


def tokenizer() -> Tokenizer:
    """The tokenizer of micro with Qwen's tokens for images."""
    found = Tokenizer.from_file(str(MICRO / "tokenizer.json"))
    found.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in VISION_TOKENS])
    return found


def model(words: Tokenizer) -> Qwen3VLForConditionalGeneration:
    """A Qwen3-VL of 2.5 million parameters with one DeepStack merger; untrained, except for what comes from micro."""
    end = words.token_to_id("<|endoftext|>")
    start, stop, image, video = map(words.token_to_id, VISION_TOKENS)
    text = {
        "vocab_size": words.get_vocab_size(),
        "hidden_size": 256,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": len(MICRO_LAYERS),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [11, 11, 10],  # with [12, 10, 10] llama.cpp turns the last pair of values by nothing
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": end,
        "dtype": "bfloat16",
    }
    vision = {
        "depth": 4,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_heads": 3,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": FRAMES,
        "out_hidden_size": 256,
        "num_position_embeddings": POSITIONS**2,
        "deepstack_visual_indexes": [1],
        "dtype": "bfloat16",
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        vision_start_token_id=start,
        vision_end_token_id=stop,
        image_token_id=image,
        video_token_id=video,
        tie_word_embeddings=True,
        eos_token_id=end,
        pad_token_id=end,
        dtype="bfloat16",
    )
    made = Qwen3VLForConditionalGeneration(config).float()
    _spread(made.model.visual)
    _start_from_micro(made)
    return made


@torch.no_grad()
def _spread(tower: nn.Module) -> None:
    """Larger initial weights than transformers': with its 0.02 a narrow tower takes long to begin to learn."""
    for module in tower.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            module.weight.normal_(std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(std=POSITION_STD)


@torch.no_grad()
def _start_from_micro(made: Qwen3VLForConditionalGeneration) -> None:
    """Copy micro's embeddings and MICRO_LAYERS; of the feed-forward channels those with the largest weights."""
    known = Qwen3ForCausalLM.from_pretrained(MICRO, dtype=torch.float32).model
    decoder = made.model.language_model
    decoder.embed_tokens.weight[: known.embed_tokens.weight.shape[0]] = known.embed_tokens.weight
    decoder.norm.load_state_dict(known.norm.state_dict())
    for layer, chosen in zip(decoder.layers, MICRO_LAYERS, strict=True):
        source = known.layers[chosen]
        for part in ("self_attn", "input_layernorm", "post_attention_layernorm"):
            getattr(layer, part).load_state_dict(getattr(source, part).state_dict())
        mlp = source.mlp
        size = mlp.gate_proj.weight.norm(dim=1) * mlp.up_proj.weight.norm(dim=1) * mlp.down_proj.weight.norm(dim=0)
        channels = size.topk(FEED_FORWARD).indices.sort().values
        layer.mlp.gate_proj.weight.copy_(mlp.gate_proj.weight[channels])
        layer.mlp.up_proj.weight.copy_(mlp.up_proj.weight[channels])
        layer.mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, channels])
