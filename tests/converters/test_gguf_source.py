"""GGUF files as input: files split by the gguf package, and quantized files with --requantize."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from converters.errors import InputError
from converters.export import export
from converters.llamacpp.bindings import lib
from converters.llamacpp.container import data_bytes, encode_header, lay_out, uint32
from converters.llamacpp.reader import read_header
from converters.resolver import open_source


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("whole")
    files = {quant: directory / f"{quant}.gguf" for quant in ("F32", "Q8_0", "Q4_K_M")}
    export(open_source(tiny), files)
    return files


@pytest.fixture
def split(whole: dict[str, Path], tmp_path: Path) -> list[Path]:
    """The F32 file in parts, written by the gguf package."""
    reader = GGUFReader(whole["F32"])
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(tmp_path / "model.gguf", architecture, split_max_tensors=9)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(key, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(tmp_path.glob("model-*-of-*.gguf"))
    assert len(parts) > 2
    return parts


def test_a_split_file_gives_the_same_export_as_the_whole_file(
    whole: dict[str, Path], split: list[Path], tmp_path: Path
) -> None:
    export(open_source(split[1], "m"), {"Q4_K_M": tmp_path / "from-parts.gguf"})
    export(open_source(whole["F32"], "m"), {"Q4_K_M": tmp_path / "from-whole.gguf"})
    parts, one = GGUFReader(tmp_path / "from-parts.gguf"), GGUFReader(tmp_path / "from-whole.gguf")
    assert [tensor.data.tobytes() for tensor in parts.tensors] == [tensor.data.tobytes() for tensor in one.tensors]
    assert set(parts.fields) == set(one.fields)


def test_a_missing_or_renamed_part_is_named(split: list[Path]) -> None:
    renamed = split[0].rename(split[0].parent / "other.gguf")
    with pytest.raises(InputError, match=f"part {split[0].name} is missing"):
        open_source(split[1])
    with pytest.raises(InputError, match=f"other.gguf: is one of {len(split)} parts"):
        open_source(renamed)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("block_count", 0, "block_count is 0; expected UINT32 from 1 to 512"),
        ("block_count", 513, "block_count is 513"),
        ("expert_count", 1025, "expert_count is 1025"),
        ("expert_count", 1, "expert_used_count is 2, but expert_count is 1"),
        ("expert_used_count", 0, "has 6 experts but uses none of them"),
        ("n_deepstack_layers", 65_536, "n_deepstack_layers is 65536"),
        ("nextn_predict_layers", 5, "nextn_predict_layers is 5, but block_count is 4"),
        ("ssm.inner_size", 96, "ssm.inner_size is 96, but 4 heads of 32 give 128"),
    ],
)
def test_counts_on_which_llama_cpp_would_abort_are_rejected(
    hybrid: Path, tmp_path: Path, key: str, value: int, words: str
) -> None:
    header = read_header(hybrid)
    metadata = {**header.metadata, f"{header.architecture}.{key}": uint32(value)}
    content = encode_header(metadata, header.tensors) + hybrid.read_bytes()[header.data_offset :]
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.gguf: .*{words}"):
        open_source(tmp_path / "x.gguf")


@pytest.mark.parametrize("name", ["blk.0.attn_qkv.weight", "blk.2.attn_gate.weight"])
def test_tensors_that_llama_cpp_would_miss_only_while_running_are_required(
    hybrid: Path, tmp_path: Path, name: str
) -> None:
    header = read_header(hybrid)
    tensors = lay_out((t.name, t.shape, t.type) for t in header.tensors if t.name != name)
    (tmp_path / "x.gguf").write_bytes(encode_header(header.metadata, tensors) + bytes(data_bytes(tensors)))
    with pytest.raises(InputError, match=rf"x\.gguf: tensor '{name}' is missing"):
        open_source(tmp_path / "x.gguf")


def test_a_quantized_file_needs_requantize_and_then_gives_llama_cpps_bytes(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"is already quantized .* allow it by --requantize"):
        open_source(whole["Q4_K_M"])
    ours = {quant: tmp_path / f"{quant}.gguf" for quant in ("Q2_K", "Q4_K_M", "Q8_0")}
    export(open_source(whole["Q4_K_M"], requantize=True), ours)
    for quant, ftype in (("Q2_K", 10), ("Q4_K_M", 15), ("Q8_0", 7)):
        params = lib.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize, params.nthread = ftype, True, 1
        theirs = tmp_path / "theirs.gguf"
        assert lib.llama_model_quantize(str(whole["Q4_K_M"]).encode(), str(theirs).encode(), params) == 0
        assert ours[quant].read_bytes() == theirs.read_bytes(), quant
