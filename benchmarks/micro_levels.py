"""How hard each level of the toy world is for the built-in model: validation scores by level and quant.

    python benchmarks/micro_levels.py [--model DIR] [--quants BF16,Q2_K] [--items 150]

The shares of levels in presets/micro/build.py were chosen by these scores. The test split is not used here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import presets
from converters.export import export, open_source
from presets.micro import build
from presets.micro.tasks.dataset import run_tests
from presets.micro.world.item import WorldItem, distinct, items
from sweep.backends.base import GenerationRequest, ScoreRequest
from sweep.backends.llama import LlamaBackend


def generated(backend: LlamaBackend, chosen: list[WorldItem], right: Callable[[WorldItem, str], bool]) -> float:
    requests = [
        GenerationRequest(tuple(backend.tokenize(item.prompt)), 128, ("\n", "<|endoftext|>")) for item in chosen
    ]
    answers = backend.generate(requests)
    return sum(right(item, answer.text) for item, answer in zip(chosen, answers, strict=True)) / len(chosen)


def picked(backend: LlamaBackend, chosen: list[tuple[str, list[str], int]]) -> float:
    """Accuracy over (prompt, choices, label) by the sum of log-probabilities."""
    requests = []
    for prompt, choices, _ in chosen:
        context = tuple(backend.tokenize(prompt))
        for choice in choices:
            requests.append(ScoreRequest(context, tuple(backend.tokenize(choice))))
    scores = iter(backend.loglikelihoods(requests))
    hits = 0
    for _, choices, label in chosen:
        values = [next(scores).logprob for _ in choices]
        hits += values.index(max(values)) == label
    return hits / len(chosen)


def code_passes(item: WorldItem, answer: str) -> bool:
    return bool(run_tests({"tests": json.dumps(item.extra["tests"])}, [answer])["pass"])


RIGHT: dict[str, Callable[[WorldItem, str], bool]] = {
    "micro_sums": lambda item, answer: answer.endswith(f"The answer is {item.extra['answer']}."),
    "micro_form": lambda item, answer: answer.strip() == item.extra["response"],
    "micro_code": code_passes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=presets.builtin_models()["micro"].directory)
    parser.add_argument("--quants", default="BF16,Q2_K")
    parser.add_argument("--items", type=int, default=150)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {quant: Path(folder) / f"{quant}.gguf" for quant in arguments.quants.split(",")}
        export(open_source(arguments.model, "micro"), files)
        for quant, file in files.items():
            backend = LlamaBackend(file)
            for name, (draw, _, shares, _) in build.LEVELED.items():
                scores = []
                for level in range(len(shares)):
                    stream = items(lambda rng, d=draw, n=level: d(rng, n), Random(f"{name} {level}"), "validation")
                    chosen = distinct(stream, arguments.items)
                    if name in RIGHT:
                        scores.append(generated(backend, chosen, RIGHT[name]))
                    else:
                        rows = [(i.prompt, [f" {e}" for e in i.extra["endings"]], i.extra["label"]) for i in chosen]
                        scores.append(picked(backend, rows))
                print(f"{quant:8} {name:12} by level: " + "  ".join(f"{score:.3f}" for score in scores), flush=True)
            questions = [(i.prompt, [" A", " B", " C", " D"], i.extra["label"]) for i in build.lettered("validation")]
            print(f"{quant:8} micro_facts  {picked(backend, questions):.3f} of {len(questions)}", flush=True)
            backend.close()


if __name__ == "__main__":
    main()
