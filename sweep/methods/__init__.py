"""Ways to store and run a model: one module a method, from a variant's name to the jobs that make and measure it.

How to add a method: docs/extending.md.
"""
