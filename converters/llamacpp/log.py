"""What llama.cpp logs, caught in Python. Its callback is one for the whole process, so it is set here and nowhere else.

Outside of a `capture()` everything goes to the logger "llama.cpp", so nothing is ever printed over the screen.
"""

import ctypes
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from converters.llamacpp.bindings import lib

LOGGER = logging.getLogger("llama.cpp")

# ggml_log_level: none, debug, info, warn, error, continuation of the last message
_DEBUG, _INFO, _WARN, _ERROR, _CONTINUED = 1, 2, 3, 4, 5
_PYTHON_LEVELS = {_DEBUG: logging.DEBUG, _INFO: logging.DEBUG, _WARN: logging.INFO, _ERROR: logging.WARNING}


@dataclass
class Captured:
    """The messages that one thread caused, in order: pairs of ggml's level and UTF-8 (not always a whole line)."""

    messages: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it, as it would have been printed."""
        return b"".join([text for _, text in self.messages]).decode(errors="replace")

    @property
    def errors(self) -> str:
        """The messages of the levels warning and error in one line: what to quote when a call failed."""
        parts: list[bytes] = []
        level = 0
        for own, text in self.messages:
            level = level if own == _CONTINUED else own
            if level in (_WARN, _ERROR):
                parts.append(text)
        return " ".join(b"".join(parts).decode(errors="replace").split())


_lock = threading.RLock()  # the garbage collector may free a model, which logs, while it is held
_open: list[tuple[int, Captured]] = []  # (thread, capture), innermost last
_of_thread: dict[int, Captured] = {}  # the innermost one of each thread: a dry run has thousands of messages


def _receive(level: int, text: bytes, _user_data: Any) -> None:
    receiver = _of_thread.get(threading.get_ident())
    if receiver is None:
        # Messages of llama.cpp's own worker threads belong to whoever is capturing; there is mostly one.
        with _lock:
            receiver = _open[-1][1] if _open else None
    if receiver is not None:
        receiver.messages.append((level, text))
        return
    message = text.decode(errors="replace")
    if message.strip():
        LOGGER.log(_PYTHON_LEVELS.get(level, logging.DEBUG), "%s", message.rstrip())


_callback = lib.llama_log_callback(_receive)  # must live as long as the library


@contextmanager
def capture() -> Iterator[Captured]:
    """Collect what llama.cpp logs while the block runs, from this thread. Captures nest: the innermost one gets it."""
    install()
    thread = threading.get_ident()
    entry = (thread, Captured())
    outer = _of_thread.get(thread)
    with _lock:
        _open.append(entry)
        _of_thread[thread] = entry[1]
    try:
        yield entry[1]
    finally:
        with _lock:
            _open.remove(entry)
            if outer is None:
                del _of_thread[thread]
            else:
                _of_thread[thread] = outer


def install() -> None:
    """Take over llama.cpp's log. Importing `llama_cpp` again or making its `Llama` would take it away."""
    lib.llama_log_set(_callback, ctypes.c_void_p(0))


install()
