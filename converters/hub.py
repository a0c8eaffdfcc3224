"""Hub ids ("org/name" or "org/name@revision") to local directories, through huggingface_hub and its cache."""

import re
from pathlib import Path

from converters.errors import InputError

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

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form of a hub id. A directory of that name, if there is one, should be preferred."""
    return _HUB_ID.fullmatch(text) is not None


def fetch(hub_id: str) -> Path:
    """Download the checkpoint `hub_id` (only FILES, only what the cache lacks) and return its directory.

    Where the hub cannot be reached, a complete copy in the cache is used. Raises InputError that names the remedy.
    """
    # Imported here: it takes a third of a second, which only hub ids have to pay.
    from huggingface_hub import constants, errors, snapshot_download

    if not is_hub_id(hub_id):
        raise InputError(f"{hub_id!r} is neither a path nor a hub id (org/name or org/name@revision)")
    repository, _, revision = hub_id.partition("@")
    try:
        directory = snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
    except errors.GatedRepoError as error:
        raise InputError(
            f"{hub_id}: the hub wants a login for it; accept its terms there and run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{hub_id}: {constants.ENDPOINT} has no such model, or only with a login") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{hub_id}: the model has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{hub_id}: {constants.ENDPOINT} cannot be reached and the cache has no copy; connect, set HF_ENDPOINT to a"
            " mirror, or give the directory of a downloaded checkpoint"
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{hub_id}: download failed ({reason}); run again to go on where it stopped") from error
    return Path(directory)
