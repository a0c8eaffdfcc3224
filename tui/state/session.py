"""What the screens share: the workspace, the run that is looked at, the GPUs, and the sweep that is planned next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from converters.errors import InputError
from tui.state.draft import Draft

if TYPE_CHECKING:
    from sweep.commands.launch import Command, Launch
    from sweep.workspace import Workspace


@dataclass(frozen=True)
class Limit:
    """The memory of the GPUs that results are looked at for."""

    name: str
    bytes: int


@dataclass
class Session:
    """`run_id` is the id of the run that is looked at, or its beginning; None until there is a run. `trouble` says why
    there is none, where the store cannot be read.

    `gpus` are asked about on Fit (none: those of this machine), and `limit` is what results are held against. `launch`
    is a sweep that was started and whose run is not known yet.
    """

    workspace: Workspace
    run_id: str | None = None
    trouble: str = ""
    gpus: tuple[str, ...] = ()
    limit: Limit | None = None
    launch: Launch | None = None
    draft: Draft = field(default_factory=Draft)

    def store_stamp(self) -> tuple[int, ...]:
        """Changes whenever something is written to the store."""
        database = self.workspace.database
        files = (database, database.with_name(f"{database.name}-wal"))
        found = [file.stat() for file in files if file.exists()]
        return tuple(one.st_mtime_ns for one in found if one.st_size)

    def use_gpus(self, gpus: tuple[str, ...]) -> None:
        """Hold results against these GPUs from now on; against none where none is named. Raises InputError."""
        from sweep.fit.hardware import devices_called

        devices = devices_called(gpus)
        room = sum(device.usable_bytes - device.reserve_bytes for device in devices)
        self.gpus = gpus
        self.limit = Limit(", ".join(gpus), room) if devices else None

    def begin(self, command: Command) -> None:
        """Start a sweep in a process of its own. Raises InputError where it cannot be started."""
        from sweep.commands.launch import Launch

        try:
            self.launch = Launch(command, self.workspace)
        except OSError as error:
            raise InputError(f"the sweep cannot be started: {error.strerror or error}") from error
