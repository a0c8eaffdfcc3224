"""Hub ids, with huggingface_hub's client and a hub on localhost. HF_ENDPOINT is read when the client is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import serve

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys
from converters.errors import InputError
from converters.resolver import open_source
try:
    source = open_source(sys.argv[1])
    print(source.name, source.fingerprint, source.path)
except InputError as error:
    print("InputError:", error)
"""


def run(hub_id: str, endpoint: str, cache: Path) -> str:
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, hub_id], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_hub_id_gives_the_same_model_as_its_directory_and_downloads_only_needed_files(
    tiny: Path, tmp_path: Path
) -> None:
    from converters.resolver import open_source

    repository = tmp_path / "repository"
    repository.mkdir()
    for file in tiny.iterdir():
        (repository / file.name).write_bytes(file.read_bytes())
    (repository / "pytorch_model.bin").write_bytes(b"a pickle")
    (repository / "modeling_qwen.py").write_text("raise SystemExit")
    with serve({"org/tiny-model": repository}) as hub:
        name, fingerprint, path = run("org/tiny-model", hub.url, tmp_path / "cache").split()
        assert (name, fingerprint) == ("tiny-model", open_source(tiny).fingerprint)
        assert sorted(file.name for file in Path(path).iterdir()) == sorted(file.name for file in tiny.iterdir())
        fetched = [request for request in hub.requests if "resolve" in request]
        assert fetched
        assert not [request for request in fetched if ".bin" in request or ".py" in request]

        again = run(f"org/tiny-model@{hub.revision('org/tiny-model')}", hub.url, tmp_path / "cache")
        assert again.split()[1] == fingerprint
        assert [request for request in hub.requests if "GET" in request and "resolve" in request] == [
            request for request in fetched if "GET" in request
        ], "the cache was not used"
        endpoint = hub.url
    # The server has stopped, but the cache still has the files.
    assert run("org/tiny-model", endpoint, tmp_path / "cache").split()[1] == fingerprint


@pytest.mark.parametrize(
    ("hub_id", "words"),
    [
        ("org/absent", ["org/absent", "no such model"]),
        ("org/tiny-model@v9", ["no revision 'v9'"]),
    ],
)
def test_a_missing_model_revision_or_login_is_named(tiny: Path, tmp_path: Path, hub_id: str, words: list[str]) -> None:
    with serve({"org/tiny-model": tiny}) as hub:
        message = run(hub_id, hub.url, tmp_path)
    assert message.startswith("InputError:")
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    message = run("org/tiny-model", "http://127.0.0.1:9", tmp_path)  # the discard port, on which nothing listens
    assert message.startswith("InputError: org/tiny-model:")
    assert "HF_ENDPOINT" in message
    assert "\n" not in message
