"""The built-in models, opened with other tools."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from tokenizers import Tokenizer

import presets
from converters.export import export, open_source
from converters.llamacpp.model import Model

MODELS = presets.builtin_models()
EXPECTED = {
    "nano": ("Qwen3ForCausalLM", 1e6, 2e6, 4_000_000),
    "micro": ("Qwen3ForCausalLM", 4e6, 6e6, 12_000_000),
    "mini": ("Qwen3ForCausalLM", 12e6, 14e6, 28_000_000),
    "micro-moe": ("Qwen3_5MoeForCausalLM", 6e6, 8e6, 16_000_000),
    "micro-vl": ("Qwen3VLForConditionalGeneration", 2e6, 3e6, 8_000_000),
}
"""Architecture, lower and upper bound of the number of parameters, maximum bytes of the directory."""
TEXTS = [
    "In 2026 there were 12345 apples and 67.89% of them — no: 1,000,000!",
    "中文字符和数字123，日本語のテキスト、한국어.",
    "emoji 🚀🚀 👩‍👩‍👧‍👦 🇩🇪",
    "def f(x):\n    return {'a': [x**2 for _ in range(10)]}\t# tab\r\n\r\n",
    "blanks:    four\n\n\n  \n \t mixed   \n end   ",
    "combining: e\u0301 a\u0308 \u212b नमस्ते กำลัง",
    "don't DON'T we'Ve I'LL",
]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> presets.BuiltinModel:
    return MODELS[request.param]


@pytest.fixture(scope="module")
def gguf(model: presets.BuiltinModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model exported as F32, which loses nothing."""
    file = tmp_path_factory.mktemp(model.name) / "F32.gguf"
    export(open_source(model.directory, model.name), {"F32": file})
    return file


def loaded_by_transformers(model: presets.BuiltinModel, **settings: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    loader = AutoModelForCausalLM if model.conversations is None else AutoModelForImageTextToText
    return loader.from_pretrained(model.directory, **settings)


def test_transformers_loads_model_tokenizer_and_chat_template(model: presets.BuiltinModel) -> None:
    from transformers import AutoTokenizer

    name, fewest, most, _ = EXPECTED[model.name]
    loaded = loaded_by_transformers(model)
    tokenizer = AutoTokenizer.from_pretrained(model.directory)
    assert type(loaded).__name__ == name
    assert fewest < loaded.num_parameters() < most
    weights = {name: weight for name, weight in loaded.state_dict().items() if ".visual." not in name}
    matrices = [weight for weight in weights.values() if weight.ndim >= 2 and weight.shape[-2] > 1]
    assert all(weight.shape[-1] % 256 == 0 for weight in matrices)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert chat == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_the_directory_is_not_larger_than_allowed(model: presets.BuiltinModel) -> None:
    assert sum(file.stat().st_size for file in model.directory.iterdir()) <= EXPECTED[model.name][3]


@pytest.mark.release
def test_the_card_has_the_scores_and_the_perplexity_of_the_model(model: presets.BuiltinModel, tmp_path: Path) -> None:
    ended = call("eval", model.name, "--workspace", tmp_path, "--format", "json")
    assert ended.returncode == 0, ended.stderr
    (record,) = json.loads(ended.stdout.splitlines()[-1])["records"]
    card = (model.directory.parent / "CARD.md").read_text()
    sections = {part.partition("\n")[0].strip("# "): part for part in re.split(r"^(?=##? )", card, flags=re.M) if part}
    own = sections.get(model.name) or next(iter(sections.values()))  # micro's is the first
    stated = {task: float(score) for task, score in re.findall(r"^\| ((?:micro|vl)_\w+) \| (0\.\d+) \|", own, re.M)}
    assert stated == {task: pytest.approx(score["value"], abs=0.006) for task, score in record["tasks"].items()}
    (perplexity,) = re.findall(r"perplexity on the test text is (\d\.\d+)", own)
    assert float(perplexity) == pytest.approx(record["perplexity"]["value"], abs=0.002)


def test_llama_cpp_gives_the_tokens_of_tokenizer_json(model: presets.BuiltinModel, gguf: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model.directory / "tokenizer.json"))
    with Model(gguf) as loaded:
        for text in [*TEXTS, model.text.read_text()[:50_000]]:
            assert loaded.tokenize(text).tolist() == tokenizer.encode(text, add_special_tokens=False).ids


def test_the_text_is_long_enough_for_perplexity(model: presets.BuiltinModel, gguf: Path) -> None:
    with Model(gguf) as loaded:
        assert len(loaded.tokenize(model.text.read_text())) >= 60_000


@pytest.mark.parametrize("windows", [8, pytest.param(None, id="whole text", marks=pytest.mark.release)])
def test_logits_on_the_test_text_equal_transformers(
    model: presets.BuiltinModel, gguf: Path, windows: int | None
) -> None:
    """With F32 weights and KV and no flash attention: within 1e-3 of the logits' spread, and the same top token.

    Compared with transformers in float64, llama.cpp in float32 differs by at most 1.5e-3 and transformers in float32 by
    at most 0.2e-3.
    """
    import numpy as np
    import torch

    from sweep.backends.llama import LlamaBackend, LlamaOptions
    from sweep.measure.perplexity import cut_windows

    reference = loaded_by_transformers(model, dtype=torch.float32).eval()
    reference.set_attn_implementation("eager")
    backend = LlamaBackend(gguf, LlamaOptions(type_k="f32", type_v="f32", flash_attn="off"))
    cut = cut_windows(backend, model.text.read_text(), max_windows=windows)
    for part in backend.windows(cut.tokens, 0):
        with torch.no_grad():
            tokens = torch.from_numpy(cut.tokens[part.window].astype(np.int64))[None]
            expected = reference(tokens).logits[0, part.start : part.start + len(part.logits)].numpy()
        difference = np.abs(part.logits - expected).max()
        assert difference <= 1e-3 * expected.std()
        top = np.sort(expected, axis=1)[:, -2:]
        ties = top[:, 1] - top[:, 0] <= 2 * difference
        assert (ties | (part.logits.argmax(axis=1) == expected.argmax(axis=1))).all()
    backend.close()
