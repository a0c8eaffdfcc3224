"""An extension (BITSWEEP_EXTENSIONS) with which sweeps do not measure an unstable speed again."""

from sweep import defaults

defaults.SPEED_MEASUREMENTS = 1
