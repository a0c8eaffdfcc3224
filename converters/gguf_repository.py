"""A repository of GGUF files that somebody published, on the hub or in a directory, with the headers of all its files.

Of a file on the hub only the header is read. A copy of it is kept in huggingface_hub's folder: a GGUF file of the
file's whole length, with a hole in place of the weights. Everything that plans with a file, and reads no weights, takes
this copy for the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from converters.errors import InputError
from converters.gguf_source import GGUFSource
from converters.gguf_source import parts as parts_of
from converters.hub import HUB
from converters.hub_files import Listing, RepositoryFile, list_repository, read_remote_header
from converters.llamacpp.container import text
from converters.published import PublishedQuant, sort_files

LOCAL = "gguf:"
"""Prefix of the names of variants that are files of a directory, as HUB is of files on the hub."""
_CONNECTIONS = 8  # headers that are read at the same time
_NAMED_PROBLEMS = 10  # problems that are printed; a repository can have thousands of files
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class PublishedFile:
    """A quant of a repository.

    `name` is what its publisher calls it. `path` is its file, or the copy of its header if it is on the hub, and
    `parts` are its parts there. `content` identifies the content of a file on the hub. `shape` is what the files of one
    model have in common, in words.
    """

    name: str
    path: Path
    parts: tuple[RepositoryFile, ...] = ()
    content: str = ""
    float_rank: int | None = None
    shape: str = ""

    @property
    def file_bytes(self) -> int:
        if self.parts:
            return sum(part.size for part in self.parts)
        return sum(file.stat().st_size for file in parts_of(self.path))


@dataclass(frozen=True)
class GGUFRepository:
    """The quants of a repository, the largest first.

    - `id`: "org/name", with "@revision" if one was asked for, or the path of a directory. `revision` is the hash of the
      commit; None for a directory.
    - `projectors`, `matrices`: the paths of projector files and importance matrices; on the hub, their entries. Copies
      of the headers of projector files are next to those of all quants.
    - `problems`: lines about files that cannot be used.
    - `bytes_read`: bytes read over the network; None for a directory.
    - `has_checkpoint`: whether it has a checkpoint too, which its id alone would name.
    """

    id: str
    files: tuple[PublishedFile, ...]
    revision: str | None = None
    projectors: tuple[RepositoryFile, ...] = ()
    matrices: tuple[RepositoryFile, ...] = ()
    problems: tuple[str, ...] = ()
    bytes_read: int | None = None
    prefix: str = HUB
    has_checkpoint: bool = False

    @property
    def typed(self) -> str:
        """MODEL for this repository, at the revision that was asked for."""
        return f"{HUB}{self.id}" if self.has_checkpoint else self.id

    @property
    def repository(self) -> str:
        """Without the revision."""
        return self.id.partition("@")[0] if self.revision is not None else self.id

    @property
    def pinned(self) -> str:
        """MODEL for exactly this revision."""
        return self.id if self.revision is None else f"{HUB}{self.repository}@{self.revision}"

    @property
    def model(self) -> str:
        """The model's name: the repository's without "-GGUF"."""
        name = self.repository.rpartition("/")[2]
        return re.sub(r"(?i)[-_.](i1[-_.])?gguf$", "", name) or name

    @property
    def whole(self) -> PublishedFile:
        """The file that says most of the model: an unquantized one, or else the largest."""
        floats = [file for file in self.files if file.float_rank is not None]
        return min(floats, key=lambda file: file.float_rank or 0) if floats else self.files[0]

    def variant(self, file: PublishedFile) -> str:
        """The name of the variant that a file is."""
        return f"{self.prefix}{file.name}"

    @property
    def left_out(self) -> list[str]:
        """The problems as lines to print; of very many only the first."""
        lines = [f"left out: {problem}" for problem in self.problems]
        more = len(lines) - _NAMED_PROBLEMS
        return lines if more <= 1 else [*lines[:_NAMED_PROBLEMS], f"left out: {more:,} more files of {self.id}"]

    def find(self, name: str) -> PublishedFile | None:
        """The file with this name, which may have the prefix; None if there is none. Names may differ in case only."""
        wanted = name.strip().removeprefix(self.prefix)
        alike = [file for file in self.files if file.name.upper() == wanted.upper()]
        return next((file for file in alike if file.name == wanted), alike[0] if alike else None)

    def without(self, unreadable: Mapping[str, str]) -> GGUFRepository:
        """The repository without files that llama.cpp cannot read, given by their paths with the reasons, which become
        problems. Raises InputError if no file is left."""
        left_out = [file for file in self.files if str(file.path) in unreadable]
        if not left_out:
            return self
        places = [f"{self.repository}/{file.parts[0].path}" if file.parts else str(file.path) for file in left_out]
        reasons = [f"{place}: {unreadable[str(file.path)]}" for place, file in zip(places, left_out, strict=True)]
        kept = [file for file in self.files if file not in left_out]
        return replace(self, files=_largest_first(self.id, kept, reasons), problems=(*self.problems, *reasons))

    def projector_spec(self, copy: str) -> str:
        """The projector file as `spec` names files, from the path of the copy of its header. Other paths stay."""
        if self.revision is None or Path(copy).parent != self.whole.path.parent:
            return copy
        return next(f"{HUB}{self.id}/{one.path}" for one in self.projectors if Path(one.path).name == Path(copy).name)

    def spec(self, file: PublishedFile) -> str:
        """The file as llama-server's command names it: a path, or hub:ORG/NAME/FILE.gguf."""
        return f"{HUB}{self.id}/{file.parts[0].path}" if file.parts else str(file.path)


def publisher_names(files: Sequence[tuple[str, str]]) -> list[str]:
    """Names that differ for files of several repositories, each given by its repository and the name of its variant.

    Where repositories have the same name, the organization joins it or, if it has several of them, the repository.
    """
    found = []
    for repository, name in files:
        alike = {other for other, same in files if same == name}
        organization = repository.partition("/")[0]
        several = [other for other in alike if other.partition("/")[0] == organization]
        publisher = organization if len(several) == 1 else repository
        found.append(name if len(alike) == 1 else f"{HUB}{publisher}/{name.removeprefix(HUB)}")
    return found


def name_in_repository(name: str, repository: str) -> str:
    """The name of a variant in its own repository, from the one that `publisher_names` gave it."""
    for publisher in (repository, repository.partition("/")[0]):
        if name.startswith(f"{HUB}{publisher}/"):
            return HUB + name.removeprefix(f"{HUB}{publisher}/")
    return name


def is_gguf_directory(directory: Path) -> bool:
    """Whether a directory has GGUF files, in itself or in its subfolders, and no checkpoint."""
    if any(file.name.endswith(_WEIGHTS) for file in directory.iterdir()):
        return False
    return bool(_gguf_paths(directory))


def is_gguf_listing(listing: Listing) -> bool:
    """Whether a repository on the hub has GGUF files and no checkpoint."""
    paths = [file.path for file in listing.files]
    return any(path.endswith(".gguf") for path in paths) and not any(path.endswith(_WEIGHTS) for path in paths)


def open_directory(directory: Path) -> GGUFRepository:
    """The repository in a directory. Raises InputError if it has no model."""
    sorted_files = sort_files(_gguf_paths(directory))
    found: list[PublishedFile] = []
    problems = list(sorted_files.problems)
    for quant in sorted_files.quants:
        path = directory / quant.parts[0]
        try:
            source = GGUFSource(path, requantize=True)
        except InputError as error:
            problems.append(str(error))
        else:
            found.append(PublishedFile(quant.name, path, float_rank=quant.float_rank, shape=_shape(source)))
    found, others = _of_one_model(found)
    problems += [f"{file.path}: {why}" for file, why in others]
    entries = {path: RepositoryFile(path, (directory / path).stat().st_size, "") for path in _gguf_paths(directory)}
    return GGUFRepository(
        str(directory),
        _largest_first(str(directory), found, problems),
        projectors=tuple(entries[path] for path in sorted_files.projectors),
        matrices=tuple(entries[path] for path in sorted_files.matrices),
        problems=tuple(problems),
        prefix=LOCAL,
    )


def open_hub(hub_id: str, listing: Listing | None = None) -> GGUFRepository:
    """The repository "org/name" or "org/name@revision", with the headers of its files. Raises InputError."""
    listing = listing or list_repository(hub_id)
    entries = {file.path: file for file in listing.files}
    sorted_files = sort_files(entries)
    found: list[PublishedFile] = []
    problems, total = list(sorted_files.problems), 0
    projectors: dict[RepositoryFile, Path] = {}
    for path in sorted_files.projectors:
        try:
            projectors[entries[path]], read = _header_copy(listing, (entries[path],))
            total += read
        except InputError as error:
            problems.append(str(error))
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        for answer in pool.map(lambda quant: _published(listing, quant, entries, projectors), sorted_files.quants):
            total += answer.bytes_read
            problems += answer.problems
            found += answer.files
    found, others = _of_one_model(found)
    problems += [f"{listing.repository}/{file.parts[0].path}: {why}" for file, why in others]
    return GGUFRepository(
        hub_id,
        _largest_first(hub_id, found, problems),
        listing.revision,
        tuple(projectors),
        tuple(entries[path] for path in sorted_files.matrices),
        tuple(problems),
        total,
        has_checkpoint=not is_gguf_listing(listing),
    )


def _gguf_paths(directory: Path) -> list[str]:
    """The paths of all files in a directory and its subfolders, relative to it, that may belong to a repository."""
    found = (*directory.glob("*"), *directory.glob("*/*"))
    return sorted(
        str(file.relative_to(directory))
        for file in found
        if file.is_file() and not file.name.startswith(".")
        if file.suffix in (".gguf", ".gguf_file", ".imatrix")
    )


def _largest_first(name: str, found: Sequence[PublishedFile], problems: Sequence[str]) -> tuple[PublishedFile, ...]:
    if not found:
        why = f": {problems[0]}" if problems else "; give a repository with GGUF files, or a checkpoint"
        raise InputError(f"{name}: has no GGUF file of a model that can be used{why}")
    return tuple(sorted(found, key=lambda file: (-file.file_bytes, file.name)))


@dataclass(frozen=True)
class _Answer:
    files: tuple[PublishedFile, ...] = ()
    problems: tuple[str, ...] = ()
    bytes_read: int = 0


def _published(
    listing: Listing,
    quant: PublishedQuant,
    entries: Mapping[str, RepositoryFile],
    projectors: Mapping[RepositoryFile, Path],
) -> _Answer:
    """A quant of a repository on the hub with the copy of its header, or the problem with it. `projectors`: the copies
    of the headers of its projector files."""
    parts, read = tuple(entries[path] for path in quant.parts), 0
    try:
        path, read = _header_copy(listing, parts, projectors)
        source = GGUFSource(path, requantize=True)
    except InputError as error:
        place = f"{listing.repository}/{quant.parts[0]}"
        message = re.sub(rf"{re.escape(str(_headers()))}/\w+", listing.repository, str(error))
        return _Answer(problems=(message if place in message else f"{place}: {message}",), bytes_read=read)
    file = PublishedFile(quant.name, path, parts, _content(parts), quant.float_rank, _shape(source))
    return _Answer((file,), bytes_read=read)


def _shape(source: GGUFSource) -> str:
    """What the quants of one model have in common. Layers for multi-token prediction, which some files of a model are
    without, do not count."""
    architecture = text(source.metadata, "general.architecture") or ""

    def count(key: str) -> int:
        field = source.metadata.get(f"{architecture}.{key}")
        return field.value if field is not None and isinstance(field.value, int) else 0

    layers, width, experts = count("block_count") - count("nextn_predict_layers"), "embedding_length", "expert_count"
    words = f"{architecture} with {layers} layers of width {count(width):,}"
    return f"{words} and {count(experts)} experts" if count(experts) else words


def _of_one_model(files: Sequence[PublishedFile]) -> tuple[list[PublishedFile], list[tuple[PublishedFile, str]]]:
    """The files of the model that has the most, or the largest of two with as many, and the others with the reason why
    they are not used: variants of one model are compared."""
    models: dict[str, list[PublishedFile]] = {}
    for file in files:
        models.setdefault(file.shape, []).append(file)
    if len(models) < 2:
        return list(files), []
    kept = max(models.values(), key=lambda alike: (len(alike), max(file.file_bytes for file in alike)))
    others = [file for file in files if file not in kept]
    return kept, [(file, f"is another model, {file.shape}; most files are {kept[0].shape}") for file in others]


def _content(parts: Sequence[RepositoryFile]) -> str:
    """What identifies the content of a file in parts."""
    return hashlib.sha256("\n".join(part.content for part in parts).encode()).hexdigest()


def _header_copy(
    listing: Listing, parts: Sequence[RepositoryFile], beside: Mapping[RepositoryFile, Path] | None = None
) -> tuple[Path, int]:
    """The copy of the header of a file in parts, with links to other copies next to it, and the bytes read for it.
    Raises InputError."""
    beside = beside or {}
    name = Path(parts[0].path).name
    identity = " ".join([_content(parts), name, *(f"{one.content} {one.path}" for one in beside)])
    directory, read = _headers() / hashlib.sha256(identity.encode()).hexdigest(), 0
    if not (directory / name).exists():
        read = _copy_headers(listing, parts, directory, list(beside.values()))
    return directory / name, read


def _copy_headers(listing: Listing, parts: Sequence[RepositoryFile], directory: Path, beside: Sequence[Path]) -> int:
    """Copy the headers of a file's parts to `directory`, whole or not at all, with links to the files `beside`. Returns
    the bytes read."""
    total = 0
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".copy-", dir=directory.parent))
        try:
            for part in parts:
                with (temporary / Path(part.path).name).open("wb") as file:
                    _, read = read_remote_header(listing, part, partial(_write_at, file.fileno()))
                    os.ftruncate(file.fileno(), part.size)
                total += read
            for path in {other.name: other for other in beside}.values():
                (temporary / path.name).symlink_to(path)
            if not directory.exists():
                temporary.rename(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{directory.parent}: the header of {parts[0].path} cannot be kept ({error.strerror}); free some space, or"
            " set HF_HOME to another folder"
        ) from error
    return total


def _write_at(descriptor: int, data: bytes, at: int) -> None:
    """Write all of `data`. On a disk that gets full only a part is written first, without an error."""
    while data:
        count = os.pwrite(descriptor, data, at)
        data, at = data[count:], at + count


def _headers() -> Path:
    """The folder for copies of headers, by the content of the files."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "gguf-headers"
