"""`sweep fit`: computes which variants of a model fit on which devices."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.execution.local import LocalHost
from sweep.fit.fit_report import FitOptions, FitReport
from sweep.fit.hardware import Device
from sweep.planning import fit as planning_fit


def fit(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
    """See planning.fit.fit."""
    return planning_fit.fit(model, variants, devices, options, LocalHost().run_job)
