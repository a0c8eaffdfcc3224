"""FP8 checkpoints, compared with torch's FP8 values."""

import json
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from checkpoints import make_tokenizer

from converters import fp8
from converters.errors import InputError
from converters.export import export
from converters.llamacpp.reader import read_header
from converters.resolver import open_source

BLOCK = (64, 32)


def quantized(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All projections as F8_E4M3 with one scale per block."""
    result = {}
    for name, tensor in tensors.items():
        if not name.endswith("_proj.weight"):
            result[name] = tensor
            continue
        rows, columns = (-(-size // block) for size, block in zip(tensor.shape, BLOCK, strict=True))
        generator = torch.Generator().manual_seed(len(name))
        scales = torch.rand(rows, columns, generator=generator) * 1e-3 + 1e-4
        spread = scales.repeat_interleave(BLOCK[0], 0).repeat_interleave(BLOCK[1], 1)
        spread = spread[: tensor.shape[0], : tensor.shape[1]]
        result[name] = (tensor.float() / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
        result[f"{name}_scale_inv"] = scales
    return result


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = families.make("qwen3moe", tmp_path / "model", dtype=torch.bfloat16)
    make_tokenizer(directory)
    families.rewrite(directory, quantized)
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": list(BLOCK), "fmt": "e4m3"}
    file.write_text(json.dumps(config))
    return directory


def test_every_fp8_code_has_the_same_value_as_in_torch() -> None:
    theirs = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(fp8.VALUES, theirs)


def test_bfloat16_is_rounded_as_torch_rounds() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(10_000).astype(np.float32) * np.float32(10) ** rng.integers(-30, 30, 10_000)
    values = np.concatenate([values, np.array([0, -0.0, np.inf, -np.inf, np.nan, 3.3961775e38], np.float32)])
    ours = torch.from_numpy(fp8.to_bfloat16(values.astype(np.float32)).view(np.int16)).view(torch.bfloat16)
    torch.testing.assert_close(ours, torch.from_numpy(values).to(torch.bfloat16), rtol=0, atol=0, equal_nan=True)


def test_the_file_holds_the_weights_times_their_scales(checkpoint: Path, tmp_path: Path) -> None:
    export(open_source(checkpoint), {"F32": tmp_path / "m.gguf"}, threads=1)
    stored = families.load_file(checkpoint / "model.safetensors")
    header, data = read_header(tmp_path / "m.gguf"), (tmp_path / "m.gguf").read_bytes()
    infos = {tensor.name: tensor for tensor in header.tensors}

    def expected(name: str) -> np.ndarray:
        scales = stored[f"{name}_scale_inv"].repeat_interleave(BLOCK[0], 0).repeat_interleave(BLOCK[1], 1)
        weight = stored[name].float()
        return (weight * scales[: weight.shape[0], : weight.shape[1]]).to(torch.bfloat16).float().numpy()

    def written(name: str) -> np.ndarray:
        info = infos[name]
        return np.frombuffer(data, np.float32, info.elements, header.data_offset + info.offset).reshape(info.shape)

    np.testing.assert_array_equal(written("blk.1.attn_q.weight"), expected("model.layers.1.self_attn.q_proj.weight"))
    experts = np.stack([expected(f"model.layers.0.mlp.experts.{i}.down_proj.weight") for i in range(6)])
    np.testing.assert_array_equal(written("blk.0.ffn_down_exps.weight"), experts)


def test_missing_or_misshapen_scales_are_rejected(checkpoint: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    families.rewrite(checkpoint, lambda tensors: {key: t for key, t in tensors.items() if key != f"{name}_scale_inv"})
    with pytest.raises(InputError, match=f"{name}' is FP8, but has no _scale_inv of shape"):
        open_source(checkpoint)
