"""GPUs are found by any unambiguous part of a name, and none has more usable memory than drivers reported."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from presets import gpus as data

GIB, MIB = 1 << 30, 1 << 20

# The total memory of devices that drivers reported, from logs and messages that users published.
REPORTED = {
    "GTX 1080 Ti": 11165 * MIB,
    "RTX 2060 6GB": int(5.79 * GIB),
    "RTX 3060 Laptop": int(5.80 * GIB),
    "RTX 3090": 24124 * MIB,
    "RTX 4090": int(23.61 * GIB),
    "RTX 5060 Ti 16GB": 15816 * MIB,
    "RTX 5090": int(31.37 * GIB),
    "RTX A4000": int(15.61 * GIB),
    "RTX 6000 Ada": int(44.43 * GIB),
    "T4": int(14.56 * GIB),
    "L20": int(44.53 * GIB),
    "L40S": int(44.53 * GIB),
    "H100 SXM": int(79.11 * GIB),
    "H100 NVL": int(93.00 * GIB),
    "B200": int(178.35 * GIB),
    "RX 7900 XT": 20464 * MIB,
    "Arc A770 16GB": 16_225_243_136,
    "Arc A580": 8096 * MIB,
    "M2 Max 32GB": int(21845.34 * MIB),
    "M2 Max 96GB": 73728 * MIB,
    "M5 Max 128GB": int(107.52 * GIB),
}


def test_every_gpu_is_plausible_and_no_name_occurs_twice() -> None:
    content = tomllib.loads(Path(data.__file__).with_name("gpus.toml").read_text())
    listed = [
        1 if isinstance(entry["memory"], int) else len(entry["memory"])
        for series in content["series"]
        for entry in series["gpus"]
    ]
    assert len(data.gpus()) == sum(listed)
    for gpu in data.gpus().values():
        assert 0.6 * gpu.memory_bytes < gpu.usable_bytes < gpu.memory_bytes, gpu
        assert 50e9 < gpu.bandwidth <= 8e12, gpu
        assert gpu.kind in ("cuda", "rocm", "sycl", "metal"), gpu
        assert gpu.source, gpu


@pytest.mark.parametrize("name", REPORTED)
def test_usable_memory_is_not_more_than_drivers_reported(name: str) -> None:
    assert 0.85 * REPORTED[name] < data.gpus()[name].usable_bytes <= REPORTED[name]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("4090", ["RTX 4090"]),
        ("rtx4090", ["RTX 4090"]),
        ("NVIDIA GeForce RTX 4090", ["RTX 4090"]),
        ("rtx 6000 ada", ["RTX 6000 Ada"]),
        ("RTX 6000 Ada Generation", ["RTX 6000 Ada"]),
        ("a6000", ["RTX A6000"]),
        ("7900xtx", ["RX 7900 XTX"]),
        ("T4", ["T4"]),
        ("Tesla T4", ["T4"]),
        ("m3 max 64gb", ["M3 Max 64GB"]),
        ("4060 Ti 16GB", ["RTX 4060 Ti 16GB"]),
        ("4090 laptop gpu", ["RTX 4090 Laptop"]),
        ("M1", ["M1 8GB", "M1 16GB"]),
        ("H100", ["H100 PCIe", "H100 SXM", "H100 NVL"]),
        ("RTX 4099", []),
        ("RTX", []),
        ("", []),
    ],
)
def test_a_gpu_is_found_by_part_of_its_name(text: str, names: list[str]) -> None:
    assert [gpu.name for gpu in data.find_gpus(text)] == names


@pytest.mark.parametrize("name", data.gpus())
def test_every_full_name_finds_exactly_its_gpu(name: str) -> None:
    assert [gpu.name for gpu in data.find_gpus(name)] == [name]


@pytest.mark.parametrize(
    ("text", "near"), [("RTX 4099", "RTX 4090"), ("MI30X", "MI300X"), ("M3 Macks 64GB", "M3 Max 64GB")]
)
def test_an_unknown_name_gets_similar_names(text: str, near: str) -> None:
    assert near in data.similar_gpu_names(text)


@pytest.mark.parametrize(
    ("description", "mebibytes", "name"),
    [
        ("NVIDIA GeForce RTX 4090", 24210, "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 15943, "RTX 4090 Laptop"),
        ("NVIDIA GeForce RTX 4060 Ti", 16059, "RTX 4060 Ti 16GB"),
        ("NVIDIA A100-SXM4-80GB", 81050, "A100 SXM 80GB"),
        ("NVIDIA H100 80GB HBM3", 81079, "H100 SXM"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97250, "RTX PRO 6000 Blackwell"),
        ("Apple M3 Max", 49152, "M3 Max 64GB"),
        ("Intel(R) Arc(TM) B580 Graphics", 11605, "Arc B580"),
        ("AMD Radeon RX 7900 XTX", 24560, "RX 7900 XTX"),
        ("NVIDIA GeForce RTX 4090", 48000, None),  # with more memory soldered on, it is another GPU
        ("llvmpipe (LLVM 15.0.7, 256 bits)", 16000, None),
    ],
)
def test_the_description_of_a_driver_finds_the_gpu(description: str, mebibytes: int, name: str | None) -> None:
    found = data.gpu_of_device(description, mebibytes * MIB)
    assert (found and found.name) == name
