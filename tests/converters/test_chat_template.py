"""The chat template of a checkpoint is the one that transformers uses, however the checkpoint stores it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from gguf_files import rewrite
from transformers import AutoTokenizer

import presets
from converters.chat_template import chat_template
from converters.errors import InputError
from converters.export import export, open_source
from converters.llamacpp.container import Field, string, strings
from converters.llamacpp.model import Model
from int8.tokenizer import load_tokenizer

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
    assert load_tokenizer(path).chat_template == used  # in torch


def test_a_file_has_the_template_of_its_checkpoint(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "file", {"tool_use": "tools"}, None)
    export(open_source(path, "m"), {"Q8_0": tmp_path / "m.gguf"})
    assert chat_template(tmp_path / "m.gguf") == "file"


KEY = "tokenizer.chat_template"
SEVERAL = {
    f"{KEY}s": strings(["default", "tools"]),
    f"{KEY}.default": string("{{ 0 }}"),
    f"{KEY}.tools": string("{{ 1 }}"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "micro.gguf"
    export(open_source(MICRO), {"Q8_0": path})
    return path


def test_of_the_named_templates_of_a_gguf_file_the_default_one_is_used(file: Path, tmp_path: Path) -> None:
    path = rewrite(file, tmp_path / "m.gguf", fields=SEVERAL, without=[KEY])
    with Model(path, vocabulary=True) as model:
        assert chat_template(path) == model.chat_template == "{{ 0 }}"
    both = rewrite(path, tmp_path / "both.gguf", fields={KEY: string("{{ 2 }}")})
    with Model(both, vocabulary=True) as model:
        assert chat_template(both) == model.chat_template == "{{ 2 }}"
    none = rewrite(file, tmp_path / "none.gguf", without=[KEY])
    assert chat_template(none) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({f"{KEY}.tools": string("{{ 1 }}")}, "has no default chat template, only tools"),
        ({KEY: strings(["{{ 1 }}", "{{ 2 }}"])}, f"{KEY} is ARRAY, not a text"),
    ],
)
def test_a_gguf_file_with_templates_that_cannot_be_used_is_rejected(
    file: Path, tmp_path: Path, fields: dict[str, Field], message: str
) -> None:
    path = rewrite(file, tmp_path / "m.gguf", fields=fields, without=[KEY])
    with pytest.raises(InputError, match=message):
        chat_template(path)
    tasks = ("--tasks", "micro_form", "--limit", "2", "--workspace", tmp_path / "w")
    done = call("eval", path, *tasks, "--chat-template")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "w" / "runs").exists()
