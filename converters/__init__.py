"""Checkpoints of the Qwen family turned into GGUF files: reading, naming, transforming, quantizing."""
