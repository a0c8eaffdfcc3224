"""Turns a request into a plan: finds the model, variants, texts and tasks, checks them, and makes the cells."""
