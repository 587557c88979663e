"""What an initiator asks of a target. A request is handed to the connection and comes back, filled in, as an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from csvd.iscsi.codes import RESERVED_TAG, AsyncEvent, LogoutReason, TaskManagementFunction
from initiator.errors import InitiatorError

if TYPE_CHECKING:
    from initiator.engine.connection import InitiatorConnection

Buffer = bytes | bytearray | memoryview

GOOD: Final = 0x00
CHECK_CONDITION: Final = 0x02
BUSY: Final = 0x08
TASK_SET_FULL: Final = 0x28

_NOTHING: Final = memoryview(b"")


def flat(buffer: Buffer) -> memoryview:
    """Give a buffer as a flat view of bytes."""
    view = buffer if isinstance(buffer, memoryview) else memoryview(buffer)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


class Request:
    """Root of the requests.

    ``finished`` is what the session calls when it ends, ``context`` is that function's own. ``error`` is set where the
    request came to no answer.
    """

    __slots__ = ("context", "error", "finished", "tag")

    def __init__(self) -> None:
        self.finished: Callable[[Any], None] | None = None
        self.context: Any = None
        self.error: InitiatorError | None = None
        self.tag = RESERVED_TAG
        """The initiator task tag, from the moment it is sent."""


class Command(Request):
    """A SCSI command, with the buffer that its Data-In fills or the data that it sends.

    ``lun`` is the 8-byte LUN field as a big-endian number. When the event comes: ``status``, ``sense``, ``response``
    (the iSCSI response code) and ``received`` (bytes of Data-In). ``residual`` is positive where fewer bytes were moved
    than the buffer holds, negative where the command had more to move.
    """

    __slots__ = (
        "above",
        "cdb",
        "cmd_sn",
        "connection",
        "data_in",
        "data_out",
        "data_sn",
        "deadline_s",
        "detached",
        "done",
        "idempotent",
        "length",
        "lun",
        "r2t_open",
        "r2t_sn",
        "received",
        "residual",
        "response",
        "sense",
        "sent",
        "solicited",
        "status",
    )

    def __init__(self, lun: int, cdb: bytes, *, data_in: Buffer | None = None, data_out: Buffer | None = None) -> None:
        # No super().__init__: one of these is made for each command.
        self.finished = None
        self.context = None
        self.above: Any = None
        """What a road over several sessions keeps of it."""
        self.idempotent: bool | None = None
        """Whether it may be sent twice; None: as its CDB says."""
        self.deadline_s = 0.0
        """When its call ends, whatever has come; the session's to set."""
        self.error = None
        self.tag = RESERVED_TAG
        self.lun = lun
        self.cdb = cdb
        self.data_in: memoryview | None = None
        self.data_out = _NOTHING
        self.length = 0
        if data_in is not None:
            self.data_in = flat(data_in)
            self.length = len(self.data_in)
        elif data_out is not None:
            self.data_out = flat(data_out)
            self.length = len(self.data_out)
        self.cmd_sn = 0
        self.connection: InitiatorConnection | None = None
        """The one that it was handed to: all that is sent and answered for it goes there."""
        self.done = False
        self.detached = False
        """Nobody waits for it any more: its buffers must not be touched, whatever the target sends or asks for."""
        self.status = GOOD
        self.response = 0
        self.sense = b""
        self.residual = 0
        self.received = 0
        self.data_sn = 0
        self.sent = 0
        """Bytes of Data-Out given to the connection's output."""
        self.solicited = 0
        """The offset up to which Data-Out was sent unasked or asked for: where the next R2T must begin."""
        self.r2t_sn = 0
        self.r2t_open = 0

    @property
    def was_sent(self) -> bool:
        """Whether any of it was given to the connection's output. What was not, the target has not executed."""
        return self.tag != RESERVED_TAG

    def __repr__(self) -> str:
        return f"<Command {self.tag:#x} lun={self.lun:#x} cdb={self.cdb.hex()} length={self.length}>"


class Ping(Request):
    """A NOP-Out that the target must answer (RFC 7143 section 11.18)."""

    __slots__ = ("data",)

    def __init__(self, data: bytes = b"") -> None:
        super().__init__()
        self.data = data


class TaskManagement(Request):
    """A task management function (RFC 7143 section 11.5); ``referenced`` is the command of ABORT TASK."""

    __slots__ = ("cmd_sn", "function", "holds", "lun", "referenced", "response")

    def __init__(self, function: TaskManagementFunction, lun: int = 0, referenced: Command | None = None) -> None:
        super().__init__()
        self.function = function
        self.lun = lun
        self.referenced = referenced
        self.cmd_sn = 0
        self.holds = False
        """No command of the session goes out before this has its answer."""
        self.response = 0


class TextExchange(Request):
    """A text, and the target's whole answer over as many PDUs as it takes (RFC 7143 section 11.10)."""

    __slots__ = ("answer", "limit", "rounds", "text")

    def __init__(self, text: bytes, *, limit: int = 1 << 20) -> None:
        super().__init__()
        self.text = text
        self.limit = limit
        """The longest answer taken, in bytes."""
        self.rounds = 0
        self.answer = bytearray()


class Logout(Request):
    """The end of the session or connection (RFC 7143 section 11.14)."""

    __slots__ = ("reason", "response", "time2retain", "time2wait")

    def __init__(self, reason: LogoutReason = LogoutReason.CLOSE_SESSION) -> None:
        super().__init__()
        self.reason = reason
        self.response = 0
        self.time2wait = 0
        self.time2retain = 0


class LoggedIn:
    """Event: the full-feature phase has begun; the outcome stands in the session and the connection."""


class AsyncMessage:
    """Event: the target has something to say by itself (RFC 7143 section 11.9)."""

    def __init__(self, event: int, vendor_code: int, parameters: tuple[int, int, int], lun: int, sense: bytes) -> None:
        self.event = event
        self.vendor_code = vendor_code
        self.parameters = parameters
        self.lun = lun
        self.sense = sense

    @property
    def name(self) -> str:
        """The event in words."""
        try:
            return AsyncEvent(self.event).name.lower().replace("_", " ")
        except ValueError:
            return f"vendor event {self.event}"


class ConnectionFailed:
    """Event, always the last: the connection can not go on. Requests that have not come back have no answer."""

    def __init__(self, error: InitiatorError) -> None:
        self.error = error


Event = Request | LoggedIn | AsyncMessage | ConnectionFailed
