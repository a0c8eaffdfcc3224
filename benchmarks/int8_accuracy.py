"""Perplexity of the built-in models under int8 recipes, as trained and with added outliers that change no logit.

    python benchmarks/int8_accuracy.py [--model micro] [--windows 96] [--samples 128] [--threads 2]

Perplexity is measured on the model's test text in windows of 256 tokens. The difference from the float model is paired
by window, and its error is the standard error of the mean difference. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

import presets
from int8.calibrate import calibrate
from int8.calibration_text import samples
from int8.model import open_model
from int8.recipe import ALL_FOLDS, NAMED, Activations, Fold, Insertion, Recipe, Scales
from int8.statistics import StatisticsCache
from int8.tokenizer import load_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "tests" / "int8"))
from outliers import add_outliers, scale_query_key_head, spread_value_heads

WINDOW = 256
SMOOTH = Recipe("smooth", alpha=0.65, folds=ALL_FOLDS)
WEIGHTS = NAMED["w8a16"]

PLAIN: Mapping[str, Recipe] = {
    "w8a16: only weights": NAMED["w8a16"],
    "w8a8: static, not smoothed": NAMED["w8a8"],
    "w8a8-dyn: dynamic, not smoothed": NAMED["w8a8-dyn"],
    "smoothed 0.65, attention float": SMOOTH,
    "sq: 0.8, Q/K tensor, V channel": NAMED["sq"],
    "sq at alpha 0.65": replace(NAMED["sq"], alpha=0.65),
    "sq-ph: 0.65, Q/K head, V head": NAMED["sq-ph"],
    "sq-ph at alpha 0.8": replace(NAMED["sq-ph"], alpha=0.8),
    "sq-ph after norm and RoPE": replace(NAMED["sq-ph"], insertion=Insertion.ROPE),
    "sq-ph-dyn": NAMED["sq-ph-dyn"],
    "sq-ph-dyn, int8 KV cache": replace(NAMED["sq-ph-dyn"], int8_kv_cache=True),
}
OUTLIERS: Mapping[str, Recipe] = {
    "w8a8: static, not smoothed": NAMED["w8a8"],
    "w8a8-dyn: dynamic, not smoothed": NAMED["w8a8-dyn"],
    "smoothed 0.65 without up->down": replace(SMOOTH, folds=tuple(f for f in ALL_FOLDS if f is not Fold.UP_DOWN)),
    "smoothed 0.65": SMOOTH,
    "smoothed 0.65, dynamic": replace(SMOOTH, activations=Activations.DYNAMIC),
    **{name: NAMED[name] for name in ("sq", "sq-ph", "sq-ph-dyn")},
}
VALUES = {f"V by {scales}": replace(WEIGHTS, value=scales) for scales in (Scales.TENSOR, Scales.CHANNEL, Scales.HEAD)}
QUERIES = {
    f"Q/K by {scales}, {'projection output' if at is Insertion.PROJECTION else 'after norm and RoPE'}": replace(
        WEIGHTS, query_key=scales, insertion=at
    )
    for at in Insertion
    for scales in (Scales.TENSOR, Scales.HEAD)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="micro")
    parser.add_argument("--windows", type=int, default=96)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    builtin = presets.builtin_models()[options.model]
    tokenizer = load_tokenizer(builtin.directory)
    read = samples(tokenizer, builtin.calibration.read_text(encoding="utf-8"), "text", options.samples, WINDOW)
    scored = samples(tokenizer, builtin.text.read_text(encoding="utf-8"), "text", options.windows, WINDOW)
    model = open_model(builtin.directory, "float32")
    plain = nll(model, scored)
    print(f"{options.model}: float perplexity {math.exp(plain.mean()):.4f} over {options.windows} windows of {WINDOW}")
    with tempfile.TemporaryDirectory() as directory:

        def table(title: str, recipes: Mapping[str, Recipe], change: Callable[[PreTrainedModel], None]) -> None:
            print(f"\n| {title} | perplexity | change from float |\n|---|---|---|")
            changed = copy.deepcopy(model)
            change(changed)
            show("float", nll(changed, scored), plain)
            for name, recipe in recipes.items():
                quantized = copy.deepcopy(changed)
                cache = StatisticsCache(Path(directory), title, read)
                cache.save(recipe, calibrate(quantized, read, recipe, known=cache.load(recipe)))
                show(name, nll(quantized, scored), plain)

        table("as trained", PLAIN, lambda _: None)
        table("outliers x100 in 8 channels", OUTLIERS, add_outliers)
        table("V of one KV head x64", VALUES, lambda model: spread_value_heads(model, (64.0, 1.0)))
        table("q and k of one head x64", QUERIES, lambda model: scale_query_key_head(model, 64.0))


@torch.no_grad()
def nll(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Mean negative log-likelihood of each window, float64."""
    found = []
    for part in tokens.split(8):
        logprobs = model(part).logits.float().log_softmax(-1)[:, :-1]
        found.append(-logprobs.gather(-1, part[:, 1:, None]).squeeze(-1).double().mean(1))
    return torch.cat(found)


def show(name: str, found: Tensor, plain: Tensor) -> None:
    """Print a row. The change of log perplexity is the mean paired difference, so the percentage has its error."""
    difference = found - plain
    error = difference.std() / math.sqrt(len(difference))
    change, value = 100 * math.expm1(difference.mean()), math.exp(found.mean())
    print(f"| {name} | {value:.4f} | {change:+.3f} % ± {100 * error * math.exp(difference.mean()):.3f} |", flush=True)


if __name__ == "__main__":
    main()
