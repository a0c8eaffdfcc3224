"""Access to libllama and libggml. All use of ctypes is in this package."""
