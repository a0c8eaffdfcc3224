"""What fits on a device: the memory of each variant of a model, its placement, and the largest context that fits."""
