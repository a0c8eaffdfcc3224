"""Packed codes equal those of compressed-tensors and are read back."""

from __future__ import annotations

import pytest
import torch

from ptq.grid import limits
from ptq.packing import pack, unpack


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("columns", [32, 33, 64, 70])
def test_words_equal_those_of_compressed_tensors(bits: int, columns: int):
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    lowest, highest = limits(bits)
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(lowest, highest + 1, (1030, columns), generator=generator, dtype=torch.int8)
    packed = pack(codes, bits)
    assert torch.equal(packed, helpers.pack_to_int32(codes, bits))
    assert torch.equal(unpack(packed, bits, columns), codes)
    assert packed.shape == (1030, -(-columns * bits // 32))
