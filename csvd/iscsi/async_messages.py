"""Asynchronous messages of the target (RFC 7143 section 11.9): what it tells without being asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from csvd.iscsi.codes import FINAL, RESERVED_TAG, AsyncEvent, Opcode
from csvd.iscsi.events import EventKind
from csvd.iscsi.layouts import PACKING

if TYPE_CHECKING:
    from csvd.iscsi.connection import TargetConnection
    from csvd.iscsi.session import Session

_ASYNC_MESSAGE: Final = PACKING[Opcode.ASYNC_MESSAGE]
MAX_GRACE_S: Final = 3600


def request_logout(connection: TargetConnection, grace_s: int) -> None:
    """Ask the initiator to log this connection out within ``grace_s`` seconds, 0 to 3600."""
    _send(connection, AsyncEvent.LOGOUT_REQUEST, (0, 0, grace_s), f"a logout within {grace_s} s is asked for")


def request_negotiation(connection: TargetConnection, grace_s: int) -> None:
    """Ask the initiator to negotiate parameters within ``grace_s`` seconds, by Text Requests."""
    _send(connection, AsyncEvent.NEGOTIATION_REQUEST, (0, 0, grace_s), f"a negotiation within {grace_s} s is asked for")


def announce_connection_drop(connection: TargetConnection, other: TargetConnection, why: str) -> None:
    """Tell by one connection of a session that another one, or itself, is going to be dropped."""
    parameters = connection.parameters
    waits = (parameters.default_time2wait, parameters.default_time2retain)
    _send(connection, AsyncEvent.CONNECTION_DROP, (other.cid, *waits), f"connection {other.cid} is dropped: {why}")


def announce_session_drop(session: Session, why: str) -> None:
    """Tell by every connection of a session that all of them are going to be dropped.

    Time2Retain is told as zero: this is a deliberate end, and no task is kept for another connection to take over.
    """
    for connection in session.connections.values():
        if not connection.closing:
            wait_s = connection.parameters.default_time2wait
            _send(connection, AsyncEvent.SESSION_DROP, (0, wait_s, 0), f"the session is dropped: {why}")


def report_scsi_event(connection: TargetConnection, lun: int, sense: bytes) -> None:
    """Report a SCSI event by its sense data.

    Only for a logical unit whose INQUIRY data and mode pages say that it reports events so. SPC-3 and later have no
    such bit any more: their unit attention conditions wait for the next command.
    """
    data = len(sense).to_bytes(2) + sense
    _send(connection, AsyncEvent.SCSI_EVENT, (0, 0, 0), f"a SCSI event at LUN field {lun:#x}", lun=lun, data=data)


def _send(
    connection: TargetConnection,
    event: AsyncEvent,
    parameters: tuple[int, int, int],
    text: str,
    *,
    lun: int = 0,
    data: bytes = b"",
) -> None:
    connection.tell(EventKind.ASYNC_MESSAGE, text)
    exp_cmd_sn, max_cmd_sn = connection.window()
    connection.add_header(
        _ASYNC_MESSAGE.pack(
            Opcode.ASYNC_MESSAGE,
            FINAL,
            len(data),
            lun,
            RESERVED_TAG,
            connection.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            event,
            0,
            *parameters,
        )
    )
    connection.add_data(data)
    connection.wake()
