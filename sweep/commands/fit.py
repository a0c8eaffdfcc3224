"""What of a model fits on which devices: `sweep fit`."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.execution.local import LocalHost
from sweep.fit.fit_report import FitOptions, FitReport
from sweep.fit.hardware import Device
from sweep.planning import fitting


def fit(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
    """See fitting.fit."""
    return fitting.fit(model, variants, devices, options, LocalHost().ask)
