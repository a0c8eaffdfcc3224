"""Prompts in the real chat templates of Qwen, which come with llama.cpp's source, are those of transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import presets
from converters.export import export, open_source
from converters.llamacpp.model import Model
from sweep.measure.chat import render_chat

TEMPLATES = Path(__file__).parents[3] / "build/peers/source/vendor/llama.cpp/models/templates"
QWEN = sorted(TEMPLATES.glob("Qwen*.jinja")) if TEMPLATES.is_dir() else []
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "3 + 4?"},
    {"role": "assistant", "content": "<think>\nseven\n</think>\n\n7"},
    {"role": "user", "content": "And <think> 5?"},
]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not QWEN, reason="make peers has not been run")]


@pytest.mark.parametrize("template", QWEN, ids=lambda file: file.stem)
def test_prompts_are_those_of_transformers(tmp_path: Path, template: Path) -> None:
    from transformers import AutoTokenizer

    path = Path(shutil.copytree(presets.builtin_models()["micro"].directory, tmp_path / "model"))
    shutil.copyfile(template, path / "chat_template.jinja")
    export(open_source(path, "m"), {"Q8_0": tmp_path / "m.gguf"})
    tokenizer = AutoTokenizer.from_pretrained(path)
    begun = [*TALK, {"role": "assistant", "content": "Answer: "}]
    with Model(tmp_path / "m.gguf", vocabulary=True) as model:
        for talk, generates in ((TALK, True), (TALK[1:2], True), (begun, False)):
            for thinking in (None, True, False):
                theirs = tokenizer.apply_chat_template(
                    talk,
                    tokenize=False,
                    add_generation_prompt=generates,
                    continue_final_message=not generates,
                    **({} if thinking is None else {"enable_thinking": thinking}),
                )
                assert render_chat(model, talk, generates, thinking) == theirs
