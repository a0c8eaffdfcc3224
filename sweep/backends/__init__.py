"""Tokens in, log-probabilities out: one protocol for every engine."""
