"""The size of a model after post-training quantization, from the shapes of its parameters: without torch or weights.

Bits are true: they count scales, zero points, masks and everything else that a file must hold, and the embeddings,
norms and other weights that stay in 16 bits.
"""
