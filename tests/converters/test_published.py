"""The files of published repositories, by the names that publishers give them."""

import pytest

from converters.gguf_repository import name_in_repository, publisher_names
from converters.published import sort_files


def test_every_quant_is_named_as_its_publisher_names_it() -> None:
    found = sort_files(
        [
            "Qwen3-8B-Q4_K_M.gguf",
            "Qwen3-8B-UD-Q2_K_XL.gguf",
            "UD-Q3_K_XL/Qwen3-8B-UD-Q3_K_XL-00002-of-00002.gguf",
            "UD-Q3_K_XL/Qwen3-8B-UD-Q3_K_XL-00001-of-00002.gguf",
            "Qwen3-8B.i1-IQ2_M.gguf",
            "qwen3-8b-q5_0.gguf",
            "Q8_0/model.gguf",
            "Qwen3-8B-MXFP4_MOE.gguf",
            "Qwen3-8B-BF16.gguf",
            "tiny.gguf",
            "mmproj-F16.gguf",
            "imatrix_unsloth.gguf_file",
            "imatrix_unsloth.dat",
            "Qwen3-8B-imatrix.gguf",
            "README.md",
        ]
    )
    assert sorted(quant.name for quant in found.quants) == [
        "BF16", "MXFP4_MOE", "Q4_K_M", "Q8_0", "UD-Q2_K_XL", "UD-Q3_K_XL", "i1-IQ2_M", "q5_0",
        "tiny",
    ]  # fmt: skip
    parts = next(quant.parts for quant in found.quants if quant.name == "UD-Q3_K_XL")
    assert [part[-19:] for part in parts] == ["00001-of-00002.gguf", "00002-of-00002.gguf"]
    assert [quant.name for quant in found.quants if quant.float_rank is not None] == ["BF16"]
    assert found.projectors == ("mmproj-F16.gguf",)
    assert found.matrices == ("Qwen3-8B-imatrix.gguf", "imatrix_unsloth.gguf_file")
    assert found.problems == ()


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a-Q4_K_M.gguf", "a-128K-Q4_K_M.gguf"], ["a-128K-Q4_K_M", "a-Q4_K_M"]),
        (["x/a-Q4_0.gguf", "y/a-Q4_0.gguf"], ["x/a-Q4_0", "y/a-Q4_0"]),
        (["a,b-Q4_0.gguf", "ü 模型-Q4_0.gguf"], ["a-b-Q4_0", "ü 模型-Q4_0"]),  # a comma would end it in --variants
    ],
)
def test_two_files_of_one_quant_have_different_names(paths: list[str], names: list[str]) -> None:
    assert [quant.name for quant in sort_files(paths).quants] == names


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../../etc/a-Q4_0.gguf", "../../etc/a-Q4_0.gguf: its path leaves the repository"),
        ("/etc/a-Q4_0.gguf", "/etc/a-Q4_0.gguf: its path leaves the repository"),
        ("x/./imatrix.gguf", "x/./imatrix.gguf: its path leaves the repository"),
        ("a\x1b[31m-Q4_0.gguf", r"'a\x1b[31m-Q4_0.gguf': its name has control characters"),
        ("a\nb\x00\ud800-Q4_0.gguf", r"'a\nb\x00\ud800-Q4_0.gguf': its name has control characters"),
        ("a-Q4_0-00001-of-99999.gguf", "a-Q4_0-00001-of-99999.gguf: its name says that it is one of 99,999 parts"),
        ("é" * 150 + "-Q4_0.gguf", "é" * 40 + "...: its name is too long for a file"),
    ],
)
def test_a_path_that_is_none_in_a_repository_is_left_out(path: str, reason: str) -> None:
    found = sort_files([path, "a-Q8_0.gguf"])
    assert [quant.name for quant in found.quants] == ["Q8_0"]
    assert (found.matrices, found.problems) == ((), (reason,))


def test_a_file_with_a_missing_part_is_left_out() -> None:
    found = sort_files(["a-Q4_0-00001-of-00003.gguf", "a-Q4_0-00003-of-00003.gguf", "a-Q8_0.gguf"])
    assert [quant.name for quant in found.quants] == ["Q8_0"]
    assert found.problems == ("a-Q4_0-00002-of-00003.gguf is missing (1 of 3 parts are)",)


def test_files_of_several_publishers_have_names_that_differ_and_lead_back() -> None:
    files = [
        ("a/m-GGUF", "hub:Q4_K_M"),
        ("b/m-GGUF", "hub:Q4_K_M"),
        ("b/m-i1-GGUF", "hub:Q4_K_M"),
        ("b/m-GGUF", "hub:IQ2_M"),
    ]
    names = publisher_names(files)
    assert names == ["hub:a/Q4_K_M", "hub:b/m-GGUF/Q4_K_M", "hub:b/m-i1-GGUF/Q4_K_M", "hub:IQ2_M"]
    assert [name_in_repository(name, repository) for name, (repository, _) in zip(names, files, strict=True)] == [
        name for _, name in files
    ]
