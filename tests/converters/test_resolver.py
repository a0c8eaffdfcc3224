"""MODEL means the same, and is rejected with the same message, in all commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import serve

from converters.errors import InputError
from converters.export import export
from converters.resolver import ModelForm, Need, find_model, is_known_offline, open_source
from presets import builtin_models

ROOT = Path(__file__).parents[2]
MICRO = builtin_models()["micro"]
WHOLE = (Need.WEIGHTS, Need.CHECKPOINT)

SCRIPT = """
import json, sys
from converters.errors import InputError
from converters.resolver import Need, find_model
lines = []
try:
    found = find_model(sys.argv[1], Need[sys.argv[2]], lines.append)
    source = found.open(found.name)
    answer = [found.name, found.form.name, str(found.path), source.fingerprint, found.bytes_read]
    print(json.dumps({"found": answer, "lines": lines}))
except InputError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "tiny-BF16.gguf"
    export(open_source("micro"), {"BF16": path})
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    directory = tmp_path / "bare"
    directory.mkdir()
    shutil.copy(MICRO.directory / "config.json", directory)
    return directory


def ask(hub: str, cache: Path, model: str, need: Need) -> dict:
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", SCRIPT, model, need.name]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_every_form_of_a_model_is_found_with_its_name(file: Path, config: Path) -> None:
    cases = {
        "micro": ("micro", ModelForm.CHECKPOINT),
        str(MICRO.directory): (MICRO.directory.name, ModelForm.CHECKPOINT),
        str(config): ("bare", ModelForm.CONFIG),
        str(config / "config.json"): ("bare", ModelForm.CONFIG),
        str(file): ("tiny-BF16", ModelForm.GGUF),
        "Qwen3-4B": ("Qwen3-4B", ModelForm.CATALOGUE),
        "qwen/qwen3-4b": ("Qwen3-4B", ModelForm.CATALOGUE),
    }
    for need in (Need.PLAN, Need.HEADERS):
        for text, (name, form) in cases.items():
            found = find_model(text, need)
            assert (found.name, found.form) == (name, form)
            assert found.open(found.name).name == name


@pytest.mark.parametrize("need", WHOLE)
def test_a_model_without_weights_is_rejected_with_what_to_give(config: Path, need: Need) -> None:
    for model, message in (
        (
            config,
            r"is a config without weights \(no model\.safetensors\); give the directory",
        ),
        (
            config / "config.json",
            r"is a config without weights \(no model\.safetensors\); give the directory",
        ),
        ("Qwen3-4B", r"only the sizes of this model are known .* give its hub id, Qwen/Qwen3-4B, or a directory"),
    ):
        with pytest.raises(InputError, match=message):
            find_model(str(model), need)


def test_a_gguf_file_is_rejected_where_a_checkpoint_is_needed(file: Path) -> None:
    for model in (str(file), "hub:org/name/x.gguf"):  # rejected without a download
        with pytest.raises(InputError, match="need a Hugging Face checkpoint; give its directory or hub id"):
            find_model(model, Need.CHECKPOINT)
    assert find_model(str(file), Need.WEIGHTS).form is ModelForm.GGUF


@pytest.mark.parametrize(
    "text", ["mikro", "Qwen3-7B", "/no/such/place", "no/such/file.gguf", "x" * 5000, "~nobody-here/x"]
)
def test_all_entry_points_reject_an_unknown_model_with_the_same_message(text: str) -> None:
    messages = set()
    for need in Need:
        with pytest.raises(InputError) as error:
            find_model(text, need)
        messages.add(str(error.value))
    (line,) = messages
    assert "\n" not in line
    if text == "mikro":
        assert "did you mean micro" in line
    if text == "Qwen3-7B":
        assert "Qwen3-8B" in line
    if text.startswith(("/no", "no")):
        assert "give a directory, a config.json, a .gguf file or a hub id" in line


def test_a_file_that_is_not_a_model_is_rejected_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"notes\.txt: is neither a \.gguf file, a config\.json nor"):
        find_model(tmp_path / "notes.txt", Need.PLAN)


def test_a_link_to_a_file_keeps_its_own_name(file: Path, tmp_path: Path) -> None:
    """As in the hub's cache, where snapshots are links to files named by hashes."""
    blob = tmp_path / "0123abcd"
    shutil.copy(file, blob)
    (tmp_path / "snapshot").mkdir()
    link = tmp_path / "snapshot" / "linked-BF16.gguf"
    link.symlink_to(blob)
    found = find_model(str(link), Need.WEIGHTS)
    assert (found.name, found.form, found.path) == ("linked-BF16", ModelForm.GGUF, link)
    assert found.open().fingerprint == open_source(file).fingerprint


def test_a_path_has_priority_over_the_catalogue_and_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(MICRO.directory, tmp_path / "Qwen" / "Qwen3-4B")
    monkeypatch.chdir(tmp_path)
    assert find_model("Qwen/Qwen3-4B", Need.PLAN).form is ModelForm.CHECKPOINT
    assert not is_known_offline("Qwen/Qwen3-4B")
    assert is_known_offline("Qwen3-4B")
    assert is_known_offline("micro")


def test_the_path_of_a_found_model_finds_the_same_model_again() -> None:
    """Workers get only the path and the name."""
    for text in ("micro", "Qwen3.5-27B"):
        found = find_model(text, Need.PLAN)
        again = open_source(str(found.path), found.name, need=Need.PLAN)
        assert (again.name, again.fingerprint) == (found.name, found.open(found.name).fingerprint)


def test_each_need_downloads_only_what_it_reads(tmp_path: Path) -> None:
    with serve({"org/tiny": MICRO.directory}) as hub:
        fetched = {}
        for need in (Need.HEADERS, Need.PLAN, Need.CHECKPOINT):
            cache = tmp_path / need.name
            answer = ask(hub.url, cache, f"org/tiny@{hub.revision('org/tiny')}", need)
            assert answer["found"][0] == "tiny"
            assert answer["lines"] == [
                f"org/tiny@{hub.revision('org/tiny')} is not a path on this machine; looking it up on the hub"
            ]
            fetched[need] = {path.name for path in cache.rglob("snapshots/*/*")}
    assert fetched[Need.HEADERS] == {"config.json"}
    assert "tokenizer.json" in fetched[Need.PLAN]
    assert "model.safetensors" not in fetched[Need.PLAN]
    assert fetched[Need.CHECKPOINT] - fetched[Need.PLAN] == {"model.safetensors"}


def test_a_file_on_the_hub_is_downloaded_only_if_its_weights_are_needed(tmp_path: Path, file: Path) -> None:
    directory = tmp_path / "repository"
    directory.mkdir()
    shutil.copy(file, directory / "big-BF16.gguf")
    model = "hub:org/files/big-BF16.gguf"
    with serve({"org/files": directory}) as hub:
        planned = ask(hub.url, tmp_path / "cache", model, Need.PLAN)
        assert planned["found"][:3] == ["big-BF16", "GGUF", model]
        assert planned["found"][4] == hub.sent < file.stat().st_size
        whole = ask(hub.url, tmp_path / "cache", model, Need.WEIGHTS)
        assert whole["lines"] == [f"downloading {model} from the hub"]
        assert Path(whole["found"][2]).name == "big-BF16.gguf"
        assert whole["found"][3] == open_source(file).fingerprint
        again = ask(hub.url, tmp_path / "cache", model, Need.PLAN)  # now in the cache
        assert again["found"][2:] == whole["found"][2:]
