"""The tokens that a model accepts of a draft, against drafting step by step with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call

import presets
from converters.errors import InputError
from converters.export import export, open_source
from sweep.backends.llama import LlamaBackend
from sweep.measure.acceptance import acceptance, drafted_right, generated, prompts_of

MODELS = presets.builtin_models()
NEW, DRAFTED = 24, 3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("draft")
    found = {name: folder / f"{name}-F32.gguf" for name in ("micro", "nano")}
    for name, file in found.items():
        export(open_source(MODELS[name].directory, name), {"F32": file}, threads=1)
    return found


def step_by_step(prompt: tuple[int, ...], models: dict[str, Any]) -> tuple[int, int]:
    """Passes and accepted tokens of an actual speculative decoding of NEW tokens, greedy, without any cache."""

    def best(name: str, tokens: list[int]) -> list[int]:
        with torch.no_grad():
            return models[name](torch.tensor([tokens])).logits[0].argmax(-1).tolist()

    text = [*prompt, best("micro", list(prompt))[-1]]
    passes = accepted = 0
    while len(text) - len(prompt) + DRAFTED <= NEW:
        proposed = list(text)
        for _ in range(DRAFTED):
            proposed.append(best("nano", proposed)[-1])
        checked = best("micro", proposed)[len(text) - 1 :]
        kept = 0
        while kept < DRAFTED and proposed[len(text) + kept] == checked[kept]:
            kept += 1
        text += checked[: kept + 1]
        passes, accepted = passes + 1, accepted + kept
    return passes, accepted


def test_the_figures_are_those_of_drafting_step_by_step(files: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    models = {
        name: AutoModelForCausalLM.from_pretrained(MODELS[name].directory, dtype=torch.float32).eval()
        for name in ("micro", "nano")
    }
    backend = LlamaBackend(str(files["micro"]))
    tokens = backend.tokenize(MODELS["micro"].text.read_text()[:4_000])
    prompts = prompts_of(np.array(tokens[: len(tokens) // 64 * 64], dtype=np.int32).reshape(-1, 64), 4)
    texts = generated(backend, prompts, NEW)
    backend.close()
    draft = LlamaBackend(str(files["nano"]))
    right = drafted_right(draft, prompts, texts)
    draft.close()
    found = acceptance(right, DRAFTED)
    whole = [prompt for prompt, text in zip(prompts, texts, strict=True) if len(text) == NEW]
    assert len(whole) >= 3  # others end early, where the two count differently by design
    passes, accepted = np.sum([step_by_step(prompt, models) for prompt in whole], axis=0)
    same = acceptance([one for one, text in zip(right, texts, strict=True) if len(text) == NEW], DRAFTED)
    assert (same.passes, same.accepted) == (passes, accepted)
    assert 0 < same.accepted < same.drafted == DRAFTED * passes
    assert found.passes >= same.passes


def test_the_figures_of_known_texts() -> None:
    first, second = [np.array([bool(int(one)) for one in word]) for word in ("1110110", "0000000")]
    found = acceptance([first, second], 2)
    # of the first, tokens 1 and 2, and after the model's own token 4 and 5; of the second, none in five passes
    assert (found.passes, found.accepted, found.drafted) == (2 + 5, 4, 14)
    assert (found.rate, found.tokens_per_pass) == (4 / 14, 1 + 4 / 7)
    residuals = np.array([4 - found.rate * 4, 0 - found.rate * 10])
    assert found.stderr == pytest.approx(np.sqrt((residuals**2).sum() * 2) / 14)
    with pytest.raises(InputError, match="before 4 tokens can be drafted"):
        acceptance([np.array([True, True])], 4)


def test_a_sweep_shows_how_much_each_variant_accepts(files: dict[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(MODELS["micro"].text.read_text()[:6_000])
    common = ("--perplexity", text, "--window", "64", "--speed-seconds", "0.1", "--workspace", tmp_path / "w")
    ended = call("eval", files["micro"], "--draft", files["nano"], *common, "--format", "json")
    assert ended.returncode == 0, ended.stderr
    (record,) = json.loads(ended.stdout.splitlines()[-1])["records"]
    figures = record["figures"]
    assert 0 < figures["acceptance"]["value"] < 100
    assert figures["tokens_per_pass"]["value"] == pytest.approx(1 + 3 * figures["acceptance"]["value"] / 100)
    itself = call("eval", files["micro"], "--draft", files["micro"], *common, "--format", "json")
    (same,) = json.loads(itself.stdout.splitlines()[-1])["records"]
    assert same["figures"]["acceptance"]["value"] == 100.0
    report = call("report", "--workspace", tmp_path / "w", "--csv", tmp_path / "a.csv")
    assert report.returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--draft", "none.gguf"), "--draft none.gguf: there is no such GGUF file"),
        (
            ("--draft", "hub:o/m@v1/a b.gguf"),
            "there is no such GGUF file; download it: hf download o/m 'a b.gguf' --revision v1 --local-dir .",
        ),
        (("--draft", "nano"), "`sweep convert nano --to Q8_0 --out DIR` makes one"),
        (("--draft", "a.gguf", "--measure", "text"), "--draft is for the measurement speed"),
        (("--draft", "a.gguf", "--measure", "speed"), "--draft continues a text, so it is for the measurement text"),
    ],
)
def test_a_draft_that_cannot_be_measured_is_rejected(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    ended = call("run", "micro", "--variants", "=Q4_K_M", *options, "--workspace", tmp_path, "--dry-run")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert message in ended.stderr
