"""What a worker can be asked to do: each job is a function of its parameters and of the files they name.

All results are plain JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweep.execution.making import Making
    from sweep.execution.measuring import Measuring

_MAKING = ("vet", "vocabulary", "calibration", "sizes", "export", "imatrix", "quantize")


class Jobs:
    """The jobs of one worker. `progress` is told (done, total, what is at work) while one runs."""

    def __init__(self, progress: Callable[[int, int, str], None]) -> None:
        self._progress = progress

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do the job named by `kind` with the other entries as its parameters."""
        parameters = dict(job)
        kind = parameters.pop("kind")
        if kind == "fit":
            from sweep.fit.answer import answer_fit

            return answer_fit(**parameters)
        result: dict[str, Any] = getattr(self._making if kind in _MAKING else self._measuring, kind)(**parameters)
        return result

    @cached_property
    def _making(self) -> Making:
        from sweep.execution.making import Making

        return Making(lambda done, total: self._progress(done, total, ""))

    @cached_property
    def _measuring(self) -> Measuring:
        from sweep.execution.measuring import Measuring  # takes a second to load, which a plan should not wait for

        return Measuring(self._progress)
