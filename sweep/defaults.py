"""Values that several packages share."""

DEFAULT_CONTEXT = 8192
"""Default context in tokens per sequence. A model that was trained with a shorter context gets that one instead."""

KV_TYPES = ("f16", "bf16", "q8_0", "q5_1", "q4_0")
"""Types of llama.cpp's KV cache that a user can choose."""

MARGIN_BYTES = 1 << 30
"""Bytes that are left free on each device as a margin, as llama.cpp's own fit does (its option --fit-target): buffers
of other builds differ by some per cent, and memory pools of the backends grow while they run."""

SPEED_SECONDS = 10.0
DRAFTED_TOKENS = 3
"""Tokens that a draft proposes at once: llama-server's default of --spec-draft-n-max."""
"""Seconds for the timings of the speed of one variant. Each timing is shorter if the model is slow."""

LEAST_PROMPT_TOKENS = 64
"""The shortest prompt whose speed is measured. The time per token is longer for fewer tokens."""

SPEED_MEASUREMENTS = 2
"""How often the speed of a variant is measured at most: an unstable one is measured again at the end of the run."""

IMAGE_CACHE_BYTES = 4 << 30
"""Bytes of embeddings of images that a workspace keeps."""
