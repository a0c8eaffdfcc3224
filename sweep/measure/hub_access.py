"""Access to the Hugging Face Hub for texts and tasks, without waiting for a hub that cannot be reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from converters.hub_reachable import is_reachable


def unreachable() -> str:
    """The words for a message, for a hub that cannot be reached."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT} cannot be reached, and the cache has no copy"


def is_of_connection(error: BaseException | None) -> bool:
    """Whether an error of a task comes from a connection, which the clients raise without one, too."""
    while error is not None and not isinstance(error, ConnectionError):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def hub_access(allowed: bool) -> Iterator[None]:
    """Within this context the clients of the hub connect only if it is `allowed` and reachable. What they have in their
    caches is available in any case."""
    import datasets
    import huggingface_hub.constants

    owners: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [owner.HF_HUB_OFFLINE for owner in owners]
    if not allowed or not is_reachable():
        for owner in owners:
            owner.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.HF_HUB_OFFLINE = value
