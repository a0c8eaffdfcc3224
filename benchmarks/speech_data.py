"""Recorded speech of known text, as a directory that `sweep run --audio` reads, from Debian packages.

    apt-get download asterisk-core-sounds-en-g722 asterisk-core-sounds-en
    for file in *.deb; do dpkg -x "$file" packages; done
    python benchmarks/speech_data.py packages --out DIR

The prompts of a telephone system (one speaker, 16 kHz, CC-BY-SA-3.0) are joined, with 0.5 s between them, into
recordings of up to 28 s, which is the window of Whisper less a margin. Used are prompts of five words or more and up to
20 s, without a bracket in their text. `--seconds 0` writes one recording per prompt. ffmpeg decodes G.722.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE, GAP = 16000, 0.5
SOUNDS = "usr/share/asterisk/sounds/en_US_f_Allison"
TEXTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
FEWEST_WORDS, LONGEST = 5, 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", type=Path, help="where both packages were extracted")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=28.0, help="longest recording; 0: one per prompt")
    given = parser.parse_args()
    write_directory(given.packages, given.out, given.seconds)


def write_directory(packages: Path, out: Path, seconds: float) -> None:
    """Write recordings as FLAC and their texts as transcripts.csv."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (audio, text) in enumerate(joined(packages, seconds)):
        name = f"{number:03d}.flac"
        soundfile.write(out / name, audio, RATE)
        rows.append((name, text))
    with open(out / "transcripts.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "text"), *rows])


def joined(packages: Path, seconds: float) -> Iterator[tuple[np.ndarray[Any, Any], str]]:
    """Prompts joined to recordings of up to `seconds`, in the order of their names."""
    parts: list[np.ndarray[Any, Any]] = []
    texts: list[str] = []
    gap = np.zeros(round(GAP * RATE), np.float32)
    for audio, text in prompts(packages):
        if parts and sum(map(len, parts)) + len(gap) + len(audio) > seconds * RATE:
            yield np.concatenate(parts), " ".join(texts)
            parts, texts = [], []
        parts += [gap, audio] if parts else [audio]
        texts.append(text)
    if parts:
        yield np.concatenate(parts), " ".join(texts)


def prompts(packages: Path) -> Iterator[tuple[np.ndarray[Any, Any], str]]:
    """The prompts as 16 kHz float32, with what is said in them."""
    for line in gzip.decompress((packages / TEXTS).read_bytes()).decode().splitlines():
        name, found, text = line.strip().partition(": ")
        file = packages / SOUNDS / f"{name}.g722"
        if not found or name.startswith(";") or not file.is_file() or re.search(r"[\[\](){}<>]", text):
            continue
        spoken = text.replace("*", " star ").replace("#", " pound ").replace("...", " ")
        spoken = " ".join(spoken.split())
        if len(spoken.split()) < FEWEST_WORDS:
            continue
        command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", str(file), "-f", "f32le", "-ar", str(RATE), "-"]
        audio = np.frombuffer(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout, np.float32)
        if len(audio) <= LONGEST * RATE:
            yield audio, spoken


if __name__ == "__main__":
    main()
