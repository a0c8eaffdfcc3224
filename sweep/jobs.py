"""What a worker can be asked to do: each job is a function of its parameters and of the files they name.

All results are plain JSON.
"""

from __future__ import annotations

from typing import Any

from sweep.backends.base import Progress

_MAKING = ("plan", "sizes", "export", "imatrix")


class Jobs:
    """The jobs of one worker. `progress` is told (done, total) while one runs."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._making: Any = None
        self._measuring: Any = None

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do the job named by `kind` with the other entries as its parameters."""
        parameters = dict(job)
        kind = parameters.pop("kind")
        result: dict[str, Any] = getattr(self._room(kind), kind)(**parameters)
        return result

    def _room(self, kind: str) -> Any:
        """Loaded with the first job that needs it: what measures takes a second, and a plan should not wait for it."""
        if kind in _MAKING:
            if self._making is None:
                from sweep.making import Making

                self._making = Making(self._progress)
            return self._making
        if self._measuring is None:
            from sweep.measuring import Measuring

            self._measuring = Measuring(self._progress)
        return self._measuring
