"""What holds for every test, set before torch and triton are first imported.

Triton's kernels run in its interpreter, on CPU tensors. On a machine with an NVIDIA GPU, TRITON_INTERPRET=0 in the
environment runs them there.
"""

import os

import cores

os.environ.setdefault("TRITON_INTERPRET", "1")
cores.take_share()
