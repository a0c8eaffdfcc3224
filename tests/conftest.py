"""What holds for every test, set before torch and triton are first imported.

Triton's kernels run in its interpreter, on CPU tensors. On a machine with an NVIDIA GPU, TRITON_INTERPRET=0 in the
environment runs them there.

A shell starts what it runs in the background deaf to Ctrl-C, and so would be every `sweep` a test interrupts.
"""

import os
import signal

import cores

os.environ.setdefault("TRITON_INTERPRET", "1")
cores.take_share()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
