"""What fits on a device: the memory of each variant of a model, where it is placed, and how far a context can go."""
