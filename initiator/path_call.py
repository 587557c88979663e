"""A command on its way over several paths."""

from __future__ import annotations

from initiator.engine.requests import Command
from initiator.path import DiskPath
from initiator.road import Finished
from initiator.scsi.footprint import Footprint, footprint
from initiator.scsi.idempotence import is_idempotent
from initiator.session import Session


class PathCall:
    """A command of the caller, and the attempt that is under way for it."""

    __slots__ = ("attempt", "attempts", "command", "data_in", "deadline_s", "finished", "held", "path", "session")

    def __init__(self, command: Command, deadline_s: float, finished: Finished) -> None:
        self.command = command
        self.deadline_s = deadline_s
        self.finished: Finished | None = finished
        self.attempt = command
        self.data_in = command.data_in
        self.attempts = 0
        """Attempts that came to nothing."""
        self.path: DiskPath | None = None
        self.session: Session | None = None
        """Where the attempt is under way."""
        self.held = ""
        """Why it waits, where it does not wait for a path."""

    @property
    def footprint(self) -> Footprint:
        """The blocks that it may change."""
        return footprint(self.command.cdb, self.command.data_out)

    @property
    def idempotent(self) -> bool:
        """Whether it may be sent twice."""
        command = self.command
        return is_idempotent(command.cdb) if command.idempotent is None else command.idempotent
