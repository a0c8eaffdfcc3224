"""The child process of rpc.py: serves the CPU as several devices on 127.0.0.1 until its stdin ends.

Run as `python rpc_server.py LIBRARIES PORT DEVICES`. It loads only ggml, which starts ten times as fast as llama_cpp.
"""

import ctypes
import os
import sys
import threading
from pathlib import Path


def main(directory: Path, port: int, count: int) -> None:
    """Serve until stdin ends. Returns only if the server cannot start."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    libraries = [
        ctypes.CDLL(str(next(directory.glob(f"*{name}.*"))), mode=ctypes.RTLD_GLOBAL)
        for name in ("ggml-base", "ggml-cpu", "ggml-rpc", "ggml")
    ]
    ggml, rpc = libraries[3], libraries[2]
    ggml.ggml_backend_dev_by_type.argtypes, ggml.ggml_backend_dev_by_type.restype = [ctypes.c_int], ctypes.c_void_p
    cpu = ggml.ggml_backend_dev_by_type(0)
    devices = (ctypes.c_void_p * count)(*[cpu] * count)
    rpc.ggml_backend_rpc_start_server.argtypes = [
        ctypes.c_char_p,  # endpoint
        ctypes.c_char_p,  # directory of cached tensors: none
        ctypes.c_size_t,  # threads
        ctypes.c_size_t,  # devices
        ctypes.c_void_p,
    ]
    rpc.ggml_backend_rpc_start_server.restype = None
    rpc.ggml_backend_rpc_start_server(f"127.0.0.1:{port}".encode(), None, 1, count, devices)


def _exit_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
