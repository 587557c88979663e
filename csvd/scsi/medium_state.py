"""Whether the medium of a logical unit is there, started, and may be removed (SBC-3 4.3 and 5.25, SPC-4 6.17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from csvd.scsi.sense import Asc, CheckCondition, SenseKey

if TYPE_CHECKING:
    from csvd.scsi.command import Command
    from csvd.scsi.device_server import DeviceServer, ItlNexus
    from csvd.scsi.outcome import Reply

# By operation code: REQUEST SENSE, INQUIRY, MODE SELECT and SENSE, RESERVE and RELEASE, START STOP UNIT, PREVENT ALLOW,
# WRITE and READ BUFFER, LOG SELECT and SENSE, PERSISTENT RESERVE IN and OUT, RECEIVE COPY RESULTS, REPORT LUNS,
# MAINTENANCE IN and OUT.
WITHOUT_MEDIUM: Final = frozenset(
    {0x03, 0x12, 0x15, 0x55, 0x1A, 0x5A, 0x16, 0x17, 0x56, 0x57, 0x1B, 0x1E, 0x3B, 0x3C, 0x4C, 0x4D, 0x5E, 0x5F}
    | {0x84, 0xA0, 0xA3, 0xA4}
)
"""Commands that do not need the medium."""


class MediumState:
    """The medium of one logical unit. A `Guard`.

    Attributes:
        loaded: it is there; a fixed one always is.
        started: it is not in the stopped power condition.
        prevented_by: the I_T nexuses that prevent its removal.
    """

    __slots__ = ("_server", "loaded", "prevented_by", "started")

    def __init__(self, server: DeviceServer) -> None:
        self._server = server
        self.loaded = True
        self.started = True
        self.prevented_by: set[str] = set()

    def condition(self) -> CheckCondition | None:
        """Why commands that need the medium are refused; None when they are not."""
        if not self.loaded:
            return CheckCondition(SenseKey.NOT_READY, Asc.MEDIUM_NOT_PRESENT)
        if not self.started:
            asc = Asc.LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED
            return CheckCondition(SenseKey.NOT_READY, asc)
        return None

    def concerns(self, _itl: ItlNexus) -> bool:
        """See `Guard`."""
        return not (self.loaded and self.started)

    def check(self, _itl: ItlNexus, command: Command, _cdb: bytes) -> Reply | None:
        """See `Guard`."""
        condition = self.condition()
        if condition is not None and command.operation_code not in WITHOUT_MEDIUM:
            raise condition
        return None

    def set_started(self, started: bool) -> None:
        """START STOP UNIT without LOEJ.

        Raises:
            CheckCondition: NOT READY, a medium that is not there can not be started.
        """
        if started and not self.loaded:
            raise CheckCondition(SenseKey.NOT_READY, Asc.MEDIUM_NOT_PRESENT)
        self.started = started
        self._server.refresh()

    def check_removal(self) -> None:
        """Raises:
        CheckCondition: ILLEGAL REQUEST, MEDIUM REMOVAL PREVENTED: neither out nor in.
        """
        if self.prevented_by:
            raise CheckCondition(SenseKey.ILLEGAL_REQUEST, Asc.MEDIUM_REMOVAL_PREVENTED)

    def eject(self) -> None:
        """Take the medium out.

        Raises:
            CheckCondition: its removal is prevented.
        """
        self.check_removal()
        self.loaded = False
        self._server.refresh()

    def load(self, by_nexus: str) -> None:
        """Put the medium in; the other nexuses are told.

        Raises:
            CheckCondition: its removal is prevented.
        """
        self.check_removal()
        if not self.loaded:
            self.loaded = self.started = True
            self._server.establish(Asc.NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED, except_nexus=by_nexus)
        self._server.refresh()

    def prevent_removal(self, nexus: str) -> None:
        """PREVENT 01b of an I_T nexus, until it allows it, is lost, or a reset comes."""
        self.prevented_by.add(nexus)

    def allow_removal(self, nexus: str) -> None:
        """PREVENT 00b of an I_T nexus, or its loss."""
        self.prevented_by.discard(nexus)

    def reset(self) -> None:
        """A reset of the logical unit: nobody prevents the removal any more, and it is started (SPC-4 6.17)."""
        self.prevented_by.clear()
        self.started = True
        self._server.refresh()
