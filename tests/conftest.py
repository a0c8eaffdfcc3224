"""Triton's kernels run in its interpreter, on CPU tensors; that is chosen before triton is first imported.

On a machine with an NVIDIA GPU, TRITON_INTERPRET=0 in the environment runs them there.
"""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
