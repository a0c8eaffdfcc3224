"""Repositories of GGUF files on a hub on localhost, in processes of their own: the client reads HF_ENDPOINT early."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_server import serve

from converters import gguf_repository
from converters.export import export
from converters.llamacpp.container import encode_header, string
from converters.resolver import open_source
from presets import builtin_models

SCRIPT = """
import json, sys
from pathlib import Path
from converters.errors import InputError
from converters.gguf_repository import open_hub
from converters.hub_files import download, list_repository
def summary(name):
    found = open_hub(name)
    return {"id": found.id, "model": found.model, "read": found.bytes_read, "problems": found.problems,
            "files": {one.name: one.file_bytes for one in found.files}, "whole": found.whole.name,
            "matrices": [one.path for one in found.matrices], "projectors": [one.path for one in found.projectors]}
def fetch(name):
    listing = list_repository(name)
    for file in listing.files:
        download(listing.repository, listing.revision, file, Path(sys.argv[2]))
    return {}
try:
    print(json.dumps(globals()[sys.argv[1]](sys.argv[3])))
except InputError as error:
    print(json.dumps({"error": str(error)}))
"""


def ask(endpoint: str, what: str, folder: Path, repository: str, **variables: str) -> dict[str, Any]:
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "0"}
    environment = {**os.environ, **own, **variables}
    command = [sys.executable, "-c", SCRIPT, what, folder / "file", repository]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """micro's quants, as somebody would publish them."""
    directory = tmp_path_factory.mktemp("published")
    source = open_source(builtin_models()["micro"].directory, "micro")
    (directory / "UD-Q2_K_XL").mkdir()
    export(source, {name: directory / f"micro-{name}.gguf" for name in ("BF16", "Q8_0")})
    export(source, {"Q2_K_XL": directory / "UD-Q2_K_XL/micro-UD-Q2_K_XL.gguf"}, max_part_bytes=1_000_000)
    (directory / "micro-imatrix.gguf").write_bytes(b"GGUF")
    (directory / "mmproj-F16.gguf").write_bytes(encode_header({"general.architecture": string("clip")}, []))
    return directory


def test_only_headers_are_read_and_only_once(published: Path, tmp_path: Path) -> None:
    sizes = {name: (published / f"micro-{name}.gguf").stat().st_size for name in ("BF16", "Q8_0")}
    sizes["UD-Q2_K_XL"] = sum(file.stat().st_size for file in (published / "UD-Q2_K_XL").iterdir())
    with serve({"org/micro-GGUF": published}) as hub:
        found = ask(hub.url, "summary", tmp_path, "org/micro-GGUF")
        assert found["files"] == sizes
        assert (found["model"], found["whole"]) == ("micro", "BF16")
        assert found["read"] == hub.sent < sum(sizes.values()) / 20
        assert (found["matrices"], found["projectors"]) == (["micro-imatrix.gguf"], ["mmproj-F16.gguf"])
        assert ask(hub.url, "summary", tmp_path, "org/micro-GGUF")["read"] == 0


def test_a_file_that_cannot_be_used_is_named_and_the_others_are_found(published: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(published, damaged)
    (damaged / "UD-Q2_K_XL/micro-UD-Q2_K_XL-00002-of-00003.gguf").unlink()
    lying = damaged / "micro-Q8_0.gguf"
    lying.write_bytes(lying.read_bytes()[:-5000])  # its header promises more
    (damaged / "mmproj-F16.gguf").write_bytes(b"GGUF")
    with serve({"org/damaged": damaged}) as hub:
        found = ask(hub.url, "summary", tmp_path, "org/damaged")
    assert list(found["files"]) == ["BF16"]
    missing, projector, truncated = found["problems"]
    assert projector.startswith("org/damaged/mmproj-F16.gguf: ")
    assert found["projectors"] == []
    assert missing == "UD-Q2_K_XL/micro-UD-Q2_K_XL-00002-of-00003.gguf is missing (1 of 3 parts are)"
    assert truncated.startswith("org/damaged/micro-Q8_0.gguf: is truncated")


def test_a_changed_file_is_read_again_and_the_others_are_not(published: Path, tmp_path: Path) -> None:
    directory = tmp_path / "repository"
    shutil.copytree(published, directory)
    with serve({"org/r": directory}) as hub:
        before = ask(hub.url, "summary", tmp_path, "org/r")
        shutil.copy(directory / "micro-BF16.gguf", directory / "micro-Q8_0.gguf")
        after = ask(hub.url, "summary", tmp_path, "org/r")
    assert after["files"]["Q8_0"] == after["files"]["BF16"] > before["files"]["Q8_0"]
    assert 0 < after["read"] < before["read"] / 2


def test_a_header_is_whole_on_a_disk_that_takes_it_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: whole(file, data[:3], at))
    with (tmp_path / "copy").open("wb") as file:
        gguf_repository._write_at(file.fileno(), b"a header", 2)
    assert (tmp_path / "copy").read_bytes() == b"\0\0a header"


def test_a_repository_that_cannot_be_used_gives_one_line(published: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("soon")
    models = {"org/empty": tmp_path / "empty", "org/gated": published, "org/new": published}
    with serve(models, gated=frozenset({"org/gated"})) as hub:
        hub.renamed = {"org/old": "org/new"}
        errors = {
            name: ask(hub.url, "summary", tmp_path, name).get("error", "")
            for name in ("org/empty", "org/gated", "org/absent", "org/a--b")
        }
        hub.portal = True
        errors["portal"] = ask(hub.url, "summary", tmp_path, "org/new")["error"]
        hub.portal, hub.token = False, "right"
        errors["token"] = ask(hub.url, "summary", tmp_path, "org/new", HF_TOKEN="wrong")["error"]
        assert set(ask(hub.url, "summary", tmp_path, "org/old")["files"]) == {"BF16", "Q8_0", "UD-Q2_K_XL"}
    assert errors["org/a--b"].startswith("org/a--b: the hub has no models of such a name: ")
    assert errors["portal"].startswith(f"org/new: {hub.url} does not answer as the hub does (")
    assert errors["org/empty"].startswith("org/empty: has no GGUF file of a model that can be used")
    assert "requires a login" in errors["org/gated"]
    assert "no such model" in errors["org/absent"]
    assert errors["token"].startswith(f"org/new: {hub.url} rejects this machine's access token; run `hf auth login`")
    assert not any("\n" in error for error in errors.values())


def test_a_download_that_breaks_at_every_tenth_goes_on_where_it_broke(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "a.gguf").write_bytes(content)
    with serve({"org/r": tmp_path / "r"}) as hub:
        hub.cut = lambda _path, size: min(size, len(content) // 10)
        assert ask(hub.url, "fetch", tmp_path, "org/r") == {}
        assert (tmp_path / "file").read_bytes() == content
        assert hub.sent == len(content)
        (tmp_path / "file").write_bytes(content[:1_000_000])  # as an ended process leaves it
        hub.sent, hub.cut = 0, lambda _path, size: size
        assert ask(hub.url, "fetch", tmp_path, "org/r") == {}
        assert hub.sent == len(content) - 1_000_000
        (tmp_path / "file").write_bytes(b"x" * 1_000_000)  # another file's content
        assert "its SHA-256 differs" in ask(hub.url, "fetch", tmp_path, "org/r")["error"]
        assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("commit", ["c" * 40, ""])  # the commit is there without the file, or it is gone
def test_a_file_that_is_deleted_after_it_was_listed_gives_one_line(tmp_path: Path, commit: str) -> None:
    (tmp_path / "r").mkdir()
    file = tmp_path / "r" / "a.gguf"
    file.write_bytes(b"x" * 1000)
    with serve({"org/r": tmp_path / "r"}) as hub:
        hub.commit, revision = commit, commit or hub.revision("org/r")

        def delete(_path: str, _size: int) -> int:
            file.unlink()
            return 500  # bytes, then the connection breaks

        hub.cut = delete
        error = ask(hub.url, "fetch", tmp_path, "org/r")["error"]
    assert error == (
        f"org/r/a.gguf: is no longer on the hub at revision {revision[:8]}; run the command again, which takes the"
        " files that are there now"
    )


def test_a_hub_that_is_busy_is_asked_again(published: Path, tmp_path: Path) -> None:
    with serve({"org/r": published}) as hub:
        hub.busy = 3
        assert set(ask(hub.url, "summary", tmp_path, "org/r")["files"]) == {"BF16", "Q8_0", "UD-Q2_K_XL"}
        assert hub.busy == 0


def test_a_connection_that_brings_nothing_gives_up_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "a.gguf").write_bytes(b"x" * 1000)
    with serve({"org/r": tmp_path / "r"}) as hub:
        hub.cut = lambda _path, _size: 0
        error = ask(hub.url, "fetch", tmp_path, "org/r")["error"]
    assert error.startswith("org/r/a.gguf: the download broke at 0 of 1000 bytes")
    assert "\n" not in error
