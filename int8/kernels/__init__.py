"""Triton kernels of real int8. Each quantizes tokens, multiplies int8 matrices and dequantizes in one launch.

They need CUDA, or Triton's interpreter, which runs them on CPU tensors (set TRITON_INTERPRET=1 before the first import
of triton). `paths` selects a kernel by shape and needs no Triton; `linear` is called by the layers.
"""
