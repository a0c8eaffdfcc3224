"""Answers what fits: every variant of a model, on the devices asked for."""

from collections.abc import Sequence

from sweep.fit.device import Device
from sweep.fit.report import FitOptions, FitReport


def fit(model: str, variants: Sequence[str], devices: Sequence[Device], options: FitOptions) -> FitReport:
    """The memory of each variant of `model` and where it goes on `devices`; all variants there are where none is named.

    Raises InputError where the model, a variant or an option cannot be had.
    """
    raise NotImplementedError
