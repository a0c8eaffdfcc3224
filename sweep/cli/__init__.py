"""The command line. Each command is a module; what they share (options, output, exit codes) has its own."""

from __future__ import annotations

from sweep.cli.app import main

__all__ = ["main"]
