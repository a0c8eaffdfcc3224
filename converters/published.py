"""What a publisher's repository of GGUF files has: quants by the publisher's names, projectors, importance matrices.

The names are those that publishers use: MODEL-Q4_K_M.gguf, MODEL.i1-IQ2_M.gguf, mmproj-F16.gguf, MODEL-imatrix.gguf,
UD-Q2_K_XL/MODEL-UD-Q2_K_XL-00001-of-00002.gguf.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from converters.gguf_source import model_stem, part_count, part_names

_QUANT = re.compile(
    r"(?:^|[-._ ])((?:(?:UD|i1)[-_])?(?:I?Q\d\w*|TQ\d_\d|(?:BF|FP?)(?:16|32)|MXFP4\w*|NVFP4\w*))$", re.IGNORECASE
)
"""The end of a file's name that says the quant; UD is Unsloth's mark, i1 mradermacher's for quants with a matrix."""
_FLOATS = {"BF16": 0, "F16": 1, "FP16": 1, "F32": 2, "FP32": 2}
"""Types of unquantized files, the preferred one first."""
_PROJECTOR, _MATRIX = "mmproj", "imatrix"
_LONGEST_NAME = 240  # bytes; file systems allow 255, and a file that is written has more in its name
_MOST_PARTS = 1000  # the largest models have some dozens
_MATRIX_ENDINGS = (".gguf", ".gguf_file", ".imatrix")  # not .dat, llama.cpp's older format


@dataclass(frozen=True)
class PublishedQuant:
    """A quant of a repository. `name` is what its publisher calls it; `parts` are the paths of its file or of all its
    parts, in order."""

    name: str
    parts: tuple[str, ...]

    @property
    def float_rank(self) -> int | None:
        """The place of an unquantized file in the order of preference; None for a quant."""
        return _FLOATS.get(self.name.upper())


@dataclass(frozen=True)
class PublishedFiles:
    """The files of a repository by what they are for. `problems` are lines about files that cannot be used."""

    quants: tuple[PublishedQuant, ...]
    projectors: tuple[str, ...] = ()
    matrices: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def sort_files(paths: Iterable[str]) -> PublishedFiles:
    """Find out what the files with these paths are for."""
    models: dict[tuple[str, ...], None] = {}
    projectors, matrices, problems = [], [], []
    known = set(paths)
    for path in sorted(known):
        name = PurePosixPath(path).name.lower()
        is_matrix = _MATRIX in name and name.endswith(_MATRIX_ENDINGS)
        if not is_matrix and not name.endswith(".gguf"):
            continue
        if problem := _name_problem(path):
            problems.append(problem)
        elif is_matrix:
            matrices.append(path)
        elif _PROJECTOR in name:
            projectors.append(path)
        else:
            models[_parts(path)] = None
    whole = []
    for parts in models:
        missing = [part for part in parts if part not in known]
        if missing:
            problems.append(f"{missing[0]} is missing ({len(missing)} of {len(parts)} parts are)")
        else:
            whole.append(parts)
    return PublishedFiles(tuple(_named(whole)), tuple(projectors), tuple(matrices), tuple(problems))


def _name_problem(path: str) -> str:
    """Why a file is not used whose path a hub lists but an honest one would not; empty for all others."""
    parts = path.split("/")
    if any(unicodedata.category(letter).startswith("C") for letter in path):
        return f"{path!a}: its name has control characters"
    if any(part in ("", ".", "..") for part in parts):
        return f"{path}: its path leaves the repository"
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        return f"{path[:40]}...: its name is too long for a file"
    if part_count(parts[-1]) > _MOST_PARTS:
        return f"{path}: its name says that it is one of {part_count(parts[-1]):,} parts"
    return ""


def _parts(path: str) -> tuple[str, ...]:
    place = PurePosixPath(path)
    return tuple(str(place.with_name(name)) for name in part_names(place.name))


def _named(files: Sequence[tuple[str, ...]]) -> list[PublishedQuant]:
    """The quants with names that differ: two files of the same quant are named by their whole stems, and files with the
    same stem by their paths."""
    names = [_quant_name(parts[0]) for parts in files]
    for longer in (_stem, lambda path: path.removesuffix(".gguf")):
        counts = Counter(name.upper() for name in names)
        pairs = zip(names, files, strict=True)
        names = [name if counts[name.upper()] == 1 else longer(parts[0]) for name, parts in pairs]
    # A comma would end the name in --variants
    return [PublishedQuant(name.replace(",", "-"), parts) for name, parts in zip(names, files, strict=True)]


def _stem(path: str) -> str:
    return model_stem(Path(path))


def quant_in(stem: str) -> str | None:
    """The quant that a name ends with, as its publisher writes it; None if it has none."""
    found = _QUANT.search(stem)
    return None if found is None else found[1]


def _quant_name(path: str) -> str:
    """The quant in a file's name or, if it has none, in its folder's; else the whole stem."""
    stem = _stem(path)
    return quant_in(stem) or quant_in(PurePosixPath(path).parent.name) or stem
