"""Triton kernels of real int8: what quantizes tokens, multiplies int8 matrices and dequantizes, each in one launch.

They need CUDA, or Triton's interpreter (TRITON_INTERPRET=1 before the first import of triton), which runs them on CPU
tensors. `paths` says which of them takes which shape and needs no Triton; `linear` is what layers call.
"""
