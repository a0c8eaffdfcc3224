"""The devices of a fit: those that --gpu names by name or size, and those that NVIDIA's library lists."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from converters.errors import InputError
from sweep.defaults import MARGIN_BYTES
from sweep.fit import local_devices
from sweep.fit.hardware import (
    allows_ram,
    explain_reserve,
    parse_devices,
    reserve_bytes,
    reserve_formula,
    with_ram,
    with_reserve,
)

GIB = 1 << 30


def names(*texts: str) -> list[str]:
    return [device.name for device in parse_devices(texts)]


def test_gpus_and_sizes_are_parsed_in_order() -> None:
    assert names("4090") == ["RTX 4090"]
    assert names("2xRTX 6000 Ada") == ["RTX 6000 Ada"] * 2
    assert names("2 x 24GiB", "4090") == ["24GiB", "24GiB", "RTX 4090"]
    assert names("RTX 4090, 12 GiB", "64GiB RAM") == ["RTX 4090", "12 GiB", "64GiB RAM"]
    assert names("MI250") == ["MI250"] * 2  # one GPU with two devices


@pytest.mark.parametrize(
    ("text", "count"),
    [("24GiB", 24 * GIB), ("24GB", 24 * GIB), ("24g", 24 * GIB), ("1.5GiB", 3 * GIB // 2), ("500MB", 500 << 20)],
)
def test_a_gb_of_memory_is_a_gib_as_in_the_names_of_gpus(text: str, count: int) -> None:
    (device,) = parse_devices([text])
    assert (device.total_bytes, device.usable_bytes) == (count, count)
    assert (device.simulated, device.bandwidth) == (True, None)


def test_ram_and_several_gpus_follow_the_same_rule() -> None:
    named = parse_devices(["2x48GB", "RTX 3060 12GB", "64GB RAM"])
    assert [device.total_bytes for device in named] == [48 * GIB, 48 * GIB, 12 * GIB, 64 * GIB]
    (ram,) = with_ram([], "64GB", "60GB/s")
    assert (ram.total_bytes, ram.bandwidth) == (64 * GIB, 60e9)


def test_a_reserve_is_that_of_the_gpus_and_without_one_of_the_ram() -> None:
    gpu, ram = with_reserve(parse_devices(["RTX 4090", "64GiB RAM"]), "2GB")
    assert (gpu.reserve_bytes, ram.reserve_bytes) == (2 * GIB, reserve_bytes("cpu"))
    assert explain_reserve(gpu) == "2.00 GiB, as given by --reserve"
    assert "margin" in explain_reserve(ram)
    (ram,) = with_reserve(parse_devices(["64GiB RAM"]), "0MiB")
    assert ram.reserve_bytes == 0
    assert reserve_formula([gpu]) == "left free on each device, as given by --reserve"
    with pytest.raises(InputError, match="--reserve 'much' is not a size"):
        with_reserve([gpu], "much")


def test_ram_can_be_given_in_addition_to_a_gpu() -> None:
    assert [device.kind for device in parse_devices(["8GiB", "64GiB ram"])] == ["cuda", "cpu"]


def test_any_ram_is_as_much_as_is_needed_and_no_gpu() -> None:
    assert names("RTX 4090, any RAM") == ["RTX 4090"]
    assert allows_ram(["RTX 4090", "any ram"])
    assert allows_ram(["RTX 4090, 64GiB RAM"])
    assert not allows_ram(["RTX 4090"])
    assert not allows_ram(["64GiB RAM"])
    with pytest.raises(InputError, match="names no GPU"):
        parse_devices(["any RAM"])


def test_the_reserve_of_a_gpu_is_larger_than_llama_cpps_margin() -> None:
    (device,) = parse_devices(["RTX 4090"])
    assert device.reserve_bytes == reserve_bytes("cuda") > MARGIN_BYTES
    assert device.usable_bytes < device.total_bytes == 24 * GIB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("24", "'24' is a size without a unit; write 24GiB"),
        ("1.5", "without a unit"),
        ("2x24", "without a unit"),
        ("RTX 4099", "did you mean RTX 4090"),
        ("RTX 6000", "can be Quadro RTX 6000, RTX A6000, RTX 6000 Ada"),
        ("H100", "can be H100 PCIe, H100 SXM or H100 NVL; give the whole name"),
        ("0x4090", "at least one"),
        ("16x4090", "16 GPUs; llama.cpp can divide a model among at most 15"),
        ("0GiB", "must be positive"),
        ("", "no such GPU"),
        ("24GiB,", "no such GPU"),
        ("24 furlongs", "no such GPU"),
        ("\x1b[2J", "no such GPU"),
    ],
)
def test_an_unknown_device_is_rejected_with_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match="--gpu") as raised:
        parse_devices([text])
    assert message in str(raised.value)
    assert str(raised.value).isprintable()


class NVMLError(Exception):
    pass


def fake_nvml(*gpus: tuple[str, int, int] | tuple[str, None, None]) -> ModuleType:
    """NVIDIA's library on a machine with these GPUs (name, total, free); None if NVML has no figure of its memory."""
    library = ModuleType("pynvml")

    def memory(index: int) -> SimpleNamespace:
        _, total, free = gpus[index]
        if total is None:
            raise NVMLError("Not Supported")
        return SimpleNamespace(total=total, free=free)

    library.NVMLError = NVMLError
    library.nvmlInit = library.nvmlShutdown = lambda: None
    library.nvmlDeviceGetCount = lambda: len(gpus)
    library.nvmlDeviceGetHandleByIndex = lambda index: index
    library.nvmlDeviceGetName = lambda index: gpus[index][0]
    library.nvmlDeviceGetMemoryInfo = memory
    return library


def test_gpus_of_nvidias_library_have_their_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    library = fake_nvml(
        ("NVIDIA GeForce RTX 4090", 24564 << 20, 20000 << 20),
        ("NVIDIA Thing", 8 * GIB, GIB),
        ("NVIDIA GB10", None, None),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    gpu, unknown = local_devices.nvidia_gpus()
    assert (gpu.name, gpu.kind, gpu.simulated) == ("RTX 4090", "cuda", False)
    assert (gpu.total_bytes, gpu.usable_bytes, gpu.bandwidth) == (24564 << 20, 20000 << 20, 1008e9)
    assert (unknown.name, unknown.usable_bytes, unknown.bandwidth) == ("NVIDIA Thing", GIB, None)


def test_without_a_driver_or_its_library_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    library = fake_nvml()

    def no_driver() -> None:
        raise NVMLError("Driver Not Loaded")

    library.nvmlInit = no_driver
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert local_devices.nvidia_gpus() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert local_devices.nvidia_gpus() == []


def test_usable_ram_is_at_most_all_ram() -> None:
    ram = local_devices.local_ram()
    assert 0 < ram.usable_bytes <= ram.total_bytes
    assert (ram.kind, ram.simulated) == ("cpu", False)
