"""KL divergence of PTQ variants from their float model, on built-in models and on a small real one.

    python benchmarks/ptq_accuracy.py --model micro [--variants gptq:w4g128,...] [--results FILE] [--windows 64]
    python benchmarks/ptq_accuracy.py --model outliers|micro-moe|DIRECTORY|FILE.gguf [--calibration FILE --text FILE]
    python benchmarks/ptq_accuracy.py --tables --results FILE

`outliers` is micro with outlier channels that change no logit (tests/int8/outliers.py). Of a GGUF file, the dequantized
weights are the float model. Each variant is quantized with
`--samples` calibration samples and computed in float32; its divergence is measured on windows of 512 tokens of a text
that is not the calibration text. What was measured is appended to the results, line by line, and not measured again.
The tables compare each variant with plain rounding to the same bits and groups, paired by window (95 % intervals).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import presets
from int8.calibration_text import samples
from int8.model import open_model
from int8.quantize_model import CalibrationText
from int8.tokenizer import copy_tokenizer, load_tokenizer
from ptq.checkpoint import load, read_summary
from ptq.quantize import quantize
from ptq.recipe import recipe
from sweep.statistics.paired import compare_differences

sys.path.append(str(Path(__file__).parents[1] / "tests" / "int8"))
from outliers import add_outliers

OUTLIERS = "outliers"
LENGTH = 512
METHODS = ("rtn", "hqq", "gptq", "gptq+a", "awq", "awq+gptq", "rot+rtn", "rot+gptq")
ACTIVATIONS = ("8a8", "4a8", "4a4")
GRID = (
    *(f"{method}:w{bits}g%" for bits in (4, 3, 2) for method in METHODS),
    *(f"{method}:w{bits}" for bits in (4, 3, 2) for method in ("rtn", "gptq", "awq")),
    *("rtn:w8", "gptq:w8", "rtn:w8g%", "gptq:w8g%"),
    *("billm", "billm+"),
    *(f"rtn:w{spec}-sym" for spec in ACTIVATIONS),
    *(f"{method}:w{spec}" for spec in ACTIVATIONS for method in ("sq", "sq+rot")),
)
"""The variants, with % for the size of a group."""


@dataclass(frozen=True)
class Measured:
    """A variant: bits of the whole file per weight, seconds to quantize, and per window the mean divergence in nats and
    the mean negative log-likelihood."""

    model: str
    variant: str
    bits_per_weight: float
    seconds: float
    kld: list[float]
    nll: list[float]


@dataclass(frozen=True)
class Source:
    """A checkpoint, its calibration text, and the text that is scored."""

    directory: Path
    calibration: Path
    text: Path


def source(name: str, calibration: Path | None, text: Path | None, place: Path) -> Source:
    if (builtin := presets.builtin_models().get("micro" if name == OUTLIERS else name)) is None:
        if calibration is None or text is None:
            raise SystemExit(f"{name}: give --calibration and --text")
        directory = dequantized(Path(name), place / "dequantized") if name.endswith(".gguf") else Path(name)
        return Source(directory, calibration, text)
    if name != OUTLIERS:
        return Source(builtin.directory, builtin.calibration, builtin.text)
    model = open_model(builtin.directory, "float32")
    add_outliers(model)
    model.save_pretrained(place / OUTLIERS)
    copy_tokenizer(builtin.directory, place / OUTLIERS)
    return Source(place / OUTLIERS, builtin.calibration, builtin.text)


def dequantized(file: Path, out: Path) -> Path:
    """A GGUF file as a checkpoint in BF16, as transformers reads it."""
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(**where)
    model = type(read)(read.config)  # transformers does not write a model that it read from a GGUF file
    model.load_state_dict(read.state_dict())
    model.config.__dict__.pop("quantization_config", None)
    model.to(torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(**where).save_pretrained(out)
    return out


@torch.no_grad()
def logprobs(model: PreTrainedModel, window: Tensor) -> Tensor:
    """Log-probabilities of all tokens but the first [tokens - 1, vocabulary], in float32."""
    return model(window[None]).logits[0, :-1].float().log_softmax(-1)


@torch.no_grad()
def float_logprobs(given: Source, windows: Tensor, place: Path) -> NDArray[np.float32]:
    """Those of the float model [windows, tokens - 1, vocabulary], in a file: they can be larger than the memory."""
    model = open_model(given.directory, "float32").eval()
    shape = (len(windows), windows.shape[1] - 1, model.config.vocab_size)
    rows = np.lib.format.open_memmap(place / "float.npy", "w+", np.float32, shape)
    for i, window in enumerate(windows):
        rows[i] = logprobs(model, window).numpy()
    return rows


def measured(
    name: str, variant: str, given: Source, windows: Tensor, exact: NDArray[np.float32], count: int, place: Path
) -> Measured:
    out = place / "quantized"
    text = CalibrationText(str(given.calibration), lambda _: given.calibration.read_text(encoding="utf-8"))
    began = time.monotonic()
    quantize(given.directory, recipe(variant), text, out, count=count, length=LENGTH, dtype="bfloat16", replace=True)
    seconds = time.monotonic() - began
    model = load(out)[0].float()
    kld, nll = [], []
    for window, rows in zip(windows, exact, strict=True):
        p, q = torch.from_numpy(rows), logprobs(model, window)
        kld.append(float((p.exp() * (p - q)).sum(-1).double().mean()))
        nll.append(float(-q.gather(-1, window[1:, None]).double().mean()))
    return Measured(name, variant, read_summary(out).bits_per_weight, round(seconds, 1), kld, nll)


def plain(variant: str, known: Iterable[str]) -> str:
    """Plain rounding to the same bits and groups, which for BiLLM are 2 bits in groups. Empty: not among `known`."""
    method, _, spec = variant.partition(":")
    if method.startswith("billm"):
        return next((one for one in known if one.startswith("rtn:w2g")), "")
    if method == "rtn":
        return ""
    name = f"rtn:{spec}-sym" if method.startswith("sq") else f"rtn:{spec}"
    return name if name in known else ""


def table(rows: list[Measured]) -> str:
    """Markdown: the variants of a model by bits per weight."""
    known = {one.variant: one for one in rows}
    lines = [
        "| variant | bits/weight | KLD | ± | perplexity | less than plain rounding, in % of its KLD | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in sorted(rows, key=lambda one: (one.bits_per_weight, np.mean(one.kld))):
        mean, count = float(np.mean(one.kld)), len(one.kld)
        error = float(np.std(one.kld, ddof=1)) / math.sqrt(count)
        base, gained = known.get(plain(one.variant, known)), ""
        if base is not None:
            found = compare_differences(np.array(base.kld) - np.array(one.kld))
            whole = 100 / float(np.mean(base.kld))
            gained = f"{found.delta * whole:.0f} ({found.low * whole:.0f} to {found.high * whole:.0f})"
        lines.append(
            f"| `{one.variant}` | {one.bits_per_weight:.2f} | {mean:.5f} | {error:.5f}"
            f" | {math.exp(np.mean(one.nll)):.3f} | {gained} | {one.seconds:.0f} |"
        )
    return "\n".join(lines)


def read_results(file: Path) -> list[Measured]:
    if not file.exists():
        return []
    return [Measured(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def measure_missing(options: argparse.Namespace) -> None:
    variants = options.variants.split(",") if options.variants else [v.replace("%", str(options.group)) for v in GRID]
    name = Path(options.model).stem
    done = {(one.model, one.variant) for one in read_results(options.results)}
    missing = [variant for variant in variants if (name, variant) not in done]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        given = source(options.model, options.calibration, options.text, place)
        scored = given.text.read_text(encoding="utf-8")
        windows = samples(load_tokenizer(given.directory), scored, str(given.text), options.windows, LENGTH)
        exact = float_logprobs(given, windows, place)
        for variant in missing:
            found = measured(name, variant, given, windows, exact, options.samples, place)
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(found)) + "\n")
            print(f"{found.model} {variant}: {np.mean(found.kld):.5f} nats, {found.seconds} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"a built-in model, {OUTLIERS}, a checkpoint directory or a GGUF file")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--variants", help="separated by commas; default: a grid of all methods")
    parser.add_argument("--group", type=int, default=128, help="size of the groups of the grid")
    parser.add_argument("--samples", type=int, default=48, help=f"calibration samples of {LENGTH} tokens")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("ptq_accuracy.jsonl"))
    parser.add_argument("--tables", action="store_true", help="print the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.model is not None:
        measure_missing(options)
    if options.tables:
        rows = read_results(options.results)
        for model in dict.fromkeys(one.model for one in rows):
            print(f"\n{model}\n\n{table([one for one in rows if one.model == model])}")


if __name__ == "__main__":
    main()
