"""This export has the same types and bytes as llama.cpp's converter and quantizer, built by `make peers`."""

import shutil
import subprocess
import sys
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint

from converters.export import export, open_source
from converters.llamacpp.reader import read_header

ROOT = Path(__file__).parents[2]
CONVERTER = ROOT / "build/peers/source/vendor/llama.cpp/convert_hf_to_gguf.py"
QUANTIZE = ROOT / "build/peers/bin/llama-quantize"
TOKENIZER = ROOT.parent / "shared/reference/tokenizers/qwen2"  # the converter supports only published vocabularies

# Keys in which the metadata differ, with the reason.
OURS = {"bitsweep.tokenizer.normalizer", "tokenizer.ggml.add_bos_token"}  # the converter does not write them
THEIRS = {
    "general.size_label",
    "general.basename",
    "general.version",
}  # guessed by the converter
DIFFERENT = {"general.name"}  # the converter title-cases it; we use the directory's name

QUANTS = ("Q2_K", "Q4_K_M", "Q6_K", "Q8_0", "IQ4_XS", "Q5_0")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CONVERTER.exists() or not QUANTIZE.exists(), reason="make peers has not been run"),
    pytest.mark.skipif(not TOKENIZER.is_dir(), reason="Qwen's vocabulary is missing"),
]


def tensors(file: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and data of every tensor."""
    header = read_header(file)
    data = file.read_bytes()
    return {
        t.name: (t.type.name, t.shape, data[header.data_offset + t.offset : header.data_offset + t.offset + t.nbytes])
        for t in header.tensors
    }


def metadata(file: Path) -> dict[str, object]:
    return {key: field.value for key, field in read_header(file).metadata.items()}


def converted(model: Path, target: Path) -> Path:
    """Convert a checkpoint with llama.cpp's converter."""
    command = [sys.executable, str(CONVERTER), str(model), "--outtype", "bf16", "--outfile", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


def assert_same(ours: Path, theirs: Path) -> None:
    """Types, shapes and bytes of all tensors are equal, and the metadata except for the keys above."""
    mine, official = tensors(ours), tensors(theirs)
    assert mine.keys() == official.keys()
    for name, (type_, shape, data) in mine.items():
        assert (type_, shape) == official[name][:2], name
        if name.endswith("ssm_a"):  # -exp: torch's value is within 1 ulp of the nearest float32, ours is the nearest
            one, other = (np.frombuffer(each, np.float32).view(np.int32) for each in (data, official[name][2]))
            assert np.abs(one - other).max() <= 1, name
        else:
            assert data == official[name][2], name
    keys, others = metadata(ours), metadata(theirs)
    assert set(keys) - set(others) == OURS
    assert set(others) - set(keys) <= THEIRS
    assert {key for key in set(keys) & set(others) if keys[key] != others[key]} <= DIFFERENT


def with_vocabulary(directory: Path) -> Path:
    for file in TOKENIZER.iterdir():
        shutil.copy(file, directory)
    return directory


def test_the_official_converter_and_quantizer_write_the_same_files(tmp_path: Path) -> None:
    model = with_vocabulary(
        make_checkpoint(
            tmp_path / "model",
            vocab_size=151936,
            hidden_size=256,
            tie_word_embeddings=False,
            num_hidden_layers=9,
            tokenizer=False,
        )
    )
    theirs = converted(model, tmp_path / "theirs.gguf")
    ours = {quant: tmp_path / f"ours-{quant}.gguf" for quant in ("BF16", *QUANTS)}
    export(open_source(model), ours)
    assert_same(ours["BF16"], theirs)
    for quant in QUANTS:
        quantized = tmp_path / "quantized.gguf"
        subprocess.run([str(QUANTIZE), str(theirs), str(quantized), quant], capture_output=True, check=True)
        assert tensors(ours[quant]) == tensors(quantized), quant
        quantized.unlink()


def test_own_types_are_those_of_the_quantizers_option(tiny: Path, tmp_path: Path) -> None:
    rules = (r"blk\.0\.attn_v=F16", "attn_v=Q5_0", "ffn_(up|gate)=IQ4_NL", "token_embd=Q6_K")
    name = ";".join(("Q4_K_M", *rules))
    export(open_source(tiny), {"BF16": tmp_path / "float.gguf", name: tmp_path / "ours.gguf"})
    options = [word for rule in rules for word in ("--tensor-type", rule)]
    command = [str(QUANTIZE), *options, str(tmp_path / "float.gguf"), str(tmp_path / "theirs.gguf"), "Q4_K_M"]
    subprocess.run(command, capture_output=True, check=True)
    assert tensors(tmp_path / "ours.gguf") == tensors(tmp_path / "theirs.gguf")
    assert tensors(tmp_path / "ours.gguf")["blk.0.attn_v.weight"][0] == "F16"


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_is_converted_as_the_official_converter_does(tmp_path: Path, family: str) -> None:
    settings = {"vocab_size": 151936, "hidden_size": 256, "tie_word_embeddings": family not in families.UNTIED}
    model = families.make(family, tmp_path / "model", dtype=torch.bfloat16, **settings)
    with_vocabulary(model)
    if family == "qwen3vlmoe":
        families.rewrite(model, families.transpose_experts)
    if family.startswith(("qwen3next", "qwen35")):
        families.rewrite(model, families.add_mtp)
    theirs = converted(model, tmp_path / "theirs.gguf")
    ours = tmp_path / "ours.gguf"
    export(open_source(model), {"BF16": ours})
    assert_same(ours, theirs)
