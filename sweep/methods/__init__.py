"""Ways to store and run a model. Each method is a module that leads from a variant's name to the jobs that make and
measure it.

How to add a method: docs/extending.md.
"""
