"""Tasks on a GGUF file, compared with lm-eval's Hugging Face model, one-at-a-time decoding, and lm-eval's `gguf` model.

    python benchmarks/scoring.py --data DIR [--layers 28] [--items 20] [--prompts 64] [--batch-size 1] [--dir DIR]
        [--engine llama.cpp|torch] [--tokenizer DIR]

The checkpoint has Qwen3-0.6B's shape and random weights. Both sides run it in BF16 with the same cores and requests.
With `--engine torch` our side also runs transformers' model, so the sides differ only in how they batch requests.
Log-likelihoods differ from lm-eval's by tenths, because lm-eval computes the softmax in the model's dtype, BF16, by
default.

HellaSwag and MMLU, with five few-shot examples, go through lm-eval's interface of a model. HellaSwag's examples are its
first five items, which are not scored. MMLU's items come subject by subject, ten per subject, as in the task. GSM8K,
with five few-shot examples, generates a fixed number of new tokens, because random weights never end a text. All its
items are generated together, and the first few also one at a time. `DIR` has the data sets as JSONL files:
hellaswag/val_strided400.jsonl, mmlu/{dev,test}.jsonl, gsm8k/{train,test}.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from export import TOKENIZER, machine, make_checkpoint, say

from converters.export import export, open_source
from sweep.backends.base import GenerationRequest, ScoreRequest
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.backends.sharing_check import SharingSample
from sweep.backends.torch import TorchBackend
from sweep.backends.trie import plan
from sweep.measure.harness import make_lm

SHOTS = 5
LETTERS = "ABCD"
Pair = tuple[str, str]  # context, continuation


@dataclass(frozen=True)
class ScoringComparison:
    """A line of the table. `bound` is the target: the minimum of theirs / ours."""

    what: str
    n: int
    ours: float  # seconds per item
    theirs: float
    bound: float


def rows(file: Path) -> list[dict[str, Any]]:
    with file.open() as lines:
        return [json.loads(line) for line in lines]


def hellaswag(data: Path, items: int) -> list[Pair]:
    documents = rows(data / "hellaswag/val_strided400.jsonl")
    examples = "".join(f"{d['query']} {d['choices'][d['gold']]}\n\n" for d in documents[:SHOTS])
    chosen = documents[SHOTS : SHOTS + items]
    return [(examples + d["query"], f" {choice}") for d in chosen for choice in d["choices"]]


def mmlu(data: Path, items: int) -> list[Pair]:
    def question(d: dict[str, Any]) -> str:
        choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, d["choices"], strict=True))
        return f"{d['question'].strip()}\n{choices}Answer:"

    examples: dict[str, str] = {}
    for d in rows(data / "mmlu/dev.jsonl"):
        subject = d["subject"].replace("_", " ")
        opening = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        so_far = examples.setdefault(d["subject"], opening)
        examples[d["subject"]] = f"{so_far}{question(d)} {LETTERS[d['answer']]}\n\n"
    documents = sorted(rows(data / "mmlu/test.jsonl"), key=lambda d: d["subject"])[:items]
    return [(examples[d["subject"]] + question(d), f" {letter}") for d in documents for letter in LETTERS]


def gsm8k(data: Path, items: int) -> list[str]:
    examples = rows(data / "gsm8k/train.jsonl")[:SHOTS]
    opening = "".join(f"Question: {d['question']}\nAnswer: {d['answer']}\n\n" for d in examples)
    return [f"{opening}Question: {d['question']}\nAnswer:" for d in rows(data / "gsm8k/test.jsonl")[:items]]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def scored(lm: Any, pairs: Sequence[Pair]) -> tuple[float, list[tuple[float, bool]]]:
    """Seconds and log-likelihoods of requests through lm-eval's interface."""
    from lm_eval.api.instance import Instance

    instances = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    return seconds(lambda: lm.loglikelihood(instances, disable_tqdm=True))


def generated(backend: LlamaBackend | TorchBackend, prompts: Sequence[str], n_tokens: int, together: bool) -> float:
    requests = [GenerationRequest(tuple(backend.tokenize(p).tolist()), n_tokens) for p in prompts]
    if together:
        return seconds(lambda: backend.generate(requests))[0]
    return seconds(lambda: [backend.generate([request]) for request in requests])[0]


def through_server(file: Path, pair: Pair, threads: int) -> float:
    """Seconds of one choice, computed as llama-cpp-python's server does for lm-eval's `gguf` model, without HTTP."""
    import llama_cpp

    model = llama_cpp.Llama(str(file), n_ctx=2048, logits_all=True, n_threads=threads, verbose=False)
    return seconds(
        lambda: model.create_completion("".join(pair), echo=True, logprobs=10, max_tokens=1, temperature=0.0)
    )[0]


def requests_of(lm: Any, pairs: Sequence[Pair]) -> list[ScoreRequest]:
    encoded = [lm._encode_pair(*pair) for pair in pairs]
    return [ScoreRequest(tuple(context), tuple(continuation)) for context, continuation in encoded]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--engine", choices=("llama.cpp", "torch"), default="llama.cpp", help="engine of our side")
    parser.add_argument("--layers", type=int, default=28, help="number of layers; fewer give a smaller checkpoint")
    parser.add_argument(
        "--items", type=int, default=20, help="number of HellaSwag items; five times as many of MMLU; 0 skips both"
    )
    parser.add_argument(
        "--prompts", type=int, default=64, help="number of GSM8K items; an eighth of them also one at a time"
    )
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", default="1", help="batch size of lm-eval's model")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--skip-server", action="store_true")
    parser.add_argument("--dir", type=Path, help="directory that keeps checkpoint and file; default: a temporary one")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    arguments = parser.parse_args()
    if not (arguments.tokenizer / "tokenizer.json").is_file():
        raise SystemExit(
            f"{arguments.tokenizer}: has no tokenizer.json; give the tokenizer directory of a Qwen model by --tokenizer"
        )
    if not (arguments.data / "hellaswag").is_dir():
        raise SystemExit(f"{arguments.data}: has no hellaswag; give the directory of the data sets by --data")
    with tempfile.TemporaryDirectory() if arguments.dir is None else nullcontext(arguments.dir) as name:
        measure(Path(name).resolve(), arguments)


def measure(directory: Path, arguments: argparse.Namespace) -> None:
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(arguments.threads)
    checkpoint, file = directory / f"model-{arguments.layers}", directory / f"BF16-{arguments.layers}.gguf"
    say("writing the checkpoint")
    make_checkpoint(checkpoint, arguments.tokenizer, arguments.layers)
    backend: LlamaBackend | TorchBackend
    if arguments.engine == "torch":
        backend = TorchBackend.open(checkpoint)
    else:
        if not file.is_file():
            export(open_source(checkpoint, checkpoint.name), {"BF16": file})
        backend = LlamaBackend(file, LlamaOptions(n_threads=arguments.threads))
    ours = make_lm(backend)
    theirs = arguments.items and HFLM(str(checkpoint), dtype="bfloat16", batch_size=arguments.batch_size, device="cpu")
    sets = {"HellaSwag": hellaswag(arguments.data, arguments.items), "MMLU": mmlu(arguments.data, 5 * arguments.items)}
    table: list[ScoringComparison] = []
    counts: list[str] = []
    for (name, pairs), bound in zip(sets.items(), (5.0, 3.0), strict=True):
        if not pairs:
            continue
        scored(ours, pairs[:4])  # warm-up: contexts, caches and kernels are created
        scored(theirs, pairs[:4])
        n = len(pairs) // 4
        our_seconds, our_scores = scored(ours, pairs)
        say(f"{name}: ours {our_seconds / n:.3f} s per item")
        their_seconds, their_scores = scored(theirs, pairs)
        say(f"{name}: lm-eval's {their_seconds / n:.3f} s per item")
        table.append(
            ScoringComparison(f"{name} 5-shot, over lm-eval's HFLM", n, our_seconds / n, their_seconds / n, bound)
        )
        requests = requests_of(ours, pairs)
        made = plan(requests, backend.score_budget(max(len(r.context) + len(r.continuation) for r in requests)))
        sample = SharingSample()
        sample.add(backend, requests, backend.loglikelihoods(requests), [request.context for request in requests])
        check = sample.check
        assert check is not None
        ours_, theirs_ = (np.array([s[0] for s in scores]) for scores in (our_scores, their_scores))
        counts.append(
            f"| {name} | {made.naive} | {made.computed} | {made.naive / made.computed:.2f} |"
            f" {check.largest_difference:.4f} | {check.changed_answers} of {check.questions} |"
            f" {np.abs(ours_ - theirs_).max():.3f} |"
        )
        if name == "HellaSwag" and arguments.engine == "llama.cpp" and not arguments.skip_server:
            took = through_server(file, pairs[0], arguments.threads)
            table.append(
                ScoringComparison(
                    "HellaSwag, one choice, over llama-cpp-python's server", 1, our_seconds / n / 4, took, 100.0
                )
            )
    prompts = gsm8k(arguments.data, arguments.prompts)
    few = prompts[: max(1, len(prompts) // 8)]
    together = generated(backend, prompts, arguments.new_tokens, together=True) / len(prompts)
    alone = generated(backend, few, arguments.new_tokens, together=False) / len(few)
    table.append(ScoringComparison("GSM8K 5-shot, over one-at-a-time decoding", len(prompts), together, alone, 4.0))
    backend.close()
    print(f"{machine()}; {arguments.engine}; {arguments.layers} layers; lm-eval's batch size {arguments.batch_size}\n")
    print("| claim | items | ours, s per item | theirs, s per item | bound | ratio | |\n|---|--:|--:|--:|--:|--:|---|")
    for row in table:
        ratio = row.theirs / row.ours
        met = "met" if ratio >= row.bound else "missed"
        cells = f"{row.n} | {row.ours:.3f} | {row.theirs:.3f} | ≥ {row.bound:g} | {ratio:.2f} | {met}"
        print(f"| {row.what} | {cells} |")
    print(
        "\n| set | tokens without sharing | tokens computed | ratio | largest difference of a log-likelihood from an"
        " unshared run | answers changed by sharing | largest difference from lm-eval's"
        " |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    print("\n".join(counts))


if __name__ == "__main__":
    main()
