"""An extension (BITSWEEP_EXTENSIONS) with which sweeps time few tokens, and do not measure an unstable speed again.

Otherwise most of the time of a small sweep, and of one with torch, is for timings that no test looks at.
"""

from sweep import defaults
from sweep.measure import speed

defaults.SPEED_MEASUREMENTS = 1
speed.PROMPT_TOKENS, speed.DECODE_TOKENS = 64, 8
