"""Turns records into tables, pages and files for readers. Nothing is measured here."""
