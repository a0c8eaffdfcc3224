"""Devices that are not there: an RPC server of ggml on 127.0.0.1, in a child process, whose devices hold nothing.

For a load without allocation llama.cpp treats them like GPUs, so it answers how it would split a model over so many
and what each would have to hold. Protocol and functions: ggml-rpc.h.
"""

import ctypes
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

MAX_DEVICES = 16
_SERVER = Path(__file__).with_name("rpc_server.py")
_ATTEMPTS = 3  # a free port may be taken by another before the server has it
_PATIENCE = 10.0  # seconds until a server must listen


@dataclass(frozen=True)
class RemoteDevice:
    """A device of a server: its handle in this process, and what llama.cpp's log calls buffers on it."""

    handle: int
    buffer: str


def supported() -> bool:
    """Whether this build of llama.cpp has RPC (built with -DGGML_RPC=ON)."""
    return _library() is not None


@contextmanager
def simulated_devices(count: int) -> Iterator[tuple[RemoteDevice, ...]]:
    """So many devices, which go with the block. Raises MissingRuntime where the build has no RPC or no server starts.

    They have no memory of their own: how layers are shared among them must be told to the load.
    """
    library = _library()
    if library is None:
        raise MissingRuntime("this build of llama.cpp has no RPC; build llama-cpp-python with CMAKE_ARGS=-DGGML_RPC=ON")
    start_backend()
    with server(count) as endpoint:
        yield _devices(library, endpoint, count)


@contextmanager
def server(count: int) -> Iterator[str]:
    """A server of so many devices, which serves one client at a time; "host:port". Raises MissingRuntime."""
    for _ in range(_ATTEMPTS):
        port = _free_port()
        # Its own end of the pipe on stdin tells the server when this process is gone, however it ended.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SERVER), str(_library_directory()), str(port), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
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
    raise MissingRuntime("no RPC server could be started on 127.0.0.1")


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


def _library_directory() -> Path:
    return Path(ggml._name).parent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
