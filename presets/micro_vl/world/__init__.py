"""Seeded drawings with questions about them: forms, bar charts and words; and the same content as text.

A drawing belongs to exactly one split, decided by a hash of its content, so train, calibration, validation and test
share none.
"""
