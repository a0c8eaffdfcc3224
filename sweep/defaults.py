"""Values that several rooms share, each written here once."""

DEFAULT_CONTEXT = 8192
"""Tokens of context where none is asked for, or all that a model was made for where that is less."""

KV_TYPES = ("f16", "bf16", "q8_0", "q5_1", "q4_0")
"""Types of llama.cpp's KV cache that can be asked for."""

MARGIN_BYTES = 1 << 30
"""What llama.cpp's own fit leaves free on each device (its --fit-target): buffers of other builds differ by some per
cent, and pools of the backends grow while they run."""
