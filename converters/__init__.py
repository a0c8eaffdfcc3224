"""Conversion of Qwen checkpoints to GGUF: reading, renaming, transforming and quantizing tensors."""
