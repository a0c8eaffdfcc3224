"""An executor without other processes."""

from __future__ import annotations

from pathlib import Path

from sweep.execution.protocol import Answer, Finished, Order
from sweep.jobs.base import Site
from sweep.jobs.settings import ComputeResources


class InProcess:
    """An executor that runs each order at once, in this process."""

    slots = 1

    def __init__(self, root: Path, resources: ComputeResources) -> None:
        self.site, self.orders = Site(root, resources), list[Order]()

    def submit(self, order: Order) -> None:
        self.orders.append(order)

    def expect(self, group: str, log: str) -> None: ...

    def answer(self, timeout: float) -> Answer | None:
        order = self.orders.pop(0)
        return Finished(order.id, tuple(job.run(self.site) for job in order.jobs), 0.1, self.site.resources)

    def cancel(self, id: str) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...
