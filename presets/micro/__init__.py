"""The built-in models: two small trained Qwen models, the toy world of their training texts, and their tasks."""
