"""Measurements. They know a Backend and nothing of what stands behind it."""
