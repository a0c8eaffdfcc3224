"""Post-training quantization on a GPU: the same weights as on the CPU, memory for one layer at a time, and its time.

    PYTHONPATH=. python benchmarks/ptq_gpu.py [--out FILE.md] [--tiny]

Random checkpoints with layers of Qwen3-0.6B's shape are quantized by each method on the CPU and on the GPU. What is
rounded differently is counted: sums in another order move a few values to the other side of a border. The memory on the
GPU must not grow with the number of layers. It takes about four minutes. `--tiny` runs the same code on tiny shapes
without a GPU, to check that it works; it compares the CPU with itself and measures no memory.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from int8_gpu.report import MarkdownReport, say
from torch import nn
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

import presets
from int8.model import decoder_of
from int8.quantize_model import CalibrationText
from int8.tokenizer import copy_tokenizer
from ptq.checkpoint import load, read_report
from ptq.linear import RoundedInputLinear
from ptq.quantize import quantize
from ptq.recipe import recipe

MICRO = presets.builtin_models()["micro"]
# Variant -> the share of weights that may be rounded differently
METHODS = {
    "rtn:w4g128": 0.0,
    "hqq:w4g64": 1e-3,
    "sq:w8a8": 1e-3,
    "gptq:w4g128": 0.05,
    "gptq+a:w3g128": 0.05,
    "awq:w4g128": 0.05,
    "rot+gptq:w4g128": 0.05,
    "billm": 0.05,
}
DIFFERENT = 0.01  # of the root mean square of a weight: less is a rounding error, not another code
ERROR_TOLERANCE = 0.05  # of the relative error of a layer's outputs
GROWTH = 1.05  # the memory with three layers over that with one


@dataclass(frozen=True)
class Shape:
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    samples: int
    length: int

    def checkpoint(self, directory: Path, layers: int) -> Path:
        """A random checkpoint with micro's tokenizer."""
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=1536,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
        Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
        copy_tokenizer(MICRO.directory, directory)
        return directory


FULL = Shape(1024, 3072, 16, 8, 128, samples=8, length=256)
TINY = Shape(128, 256, 2, 1, 64, samples=2, length=64)
TEXT = CalibrationText("micro's own text", lambda _: MICRO.calibration.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Quantized:
    """What a run wrote, the seconds of each layer, and the highest bytes on the GPU."""

    directory: Path
    layer_seconds: list[float]
    peak: int


def run(model: Path, name: str, shape: Shape, device: str, out: Path, layers: int) -> Quantized:
    """Quantize on a device. A layer ends when its share of the progress is reached."""
    ends: list[float] = [time.perf_counter()]

    def progress(done: int, total: int) -> None:
        while done * layers >= total * len(ends):
            ends.append(time.perf_counter())

    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    shutil.rmtree(out, ignore_errors=True)
    quantize(model, recipe(name), TEXT, out, count=shape.samples, length=shape.length, device=device, progress=progress)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return Quantized(out, [after - before for before, after in pairwise(ends)], peak)


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The values of the linear layers of the decoder layers by their paths."""
    return {
        f"{index}.{name}": module.weight.float()
        for index, layer in enumerate(decoder_of(model).layers)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | RoundedInputLinear)
    }


def differing(one: Path, other: Path) -> float:
    """The largest share of a linear layer's weights that are rounded differently."""
    first, second = (weights(load(path)[0]) for path in (one, other))
    assert first.keys() == second.keys()
    return max(
        float(((first[name] - second[name]).abs() > DIFFERENT * second[name].square().mean().sqrt()).float().mean())
        for name in first
    )


def error_difference(one: Path, other: Path) -> float:
    """The largest difference of a linear layer's relative error, as a share of that error; 0 without a text."""
    first, second = (
        {
            f"{layer}.{name}": linear["error"]
            for layer, content in read_report(path)["layers"].items()
            for name, linear in content["linears"].items()
        }
        for path in (one, other)
    )
    return max(abs(first[name] - second[name]) / second[name] if second[name] else 0.0 for name in first)


def method_lines(shape: Shape, device: str, directory: Path, failed: Callable[[str], None]) -> Iterator[str]:
    """A row for each method: where the GPU's weights differ from the CPU's, and the time of a layer on both."""
    model = shape.checkpoint(directory / "two", 2)
    yield "| variant | weights that differ | at most | error of outputs differs by | s per layer, CPU | on the device |"
    yield "|---|--:|--:|--:|--:|--:|"
    for name, most in METHODS.items():
        expected = run(model, name, shape, "cpu", directory / "cpu", 2)
        found = run(model, name, shape, device, directory / "device", 2)
        share = differing(found.directory, expected.directory)
        error = error_difference(found.directory, expected.directory)
        if share > most or error > ERROR_TOLERANCE:
            failed(name)
        times = " | ".join(f"{max(one.layer_seconds):.2f}" for one in (expected, found))
        yield f"| {name} | {share:.2%} | {most:.1%} | {error:.2%} | {times} |"


def memory_lines(shape: Shape, device: str, directory: Path, failed: Callable[[str], None]) -> Iterator[str]:
    """The highest memory on the GPU with one layer and with three, next to the bytes of a layer in float32."""
    peaks = []
    for layers in (1, 3):
        model = shape.checkpoint(directory / f"layers-{layers}", layers)
        peaks.append(run(model, "gptq+a:w4g128", shape, device, directory / "device", layers).peak)
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim * shape.hidden
    layer = 4 * (attention + 3 * shape.hidden * shape.inner)
    if peaks[1] > GROWTH * peaks[0]:
        failed("memory grows with the number of layers")
    yield f"A layer in float32: {layer / 1e6:.0f} MB. Highest memory of gptq+a:w4g128 on the device:"
    yield f"{peaks[0] / 1e6:.0f} MB with one layer, {peaks[1] / 1e6:.0f} MB with three."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the report to this file, too")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        say("there is no NVIDIA GPU on this machine; --tiny runs the same code without one, but compares nothing")
        return 4
    shape, device = (TINY, "cpu") if given.tiny else (FULL, "cuda")
    named = "the CPU" if given.tiny else torch.cuda.get_device_name()
    wrong: list[str] = []
    report = MarkdownReport(given.out, f"# Post-training quantization on {named}\n\ntorch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        for title, part in (("Weights and time", method_lines), ("Memory", memory_lines)):
            with report.part(title) as lines:
                for line in part(shape, device, Path(name), wrong.append):
                    lines.append(line)
    print(report)
    if wrong:
        say(f"not as on the CPU: {', '.join(wrong)}")
    return 1 if wrong or report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
