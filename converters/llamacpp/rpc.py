"""Simulated devices: an RPC server of ggml on 127.0.0.1, in a child process, whose devices hold no data.

In a load without allocation llama.cpp treats them like GPUs. So it answers how it would split a model over several GPUs
and how much each of them would hold. Protocol and functions: ggml-rpc.h.
"""

import ctypes
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from converters.errors import MissingRuntime
from converters.llamacpp.bindings import ggml, start_backend

MAX_DEVICES = 15  # GGML_SCHED_MAX_BACKENDS is 16, including the backend for RAM
_SERVER = Path(__file__).with_name("rpc_server.py")
_ATTEMPTS = 3  # another process may take a free port before the server does
_ports: set[int] = set()
_PATIENCE = 10.0  # seconds until a server must listen


@dataclass(frozen=True)
class RemoteDevice:
    """A device of a server: its handle in this process, and the name of its buffers in llama.cpp's log."""

    handle: int
    buffer: str


def supported() -> bool:
    """Whether this build of llama.cpp has RPC (built with -DGGML_RPC=ON)."""
    return _library() is not None


@contextmanager
def simulated_devices(count: int) -> Iterator[tuple[RemoteDevice, ...]]:
    """Provide `count` devices inside the block. Raises MissingRuntime if the build has no RPC or no server starts.

    They report no memory of their own, so `LoadOptions` must say how layers are split among them.
    """
    library = _library()
    if library is None:
        raise MissingRuntime("this build of llama.cpp has no RPC; build llama-cpp-python with CMAKE_ARGS=-DGGML_RPC=ON")
    start_backend()
    with server(count) as endpoint:
        yield _devices(library, endpoint, count)


@contextmanager
def server(count: int) -> Iterator[str]:
    """Start a server with `count` devices for one client at a time; yields "host:port". Raises MissingRuntime."""
    for _ in range(_ATTEMPTS):
        port = _free_port()
        # The pipe on stdin ends when this process ends, in whatever way; then the server ends too.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SERVER), str(_library_directory()), str(port), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "GLIBC_TUNABLES": _tunables()},
        )
        try:
            if _listens(process, port):
                yield f"127.0.0.1:{port}"
                return
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
    raise MissingRuntime(
        "no RPC server could be started on 127.0.0.1; check whether this machine allows local connections"
    )


@cache
def _library() -> Any:
    try:
        functions = ggml.ggml_backend_rpc_add_server, ggml.ggml_backend_reg_dev_get, ggml.ggml_backend_buft_name
    except AttributeError:
        return None
    add_server, device, name = functions
    add_server.argtypes, add_server.restype = [ctypes.c_char_p], ctypes.c_void_p
    device.argtypes, device.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_void_p
    name.argtypes, name.restype = [ctypes.c_void_p], ctypes.c_char_p
    return ggml


def _tunables() -> str:
    """glibc's settings for the server: large pages.

    The server clears recurrent states, 150 MiB for a model of 27 billion parameters, for each context. With small pages
    most of the time of a fit report is spent there.
    """
    return ":".join(filter(None, (os.environ.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1")))


def _library_directory() -> Path:
    return Path(ggml._name).parent


def _free_port() -> int:
    """A port that no server of this process has had, because ggml never forgets what it knows about an endpoint."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _ports:
            _ports.add(port)
            return port


def _listens(server: "subprocess.Popen[bytes]", port: int) -> bool:
    end = time.monotonic() + _PATIENCE
    while server.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.005)
        else:
            return server.poll() is None
    return False


def _devices(library: Any, endpoint: str, count: int) -> tuple[RemoteDevice, ...]:
    registry = library.ggml_backend_rpc_add_server(endpoint.encode())
    if not registry:
        raise MissingRuntime(f"the RPC server at {endpoint} does not answer")
    handles = [library.ggml_backend_reg_dev_get(registry, index) for index in range(count)]
    buffers = [library.ggml_backend_buft_name(ggml.ggml_backend_dev_buffer_type(handle)) for handle in handles]
    return tuple(RemoteDevice(handle, name.decode()) for handle, name in zip(handles, buffers, strict=True))
