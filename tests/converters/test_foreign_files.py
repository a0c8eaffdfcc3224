"""GGUF files that llama.cpp cannot load are rejected by what is wrong with them; known faults of files from other
programs can be repaired, and the repaired file is the original model again."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
from checkpoints import make_tokenizer
from gguf_files import rewrite

from converters.errors import InputError
from converters.export import export
from converters.llamacpp.container import ValueType, encode_header, numbers, string, uint32
from converters.llamacpp.model import ContextOptions, Model
from converters.llamacpp.reader import read_header
from converters.loadable import require_loadable_source
from converters.resolver import open_source

VISION = {"v.patch_embd.weight": np.ones((4, 8)), "mm.0.weight": np.ones((4, 8))}
MTP = {"mtp.fc.weight": np.ones((4, 8)), "mtp.layers.0.attn_norm.weight": np.ones(8)}


def ollama_name(name: str) -> str:
    return re.sub(r"\.ssm_dt\.bias$", ".ssm_dt", name)


def per_layer(*counts: int) -> dict[str, Any]:
    return {"attention.head_count_kv": numbers(ValueType.UINT32, counts)}


SECTIONS = {"rope.dimension_sections": numbers(ValueType.INT32, [11, 11, 10])}
ABSENT_MTP = {"block_count": uint32(5), "nextn_predict_layers": uint32(1)}

# What is changed in the file -> what llama.cpp says about it
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "time-step biases": ({"renamed": ollama_name}, "tensor 'blk.0.ssm_dt.bias' not found"),
    "heads per layer": ({"fields": per_layer(0, 0, 0, 2)}, "tensor 'blk.3.attn_k.weight' has wrong shape"),
    "three sections": ({"fields": SECTIONS}, "qwen35moe.rope.dimension_sections has wrong array length"),
    "vision tower": ({"more": VISION}, "it does not use 'mm.0.weight', 'v.patch_embd.weight'"),
    "MTP by other names": ({"more": MTP}, "it does not use 'mtp.fc.weight', 'mtp.layers.0.attn_norm.weight'"),
    "MTP that is not there": (
        {"fields": ABSENT_MTP, "without": ["attention.recurrent_layers"]},
        "tensor 'blk.4.attn_norm.weight' not found",
    ),
    "MTP that is counted only": ({"fields": ABSENT_MTP}, "attention.recurrent_layers has wrong array length"),
    "all of Ollama's": (
        {
            "renamed": ollama_name,
            "more": {**VISION, **MTP},
            "fields": {**per_layer(0, 0, 0, 2), **SECTIONS},
            "without": ["attention.recurrent_layers"],
        },
        "qwen35moe.rope.dimension_sections has wrong array length",
    ),
}


def logits(path: Path) -> np.ndarray:
    with Model(path) as model, model.context(ContextOptions(64, n_threads=1)) as context:
        tokens = np.arange(40, 72, dtype=np.int32)
        places = np.arange(len(tokens), dtype=np.int32)
        return context.decode(tokens, places, np.zeros_like(tokens), np.ones(len(tokens), np.bool_)).copy()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_known_fault_is_named_and_its_repair_gives_the_original_model(
    hybrid: Path, tmp_path: Path, fault: str
) -> None:
    changes, reason = FAULTS[fault]
    path = rewrite(hybrid, tmp_path / "my file.gguf", **changes)
    with pytest.raises(InputError) as caught:
        require_loadable_source(open_source(path))
    assert reason in str(caught.value)
    assert "Known faults: " in str(caught.value)
    assert str(caught.value).endswith(f"Write a repaired file: sweep convert '{path}' --repair --to QUANT")
    source = open_source(path, repair=True)
    require_loadable_source(source)
    export(source, {"BF16": tmp_path / "new.gguf"})
    one, two = read_header(hybrid), read_header(tmp_path / "new.gguf")
    assert [(t.name, t.shape, t.type) for t in one.tensors] == [(t.name, t.shape, t.type) for t in two.tensors]
    assert hybrid.read_bytes()[one.data_offset :] == (tmp_path / "new.gguf").read_bytes()[two.data_offset :]
    np.testing.assert_array_equal(logits(tmp_path / "new.gguf"), logits(hybrid))


def as_qwen25vl(file: Path, target: Path) -> Path:
    """A file of Qwen2.5-VL as Ollama writes it."""
    header = read_header(file)
    sections = header.metadata["qwen2vl.rope.dimension_sections"].value
    metadata = {
        key.replace("qwen2vl.", "qwen25vl."): field
        for key, field in header.metadata.items()
        if key != "qwen2vl.rope.dimension_sections"
    }
    metadata["general.architecture"] = string("qwen25vl")
    metadata["qwen25vl.rope.mrope_section"] = numbers(ValueType.INT32, sections[:3])
    target.write_bytes(encode_header(metadata, header.tensors) + file.read_bytes()[header.data_offset :])
    return rewrite(target, target, more=VISION)


def as_ollamas_qwen3vl(file: Path, target: Path) -> Path:
    indexes = {"vision.deepstack_visual_indexes": numbers(ValueType.INT32, [])}
    return rewrite(file, target, more=VISION, fields=indexes, without=["rope.dimension_sections", "n_deepstack_layers"])


PUBLISHED_HEADS = {"head_dim": 128, "rope_parameters": {**families.SECTIONS, "mrope_section": [24, 20, 20]}}


@pytest.mark.parametrize(
    ("family", "settings", "change", "reason"),
    [
        ("qwen2vl", {}, as_qwen25vl, "unknown model architecture: 'qwen25vl'"),
        ("qwen3vl", PUBLISHED_HEADS, as_ollamas_qwen3vl, "qwen3vl.rope.dimension_sections"),
    ],
)
def test_multi_modal_models_of_ollama_are_repaired(
    tmp_path: Path, family: str, settings: dict[str, Any], change: Callable[[Path, Path], Path], reason: str
) -> None:
    families.make(family, tmp_path / "model", **settings)
    make_tokenizer(tmp_path / "model")
    export(open_source(tmp_path / "model"), {"F32": tmp_path / "old.gguf"})
    path = change(tmp_path / "old.gguf", tmp_path / "x.gguf")
    with pytest.raises(InputError, match="Known faults: ") as caught:
        require_loadable_source(open_source(path))
    assert reason in str(caught.value)
    source = open_source(path, repair=True)
    require_loadable_source(source)
    export(source, {"F32": tmp_path / "new.gguf"})
    np.testing.assert_array_equal(logits(tmp_path / "new.gguf"), logits(tmp_path / "old.gguf"))


UNKNOWN: dict[str, tuple[Mapping[str, Any], str]] = {
    "surplus tensors": (
        {"more": {f"blk.1.magic_{i}.weight": np.ones(8) for i in range(7)}},
        "it does not use 'blk.1.magic_0.weight', .*'blk.1.magic_4.weight' and 2 more$",
    ),
    "a missing tensor": ({"renamed": lambda name: None if name == "output_norm.weight" else name}, "output_norm"),
    "an unknown pre-tokenizer": (
        {"fields": {"tokenizer.ggml.pre": string("nobody")}},
        "unknown pre-tokenizer type: 'nobody'",
    ),
}


@pytest.mark.parametrize("fault", UNKNOWN)
def test_an_unknown_fault_is_named_without_the_offer_of_a_repair(hybrid: Path, tmp_path: Path, fault: str) -> None:
    changes, reason = UNKNOWN[fault]
    path = rewrite(hybrid, tmp_path / "x.gguf", **changes)
    with pytest.raises(InputError, match=reason) as caught:
        require_loadable_source(open_source(path))
    assert "repair" not in str(caught.value)


def test_a_fault_beyond_the_known_ones_is_named_with_them(hybrid: Path, tmp_path: Path) -> None:
    path = rewrite(hybrid, tmp_path / "x.gguf", renamed=ollama_name, more={"blk.1.magic.weight": np.ones(8)})
    with pytest.raises(InputError, match=r"can be repaired, but then .* does not use 'blk\.1\.magic\.weight'$"):
        require_loadable_source(open_source(path))


def test_the_offer_for_a_quantized_file_names_requantize(hybrid: Path, tmp_path: Path) -> None:
    export(open_source(hybrid), {"Q8_0": tmp_path / "q.gguf"})
    path = rewrite(tmp_path / "q.gguf", tmp_path / "x.gguf", renamed=ollama_name)
    with pytest.raises(InputError, match=r"--repair --requantize --to QUANT$"):
        require_loadable_source(open_source(path, requantize=True))


def test_head_counts_that_differ_between_layers_are_not_repaired(hybrid: Path, tmp_path: Path) -> None:
    path = rewrite(hybrid, tmp_path / "x.gguf", fields=per_layer(0, 1, 0, 2))
    assert open_source(path, repair=True).repairs == ()


def test_a_file_that_llama_cpp_cannot_load_is_never_published(hybrid: Path, tmp_path: Path) -> None:
    path = rewrite(hybrid, tmp_path / "x.gguf", more=VISION)
    (tmp_path / "new").mkdir()
    for limit in (None, 200_000):
        with pytest.raises(
            InputError, match=r"new/y.*\.gguf: .* does not use 'mm\.0\.weight', 'v\.patch_embd\.weight'"
        ):
            export(open_source(path), {"BF16": tmp_path / "new" / "y.gguf"}, max_part_bytes=limit)
        assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("family", ["qwen3next", "qwen35", "qwen35moe"])
def test_a_gguf_file_without_mtp_is_that_of_a_checkpoint_without_mtp(tmp_path: Path, family: str) -> None:
    model = families.make(family, tmp_path / "m")
    families.rewrite(model, families.add_mtp)
    make_tokenizer(model)
    export(open_source(model), {"BF16": tmp_path / "m.gguf"})
    export(open_source(model, mtp=False), {"BF16": tmp_path / "without.gguf"})
    export(open_source(tmp_path / "m.gguf", mtp=False), {"BF16": tmp_path / "left-out.gguf"})
    one, two = read_header(tmp_path / "without.gguf"), read_header(tmp_path / "left-out.gguf")
    assert one.metadata == two.metadata
    assert one.tensors == two.tensors
    assert one.tensors != read_header(tmp_path / "m.gguf").tensors
    data = [(tmp_path / name).read_bytes() for name in ("without.gguf", "left-out.gguf")]
    assert data[0][one.data_offset :] == data[1][two.data_offset :]


def test_only_gguf_files_are_repaired(hybrid: Path) -> None:
    with pytest.raises(InputError, match="is not a GGUF file; --repair is only for GGUF files"):
        open_source(hybrid.parent / "model", repair=True)
