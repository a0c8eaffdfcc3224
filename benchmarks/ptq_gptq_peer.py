"""llm-compressor's side of ptq_gptq.py, which runs this file in the environment that `make oracle` makes.

    ptq_gptq_peer.py MODEL TOKENS OUT COSTS DTYPE BITS GROUP

TOKENS is a safetensors file with `tokens` [samples, length]. The quantized checkpoint is written to OUT, and what this
costs without the imports to COSTS. DTYPE is auto, which is that of the checkpoint, or float32.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from process_costs import costs_written  # benchmarks/process_costs.py
from safetensors.torch import load_file


def main(model: str, tokens: str, out: str, costs: str, dtype: str, bits: str, group: str) -> None:
    read = load_file(tokens)["tokens"]
    rows = Dataset.from_dict({"input_ids": read.tolist(), "attention_mask": torch.ones_like(read).tolist()})
    weights: dict[str, Any] = {"num_bits": int(bits), "type": "int", "symmetric": False}
    weights |= {"strategy": "group", "group_size": int(group)}
    modifier = GPTQModifier(config_groups={"group_0": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"])
    with costs_written(Path(costs)):
        oneshot(
            model=model,
            precision=dtype,
            dataset=rows,
            recipe=modifier,
            num_calibration_samples=len(read),
            max_seq_length=read.shape[1],
            shuffle_calibration_samples=False,
            output_dir=out,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
