"""The devices of a fit: by name or size, as --gpu has them, and those that NVIDIA's library tells of."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from converters.errors import InputError
from sweep.defaults import MARGIN_BYTES
from sweep.fit import present
from sweep.fit.hardware import devices_called, reserve_bytes

GIB = 1 << 30


def names(*texts: str) -> list[str]:
    return [device.name for device in devices_called(texts)]


def test_cards_and_sizes_are_counted_in_order() -> None:
    assert names("4090") == ["RTX 4090"]
    assert names("2xRTX 6000 Ada") == ["RTX 6000 Ada"] * 2
    assert names("2 x 24GiB", "4090") == ["24GiB", "24GiB", "RTX 4090"]
    assert names("RTX 4090, 12 GiB", "64GiB RAM") == ["RTX 4090", "12 GiB", "64GiB RAM"]
    assert names("MI250") == ["MI250"] * 2  # one card of two devices


@pytest.mark.parametrize(
    ("text", "count"), [("24GiB", 24 * GIB), ("24GB", 24_000_000_000), ("1.5GiB", 3 * GIB // 2), ("500MiB", 500 << 20)]
)
def test_sizes_have_the_units_they_are_written_in(text: str, count: int) -> None:
    (device,) = devices_called([text])
    assert (device.total_bytes, device.usable_bytes) == (count, count)
    assert (device.simulated, device.bandwidth) == (True, None)


def test_ram_can_be_stated_beside_a_gpu() -> None:
    assert [device.kind for device in devices_called(["8GiB", "64GiB ram"])] == ["cuda", "cpu"]


def test_more_than_llama_cpp_s_own_margin_stays_free_of_a_gpu() -> None:
    (device,) = devices_called(["RTX 4090"])
    assert device.reserve_bytes == reserve_bytes("cuda") > MARGIN_BYTES
    assert device.usable_bytes < device.total_bytes == 24 * GIB


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("24", "'24' is a size without a unit; write 24GiB"),
        ("1.5", "without a unit"),
        ("2x24", "without a unit"),
        ("RTX 4099", "did you mean RTX 4090"),
        ("RTX 6000", "can be Quadro RTX 6000, RTX A6000, RTX 6000 Ada"),
        ("H100", "can be H100 PCIe, H100 SXM or H100 NVL; say which"),
        ("0x4090", "at least one"),
        ("17x4090", "room for 16"),
        ("0GiB", "some memory"),
        ("", "no such GPU"),
        ("24GiB,", "no such GPU"),
        ("24 furlongs", "no such GPU"),
        ("\x1b[2J", "no such GPU"),
    ],
)
def test_what_is_no_device_is_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(InputError, match="--gpu") as raised:
        devices_called([text])
    assert told in str(raised.value)
    assert str(raised.value).isprintable()


class NVMLError(Exception):
    pass


def management_library(*cards: tuple[str, int, int] | tuple[str, None, None]) -> ModuleType:
    """NVIDIA's, as a machine with these cards (name, total, free) has it; None of one that tells no memory."""
    library = ModuleType("pynvml")

    def memory(index: int) -> SimpleNamespace:
        _, total, free = cards[index]
        if total is None:
            raise NVMLError("Not Supported")
        return SimpleNamespace(total=total, free=free)

    library.NVMLError = NVMLError
    library.nvmlInit = library.nvmlShutdown = lambda: None
    library.nvmlDeviceGetCount = lambda: len(cards)
    library.nvmlDeviceGetHandleByIndex = lambda index: index
    library.nvmlDeviceGetName = lambda index: cards[index][0]
    library.nvmlDeviceGetMemoryInfo = memory
    return library


def test_cards_of_nvidia_s_library_have_what_is_free_now(monkeypatch: pytest.MonkeyPatch) -> None:
    library = management_library(
        ("NVIDIA GeForce RTX 4090", 24564 << 20, 20000 << 20),
        ("NVIDIA Thing", 8 * GIB, GIB),
        ("NVIDIA GB10", None, None),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    card, unknown = present.nvidia()
    assert (card.name, card.kind, card.simulated) == ("RTX 4090", "cuda", False)
    assert (card.total_bytes, card.usable_bytes, card.bandwidth) == (24564 << 20, 20000 << 20, 1008e9)
    assert (unknown.name, unknown.usable_bytes, unknown.bandwidth) == ("NVIDIA Thing", GIB, None)


def test_without_a_driver_or_its_library_there_are_no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    library = management_library()

    def no_driver() -> None:
        raise NVMLError("Driver Not Loaded")

    library.nvmlInit = no_driver
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert present.nvidia() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert present.nvidia() == []


def test_ram_is_what_a_process_can_have() -> None:
    ram = present.ram()
    assert 0 < ram.usable_bytes <= ram.total_bytes
    assert (ram.kind, ram.simulated) == ("cpu", False)
