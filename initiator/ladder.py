"""What is done about a command that has no answer in its time: ABORT TASK, then LOGICAL UNIT RESET, then the session is
dropped. Each step is taken when the one before was refused, or had no answer in its own time (RFC 7143 section 7.1.4.3;
SAM-5 section 7).

A LOGICAL UNIT RESET ends the commands of every initiator at that logical unit; it is asked for only of a target that
does not do an ABORT TASK, and by one command at a time for each logical unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from csvd.iscsi.codes import TaskManagementFunction
from initiator.engine.requests import Command, TaskManagement
from initiator.engine.session import SERIAL_MASK
from initiator.errors import AttemptAborted, CommandAborted
from initiator.scsi import cdb

_SERIAL_HALF: Final = 1 << 31
_ENDED: Final = (0, 1)
"""Function complete, and task does not exist: its status came, or would have come, before (RFC 7143 section 11.6.1)."""


class Ladder:
    """The steps that are under way in one session.

    Args:
        reset: sends a LOGICAL UNIT RESET, and answers for its time.
        drop: ends the session.
    """

    def __init__(self, reset: Callable[[TaskManagement], None], drop: Callable[[str], None]) -> None:
        self._reset = reset
        self._drop = drop
        self.aborting: dict[Command, TaskManagement] = {}
        """Commands for which an ABORT TASK was sent, until they end."""
        self._resetting: dict[int, TaskManagement] = {}

    def has(self, command: Command) -> bool:
        """Whether a command is being ended: by its own ABORT TASK, or with all that its logical unit had before a
        reset."""
        if command in self.aborting:
            return True
        reset = self._resetting.get(command.lun)
        return reset is not None and 0 < (reset.cmd_sn - command.cmd_sn) & SERIAL_MASK < _SERIAL_HALF

    def begin(self, command: Command, abort: TaskManagement) -> None:
        """An ABORT TASK was sent for a command."""
        self.aborting[command] = abort

    def came_back(self, command: Command) -> None:
        """A command has ended, in whatever way. One that was ended by this ladder gets its error here."""
        if isinstance(command.error, CommandAborted) and self.has(command):
            command.error = AttemptAborted(f"{cdb.name_of(command.cdb)} had no answer in its time and was aborted")
        self.aborting.pop(command, None)

    def answered(self, asked: TaskManagement) -> bool:
        """The target answered a function; give whether it was one of this ladder."""
        if asked.referenced is not None:
            if asked.response not in _ENDED and not asked.referenced.done:
                self._climb(asked.lun)
            return True
        if self._resetting.get(asked.lun) is not asked:
            return False
        del self._resetting[asked.lun]
        if asked.response:
            self._drop("the target does neither ABORT TASK nor LOGICAL UNIT RESET")
        return True

    def expired(self, asked: TaskManagement) -> bool:
        """A function had no answer in its time; give whether it was one of this ladder."""
        if asked.referenced is not None and not asked.referenced.done:
            self._climb(asked.lun)
            return True
        if asked.referenced is None and self._resetting.get(asked.lun) is not asked:
            return False
        self._drop("the target answers no task management function")
        return True

    def _climb(self, lun: int) -> None:
        if lun not in self._resetting:
            self._resetting[lun] = TaskManagement(TaskManagementFunction.LOGICAL_UNIT_RESET, lun)
            self._reset(self._resetting[lun])
