"""Directories of recordings with transcripts: tables, LibriSpeech's layout, and bad rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from converters.errors import InputError
from speech.recording import RATE
from speech.transcripts import read_speech_set


def record(path: Path, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)), RATE)


FORMS = {
    "transcripts.csv": 'file,text\na.flac,"Hello, you."\nb.flac,\n',
    "table.tsv": "client_id\tpath\tsentence\nx\ta.flac\tHello, you.\ny\tb.flac\t\n",
    "manifest.jsonl": '{"audio_filepath": "a.flac", "text": "Hello, you."}\n\n{"audio_filepath": "b.flac"}\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_each_table_gives_the_same_recordings(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8-sig")
    record(tmp_path / "a.flac", 2.0)
    record(tmp_path / ("clips/b.flac" if name.endswith("tsv") else "b.flac"), 31.0)
    found = read_speech_set(tmp_path)
    assert [one.text for one in found.utterances] == ["Hello, you.", ""]
    assert (found.seconds, found.windows, found.problems) == (33.0, 3, ())
    assert found.utterances[0].name == "a.flac"


def test_librispeech_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "84" / "121123"
    for number in range(2):
        record(folder / f"84-121123-000{number}.flac")
    (folder / "84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT IN LESS THAN FIVE\n")
    found = read_speech_set(tmp_path)
    assert [one.text for one in found.utterances] == ["GO DO YOU HEAR", "BUT IN LESS THAN FIVE"]
    assert found.utterances[0].name == "84/121123/84-121123-0000.flac"


def test_bad_rows_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    record(tmp_path / "a.flac")
    (tmp_path / "b.flac").write_text("no audio")
    (tmp_path / "t.csv").write_text("file,text\na.flac,one\nb.flac,two\nc.flac,three\na.flac,again\n")
    found = read_speech_set(tmp_path)
    assert [one.name for one in found.utterances] == ["a.flac"]
    words = found.problem_words
    assert words is not None
    assert "3 of its rows are left out" in words
    assert "b.flac: is no audio" in words
    assert "c.flac: there is no such file" in words
    assert "a.flac: is listed twice" in words


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "has no transcripts; add a table"),
        ({"t.csv": "name,words\na.flac,one\n"}, "has no column for the recordings"),
        ({"t.csv": "file,words\na.flac,one\n"}, "has no column for the texts"),
        ({"t.csv": "file,text\n,one\n"}, "row 1 names no recording"),
        ({"t.csv": "file,text\n"}, "its transcript table has no rows"),
        ({"t.csv": "file,text\nx.flac,one\n"}, "no recording can be used: x.flac: there is no such file"),
        ({"t.csv": "a,b", "u.tsv": "a\tb"}, "has several tables"),
        ({"t.jsonl": "{"}, "line 1 is not valid JSON"),
        ({"t.jsonl": "[1]"}, "line 1 is no JSON object"),
        ({"t.csv": b"file,text\na.flac,\xff\xfe\n"}, "cannot be read as UTF-8"),
    ],
)
def test_a_directory_that_cannot_be_used_says_why(tmp_path: Path, files: dict[str, str | bytes], reason: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=reason) as error:
        read_speech_set(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="is no directory"):
        read_speech_set(tmp_path / "nowhere")
