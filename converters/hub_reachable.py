"""Whether the Hugging Face Hub can be reached."""

import time
from functools import cache
from importlib import import_module

PATIENCE = 3.0  # seconds in which the hub has to answer anything
PAUSE = 0.5  # seconds between attempts


@cache
def is_reachable() -> bool:
    """Whether the hub answers, with whatever status, within PATIENCE. It is asked once per process.

    The hub's client tries a download six times over 23 seconds, because a server that answers badly may recover.
    Without a network each of these attempts fails at once, and nothing is gained by waiting.
    """
    from huggingface_hub import constants, get_session

    end = time.monotonic() + PATIENCE
    while not constants.is_offline_mode():
        try:
            get_session().head(constants.ENDPOINT, timeout=max(end - time.monotonic(), PAUSE))
        except connection_error():
            if time.monotonic() + PAUSE > end:
                return False
            time.sleep(PAUSE)
        else:
            return True
    return False


def connection_error() -> type[Exception]:
    """The error of the hub client's HTTP library for "no answer". Versions of the client use different libraries."""
    from huggingface_hub import get_session

    library = import_module(type(get_session()).__module__.partition(".")[0])
    error: type[Exception] = library.TransportError
    return error
