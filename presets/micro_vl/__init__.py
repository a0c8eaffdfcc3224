"""The built-in vision-language model: a small trained Qwen3-VL, the drawings it learned to read, and its tasks."""
