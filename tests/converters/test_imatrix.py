"""Importance matrices: files that the gguf package wrote are read, and what is written is read by it."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from converters.errors import InputError
from converters.export import export
from converters.imatrix import ImportanceMatrix, Statistics
from converters.source import open_source


@pytest.fixture
def matrix() -> ImportanceMatrix:
    rng = np.random.default_rng(0)
    dense = Statistics(rng.uniform(0, 9, (1, 256)).astype(np.float32), np.array([512], np.float32))
    experts = Statistics(rng.uniform(0, 9, (3, 256)).astype(np.float32), np.array([400, 0, 624], np.float32))
    return ImportanceMatrix(
        {"blk.0.attn_q.weight": dense, "blk.0.ffn_up_exps.weight": experts}, ("/some/where/text.txt",), 1, 512
    )


def by_llama_cpps_package(path: Path, matrix: ImportanceMatrix, **changes: np.ndarray) -> Path:
    writer = GGUFWriter(path, "unused")
    writer.kv_data[0].clear()  # an importance matrix names no architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_uint32("imatrix.chunk_count", matrix.chunks)
    writer.add_uint32("imatrix.chunk_size", matrix.chunk_size)
    tensors = {}
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


def test_what_llama_cpps_package_wrote_is_read(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    known = ImportanceMatrix.read(by_llama_cpps_package(tmp_path / "m.gguf", matrix))
    assert (known.datasets, known.chunks, known.chunk_size) == (("text.txt",), 1, 512)
    for name, entry in matrix.statistics.items():
        np.testing.assert_array_equal(known.statistics[name].sums, entry.sums)
        np.testing.assert_array_equal(known.statistics[name].counts, entry.counts)


def test_what_is_written_its_reader_reads(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    matrix.write(tmp_path / "ours.gguf")
    reader = GGUFReader(tmp_path / "ours.gguf")
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    sums = theirs["blk.0.ffn_up_exps.weight.in_sum2"]
    assert sums.shape.tolist() == [256, 3]
    np.testing.assert_array_equal(sums.data, matrix.statistics["blk.0.ffn_up_exps.weight"].sums)
    assert theirs["blk.0.ffn_up_exps.weight.counts"].shape.tolist() == [1, 3]
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["text.txt"]  # no path of this machine
    assert [path.name for path in tmp_path.iterdir()] == ["ours.gguf"]


def test_weights_are_means_and_one_where_no_token_went(matrix: ImportanceMatrix) -> None:
    experts = matrix.statistics["blk.0.ffn_up_exps.weight"]
    np.testing.assert_array_equal(experts.weights[0], experts.sums[0] / np.float32(400))
    np.testing.assert_array_equal(experts.weights[1], np.ones(256, np.float32))
    assert matrix.coverage == (3, 4)


def test_a_file_made_with_it_says_so(tiny: Path, tmp_path: Path) -> None:
    source = open_source(tiny)
    sums = {
        tensor.name: Statistics(np.ones((1, tensor.shape[-1]), np.float32), np.ones(1, np.float32))
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


DAMAGES = {
    "NaN": ("blk.0.attn_q.weight.in_sum2", np.full((1, 256), np.nan, np.float32), "no sums of squares"),
    "negative": ("blk.0.attn_q.weight.in_sum2", np.full((1, 256), -1, np.float32), "no sums of squares"),
    "counts of other matrices": ("blk.0.attn_q.weight.counts", np.ones((2, 1), np.float32), "its counts of 2"),
    "no counts": ("blk.0.attn_q.weight.counts", None, "has no .counts beside it"),
    "another type": ("blk.0.attn_q.weight.in_sum2", np.ones((1, 256), np.float16), "expected F32"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(matrix: ImportanceMatrix, tmp_path: Path, damage: str) -> None:
    name, array, message = DAMAGES[damage]
    path = by_llama_cpps_package(tmp_path / "m.gguf", matrix, **{name: array})
    with pytest.raises(InputError, match=message):
        ImportanceMatrix.read(path)


def test_other_files_are_refused(tiny: Path, tmp_path: Path) -> None:
    export(open_source(tiny), {"Q8_0": tmp_path / "model.gguf"})
    with pytest.raises(InputError, match="is no importance matrix in GGUF"):
        ImportanceMatrix.read(tmp_path / "model.gguf")
