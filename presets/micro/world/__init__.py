"""A toy world, invented from the first sentence: its facts, stories, sums, forms and small functions.

Every module draws items of one kind from a seeded generator; `corpus` mixes them into documents. An item belongs to
exactly one split, decided by a hash of what it asks, so train, calibration, validation and test share none.
"""
