"""The sweep: plans, runs, measures, stores and reports the variants of a model."""

__version__ = "0.1.0"
