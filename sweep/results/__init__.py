"""The results of sweeps: stored in a database and read back as plans, progress and records."""
