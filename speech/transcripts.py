"""A directory of recordings with their transcripts, in one of these forms:

- a table `*.csv`, `*.tsv` or `*.jsonl` with a column for the file and one for the text (the names that LibriSpeech,
  FLEURS, Common Voice, VoxPopuli and NeMo use are known). Files are relative to the table or to `clips/` beside it;
- LibriSpeech's own layout: `*.trans.txt` files with one line per recording, an id and the text, beside `ID.flac`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from converters.errors import InputError
from speech.recording import RecordingError, RecordingInfo, read_info

FILE_COLUMNS = ("file", "file_name", "filename", "audio", "audio_filepath", "path", "wav")
TEXT_COLUMNS = ("text", "transcript", "transcription", "raw_transcription", "sentence", "normalized_text")
_TABLES = (".csv", ".tsv", ".jsonl")
_MANY = 5  # problems that a message lists


@dataclass(frozen=True)
class Utterance:
    """A recording with its transcript, which may be empty. `name` is its path relative to the directory."""

    name: str
    path: Path
    text: str
    info: RecordingInfo


@dataclass(frozen=True)
class SpeechSet:
    """The usable rows of a directory in the order of its table, and for each other row why it is left out."""

    directory: Path
    utterances: tuple[Utterance, ...]
    problems: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The duration of all recordings."""
        return sum(one.info.seconds for one in self.utterances)

    @property
    def windows(self) -> int:
        return sum(one.info.windows for one in self.utterances)

    @property
    def problem_words(self) -> str | None:
        """For people: which rows are left out, and why; None if all are used."""
        if not self.problems:
            return None
        shown = "; ".join(self.problems[:_MANY])
        more = f"; and {len(self.problems) - _MANY} more" if len(self.problems) > _MANY else ""
        return f"{self.directory.name}: {len(self.problems)} of its rows are left out: {shown}{more}"


def read_speech_set(directory: Path) -> SpeechSet:
    """Read the transcripts of a directory, and what its recordings state. Recordings are not decoded.

    Raises InputError if there is no transcript table, if it is malformed, or if no row can be used; MissingRuntime
    without the extra bitsweep[speech].
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: is no directory; give one with recordings and a transcript table")
    utterances, problems, seen = [], [], set()
    for path, text in _rows(directory):
        name = path.relative_to(directory).as_posix() if path.is_relative_to(directory) else str(path)
        if name in seen:
            problems.append(f"{name}: is listed twice")
            continue
        seen.add(name)
        try:
            utterances.append(Utterance(name, path, " ".join(text.split()), read_info(path)))
        except RecordingError as error:
            problems.append(str(error).replace(str(path), name))
    if not utterances:
        why = problems[0] if problems else "its transcript table has no rows"
        raise InputError(f"{directory}: no recording can be used: {why}")
    return SpeechSet(directory, tuple(utterances), tuple(problems))


def _rows(directory: Path) -> Iterator[tuple[Path, str]]:
    tables = sorted(file for file in directory.iterdir() if file.suffix.lower() in _TABLES)
    if len(tables) > 1:
        names = ", ".join(file.name for file in tables)
        raise InputError(f"{directory}: has several tables ({names}); keep the one with the transcripts")
    if tables:
        yield from _table(tables[0])
        return
    listed = sorted(directory.rglob("*.trans.txt"))
    if not listed:
        raise InputError(
            f"{directory}: has no transcripts; add a table such as transcripts.csv with the columns file and text, or"
            " use LibriSpeech's layout (*.trans.txt)"
        )
    for file in listed:
        for line in _text_of(file).splitlines():
            name, _, text = line.strip().partition(" ")
            if name:
                yield next(iter(sorted(file.parent.glob(f"{name}.*"))), file.parent / f"{name}.flac"), text


def _table(file: Path) -> Iterator[tuple[Path, str]]:
    content = _text_of(file)
    if file.suffix.lower() == ".jsonl":
        rows = list(_json_lines(file, content))
    else:
        reader = csv.DictReader(content.splitlines(), delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        rows = list(reader)
    if not rows:
        return
    names = _column(file, rows[0], FILE_COLUMNS, "the recordings"), _column(file, rows[0], TEXT_COLUMNS, "the texts")
    for number, row in enumerate(rows, 1):
        name, text = (row.get(column) for column in names)
        if not isinstance(name, str) or not name:
            raise InputError(f"{file}: row {number} names no recording in its column {names[0]!r}")
        if text is not None and not isinstance(text, str):
            raise InputError(f"{file}: row {number}: its {names[1]!r} is no text")
        places = [file.parent / name, file.parent / "clips" / name]
        yield next((place for place in places if place.is_file()), places[0]), text or ""


def _json_lines(file: Path, content: str) -> Iterator[dict[str, object]]:
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{file}: line {number} is not valid JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{file}: line {number} is no JSON object")
            yield row


def _column(file: Path, row: dict[str, object], known: tuple[str, ...], what: str) -> str:
    found = next((name for name in known if name in row), None)
    if found is None:
        has = ", ".join(map(str, row))
        raise InputError(f"{file}: has no column for {what} ({', '.join(known)}); its columns are {has}")
    return found


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as UTF-8 text: {error}") from error
