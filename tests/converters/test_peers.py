"""llama.cpp's own converter and quantizer, as built by `make peers`, against this export: same types, same bytes."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.export import export, open_source
from converters.llamacpp.container import read_header

ROOT = Path(__file__).parents[2]
CONVERTER = ROOT / "build/peers/source/vendor/llama.cpp/convert_hf_to_gguf.py"
QUANTIZE = ROOT / "build/peers/bin/llama-quantize"
TOKENIZER = ROOT.parent / "shared/reference/tokenizers/qwen2"  # the converter knows published vocabularies only

# Where the metadata differ, and why.
OURS = {"bitsweep.tokenizer.normalizer", "tokenizer.ggml.add_bos_token"}  # said where the converter leaves it open
THEIRS = {"general.size_label", "general.basename", "general.version"}  # guessed from the directory's name
DIFFERENT = {"general.name"}  # title-cased there, the directory's name here

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CONVERTER.exists() or not QUANTIZE.exists(), reason="make peers has not been run"),
    pytest.mark.skipif(not TOKENIZER.is_dir(), reason="Qwen's vocabulary is not beside the repository"),
]


@pytest.fixture
def model(checkpoint: Callable[..., Path]) -> Path:
    """A random Qwen3 with Qwen's real vocabulary."""
    directory = checkpoint(
        vocab_size=151936, hidden_size=256, tie_word_embeddings=False, num_hidden_layers=9, tokenizer=False
    )
    for file in TOKENIZER.iterdir():
        shutil.copy(file, directory)
    return directory


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


def test_the_official_converter_and_quantizer_write_the_same(model: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.gguf"
    command = [sys.executable, str(CONVERTER), str(model), "--outtype", "bf16", "--outfile", str(theirs)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    quants = ("BF16", "Q2_K", "Q4_K_M", "Q6_K", "Q8_0", "IQ4_XS", "Q5_0")
    ours = {quant: tmp_path / f"ours-{quant}.gguf" for quant in quants}
    export(open_source(model), ours)

    assert tensors(ours["BF16"]) == tensors(theirs)
    mine, official = metadata(ours["BF16"]), metadata(theirs)
    assert set(mine) - set(official) == OURS
    assert set(official) - set(mine) <= THEIRS
    assert {key for key in set(mine) & set(official) if mine[key] != official[key]} <= DIFFERENT

    for quant in quants[1:]:
        quantized = tmp_path / "quantized.gguf"
        subprocess.run([str(QUANTIZE), str(theirs), str(quantized), quant], capture_output=True, check=True)
        assert tensors(ours[quant]) == tensors(quantized), quant
        quantized.unlink()
