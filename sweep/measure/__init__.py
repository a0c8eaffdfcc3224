"""Measurements: perplexity, KL divergence, tasks and speed. They depend on the Backend protocol, not on an engine."""
