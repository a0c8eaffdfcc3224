"""A hub that cannot be reached is given up within seconds; one that answers badly may recover, and is tried again."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from converters.errors import InputError
from converters.hub import HubFile
from converters.hub_reachable import PATIENCE, is_reachable


class _Overloaded(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(autouse=True)
def _asked_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    is_reachable.cache_clear()
    yield
    is_reachable.cache_clear()


@pytest.fixture
def closed() -> str:
    """The address of a port that nothing listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_hub_without_an_answer_is_given_up_within_seconds(monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", closed)
    began = time.monotonic()
    assert not is_reachable()
    assert time.monotonic() - began < 2 * PATIENCE
    with pytest.raises(InputError, match=f"org/name: {closed} cannot be reached and the cache has no copy"):
        HubFile("org/name", None, ("file.gguf",)).fetch()


def test_a_hub_that_answers_badly_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Overloaded)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert is_reachable()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_hub_that_answers_late_is_waited_for(monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    """A network that comes up again."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", closed)
    server: list[ThreadingHTTPServer] = []

    def come_up() -> None:
        server.append(ThreadingHTTPServer(("127.0.0.1", int(closed.rpartition(":")[2])), _Overloaded))
        server[0].serve_forever()

    timer = threading.Timer(1.0, come_up)
    timer.start()
    try:
        assert is_reachable()
    finally:
        timer.join(0)
        server[0].shutdown()
        server[0].server_close()
        timer.join()


def test_without_permission_to_connect_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", closed)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    assert not is_reachable()
    assert time.monotonic() - began < 1.0
