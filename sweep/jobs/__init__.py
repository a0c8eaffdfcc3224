"""Kinds of work: a frozen job that says what to do, its typed result, and what that result depends on.

A job opens models by the table of openers and knows no method of quantization. How to add a kind: docs/extending.md.
"""
