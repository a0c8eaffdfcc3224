"""A GGUF file as MODEL of a sweep: one that is quantized already, and one of another architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

import presets
from converters.errors import InputError
from converters.export import export
from converters.resolver import open_source
from sweep.commands.run import prepare, variant_sizes
from sweep.jobs.base import Site
from sweep.jobs.export import ExportJob
from sweep.methods.registry import parse_list
from sweep.planning.model import ResolvedModel
from sweep.planning.prepare import _say_what_is_untried
from sweep.planning.request import Request

MICRO = presets.builtin_models()["micro"]


def test_a_quantized_file_is_quantized_again_only_on_consent(tmp_path: Path) -> None:
    quantized = tmp_path / "micro-Q8_0.gguf"
    export(open_source(MICRO.directory, "micro"), {"Q8_0": quantized})
    said: list[str] = []
    request = Request(
        str(quantized), variants="=Q4_K_M", tasks=("none",), perplexity=(MICRO.text,), workspace=tmp_path / "w"
    )
    with pytest.raises(InputError, match=r"is already quantized .* by --requantize \(`sweep eval` measures"):
        prepare(request, said.append)
    allowed = prepare(Request(**{**vars(request), "requantize": True}), said.append)
    assert said == [
        "micro-Q8_0 is already quantized: variants are compared with this file, not with what it was made of"
    ]
    assert variant_sizes(allowed)["Q4_K_M"].file_bytes > 0
    jobs = [cell.job for cell in allowed.plan.cells if isinstance(cell.job, ExportJob)]
    made = ExportJob.run_batch(jobs, Site(tmp_path / "w"))
    assert [job.quant for job in jobs] == ["BF16", "Q4_K_M"]
    assert made[1].bits_per_weight < made[0].bits_per_weight == pytest.approx(16, rel=0.01)


def test_mixes_for_qwen_are_said_to_be_untried_on_other_architectures(tmp_path: Path) -> None:
    variants = parse_list(["BF16", "Q4_K_XL", "Q4_K_M"])
    said: list[str] = []
    _say_what_is_untried(ResolvedModel("m", tmp_path, "f", 1024), variants, said.append)
    assert said == []
    _say_what_is_untried(ResolvedModel("m", tmp_path, "f", 1024, foreign="llama"), variants, said.append)
    assert said == [
        "Q4_K_XL: mixes that were chosen for Qwen models; m is a model of the architecture llama, for which they were "
        "not tried"
    ]
