"""Values that are no numbers are found in a tensor of any type, without memory of its size."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from converters.errors import InputError
from int8.checkpoint_files import write_tensors

TYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_value_that_is_no_number_is_found_wherever_it_is(dtype: torch.dtype, tmp_path: Path) -> None:
    for value, at in product((float("nan"), float("inf"), -float("inf")), (0, 500, 999)):
        tensor = torch.randn(1000, generator=torch.Generator().manual_seed(1)).to(dtype)
        tensor[at] = value
        with pytest.raises(InputError, match=r"^w: has NaN or infinite values"):
            write_tensors(tmp_path / "file", {"a": torch.zeros(2, dtype=dtype), "w": tensor})
        assert not (tmp_path / "file").exists()
    write_tensors(tmp_path / "file", {"none": torch.zeros(0, 3, dtype=dtype), "one": torch.tensor(1, dtype=dtype)})


def test_writing_a_tensor_makes_no_other_of_its_size(tmp_path: Path) -> None:
    tensor = torch.randn(1_000_000)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        write_tensors(tmp_path / "file", {"embeddings": tensor})
    assert sum(max(0, event.self_cpu_memory_usage) for event in found.key_averages()) < 10_000
