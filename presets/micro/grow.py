"""Starts a model of twice the width from a trained one, without changing what it computes.

    python -m presets.micro.grow MODEL --out DIR [--shape mini]

A wide model that starts from a narrow one needs less training than one that starts from random weights (Net2Net, arXiv
1511.05641; for transformers bert2BERT, arXiv 2110.07143). Each channel of the hidden state and each head is there
twice. Where a matrix reads such a pair, it reads half of each, plus and minus a random number: that cancels as long as
the pair is equal, and lets training tell its members apart. The weights of the last norm are halved, because tied
embeddings read the pair, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel, Qwen3ForCausalLM

from presets.micro import tokenizer as vocabulary
from presets.micro.shapes import SHAPES

SEED = 1
READS_PAIRS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
WRITES_PAIRS = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")
HAS_PAIRS = ("embed_tokens", "lm_head", "input_layernorm", "post_attention_layernorm", "norm")


def _read_pairs(weight: Tensor, generator: torch.Generator) -> Tensor:
    """`weight` (out, in) as (out, 2 * in), with the same result for two equal inputs."""
    noise = weight.std() / 2 * torch.randn(weight.shape, generator=generator)
    return torch.cat([weight / 2 + noise, weight / 2 - noise], dim=1)


def grow(small: PreTrainedModel, large: PreTrainedModel) -> None:
    """Give `large` the weights with which it computes the logits of `small`.

    Both are Qwen3 in float32 with tied embeddings. `large` has the layers and the feed-forward size of `small`, and
    twice its hidden size, heads and KV heads; a repeated query head reads the repeated KV head.
    """
    generator = torch.Generator().manual_seed(SEED)
    grown = {}
    for name, weight in small.state_dict().items():
        part = name.split(".")[-2]
        wide = _read_pairs(weight, generator) if part in READS_PAIRS else weight
        if part in WRITES_PAIRS:
            wide = torch.cat([wide, wide])
        if part in HAS_PAIRS:
            wide = torch.cat([wide, wide], dim=-1)
        grown[name] = wide / 2 if name == "model.norm.weight" else wide
    large.load_state_dict(grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=("mini",), default="mini")
    arguments = parser.parse_args()
    small = Qwen3ForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    large = SHAPES[arguments.shape].model(small.config.eos_token_id).float()
    grow(small, large)
    large.save_pretrained(arguments.out)
    vocabulary.save(Tokenizer.from_file(str(arguments.model / "tokenizer.json")), arguments.out)


if __name__ == "__main__":
    main()
