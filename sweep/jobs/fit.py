"""The job that computes what fits, in a worker: an unknown config or header can make llama.cpp end its process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sweep.fit.fit_report import FitOptions, FitReport
from sweep.fit.hardware import Device
from sweep.jobs.base import Job, Result, Site


@dataclass(frozen=True)
class FitResult(Result):
    report: FitReport


@dataclass(frozen=True)
class FitJob(Job[FitResult]):
    """Compute which `variants` of `model` fit on `devices`: see `sweep.fit.fit_model.fit_model`.

    The parts of its progress are the files that llama.cpp reads, so that it is known which one ended the process.
    """

    kind = "fit"
    result_type = FitResult

    model: str
    variants: tuple[str, ...]
    devices: tuple[Device, ...]
    options: FitOptions
    unreadable: Mapping[str, str] = field(default_factory=dict, hash=False)

    def run(self, site: Site) -> FitResult:
        from sweep.fit.fit_model import fit_model

        def begin(file: str) -> None:
            site.progress(0, 0, file)

        return FitResult(fit_model(self.model, self.variants, self.devices, self.options, begin, self.unreadable))
