"""Importance matrices, compared with transformers' activations and with files of the gguf package.

Slow: against llama-imatrix and llama-quantize, as built by `make peers`.
"""

import ctypes
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
import transformers
from checkpoints import make_checkpoint, make_tokenizer
from gguf import GGUFReader, GGUFWriter

from converters.errors import InputError, MissingRuntime
from converters.export import export
from converters.imatrix import ImportanceMatrix, ImportanceStatistics
from converters.llamacpp import imatrix_collection
from converters.llamacpp.bindings import TYPES
from converters.llamacpp.container import Field, ValueType, encode_header, string, uint32
from converters.llamacpp.quantize import quantize_rows, to_float32
from converters.llamacpp.reader import read_header
from converters.resolver import open_source

Change = Callable[[str, ImportanceStatistics], ImportanceStatistics]

ROOT = Path(__file__).parents[2]
LLAMA_IMATRIX = ROOT / "build/peers/bin/llama-imatrix"
LLAMA_QUANTIZE = ROOT / "build/peers/bin/llama-quantize"


@pytest.fixture
def matrix() -> ImportanceMatrix:
    rng = np.random.default_rng(0)
    dense = ImportanceStatistics(rng.uniform(0, 9, (1, 256)).astype(np.float32), np.array([512], np.float32))
    experts = ImportanceStatistics(rng.uniform(0, 9, (3, 256)).astype(np.float32), np.array([400, 0, 624], np.float32))
    return ImportanceMatrix(
        {"blk.0.attn_q.weight": dense, "blk.0.ffn_up_exps.weight": experts}, ("/some/where/text.txt",), 1, 512
    )


def by_llama_cpps_package(path: Path, matrix: ImportanceMatrix, **changes: np.ndarray | None) -> Path:
    writer = GGUFWriter(path, "unused")
    writer.kv_data[0].clear()  # an importance matrix has no architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_uint32("imatrix.chunk_count", matrix.chunks)
    writer.add_uint32("imatrix.chunk_size", matrix.chunk_size)
    tensors: dict[str, np.ndarray | None] = {}
    for name, entry in matrix.statistics.items():
        tensors[f"{name}.in_sum2"] = entry.sums
        tensors[f"{name}.counts"] = entry.counts[:, None]
    for name, array in {**tensors, **changes}.items():
        if array is not None:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_written_by_llama_cpps_package_is_read(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    known = ImportanceMatrix.read(by_llama_cpps_package(tmp_path / "m.gguf", matrix))
    assert (known.datasets, known.chunks, known.chunk_size) == (("text.txt",), 1, 512)
    for name, entry in matrix.statistics.items():
        np.testing.assert_array_equal(known.statistics[name].sums, entry.sums)
        np.testing.assert_array_equal(known.statistics[name].counts, entry.counts)


def test_a_written_file_is_read_by_llama_cpps_package(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    matrix.write(tmp_path / "ours.gguf")
    reader = GGUFReader(tmp_path / "ours.gguf")
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    sums = theirs["blk.0.ffn_up_exps.weight.in_sum2"]
    assert sums.shape.tolist() == [256, 3]
    np.testing.assert_array_equal(sums.data, matrix.statistics["blk.0.ffn_up_exps.weight"].sums)
    assert theirs["blk.0.ffn_up_exps.weight.counts"].shape.tolist() == [1, 3]
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["text.txt"]  # without the path
    assert [path.name for path in tmp_path.iterdir()] == ["ours.gguf"]


def test_weights_are_means_and_1_if_no_token_reached_the_matrix(matrix: ImportanceMatrix) -> None:
    experts = matrix.statistics["blk.0.ffn_up_exps.weight"]
    np.testing.assert_array_equal(experts.weights[0], experts.sums[0] / np.float32(400))
    np.testing.assert_array_equal(experts.weights[1], np.ones(256, np.float32))
    assert matrix.coverage == (3, 4)
    assert matrix.partly_covered == {"blk.0.ffn_up_exps.weight": (2, 3)}


def changed(matrix: ImportanceMatrix, change: Change, **settings: object) -> ImportanceMatrix:
    return replace(matrix, statistics={n: change(n, entry) for n, entry in matrix.statistics.items()}, **settings)


def zeros(_name: str, entry: ImportanceStatistics) -> ImportanceStatistics:
    return ImportanceStatistics(np.zeros_like(entry.sums), entry.counts)


def constants(_name: str, entry: ImportanceStatistics) -> ImportanceStatistics:
    return ImportanceStatistics(np.ones_like(entry.sums), entry.counts)


def uncounted(_name: str, entry: ImportanceStatistics) -> ImportanceStatistics:
    return ImportanceStatistics(entry.sums, np.zeros_like(entry.counts))


def one_zero(name: str, entry: ImportanceStatistics) -> ImportanceStatistics:
    return zeros(name, entry) if name == "blk.0.attn_q.weight" else entry


def one_zero_expert(_name: str, entry: ImportanceStatistics) -> ImportanceStatistics:
    return ImportanceStatistics(np.where(np.arange(len(entry.sums))[:, None] == 2, 0, entry.sums), entry.counts)


@pytest.mark.parametrize("change", [zeros, uncounted])
def test_a_matrix_without_any_importance_is_rejected(matrix: ImportanceMatrix, tmp_path: Path, change: Change) -> None:
    changed(matrix, change).write(tmp_path / "m.gguf")
    with pytest.raises(InputError, match=r"m\.gguf: all sums or all counts are zero"):
        ImportanceMatrix.read(tmp_path / "m.gguf")


def test_doubtful_statistics_are_named_and_a_sound_matrix_has_none(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    def notes(of: ImportanceMatrix) -> tuple[str, ...]:
        of.write(tmp_path / "m.gguf")
        return ImportanceMatrix.read(tmp_path / "m.gguf").coverage_notes[
            2:
        ]  # after coverage and the expert without one

    assert notes(matrix) == ()
    assert notes(changed(matrix, one_zero)) == (
        "all inputs were zero in blk.0.attn_q.weight; these matrices are quantized as without an importance matrix",
    )
    assert notes(changed(matrix, one_zero_expert))[0].startswith("all inputs were zero in blk.0.ffn_up_exps.weight;")
    (constant,) = notes(changed(matrix, constants))
    assert "all columns have the same importance in blk.0.attn_q.weight, blk.0.ffn_up_exps.weight" in constant
    (few,) = notes(replace(matrix, chunk_size=255))
    assert few == "255 tokens are fewer than the 256 columns of a weight; use a longer text"


def test_matrices_without_importance_are_quantized_as_without_a_matrix(matrix: ImportanceMatrix) -> None:
    experts = changed(matrix, one_zero_expert).statistics["blk.0.ffn_up_exps.weight"]
    np.testing.assert_array_equal(experts.weights[2], np.ones(256, np.float32))
    np.testing.assert_array_equal(experts.weights[0], matrix.statistics["blk.0.ffn_up_exps.weight"].weights[0])


@pytest.mark.parametrize("type_", ["Q2_K", "Q4_K", "Q6_K", "IQ4_XS", "Q4_0"])
def test_a_weight_is_kept_although_all_its_sums_are_zero(type_: str) -> None:
    """With the weights that llama-quantize makes of such sums, all 0, nothing of the values remains."""
    rows = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    entry = ImportanceStatistics(np.zeros((1, 256), np.float32), np.array([512], np.float32))

    def error(importance: np.ndarray) -> float:
        stored = quantize_rows(rows, TYPES[type_], importance)
        return float(np.linalg.norm(to_float32(stored, TYPES[type_]) - rows) / np.linalg.norm(rows))

    assert error(np.zeros(256, np.float32)) >= 1
    assert error(entry.weights[0]) == error(np.ones(256, np.float32)) < 0.3


def test_a_matrix_that_does_not_fit_the_model_is_rejected_or_its_gaps_are_named(tiny: Path) -> None:
    source = open_source(tiny)
    matrices = {t.name: t.shape for t in source.tensors if len(t.shape) > 1 and t.name.startswith("blk.")}
    rng = np.random.default_rng(0)
    whole = ImportanceMatrix(
        {
            name: ImportanceStatistics(rng.uniform(1, 2, (1, shape[-1])).astype(np.float32), np.ones(1, np.float32))
            for name, shape in matrices.items()
        },
        ("text.txt",), 2, 512,
    )  # fmt: skip
    assert whole.model_notes(source, "m.gguf") == ()
    some = {name: entry for name, entry in whole.statistics.items() if "ffn_up" not in name}
    other = {
        name.replace("blk.1", "blk.7"): entry for name, entry in whole.statistics.items() if "blk.1.attn_q." in name
    }
    gaps, surplus = replace(whole, statistics=some | other).model_notes(source, "m.gguf")
    assert gaps == (
        "has no entry for blk.0.ffn_up.weight, blk.1.ffn_up.weight, which are quantized as without an importance matrix"
    )
    assert surplus == "has entries that the model has not (blk.7.attn_q.weight): check that it was made for this model"
    with pytest.raises(InputError, match=r"^m\.gguf: names no tensor of tiny"):
        replace(whole, statistics=other).model_notes(source, "m.gguf")
    doubled = changed(whole, lambda _, entry: ImportanceStatistics(np.tile(entry.sums, 2), entry.counts))
    with pytest.raises(InputError, match=r"^m\.gguf: has \(1, 512\) values for blk\.0\.attn_k\.weight, which has"):
        doubled.model_notes(source, "m.gguf")


def test_a_file_made_with_an_importance_matrix_names_it(tiny: Path, tmp_path: Path) -> None:
    source = open_source(tiny)
    sums = {
        tensor.name: ImportanceStatistics(np.ones((1, tensor.shape[-1]), np.float32), np.ones(1, np.float32))
        for tensor in source.tensors
        if len(tensor.shape) == 2 and tensor.name.startswith("blk.")
    }
    matrix = ImportanceMatrix(sums, ("text.txt",), 7, 512)
    export(source, {"IQ2_XS": tmp_path / "m.gguf"}, importance=matrix.importance("tiny-imatrix.gguf"))
    fields = GGUFReader(tmp_path / "m.gguf").fields
    assert fields["quantize.imatrix.file"].contents() == "tiny-imatrix.gguf"
    assert fields["quantize.imatrix.dataset"].contents() == "text.txt"
    assert fields["quantize.imatrix.entries_count"].contents() == len(sums)
    assert fields["quantize.imatrix.chunks_count"].contents() == 7


DAMAGES: dict[str, tuple[str, np.ndarray | None, str]] = {
    "NaN": ("blk.0.attn_q.weight.in_sum2", np.full((1, 256), np.nan, np.float32), "NaN, infinite or negative"),
    "negative": ("blk.0.attn_q.weight.in_sum2", np.full((1, 256), -1, np.float32), "NaN, infinite or negative"),
    "counts of other matrices": ("blk.0.attn_q.weight.counts", np.ones((2, 1), np.float32), "its counts are for 2"),
    "no counts": ("blk.0.attn_q.weight.counts", None, "has no matching .counts"),
    "no sums": ("blk.0.attn_q.weight.in_sum2", None, "has no matching .in_sum2"),
    "another type": ("blk.0.attn_q.weight.in_sum2", np.ones((1, 256), np.float16), "expected F32"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_rejected(matrix: ImportanceMatrix, tmp_path: Path, damage: str) -> None:
    name, array, message = DAMAGES[damage]
    path = by_llama_cpps_package(tmp_path / "m.gguf", matrix, **{name: array})
    with pytest.raises(InputError, match=message):
        ImportanceMatrix.read(path)


def test_files_of_other_kinds_are_rejected(tiny: Path, tmp_path: Path) -> None:
    export(open_source(tiny), {"Q8_0": tmp_path / "model.gguf"})
    with pytest.raises(InputError, match="is not an importance matrix"):
        ImportanceMatrix.read(tmp_path / "model.gguf")
    old = tmp_path / "imatrix.dat"
    old.write_bytes(b"\1\0\0\0" * 20)
    with pytest.raises(InputError, match=r"to convert the older \.dat format"):
        ImportanceMatrix.read(old)


BAD_METADATA: dict[str, tuple[str, Field | None, str]] = {
    "no chunk count": ("imatrix.chunk_count", None, "imatrix.chunk_count is missing"),
    "a text for a number": ("imatrix.chunk_size", string("512"), "imatrix.chunk_size is missing or not a UINT32"),
    "a number for the datasets": (
        "imatrix.datasets",
        uint32(1),
        "imatrix.datasets is missing or not a list",
    ),
    "a negative count": ("imatrix.chunk_count", Field(ValueType.INT32, b"\xff" * 4), "not a UINT32"),
}


@pytest.mark.parametrize("case", BAD_METADATA)
def test_metadata_of_other_types_are_rejected(matrix: ImportanceMatrix, tmp_path: Path, case: str) -> None:
    key, field, message = BAD_METADATA[case]
    matrix.write(tmp_path / "m.gguf")
    header, data = read_header(tmp_path / "m.gguf"), (tmp_path / "m.gguf").read_bytes()
    metadata = {name: value for name, value in {**header.metadata, key: field}.items() if value is not None}
    (tmp_path / "m.gguf").write_bytes(encode_header(metadata, header.tensors) + data[header.data_offset :])
    with pytest.raises(InputError, match=message):
        ImportanceMatrix.read(tmp_path / "m.gguf")


def test_files_truncated_or_altered_anywhere_are_read_or_rejected(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    matrix.write(tmp_path / "m.gguf")
    whole = (tmp_path / "m.gguf").read_bytes()
    rng, rejected = np.random.default_rng(0), 0
    cuts = [whole[:length] for length in rng.integers(0, len(whole) - 64, 100)]
    altered = []
    for _ in range(400):
        data = bytearray(whole)
        for position in rng.integers(0, len(whole) - len(whole) // 2, 3):
            data[position] = rng.integers(0, 256)
        altered.append(bytes(data))
    for number, content in enumerate(cuts + altered):
        file = tmp_path / "x.gguf"
        file.write_bytes(content)
        try:
            known = ImportanceMatrix.read(file)
        except InputError:
            rejected += 1
            continue
        assert number >= len(cuts), "a file that is cut off was read"
        assert all(np.isfinite(entry.weights).all() for entry in known.statistics.values())
    assert len(cuts) < rejected < len(cuts) + len(altered)


LINEAR = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.out_proj": "ssm_out",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}

TOLERANCE = 1e-5
"""Relative to a tensor's norm, with F32 K and V. Measured: 5e-7 to 2e-6 without flash attention, 4e-4 with it."""

Sums = dict[str, tuple[np.ndarray, np.ndarray]]


def transformers_sums(model: transformers.PreTrainedModel, chunks: np.ndarray) -> Sums:
    """Sums of squares [matrices, columns] in float64 and numbers of rows, from hooks before every linear layer."""
    found: Sums = {}

    def add(name: str, matrices: int, matrix: int, inputs: torch.Tensor) -> None:
        inputs = inputs.reshape(-1, inputs.shape[-1])
        sums, counts = found.setdefault(name, (np.zeros((matrices, inputs.shape[1])), np.zeros(matrices)))
        sums[matrix] += inputs.double().square().sum(0).numpy()
        counts[matrix] += len(inputs)

    def dense(name: str) -> Callable[..., None]:
        return lambda _, args: add(name, 1, 0, args[0])

    def experts(block: str) -> Callable[..., None]:
        def hook(module: Any, args: tuple[torch.Tensor, ...]) -> None:
            for expert in range(module.num_experts):
                inputs = args[0][(args[1] == expert).any(-1)]
                gate, up = torch.nn.functional.linear(inputs, module.gate_up_proj[expert]).chunk(2, -1)
                add(f"{block}.ffn_gate_exps.weight", module.num_experts, expert, inputs)
                add(f"{block}.ffn_up_exps.weight", module.num_experts, expert, inputs)
                add(f"{block}.ffn_down_exps.weight", module.num_experts, expert, module.act_fn(gate) * up)

        return hook

    for name, module in model.named_modules():
        *_, number, part = name.partition("layers.")[2].partition(".")[::2] if "layers." in name else ("", "")
        if part in LINEAR:
            module.register_forward_pre_hook(dense(f"blk.{number}.{LINEAR[part]}.weight"))
        elif part == "mlp.experts":
            module.register_forward_pre_hook(experts(f"blk.{number}"))
    with torch.no_grad():
        for chunk in chunks:
            model(torch.from_numpy(chunk)[None])
    return found


def tiled(sums: np.ndarray, config: Any) -> np.ndarray:
    """Reorder columns by value head, from transformers' order (grouped by key head) to that of the file."""
    heads = (config.linear_num_key_heads, config.linear_num_value_heads // config.linear_num_key_heads)
    return sums.reshape(1, *heads, -1).swapaxes(1, 2).reshape(1, -1)


MODELS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3moe": {"num_experts": 64},  # more than a short text reaches
    "qwen35moe": {},
}
# Several chunks per batch, with a smaller last batch; and each chunk in pieces.
BATCHES = {"together": 128, "in pieces": 32}


def make_model(family: str, directory: Path, **settings: Any) -> Path:
    """Make a tiny checkpoint with a tokenizer and its F32 file."""
    if family == "qwen3":
        make_checkpoint(directory, **settings)
    else:
        families.make(family, directory, **settings)
        make_tokenizer(directory)
    file = directory.with_suffix(".gguf")
    export(open_source(directory), {"F32": file}, threads=1)
    return file


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("family", MODELS)
def test_sums_equal_those_of_transformers_activations(tmp_path: Path, family: str, batch: str) -> None:
    file = make_model(family, tmp_path / "model", **MODELS[family])
    tokens = np.random.default_rng(0).integers(0, 512, 3 * 64 + 5, np.int32)
    steps: list[tuple[int, int]] = []
    ours = imatrix_collection.collect(
        file,
        tokens,
        n_ctx=64,
        n_batch=BATCHES[batch],
        n_threads=1,
        type_kv="f32",
        flash_attn="off",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert (ours.chunks, ours.chunk_size) == (3, 64)
    assert steps == ([(2, 3), (3, 3)] if batch == "together" else [(1, 3), (2, 3), (3, 3)])
    model = families.FAMILIES[family].model if family in families.FAMILIES else transformers.Qwen3ForCausalLM
    loaded = model.from_pretrained(tmp_path / "model", dtype=torch.float32, attn_implementation="eager")
    theirs = transformers_sums(loaded, tokens[: 3 * 64].reshape(3, 64))
    assert ours.sums.keys() == ours.counts.keys() == theirs.keys()
    matrices = {t.name for t in read_header(file).tensors if len(t.shape) > 1 and t.name.startswith("blk.")}
    assert {name for name in matrices - theirs.keys() if "ssm_conv1d" not in name} == set()
    for name, (sums, counts) in theirs.items():
        expected = tiled(sums, loaded.config) if "ssm_out" in name else sums
        np.testing.assert_array_equal(ours.counts[name], counts, err_msg=name)
        assert np.linalg.norm(ours.sums[name] - expected) <= TOLERANCE * np.linalg.norm(expected), name
    known = ImportanceMatrix.from_collected(ours, "tokens")
    assert bool(known.partly_covered) == (family == "qwen3moe")
    assert known.model_notes(open_source(tmp_path / "model"), "tokens") == ()  # nothing in it is doubtful
    doubtful = [note for note in known.coverage_notes[1:] if "tokens are fewer" not in note]
    assert len(doubtful) == (family == "qwen3moe")  # only experts that no token reached


def test_a_collected_matrix_can_be_read_again_and_used_for_an_export(tiny: Path, tmp_path: Path) -> None:
    export(open_source(tiny), {"F32": tmp_path / "f32.gguf"}, threads=1)
    tokens = np.random.default_rng(0).integers(0, 512, 128, np.int32)
    made = ImportanceMatrix.from_collected(
        imatrix_collection.collect(tmp_path / "f32.gguf", tokens, n_ctx=64, n_threads=1), "tokens"
    )
    made.write(tmp_path / "m.gguf")
    known = ImportanceMatrix.read(tmp_path / "m.gguf")
    assert (known.datasets, known.chunks, known.chunk_size) == (("tokens",), 2, 64)
    assert known.statistics.keys() == made.statistics.keys()
    for name, entry in known.statistics.items():
        np.testing.assert_array_equal(entry.weights, made.statistics[name].weights)
    export(open_source(tiny), {"IQ2_XXS": tmp_path / "iq2.gguf"}, threads=1, importance=known.importance("m.gguf"))


@pytest.mark.parametrize("raised", [KeyboardInterrupt, MemoryError])
def test_an_error_in_the_callback_is_raised_after_the_computation(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: type[BaseException]
) -> None:
    export(open_source(tiny), {"F32": tmp_path / "f32.gguf"}, threads=1)
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        raise raised("in the callback")

    monkeypatch.setattr(imatrix_collection._Collector, "_add", fail)
    with pytest.raises(raised, match="in the callback"):
        imatrix_collection.collect(tmp_path / "f32.gguf", np.zeros(128, np.int32), n_ctx=64, n_threads=1)
    assert len(calls) == 1, "looked at more after it had failed"


def test_activations_that_are_not_finite_are_rejected(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    directory = checkpoint(dtype=torch.float32)
    families.rewrite(
        directory,
        lambda tensors: {n: t * 1e30 if n == "model.layers.1.mlp.up_proj.weight" else t for n, t in tensors.items()},
    )
    export(open_source(directory), {"F32": tmp_path / "f32.gguf"}, threads=1)
    tokens = np.random.default_rng(0).integers(0, 512, 128, np.int32)
    with pytest.raises(InputError, match=r"f32.gguf: an input of blk.1.ffn_down.weight is NaN or infinite"):
        imatrix_collection.collect(tmp_path / "f32.gguf", tokens, n_ctx=64, n_threads=1)


TOO_LITTLE: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a short text": ("Hello world", {}, "at least 1024"),
    "a context beyond the model's": ("Hello", {"n_ctx": 1024}, "16 to 512 tokens, not 1024"),
    "a context of nothing": ("Hello", {"n_ctx": 8}, "16 to 512 tokens, not 8"),
    "no chunks": ("Hello", {"max_chunks": 0}, "at least 1"),
    "tokens of another model": (np.full(2000, 512, np.int32), {}, "outside the model's vocabulary of 512"),
}


@pytest.mark.parametrize("case", TOO_LITTLE)
def test_texts_and_contexts_that_give_no_matrix_are_rejected(tiny: Path, tmp_path: Path, case: str) -> None:
    text, options, message = TOO_LITTLE[case]
    export(open_source(tiny), {"F32": tmp_path / "f32.gguf"}, threads=1)
    with pytest.raises(InputError, match=message):
        imatrix_collection.collect(tmp_path / "f32.gguf", text, **options)


@pytest.mark.parametrize("swapped", [("ne", "nb"), ("op", "flags"), ("view_src", "data"), ("name", None)])
def test_a_different_layout_of_ggml_tensor_is_detected(
    monkeypatch: pytest.MonkeyPatch, swapped: tuple[str, str | None]
) -> None:
    one, other = swapped
    order: dict[str | None, str | None] = {one: other, other: one}
    fields: dict[str | None, Any] = {name: kind for name, kind, *_ in imatrix_collection._Tensor._fields_}

    class Other(ctypes.Structure):
        _fields_ = [(name, fields[name]) for name in (order.get(each, each) for each in fields) if name]

    assert imatrix_collection._operations()[0] != imatrix_collection._operations()[1]
    monkeypatch.setattr(imatrix_collection, "_Tensor", Other)
    with pytest.raises(MissingRuntime, match="does not have the declared layout"):
        imatrix_collection._operations.__wrapped__()


@pytest.mark.slow
@pytest.mark.skipif(not LLAMA_IMATRIX.exists(), reason="make peers has not built llama-imatrix")
@pytest.mark.parametrize("family", MODELS)
def test_llama_imatrix_computes_the_same_matrix(tmp_path: Path, family: str) -> None:
    file = make_model(family, tmp_path / "model", **MODELS[family])
    text = (ROOT / "presets/micro/text/calibration.txt").read_text()[:8000]
    assert text.isascii()
    (tmp_path / "text.txt").write_text(text)
    command: list[str | Path] = [
        LLAMA_IMATRIX,
        "-m",
        file,
        "-f",
        tmp_path / "text.txt",
        "-o",
        tmp_path / "theirs.gguf",
        "--no-ppl",
    ]
    subprocess.run([*command, "-t", "1", "-ngl", "0"], capture_output=True, check=True)
    theirs = ImportanceMatrix.read(tmp_path / "theirs.gguf")
    ours = ImportanceMatrix.from_collected(
        imatrix_collection.collect(file, text.removesuffix("\n"), n_threads=1), "text.txt"
    )
    assert (ours.chunks, ours.chunk_size) == (theirs.chunks, theirs.chunk_size)
    assert ours.chunks % 4, "a batch is to be left that is not full"
    assert ours.statistics.keys() == theirs.statistics.keys()
    for name, entry in theirs.statistics.items():
        np.testing.assert_array_equal(ours.statistics[name].counts, entry.counts, err_msg=name)
        difference = np.linalg.norm(ours.statistics[name].sums - entry.sums)
        assert difference <= 1e-4 * np.linalg.norm(entry.sums), name


@pytest.mark.slow
@pytest.mark.skipif(not LLAMA_QUANTIZE.exists(), reason="make peers has not been run")
def test_llama_quantize_makes_the_same_files_from_the_matrix(tmp_path: Path) -> None:
    settings = {"hidden_size": 256, "moe_intermediate_size": 256, "num_experts": 32}
    file = make_model("qwen3moe", tmp_path / "model", **settings)
    tokens = np.random.default_rng(0).integers(0, 512, 32, np.int32)
    made = ImportanceMatrix.from_collected(imatrix_collection.collect(file, tokens, n_ctx=16, n_threads=1), "tokens")
    assert made.partly_covered, "experts that no token reached are what is to be tried"
    made.write(tmp_path / "m.gguf")
    for quant in ("IQ2_XS", "Q4_K_M"):
        ours, theirs = tmp_path / f"{quant}.gguf", tmp_path / f"theirs-{quant}.gguf"
        given = ImportanceMatrix.read(tmp_path / "m.gguf").importance("m.gguf")
        export(open_source(file), {quant: ours}, threads=1, importance=given)
        command: list[str | Path] = [LLAMA_QUANTIZE, "--imatrix", "m.gguf", file, theirs, quant, "1"]
        subprocess.run(command, capture_output=True, check=True, cwd=tmp_path)
        mine, official = read_header(ours), read_header(theirs)
        assert mine.tensors == official.tensors
        assert ours.read_bytes()[mine.data_offset :] == theirs.read_bytes()[official.data_offset :]
        for key in ("file", "dataset", "entries_count", "chunks_count"):
            one, other = (header.metadata[f"quantize.imatrix.{key}"].value for header in (mine, official))
            assert one == other, key
