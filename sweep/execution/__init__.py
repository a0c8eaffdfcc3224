"""Runs the cells of a plan: the scheduler, the executors that it submits jobs to, and the worker processes."""
