"""One connection of a session (RFC 7143 sections 4 and 11): it ties framing, login, tasks and output together.

Bytes in through :meth:`~InitiatorConnection.buffers` and :meth:`~InitiatorConnection.received` (or
:meth:`~InitiatorConnection.feed`), which give events; requests in through :meth:`~InitiatorConnection.send`; bytes out
through :meth:`~InitiatorConnection.data_to_send`. Nothing that a target sends raises: what it does wrong ends in one
:class:`~initiator.engine.requests.ConnectionFailed`, and what came whole before it still counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from csvd.iscsi.codes import CONTINUE, FINAL, IMMEDIATE, RESERVED_TAG, Opcode, TaskManagementFunction
from csvd.iscsi.digests import CRC32C
from csvd.iscsi.layouts import PACKING, PADDING
from initiator.engine.express import Express
from initiator.engine.framing import STAGING_BYTES, Receiver
from initiator.engine.login import LOGIN_SEGMENT_BYTES, LoginExchange, LoginSettings
from initiator.engine.output import Output
from initiator.engine.requests import (
    AsyncMessage,
    Buffer,
    Command,
    ConnectionFailed,
    Event,
    LoggedIn,
    Logout,
    Ping,
    Request,
    TaskManagement,
    TextExchange,
)
from initiator.engine.session import SERIAL_MASK, SessionState
from initiator.engine.tasks import TaskSet, sense_of
from initiator.errors import CommandAborted, CommandRejected, InitiatorError, ProtocolViolation, SessionClosed

MAX_PING_REPLIES: Final = 64
"""Answers to the target's pings that may wait to be sent; a target that pings on without reading is cut off."""

MAX_TEXT_ROUNDS: Final = 1024
"""PDUs of one text answer."""

_SERIAL_HALF: Final = 1 << 31
_WHOLE_UNIT: Final = (
    TaskManagementFunction.ABORT_TASK_SET,
    TaskManagementFunction.CLEAR_TASK_SET,
    TaskManagementFunction.LOGICAL_UNIT_RESET,
)
_WHOLE_TARGET: Final = (
    TaskManagementFunction.TARGET_WARM_RESET,
    TaskManagementFunction.TARGET_COLD_RESET,
    TaskManagementFunction.I_T_NEXUS_RESET,
)

_Asked = TypeVar("_Asked", bound=Request)
_Handler = Callable[[bytes | bytearray, int, bytes], None]


class InitiatorConnection:
    """The engine of one connection: a state machine of bytes and requests, without a socket or a clock."""

    def __init__(self, session: SessionState, settings: LoginSettings, *, staging_bytes: int = STAGING_BYTES) -> None:
        self.session = session
        self.failed: InitiatorError | None = None
        """Why the connection can not go on; set once."""
        self.logged_in = False
        self.parameters = session.parameters
        """What holds for this connection: the session's, with digests and MaxRecvDataSegmentLength of its own."""
        self.outstanding: dict[int, Request] = {}
        """Requests that were sent and have no answer yet, by task tag."""
        self._settings = settings
        self._events: list[Event] = []
        self._receiver = Receiver(self, segment_limit=LOGIN_SEGMENT_BYTES, staging_bytes=staging_bytes)
        self._output = Output(session, self.outstanding)
        self._tasks = TaskSet(session, self._output, self.outstanding, self._events.append)
        self._login = LoginExchange(session, settings)
        self._output.control.extend(self._login.start())
        session.connections.append(self)
        self._handlers: dict[int, _Handler] = {
            Opcode.NOP_IN: self._nop_in,
            Opcode.TASK_MANAGEMENT_RESPONSE: self._task_management_response,
            Opcode.TEXT_RESPONSE: self._text_response,
            Opcode.LOGOUT_RESPONSE: self._logout_response,
            Opcode.ASYNC_MESSAGE: self._async_message,
            Opcode.REJECT: self._reject,
        }

    # --- bytes

    def buffers(self) -> list[memoryview]:
        """Give the memory into which the next bytes of the target go (for ``recvmsg_into``), in order."""
        return self._receiver.buffers()

    def received(self, count: int) -> list[Event]:
        """Take the ``count`` bytes that now stand in :meth:`buffers`; give what happened by them, in order."""
        if self.failed is None:
            try:
                self._receiver.received(count)
            except InitiatorError as error:
                self._fail(error)
        return self._take_events()

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Take bytes by copying them in; give what happened by them, in order."""
        if self.failed is None:
            try:
                self._receiver.feed(data)
            except InitiatorError as error:
                self._fail(error)
        return self._take_events()

    def data_to_send(self) -> list[Buffer]:
        """Give the next batch of output: headers, and views of the callers' buffers. Call again until it is empty."""
        return self._output.take()

    @property
    def has_data_to_send(self) -> bool:
        """Whether :meth:`data_to_send` has anything to give now. The window is the session's: what the target says on
        another connection may open it for the commands that wait here."""
        return self._output.ready()

    @property
    def has_batch_to_send(self) -> bool:
        """Whether so many commands wait to be sent that the target would miss them: not for one of many under way."""
        return self._output.batch_ready()

    @property
    def load(self) -> int:
        """Requests that this connection has to bring to their end: by it a session chooses the next one's."""
        return len(self.outstanding) + len(self._output.waiting)

    def _take_events(self) -> list[Event]:
        events = self._events[:]  # the list itself is known to those who fill it
        self._events.clear()
        return events

    def _fail(self, error: InitiatorError) -> None:
        self.close(error)
        self._events.append(ConnectionFailed(error))

    def close(self, error: InitiatorError) -> None:
        """End the connection: buffers are let go, nothing more goes out, input is ignored.

        What it had taken in CmdSN order and not sent leaves a hole that no other connection of the session can fill: at
        ErrorRecoveryLevel 0 the session ends with any of its connections (RFC 7143 section 7.1.4.1), unless that one
        was logged out of.
        """
        self.failed = error
        if self in self.session.connections:
            self.session.connections.remove(self)
        self.outstanding.clear()
        self._receiver.discard_placed()
        self._output.close()

    # --- requests

    def send(self, request: Request) -> None:
        """Queue a request. It comes back as an event when it has an answer; it has none when the connection fails.

        Raises:
            SessionClosed: the connection is at an end, or the login is not done.
        """
        if self.failed is not None or not self.logged_in:
            raise SessionClosed("the connection takes no requests", why=str(self.failed or "the login is not done"))
        if type(request) is Command:
            request.connection = self
            self._output.waiting.append(request)
            return
        request.tag = self.session.new_tag()
        self.outstanding[request.tag] = request
        if isinstance(request, TaskManagement):
            request.holds = request.referenced is None and len(self.session.connections) > 1
            self.session.functions += request.holds
        self._output.control.append(self._build(request))

    def release(self, command: Command) -> None:
        """Give a command's buffers back to the caller, at any time: no Data-In is placed there, and no Data-Out taken
        from there any more. What :meth:`data_to_send` gave before is the transport's to finish."""
        if command.done:
            return
        if self._tasks.detach(command):
            self._receiver.discard_placed()

    def abort(self, command: Command) -> TaskManagement | None:
        """Abort a command. Its buffers stay in use until it comes back as an event, unless they are released.

        Gives the ABORT TASK that is sent. None where none is needed: the command has ended, or it was never sent and is
        ``done`` with an ``error`` now.
        """
        if command in self._output.waiting:
            self._output.waiting.remove(command)
            command.done = True
            command.error = CommandAborted("the command was taken back before it was sent")
            return None
        if command.done or self.outstanding.get(command.tag) is not command:
            return None
        task_management = TaskManagement(TaskManagementFunction.ABORT_TASK, command.lun, command)
        self.send(task_management)
        return task_management

    def _build(self, request: Request) -> bytes:
        session, exp_stat_sn = self.session, self._output.exp_stat_sn
        match request:
            case Ping():
                fields = (FINAL, len(request.data), 0, request.tag, RESERVED_TAG, session.cmd_sn, exp_stat_sn)
                return _pdu(Opcode.NOP_OUT, fields, request.data)
            case TextExchange():
                fields = (FINAL, len(request.text), 0, request.tag, RESERVED_TAG, session.cmd_sn, exp_stat_sn)
                return _pdu(Opcode.TEXT_REQUEST, fields, request.text)
            case Logout():
                reason = FINAL | request.reason
                connection_id = self._settings.connection_id
                return _pdu(Opcode.LOGOUT_REQUEST, (reason, 0, request.tag, connection_id, session.cmd_sn, exp_stat_sn))
            case TaskManagement():
                referenced, request.cmd_sn = request.referenced, session.cmd_sn
                tag, ref_cmd_sn = (referenced.tag, referenced.cmd_sn) if referenced else (RESERVED_TAG, 0)
                function = FINAL | request.function
                numbers = (request.tag, tag, session.cmd_sn, exp_stat_sn, ref_cmd_sn, 0)
                return _pdu(Opcode.TASK_MANAGEMENT_REQUEST, (function, 0, request.lun, *numbers))
        raise TypeError(f"{request!r} is no request")

    # --- PDUs

    def place(self, opcode: int, header: bytearray, at: int, length: int) -> memoryview | None:
        """Say where a data segment goes (framing.PduHandler)."""
        if opcode == Opcode.DATA_IN and self.logged_in:
            return self._tasks.place(header, at, length)
        return None

    def take(self, opcode: int, header: bytearray | bytes, at: int, data: bytes) -> None:
        """Take a complete PDU (framing.PduHandler)."""
        if not self.logged_in:
            self._login_response(opcode, header, at, data)
        elif opcode == Opcode.DATA_IN:
            self._tasks.data_in(header, at)
        elif opcode == Opcode.SCSI_RESPONSE:
            self._tasks.response(header, at, data)
        elif opcode == Opcode.R2T:
            self._tasks.r2t(header, at)
        else:
            handler = self._handlers.get(opcode)
            if handler is None:
                raise ProtocolViolation(f"opcode {opcode:#04x} has no place in the full-feature phase")
            handler(header, at, data)

    def _login_response(self, opcode: int, header: bytes | bytearray, at: int, data: bytes) -> None:
        if opcode != Opcode.LOGIN_RESPONSE:
            raise ProtocolViolation(f"opcode {opcode:#04x} came before the login was done")
        login = self._login
        self._output.control.extend(login.answer(header, at, data))
        self._output.exp_stat_sn = login.exp_stat_sn
        if login.done:
            self.parameters = parameters = login.parameters
            self.logged_in = True
            self._receiver.segment_limit = self._settings.offer.max_recv_data_segment_length
            of_headers, of_data = parameters.header_digest == CRC32C, parameters.data_digest == CRC32C
            if of_headers or of_data:
                self._receiver.begin_digests(of_headers=of_headers, of_data=of_data)
            self._receiver.begin_express(
                Express(
                    self.session,
                    self._output,
                    self.outstanding,
                    self._tasks,
                    self._events.append,
                    self._receiver.segment_limit,
                )
            )
            self._output.open(parameters)
            self._tasks.open(parameters)
            self._events.append(LoggedIn())

    def _nop_in(self, header: bytes | bytearray, at: int, data: bytes) -> None:
        fields = PACKING[Opcode.NOP_IN].unpack_from(header, at)
        _, _, _, lun, tag, transfer_tag, stat_sn, exp_cmd_sn, max_cmd_sn = fields
        self.session.window_moved(exp_cmd_sn, max_cmd_sn)
        if tag != RESERVED_TAG:
            self._output.status_came(stat_sn)
            ping = self._asked(tag, Ping)
            if ping is not None:
                if not ping.data.startswith(data):
                    raise ProtocolViolation("the target's NOP-In brings other data than our NOP-Out")
                self._events.append(ping)
        elif transfer_tag != RESERVED_TAG:
            if len(self._output.replies) >= MAX_PING_REPLIES:
                raise ProtocolViolation(f"the target pings on and reads none of {MAX_PING_REPLIES} answers")
            # A ping of the target has no data (RFC 7143 section 11.19); if it has, nothing is carried back.
            reply = (FINAL, 0, lun, RESERVED_TAG, transfer_tag, self.session.cmd_sn, self._output.exp_stat_sn)
            self._output.replies.append(_pdu(Opcode.NOP_OUT, reply))

    def _text_response(self, header: bytes | bytearray, at: int, data: bytes) -> None:
        fields = PACKING[Opcode.TEXT_RESPONSE].unpack_from(header, at)
        _, flags, _, lun, tag, transfer_tag, stat_sn, exp_cmd_sn, max_cmd_sn = fields
        self._output.status_came(stat_sn)
        self.session.window_moved(exp_cmd_sn, max_cmd_sn)
        exchange = self._asked(tag, TextExchange)
        if exchange is None:
            return
        exchange.rounds += 1
        exchange.answer += data
        if len(exchange.answer) > exchange.limit or exchange.rounds > MAX_TEXT_ROUNDS:
            raise ProtocolViolation(f"the target's text has no end: {len(exchange.answer)} bytes so far")
        if flags & FINAL:
            if flags & CONTINUE:
                raise ProtocolViolation("a text response that is the last one and continues")
            self._events.append(exchange)
            return
        if transfer_tag == RESERVED_TAG:
            raise ProtocolViolation("a text response that continues, without a target transfer tag")
        self.outstanding[tag] = exchange
        more = (FINAL, 0, lun, tag, transfer_tag, self.session.cmd_sn, self._output.exp_stat_sn)
        self._output.control.append(_pdu(Opcode.TEXT_REQUEST, more))

    def _task_management_response(self, header: bytes | bytearray, at: int, data: bytes) -> None:
        fields = PACKING[Opcode.TASK_MANAGEMENT_RESPONSE].unpack_from(header, at)
        _, _, response, _, _, tag, stat_sn, exp_cmd_sn, max_cmd_sn = fields
        self._output.status_came(stat_sn)
        self.session.window_moved(exp_cmd_sn, max_cmd_sn)
        asked = self._asked(tag, TaskManagement)
        if asked is None:
            return
        self.session.functions -= asked.holds
        asked.response = response
        for command in self._ended_by(asked):
            command.error = CommandAborted(f"the command was ended by {asked.function.name.replace('_', ' ')}")
            if command.connection is not None and command.connection is not self:
                command.connection._let_go(command)
                command.done = True
                self._events.append(command)
            else:
                self._tasks.finish(command)
        self._events.append(asked)

    def _ended_by(self, asked: TaskManagement) -> list[Command]:
        """Find the commands that a function has ended without a response of their own (RFC 7143 section 11.5.1)."""
        referenced = asked.referenced
        if asked.response not in (0, 1):
            return []
        if referenced is not None:
            # "Task does not exist" too: on one connection its response would have come before this one.
            under_way = self.outstanding.get(referenced.tag) is referenced
            return [referenced] if under_way else []
        if asked.response != 0 or asked.function not in (*_WHOLE_UNIT, *_WHOLE_TARGET):
            return []
        return [
            request
            for connection in self.session.connections
            for request in connection.outstanding.values()
            if isinstance(request, Command)
            and (asked.function in _WHOLE_TARGET or request.lun == asked.lun)
            and 0 < (asked.cmd_sn - request.cmd_sn) & SERIAL_MASK < _SERIAL_HALF
        ]

    def _logout_response(self, header: bytes | bytearray, at: int, data: bytes) -> None:
        fields = PACKING[Opcode.LOGOUT_RESPONSE].unpack_from(header, at)
        _, _, response, _, tag, stat_sn, exp_cmd_sn, max_cmd_sn, time2wait, time2retain = fields
        self._output.status_came(stat_sn)
        self.session.window_moved(exp_cmd_sn, max_cmd_sn)
        logout = self._asked(tag, Logout)
        if logout is not None:
            logout.response, logout.time2wait, logout.time2retain = response, time2wait, time2retain
            self._events.append(logout)

    def _async_message(self, header: bytes | bytearray, at: int, data: bytes) -> None:
        fields = PACKING[Opcode.ASYNC_MESSAGE].unpack_from(header, at)
        _, _, _, lun, _, stat_sn, exp_cmd_sn, max_cmd_sn, event, vendor_code, first, second, third = fields
        self._output.status_came(stat_sn)
        self.session.window_moved(exp_cmd_sn, max_cmd_sn)
        sense = sense_of(data) if event == 0 and data else b""
        self._events.append(AsyncMessage(event, vendor_code, (first, second, third), lun, sense))

    def _reject(self, header: bytes | bytearray, at: int, data: bytes) -> None:
        fields = PACKING[Opcode.REJECT].unpack_from(header, at)
        _, _, reason, _, _, stat_sn, exp_cmd_sn, max_cmd_sn, _ = fields
        self._output.status_came(stat_sn)
        self.session.window_moved(exp_cmd_sn, max_cmd_sn)
        if len(data) < 48:
            raise ProtocolViolation("a Reject without the header that it rejects")
        tag = int.from_bytes(data[16:20], "big")
        request = self.outstanding.get(tag)
        if request is None:
            return  # our answer to a ping, or Data-Out of a command that has ended
        request.error = CommandRejected(f"the target rejects {type(request).__name__} {tag:#x}", reason)
        self._let_go(request)
        if isinstance(request, Command):
            request.done = True
        self._events.append(request)

    def _let_go(self, request: Request) -> None:
        """Take out a request that ends otherwise than by its own response, which may come yet, and is ignored then."""
        del self.outstanding[request.tag]
        self._tasks.gone.append(request.tag)
        if isinstance(request, Command) and self._tasks.detach(request):
            self._receiver.discard_placed()
        elif isinstance(request, TaskManagement):
            self.session.functions -= request.holds

    def _asked(self, tag: int, kind: type[_Asked]) -> _Asked | None:
        """Take the request that is answered; None when it was rejected before."""
        request = self.outstanding.get(tag)
        if isinstance(request, kind):
            del self.outstanding[tag]
            return request
        if tag in self._tasks.gone:
            return None
        raise ProtocolViolation(f"the target answers {kind.__name__} {tag:#x}, which nobody asked")


def _pdu(opcode: Opcode, fields: tuple[int, ...], data: bytes = b"") -> bytes:
    return PACKING[opcode].pack(opcode | IMMEDIATE, *fields) + data + PADDING[len(data) & 3]
