"""Backends: loaded models that take tokens and give log-probabilities and text, with the same protocol for all."""
