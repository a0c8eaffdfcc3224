"""Split files equal those of llama-gguf-split, are loaded by llama.cpp, and stay within the limit."""

import itertools
import subprocess
from pathlib import Path

import pytest

from converters.export import export
from converters.llamacpp.container import padded
from converters.llamacpp.model import Model
from converters.llamacpp.reader import read_header
from converters.plan import plan_export
from converters.resolver import open_source

ROOT = Path(__file__).parents[2]
SPLIT = ROOT / "build/peers/bin/llama-gguf-split"
LIMIT = 1_000_000


def split(tiny: Path, directory: Path, quant: str = "F32", limit: int = LIMIT) -> list[Path]:
    plan = export(open_source(tiny), {quant: directory / "model.gguf"}, max_part_bytes=limit)[quant]
    paths = list(plan.paths(directory / "model.gguf"))
    assert sorted(directory.iterdir()) == paths
    assert plan.file_bytes == sum(path.stat().st_size for path in paths)
    return paths


@pytest.mark.slow
@pytest.mark.skipif(not SPLIT.exists(), reason="make peers has not been run")
@pytest.mark.parametrize("quant", ["F32", "Q8_0"])
def test_parts_equal_those_of_llama_gguf_split_to_the_byte(tiny: Path, tmp_path: Path, quant: str) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    export(open_source(tiny), {quant: tmp_path / "whole.gguf"})
    command = [SPLIT, "--split", "--split-max-size", "1M", tmp_path / "whole.gguf", tmp_path / "theirs/model"]
    subprocess.run(command, check=True, capture_output=True)
    ours, theirs = split(tiny, tmp_path / "ours", quant), sorted((tmp_path / "theirs").iterdir())
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert len(ours) > 1
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]


def test_llama_cpp_loads_all_parts_from_the_first(tiny: Path, tmp_path: Path) -> None:
    paths = split(tiny, tmp_path)
    assert len(paths) > 2
    with Model(paths[0]) as model:
        assert model.size_bytes == sum(tensor.nbytes for path in paths for tensor in read_header(path).tensors)


def test_parts_are_within_the_limit_except_for_single_larger_tensors(tiny: Path, tmp_path: Path) -> None:
    sizes = [[padded(t.nbytes) for t in read_header(path).tensors] for path in split(tiny, tmp_path)]
    assert all(sum(part) <= LIMIT or len(part) == 1 for part in sizes)
    assert all(sum(one) + other[0] > LIMIT for one, other in itertools.pairwise(sizes))


def test_an_export_from_parts_equals_one_from_the_whole_file(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    export(open_source(split(tiny, tmp_path / "parts")[2]), {"Q4_K_M": tmp_path / "of-parts.gguf"})
    export(open_source(tiny), {"F32": tmp_path / "whole.gguf"})
    export(open_source(tmp_path / "whole.gguf"), {"Q4_K_M": tmp_path / "of-whole.gguf"})
    assert (tmp_path / "of-parts.gguf").read_bytes() == (tmp_path / "of-whole.gguf").read_bytes()


def test_a_model_within_the_limit_is_one_file(tiny: Path, tmp_path: Path) -> None:
    size = plan_export(open_source(tiny), ["Q8_0"])["Q8_0"].file_bytes
    assert split(tiny, tmp_path, "Q8_0", size) == [tmp_path / "model.gguf"]
