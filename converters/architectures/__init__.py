"""One module a model family: GGUF keys, tensor names, tensor transforms."""
