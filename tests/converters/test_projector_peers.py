"""Projector files have the same types, bytes and metadata as those of llama.cpp's converter and quantizer."""

import subprocess
import sys
from pathlib import Path

import families
import pytest
import torch
from test_peers import CONVERTER, DIFFERENT, QUANTIZE, THEIRS, metadata, tensors

from converters.export import export, open_source
from converters.projector_source import ProjectorSource
from converters.recipes import PROJECTOR_QUANTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CONVERTER.exists() or not QUANTIZE.exists(), reason="make peers has not been run"),
]


def converted(model: Path, target: Path, outtype: str) -> Path:
    """The projector file that llama.cpp's converter makes."""
    command = [sys.executable, str(CONVERTER), str(model), "--mmproj", "--outtype", outtype, "--outfile", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


def assert_same(ours: Path, theirs: Path) -> None:
    assert tensors(ours) == tensors(theirs)
    keys, others = metadata(ours), metadata(theirs)
    assert set(keys) <= set(others)
    assert set(others) - set(keys) <= THEIRS
    assert {key for key in keys if keys[key] != others[key]} <= DIFFERENT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", families.TOWERS)
def test_every_family_has_the_official_converters_projector_file(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    model = families.make_with_tower(family, tmp_path / "model", dtype=dtype)
    outtypes = ("f16", "bf16", "f32") if dtype is torch.bfloat16 else ("f16",)
    ours = {name.upper(): tmp_path / f"ours-{name}.gguf" for name in outtypes}
    export(ProjectorSource(open_source(model)), ours)
    for name in outtypes:
        assert_same(ours[name.upper()], converted(model, tmp_path / "theirs.gguf", name))


@pytest.mark.parametrize("family", ["qwen3vl", "qwen2vl"])
def test_every_quant_has_the_quantizers_bytes(tmp_path: Path, family: str) -> None:
    # Wide enough for K-quants, whose blocks have 256 weights, with one width that is no multiple of 32.
    wide = {"hidden_size": 256, "num_heads": 4, "intermediate_size": 420}
    model = families.make_with_tower(family, tmp_path / "model", dtype=torch.bfloat16, vision=wide, hidden_size=256)
    source = ProjectorSource(open_source(model))
    quants = [name for name in PROJECTOR_QUANTS if name != "F16"]  # the converter's F16 has other patch embeddings
    ours = {quant: tmp_path / f"ours-{quant}.gguf" for quant in quants}
    export(source, ours)
    theirs = converted(model, tmp_path / "theirs.gguf", "bf16")
    for quant in quants:
        quantized = tmp_path / "quantized.gguf"
        subprocess.run([str(QUANTIZE), str(theirs), str(quantized), quant], capture_output=True, check=True)
        assert tensors(ours[quant]) == tensors(quantized), quant
        quantized.unlink()
    types = {name: type_ for name, (type_, _, _) in tensors(ours["Q8_0"]).items()}
    assert types["v.blk.0.ffn_down.weight"] == "F16"  # rows of 420 weights do not fit blocks of 32
    assert types["v.blk.0.ffn_up.weight"] == "Q8_0"
