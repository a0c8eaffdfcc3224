"""The sweep: variants planned, run, measured, stored and reported."""

__version__ = "0.1.0"
