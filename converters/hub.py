"""Hub ids ("org/name" or "org/name@revision") to local directories, through huggingface_hub and its cache."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from converters.errors import InputError
from converters.gguf_source import part_names
from converters.llamacpp.container import GGUFHeader
from converters.llamacpp.reader import parse_header

# What a conversion reads. No pickles, no code, no pictures, no other frameworks' weights.
FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)

_RANGE = 1 << 20  # bytes of a header asked for at once; a vocabulary takes 6 to 11 MB

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form of a hub id. A directory of that name, if there is one, should be preferred."""
    return _HUB_ID.fullmatch(text) is not None


def fetch(hub_id: str, weights: bool = True) -> Path:
    """Download the checkpoint `hub_id` (only FILES, only what the cache lacks) and return its directory.

    Without `weights` it is the config and the tokenizer alone. Where the hub cannot be reached, a complete copy in the
    cache is used. Raises InputError that names the remedy.
    """
    # Imported here: it takes a third of a second, which only hub ids have to pay.
    from huggingface_hub import snapshot_download

    if not is_hub_id(hub_id):
        raise InputError(f"{hub_id!r} is neither a path nor a hub id (org/name or org/name@revision)")
    repository, _, revision = hub_id.partition("@")
    wanted = [name for name in FILES if weights or not name.startswith("model")]
    with _explained(hub_id, revision):
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=wanted))


def fetch_config(hub_id: str) -> tuple[Path, int]:
    """config.json of `hub_id` and nothing else, and how many bytes were read over the network. Raises InputError."""
    path, count = _fetch_file(hub_id, "config.json")
    if path is None:
        raise InputError(f"{hub_id}: the model has no config.json, and without it is not known")
    return path, count


def fetch_index(hub_id: str) -> tuple[Path | None, int]:
    """The list of a checkpoint's tensors, None where it is in one file, and how many bytes were read. InputError."""
    return _fetch_file(hub_id, "model.safetensors.index.json")


def _fetch_file(hub_id: str, name: str) -> tuple[Path | None, int]:
    """A file of the model, None where it has none of that name, and how many bytes were read. InputError."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    repository, _, revision = hub_id.partition("@")
    known = try_to_load_from_cache(repository, name, revision=revision or None)
    with _explained(hub_id, revision):
        # Not hf_hub_download, which goes on trying for half a minute where there is no network.
        path = Path(snapshot_download(repository, revision=revision or None, allow_patterns=[name])) / name
    if not path.is_file():
        return None, 0
    return path, 0 if str(path) == known else path.stat().st_size


@dataclass(frozen=True)
class HubFile:
    """A GGUF file in a repository of the hub; `names` are its parts', of which llama.cpp is given the first."""

    repository: str
    revision: str | None
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "org/name/path/in/it.gguf" or "org/name@revision/path/in/it.gguf". Raises InputError."""
        found = re.fullmatch(r"([^/@]+/[^/@]+)(?:@([^/]+))?/(.+\.gguf)", text)
        if found is None or not is_hub_id(found[1]) or ".." in found[3].split("/"):
            raise InputError(f"{text}: is no file of the hub; write hub:ORG/NAME/FILE.gguf")
        directory, slash, name = found[3].rpartition("/")
        return cls(found[1], found[2], tuple(f"{directory}{slash}{part}" for part in part_names(name)))

    def cached(self) -> Path | None:
        """The file in the cache, if all parts are there."""
        from huggingface_hub import try_to_load_from_cache

        found = [try_to_load_from_cache(self.repository, name, revision=self.revision) for name in self.names]
        return Path(found[0]) if all(isinstance(path, str) for path in found) and isinstance(found[0], str) else None

    def size(self) -> int:
        """Bytes of all parts, as the hub says. Raises InputError."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        with _explained(self.repository, self.revision):
            urls = [hf_hub_url(self.repository, name, revision=self.revision) for name in self.names]
            return sum(get_hf_file_metadata(url).size or 0 for url in urls)

    def headers(self) -> tuple[list[GGUFHeader], int]:
        """The headers of all parts, read by range requests, and how many bytes that took. Raises InputError."""
        from huggingface_hub import HfFileSystem

        found, total = [], 0
        repository = f"{self.repository}@{self.revision}" if self.revision else self.repository
        with _explained(self.repository, self.revision):
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
        """Download what the cache lacks and return the first part. Raises InputError."""
        from huggingface_hub import hf_hub_download

        with _explained(self.repository, self.revision):
            paths = [hf_hub_download(self.repository, name, revision=self.revision) for name in self.names]
        return Path(paths[0])


@contextmanager
def _opened(files: Any, path: str) -> Iterator[Any]:
    """A file of the hub's file system. What is not there is told as the hub's client tells it elsewhere."""
    try:
        file = files.open(path, "rb", block_size=_RANGE, cache_type="none")
    except FileNotFoundError as error:
        raise error.__cause__ or error from None
    with file:
        yield file


def _no_answer() -> type[Exception]:
    """What the hub's client lets through where nothing answers: an error of its HTTP library, of which versions of it
    have had several."""
    from huggingface_hub import get_session

    library = import_module(type(get_session()).__module__.partition(".")[0])
    error: type[Exception] = library.TransportError
    return error


@contextmanager
def _explained(hub_id: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into an InputError that names the remedy."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(
            f"{hub_id}: the hub wants a login for it; accept its terms there and run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{hub_id}: {constants.ENDPOINT} has no such model, or only with a login") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{hub_id}: the model has no revision {revision!r}") from error
    except errors.RemoteEntryNotFoundError as error:
        raise InputError(f"{hub_id}: the model has no such file ({str(error).splitlines()[-1]})") from error
    except (errors.LocalEntryNotFoundError, _no_answer()) as error:
        raise InputError(
            f"{hub_id}: {constants.ENDPOINT} cannot be reached and the cache has no copy; connect, set HF_ENDPOINT to a"
            " mirror, or give the directory of a downloaded checkpoint"
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{hub_id}: download failed ({reason}); run again to go on where it stopped") from error
