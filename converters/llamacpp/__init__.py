"""libllama seen from Python. Everything that touches ctypes lives here, and nothing else does."""
