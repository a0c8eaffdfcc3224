"""Download of models by hub id ("org/name" or "org/name@revision"), through huggingface_hub and its cache."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from converters.errors import InputError
from converters.gguf_source import part_names
from converters.hub_reachable import connection_error, is_reachable
from converters.llamacpp.container import GGUFHeader
from converters.llamacpp.reader import parse_header

# What a conversion reads: no pickles, code, pictures or weights of other frameworks.
FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "normalizer.json",
    "processor_config.json",
)

HUB = "hub:"
"""Prefix of the names of repositories on the hub and of files in them."""

_RANGE = 1 << 20  # bytes per request for a header; a vocabulary takes 6 to 11 MB

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form of a hub id. The caller should prefer a directory with that name, if there is one."""
    return _HUB_ID.fullmatch(text) is not None


def fetch(hub_id: str, weights: bool = True) -> Path:
    """Download the checkpoint `hub_id` (only FILES that the cache lacks) and return its directory.

    Without `weights` only the config and the tokenizer are downloaded. If the hub cannot be reached, a complete copy in
    the cache is used. Raises InputError that says what to do.
    """
    # Imported here: it takes a third of a second, which only hub ids need.
    from huggingface_hub import snapshot_download

    if not is_hub_id(hub_id):
        raise InputError(f"{hub_id!r} is neither a path nor a hub id (org/name or org/name@revision)")
    repository, _, revision = hub_id.partition("@")
    patterns = [name for name in FILES if weights or not name.startswith("model")]
    with hub_errors(hub_id, revision):
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))


def fetch_config(hub_id: str) -> tuple[Path, int]:
    """Download config.json of `hub_id`. Returns its path and the bytes read from the network. Raises InputError."""
    path, count = _fetch_file(hub_id, "config.json")
    if path is None and not is_reachable():
        raise unreachable(hub_id)
    if path is None:
        raise InputError(
            f"{hub_id}: the repository has no config.json, so the model is unknown; give a repository with a checkpoint"
        )
    return path, count


def fetch_index(hub_id: str) -> tuple[Path | None, int]:
    """Download the index of a checkpoint's shards. Returns its path and the bytes read over the network.

    The path is None if the checkpoint is a single file. Raises InputError.
    """
    return _fetch_file(hub_id, "model.safetensors.index.json")


def _fetch_file(hub_id: str, name: str) -> tuple[Path | None, int]:
    """Download one file. Returns its path (None if the repository lacks it) and the bytes read over the network.

    Raises InputError.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    repository, _, revision = hub_id.partition("@")
    known = try_to_load_from_cache(repository, name, revision=revision or None)
    with hub_errors(hub_id, revision):
        # Not hf_hub_download, which retries for half a minute if there is no network.
        path = Path(snapshot_download(repository, revision=revision or None, allow_patterns=[name])) / name
    if not path.is_file():
        return None, 0
    return path, 0 if str(path) == known else path.stat().st_size


@dataclass(frozen=True)
class HubFile:
    """A GGUF file in a repository of the hub. `names` are the paths of its parts; llama.cpp opens the first."""

    repository: str
    revision: str | None
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse "org/name/path/in/it.gguf" or "org/name@revision/path/in/it.gguf". Raises InputError."""
        found = re.fullmatch(r"([^/@]+/[^/@]+)(?:@([^/]+))?/(.+\.gguf)", text)
        if found is None or not is_hub_id(found[1]) or ".." in found[3].split("/"):
            raise InputError(
                f"{HUB}{text}: names neither a repository on the hub nor a file there; write hub:ORG/NAME or"
                " hub:ORG/NAME/FILE.gguf"
            )
        directory, slash, name = found[3].rpartition("/")
        return cls(found[1], found[2], tuple(f"{directory}{slash}{part}" for part in part_names(name)))

    @property
    def url(self) -> str:
        """The address of the first part."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repository, self.names[0], revision=self.revision)

    @property
    def download_words(self) -> list[str]:
        """The words of the command that downloads all parts to the current directory."""
        revision = [] if self.revision is None else ["--revision", self.revision]
        return ["hf", "download", self.repository, *self.names, *revision, "--local-dir", "."]

    def cached(self) -> Path | None:
        """The path of the first part in the cache, or None if any part is not cached."""
        from huggingface_hub import try_to_load_from_cache

        found = [try_to_load_from_cache(self.repository, name, revision=self.revision) for name in self.names]
        return Path(found[0]) if all(isinstance(path, str) for path in found) and isinstance(found[0], str) else None

    def size(self) -> int:
        """Bytes of all parts, according to the hub. Raises InputError."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        with hub_errors(self.repository, self.revision):
            urls = [hf_hub_url(self.repository, name, revision=self.revision) for name in self.names]
            return sum(get_hf_file_metadata(url).size or 0 for url in urls)

    def headers(self) -> tuple[list[GGUFHeader], int]:
        """Read the headers of all parts by range requests. Returns them and the bytes read. Raises InputError."""
        from huggingface_hub import HfFileSystem

        found, total = [], 0
        repository = f"{self.repository}@{self.revision}" if self.revision else self.repository
        with hub_errors(self.repository, self.revision):
            files = HfFileSystem()
            for name in self.names:
                with _opened(files, f"{repository}/{name}") as file:

                    def read(count: int, offset: int, file: Any = file) -> bytes:
                        nonlocal total
                        file.seek(offset)
                        data: bytes = file.read(max(count, min(_RANGE, file.size - offset)))
                        total += len(data)
                        return data

                    found.append(parse_header(read, file.size, Path(f"{self.repository}/{name}")))
        return found, total

    def fetch(self) -> Path:
        """Download the parts that the cache lacks, and return the path of the first. Raises InputError."""
        from huggingface_hub import hf_hub_download

        if not is_reachable():
            raise unreachable(self.repository)
        with hub_errors(self.repository, self.revision):
            paths = [hf_hub_download(self.repository, name, revision=self.revision) for name in self.names]
        return Path(paths[0])


@contextmanager
def _opened(files: Any, path: str) -> Iterator[Any]:
    """Open a file of the hub's file system. A missing file raises the same error as elsewhere in huggingface_hub."""
    try:
        file = files.open(path, "rb", block_size=_RANGE, cache_type="none")
    except FileNotFoundError as error:
        raise error.__cause__ or error from None
    with file:
        yield file


def unreachable(hub_id: str) -> InputError:
    from huggingface_hub import constants

    return InputError(
        f"{hub_id}: {constants.ENDPOINT} cannot be reached and the cache has no copy; check the connection, set"
        " HF_ENDPOINT to a mirror, or give the directory of a downloaded checkpoint"
    )


BUSY = (429, 500, 502, 503, 504)
"""HTTP statuses of a hub that may answer well later."""


@contextmanager
def hub_errors(hub_id: str, revision: str | None, broken: bool = True, file: str = "") -> Iterator[None]:
    """Turn errors of huggingface_hub into an InputError that says what to do; those of a broken connection, and of a
    hub that is BUSY, only if `broken`. `file` is what is read of the repository, if that was listed before."""
    from huggingface_hub import constants, errors

    name = f"{hub_id}/{file}" if file else hub_id
    try:
        yield
    except errors.HFValidationError as error:
        raise InputError(f"{hub_id}: the hub has no models of such a name: {error}") from error
    except errors.GatedRepoError as error:
        raise InputError(
            f"{name}: the hub requires a login for this model; accept its terms there and run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        has = "no longer has this repository" if file else "has no such model"
        raise InputError(
            f"{name}: {constants.ENDPOINT} {has}, or requires a login for it; check the id or run `hf auth login`"
        ) from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        if file:
            raise InputError(
                f"{name}: is no longer on the hub at revision {(revision or 'main')[:8]}; run the command again, which"
                " takes the files that are there now"
            ) from error
        if isinstance(error, errors.RevisionNotFoundError):
            raise InputError(
                f"{name}: the repository has no revision {revision!r}; check its branches and tags"
            ) from error
        raise InputError(f"{name}: the repository has no such file ({str(error).splitlines()[-1]})") from error
    except (errors.LocalEntryNotFoundError, connection_error()) as error:
        if not broken:
            raise
        raise unreachable(hub_id) from error
    except (errors.HfHubHTTPError, OSError) as error:
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
        if status in BUSY and not broken:
            raise
        reason = " ".join(str(error).split())[:200]
        if status == 401:
            raise InputError(
                f"{name}: {constants.ENDPOINT} rejects this machine's access token; run `hf auth login`, or correct the"
                " environment variable HF_TOKEN"
            ) from error
        if status == 403:
            raise InputError(
                f"{name}: the hub denies access ({reason}); use an access token that may read this repository"
            ) from error
        raise InputError(f"{name}: download failed ({reason}); run the command again to resume the download") from error
