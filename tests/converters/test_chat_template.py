"""The chat template of a checkpoint is the one that transformers uses, however the checkpoint stores it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import presets
from converters.chat_template import chat_template
from converters.export import export, open_source

MICRO = presets.builtin_models()["micro"].directory
NAMED = [{"name": "tool_use", "template": "tools"}, {"name": "rag", "template": "rag"}]


def checkpoint(folder: Path, file: str | None, more: dict[str, str], setting: Any) -> Path:
    """A copy of the built-in model with this chat_template.jinja, these files in additional_chat_templates/, and this
    chat_template in tokenizer_config.json."""
    path = Path(shutil.copytree(MICRO, folder / "model"))
    (path / "chat_template.jinja").unlink()
    if file is not None:
        (path / "chat_template.jinja").write_text(file)
    for name, template in more.items():
        (path / "additional_chat_templates").mkdir(exist_ok=True)
        (path / "additional_chat_templates" / f"{name}.jinja").write_text(template)
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": setting}))
    return path


@pytest.mark.parametrize(
    ("file", "more", "setting", "used"),
    [
        (None, {}, None, None),
        (None, {}, "config", "config"),
        (None, {}, [*NAMED, {"name": "default", "template": "config"}], "config"),
        (None, {}, {"default": "config", "tool_use": "tools"}, "config"),
        (None, {}, NAMED, None),  # no template is named "default"
        ("file", {}, [{"name": "default", "template": "config"}, *NAMED], "file"),
        ("file", {"tool_use": "tools", "rag": "rag"}, None, "file"),
        ("file", {"default": "other"}, None, "other"),
        (None, {"default": "other", "rag": "rag"}, "config", "other"),
        (None, {"tool_use": "tools"}, "config", None),  # the files replace what tokenizer_config.json says
    ],
)
def test_the_template_is_the_one_that_transformers_uses(
    tmp_path: Path, file: str | None, more: dict[str, str], setting: Any, used: str | None
) -> None:
    path = checkpoint(tmp_path, file, more, setting)
    tokenizer = AutoTokenizer.from_pretrained(path)
    try:
        theirs = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    except ValueError:  # there is no template, or none is named "default"
        theirs = None
    assert chat_template(path) == theirs == used


def test_a_file_has_the_template_of_its_checkpoint(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "file", {"tool_use": "tools"}, None)
    export(open_source(path, "m"), {"Q8_0": tmp_path / "m.gguf"})
    assert chat_template(tmp_path / "m.gguf") == "file"
