"""llama.cpp's log messages, received in Python. llama.cpp has one callback per process, which only this module sets.

Outside of `capture()` all messages go to the logger "llama.cpp", so that nothing is printed over the screen.
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
    """The messages of one thread in order, as (ggml's level, UTF-8 text). A message is not always a whole line."""

    messages: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The whole log, as llama.cpp would have printed it."""
        return b"".join([text for _, text in self.messages]).decode(errors="replace")

    @property
    def errors(self) -> str:
        """All messages of the levels warning and error in one line, to quote after a failed call."""
        parts: list[bytes] = []
        level = 0
        for own, text in self.messages:
            level = level if own == _CONTINUED else own
            if level in (_WARN, _ERROR):
                parts.append(text)
        return " ".join(b"".join(parts).decode(errors="replace").split())


_lock = threading.RLock()  # reentrant: while it is held, garbage collection may free a model, which logs
_open: list[tuple[int, Captured]] = []  # (thread, capture), innermost last
_of_thread: dict[int, Captured] = {}  # each thread's innermost capture; a dry run logs thousands of messages


def _receive(level: int, text: bytes, _user_data: Any) -> None:
    receiver = _of_thread.get(threading.get_ident())
    if receiver is None:
        # Messages from llama.cpp's worker threads go to the innermost capture; usually there is only one.
        with _lock:
            receiver = _open[-1][1] if _open else None
    if receiver is not None:
        receiver.messages.append((level, text))
        return
    message = text.decode(errors="replace")
    if message.strip():
        LOGGER.log(_PYTHON_LEVELS.get(level, logging.DEBUG), "%s", message.rstrip())


callback = lib.llama_log_callback(_receive)  # must not be freed while the library is loaded


@contextmanager
def capture() -> Iterator[Captured]:
    """Collect what llama.cpp logs from this thread inside the block. If captures are nested, the innermost gets it."""
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
    """Set the log callback. Importing `llama_cpp` again, or making a `llama_cpp.Llama`, would replace it."""
    lib.llama_log_set(callback, ctypes.c_void_p(0))


install()
