"""The kinds of jobs. A job is a frozen dataclass that says what to do, with a typed result and with everything that the
result depends on.

Jobs open models through the table of openers (`model.py`) and do not know the methods of quantization. How to add a
kind: docs/extending.md.
"""
