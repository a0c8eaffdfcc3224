"""The built-in model: a small trained Qwen3, the toy world that made it, and its tasks."""
