"""Data of the product with its loaders: sweeps, GPUs, known models, built-in models and their tasks."""
