"""One connection at the target: bytes in; bytes and tasks out (RFC 7143).

The adapter (csvd.target) receives into :meth:`TargetConnection.receive_buffers`, calls
:meth:`~TargetConnection.received` once for each ``recv``, executes what stands in ``ready``, answers by
:meth:`~TargetConnection.data_in` or :meth:`~TargetConnection.respond`, and sends ``output`` with one gathered write.
All PDUs that one ``recv`` brought are taken in one pass.

What a peer does wrong ends in one place: :meth:`PduInput.take` turns ``PduRejected`` into a Reject and
``ConnectionFailure`` into a closed connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, cast

from csvd.iscsi import text
from csvd.iscsi.access import Origin
from csvd.iscsi.answers import Answers
from csvd.iscsi.async_messages import request_logout
from csvd.iscsi.codes import BHS_BYTES, FINAL, RESERVED_TAG, LoginStatus, Opcode, RejectReason
from csvd.iscsi.digests import CRC32C, Buffer, digest_of, padding_and_digest
from csvd.iscsi.errors import ConnectionFailure, IscsiError, LoginFailure, PduRejected
from csvd.iscsi.events import Event, EventKind
from csvd.iscsi.full_feature import FullFeature
from csvd.iscsi.keepalive import KEEPALIVE, Keepalive
from csvd.iscsi.keys import SessionParameters
from csvd.iscsi.layouts import PACKING, PADDING
from csvd.iscsi.login import VERSION, Login, LoginOutcome, LoginRequest
from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.iscsi.payload import Piece
from csvd.iscsi.pdu_input import DigestedInput, PduInput
from csvd.iscsi.portals import peer_address
from csvd.iscsi.receiver import BUFFER_BYTES, Receiver
from csvd.iscsi.session import Session, Task

_LOGIN_REQUEST: Final = PACKING[Opcode.LOGIN_REQUEST]
_LOGIN_RESPONSE: Final = PACKING[Opcode.LOGIN_RESPONSE]
_REJECT: Final = PACKING[Opcode.REJECT]
_NOP_IN: Final = PACKING[Opcode.NOP_IN]


class TargetConnection:
    """The engine of one connection.

    Args:
        entity: the targets behind the portal.
        local_address: ``host:port`` under which the initiator reached the portal; SendTargets names it.
        peer: ``host:port`` of the initiator, for messages and access by address.
        now_s: the adapter's monotonic clock.
        portal_group_tag: of the portal.
        keepalive: its time-outs.
    """

    def __init__(
        self,
        entity: NetworkEntity,
        *,
        local_address: str,
        peer: str,
        now_s: float,
        portal_group_tag: int = 1,
        keepalive: Keepalive = KEEPALIVE,
    ) -> None:
        self.entity = entity
        self.keepalive = keepalive
        self.local_address = local_address
        self.peer = peer
        self.origin = Origin(peer_address(peer), portal_group_tag)
        self.session: Session | None = None
        self.parameters = SessionParameters()
        """What this connection negotiated: digests and segment lengths may differ from those of others."""
        self.cid = 0
        self.stat_sn = 0
        self.ready: list[Task] = []
        """Tasks to execute, in their order; the adapter takes them."""
        self.output: list[Piece] = []
        """What to send, in its order; the adapter takes it."""
        self.closing = False
        """Send what is in ``output``, then close."""
        self.failure: IscsiError | None = None
        """Why the connection is being closed, where a peer is to blame."""
        self.wake: Callable[[], None] = _nothing
        """Called when this connection has output, tasks or an end that its own input did not cause."""
        self.paused = False
        """There are whole PDUs left that were not taken, for there is much to send: call ``received(0, …)`` then."""
        self.events: list[Event] = []
        """What an operator should read in the log; the adapter takes it."""
        self.is_heard = False
        """The adapter has taken something by itself since the last tick."""
        self.express: Callable[[], bool] = _never
        """Asked at each SCSI Command whether the adapter takes commands there by itself, from ``receiver``."""
        self.add_header: Callable[[bytes], None] = self.output.append
        """Put a header out; with digests, its digest too."""
        self.add_data: Callable[[Piece], None] = self._add_data
        """Put a data segment behind the header just put out, with its padding; with digests, its digest too."""
        self._login: Login | None = Login(entity, self.origin, local_address)
        self.answers = Answers(self)
        self._full_feature = FullFeature(self)
        self._input = PduInput(self, Receiver(), {Opcode.LOGIN_REQUEST: self._login_request})
        self._born_s = self._heard_s = self._asked_s = now_s
        self._answers_nops = False
        self._logout_by_s: float | None = None
        self._login_header: tuple[bytes, int, int] | None = None
        """ISID, TSIH and task tag of the last Login Request."""

    def __repr__(self) -> str:
        state = "closing" if self.closing else repr(self._login) if self._login else "full feature"
        return f"<TargetConnection {self.peer} {state} {self.session}>"

    # Input

    @property
    def receiver(self) -> Receiver:
        """What was received and not taken."""
        return self._input.receiver

    @property
    def is_normal(self) -> bool:
        """Whether this is a connection of a normal session, in full-feature phase."""
        return self.session is not None and not self.session.discovery

    @property
    def in_a_pdu(self) -> bool:
        """Whether a PDU has come in part."""
        return self._input.in_a_pdu

    @property
    def is_plain(self) -> bool:
        """Whether it has no digests."""
        return type(self._input) is PduInput

    def receive_buffers(self) -> list[memoryview]:
        """Give the buffers to receive into, in their order."""
        return self._input.receiver.buffers()

    def received(self, count: int, now_s: float) -> None:
        """Take ``count`` bytes that were received into :meth:`receive_buffers`; never raises for what a peer sent."""
        self._heard_s = now_s
        self.paused = False
        taking = self._input
        if not taking.receiver.received(count):
            return
        try:
            taking.take()
            if taking is not self._input and not self.closing:  # digests begin behind the login
                self._input.take()
        except ConnectionFailure as error:
            self._fail(error)

    def place(
        self, opcode: int, view: memoryview, start: int, data_bytes: int
    ) -> tuple[memoryview, Callable[[bool], None]]:
        """Settle where the data segment of a PDU goes that has not come whole; see :meth:`FullFeature.place`."""
        return self._full_feature.place(opcode, view, start, data_bytes)

    def unexpected(self, opcode: int) -> None:
        """Refuse a PDU that has no handler at this time."""
        if self._login is not None:
            if self._login_header is None:
                # RFC 7143 section 6.3: who sends anything but a login first is dropped without an answer.
                raise ConnectionFailure(f"opcode {opcode:#04x} before login", where=self.peer)
            failure = LoginFailure(LoginStatus.INVALID_DURING_LOGIN, f"opcode {opcode:#04x} during login")
            self._refuse_login(failure, *self._login_header)
            return
        if opcode == Opcode.LOGIN_REQUEST:
            raise ConnectionFailure("a Login Request in full-feature phase", where=self.peer)
        raise PduRejected(RejectReason.COMMAND_NOT_SUPPORTED, f"opcode {opcode:#04x}")

    # Login

    def _login_request(self, view: memoryview, start: int, header_bytes: int, data_bytes: int) -> None:
        (_, flags, version_max, version_min, _, isid, tsih, tag, cid, cmd_sn, exp_stat_sn) = _LOGIN_REQUEST.unpack_from(
            view, start
        )
        login = self._login
        assert login is not None
        if self._login_header is None:
            self.stat_sn = exp_stat_sn
        self._login_header = isid, tsih, tag
        data = bytes(view[start + header_bytes : start + header_bytes + data_bytes])
        try:
            if header_bytes > BHS_BYTES:
                raise LoginFailure(LoginStatus.INITIATOR_ERROR, "an additional header segment in a login")
            step = login.step(LoginRequest(flags, version_max, version_min, isid, tsih, cid), data)
            if step.complete:
                tsih = self._enter_full_feature(login.outcome, cmd_sn).tsih
        except LoginFailure as error:
            self._refuse_login(error, isid, tsih, tag)
            return
        session = self.session or login.joined
        window = (cmd_sn, cmd_sn) if session is None else (session.exp_cmd_sn, session.max_cmd_sn)
        self._login_response(isid, tsih, tag, step.flags, step.data, window, LoginStatus.SUCCESS)
        if self.session is not None:
            self._begin_digests(self.parameters)

    def _refuse_login(self, error: LoginFailure, isid: bytes, tsih: int, tag: int) -> None:
        self._fail(error)
        self._login_response(isid, tsih, tag, 0, text.build(error.pairs), (0, 0), error.status)

    def _login_response(
        self,
        isid: bytes,
        tsih: int,
        tag: int,
        flags: int,
        data: bytes,
        window: tuple[int, int],
        status: LoginStatus,
    ) -> None:
        self.add_header(
            _LOGIN_RESPONSE.pack(
                Opcode.LOGIN_RESPONSE,
                flags,
                VERSION,
                VERSION,
                len(data),
                isid,
                tsih,
                tag,
                self.next_stat_sn() if status == LoginStatus.SUCCESS else 0,
                *window,
                status,
            )
        )
        self.add_data(data)

    def _enter_full_feature(self, outcome: LoginOutcome, cmd_sn: int) -> Session:
        """Make or join the session.

        Raises:
            LoginFailure: it is not to be had any more.
        """
        target = outcome.target
        self.entity.check_admission(target, outcome.initiator_name, self.origin, outcome.proven)
        if target is None:
            session = Session(None, outcome.initiator_name, outcome.isid, 1, outcome.parameters, cmd_sn)
            session.connections[outcome.cid] = self
        else:
            session = self._join(outcome, target) if outcome.tsih else self._open(outcome, target, cmd_sn)
            self._input.max_data_segment_bytes = target.offer.max_recv_data_segment_length
            self._input.receiver.use(BUFFER_BYTES)
        self.session = session
        self.cid = outcome.cid
        self.parameters = outcome.parameters
        self._login = None
        self._input.handlers = self._full_feature.begin(session)
        digests = f"header digest {self.parameters.header_digest}, data digest {self.parameters.data_digest}"
        self.tell(EventKind.LOGIN, f"connection {outcome.cid}, {digests}")
        return session

    def _open(self, outcome: LoginOutcome, target: TargetNode, cmd_sn: int) -> Session:
        session = target.open_session(
            outcome.initiator_name,
            outcome.isid,
            outcome.parameters,
            cmd_sn,
            portal_group_tag=self.origin.portal_group_tag,
            proven=outcome.proven,
        )
        session.connections[outcome.cid] = self
        return session

    def _join(self, outcome: LoginOutcome, target: TargetNode) -> Session:
        session = target.joinable(
            outcome.initiator_name, outcome.isid, outcome.tsih, outcome.cid, self.origin.portal_group_tag
        )
        if session.proven != outcome.proven:
            # Whose right it is that the session lives by would not be one user's any more.
            raise LoginFailure(LoginStatus.AUTHORIZATION_FAILURE, f"session {session.tsih:#06x} is another CHAP user's")
        old = session.connections.get(outcome.cid)
        session.connections[outcome.cid] = self
        if old is not None:
            # Connection reinstatement: as if the old one had been logged out (RFC 7143 section 6.3.4).
            old.tell(EventKind.LOGOUT, f"connection {outcome.cid} is reinstated from {self.peer}")
            old.end()
            old.wake()
        return session

    def change(self, parameters: SessionParameters) -> None:
        """Take what the initiator declared after its login: another MaxRecvDataSegmentLength."""
        self.parameters = parameters
        self._full_feature.parameters_changed()

    # Time

    def tick(self, now_s: float) -> None:
        """Let time pass; called about once a second."""
        if self.closing:
            return
        if self.is_heard:
            self.is_heard = False
            self._heard_s = now_s
        times, silent_s = self.keepalive, now_s - self._heard_s
        session = self.session
        if session is None:
            if now_s - self._born_s > times.login_s:
                self._fail(ConnectionFailure(f"no login within {times.login_s:.0f} s", where=self.peer))
        elif session.discovery and silent_s > times.discovery_s:
            self._fail(ConnectionFailure(f"an idle discovery session, {silent_s:.0f} s", where=self.peer))
        elif (self._answers_nops or self._input.in_a_pdu) and silent_s > times.dead_s:
            self._fail(ConnectionFailure(f"silent for {silent_s:.0f} s", where=self.peer))
        elif self._logout_by_s is not None and now_s > self._logout_by_s:
            assert session.target is not None
            session.target.drop_session(session, "it was not logged out when it was asked to be")
        elif silent_s > times.idle_s and now_s - self._asked_s > times.idle_s:
            self._asked_s = now_s
            self.ask()

    def request_logout(self, grace_s: int, now_s: float) -> None:
        """Ask the initiator to log out; when it has not after ``grace_s`` seconds, its session is dropped."""
        self._logout_by_s = now_s + grace_s
        request_logout(self, grace_s)

    def ask(self) -> None:
        """Send a NOP-In that wants an answer; it does not advance StatSN (RFC 7143 section 11.19.1)."""
        session = self.session
        assert session is not None
        session.next_transfer_tag = session.next_transfer_tag % 0x7FFFFFFF + 1
        self.add_header(
            _NOP_IN.pack(
                Opcode.NOP_IN,
                FINAL,
                0,
                0,
                RESERVED_TAG,
                session.next_transfer_tag,
                self.stat_sn,
                session.exp_cmd_sn,
                session.max_cmd_sn,
            )
        )

    def not_listening(self, now_s: float) -> None:
        """The adapter has not read: silence up to now is not the peer's."""
        self._heard_s = now_s

    @property
    def heard_s(self) -> float:
        """When this peer was heard last."""
        return self._heard_s

    def answered(self) -> None:
        """Note that this initiator answers NOP-In: its silence will mean that it is gone."""
        self._answers_nops = True

    # Output

    def data_in(self, task: Task, data: Piece, size: int | None = None) -> None:
        """Answer a task with data and status GOOD: Data-In PDUs, the last with the status (RFC 7143 section 11.7).

        The buffer goes out as it is: it must not change until the adapter has sent it. ``size`` is what the command
        would transfer, where the buffer holds only the part of it that the initiator expects. Where `is_plain`, a
        payload may stand for a buffer.
        """
        self.answers.data_in(task, data, len(data) if size is None else size)

    def respond(self, task: Task, status: int, sense: bytes = b"") -> None:
        """Answer a task without data by a SCSI Response (RFC 7143 section 11.4)."""
        self.answers.respond(task, status, sense)

    def abandon(self, task: Task) -> None:
        """End an aborted task."""
        self.answers.abandon(task)

    def ready_to_transfer(self, task: Task) -> None:
        """Ask for the next burst of a task by an R2T (RFC 7143 section 11.8)."""
        self.answers.ready_to_transfer(task)
        self.wake()

    def _add_data(self, data: Piece) -> None:
        size = len(data)
        if size:
            self.output.append(data)
            if size & 3:
                self.output.append(PADDING[size & 3])

    def _add_digested_header(self, header: bytes) -> None:
        self.output.append(header + digest_of(header))

    def _add_digested_data(self, data: Piece) -> None:
        if len(data):
            self.output.append(data)
            self.output.append(padding_and_digest(cast(Buffer, data)))

    def _begin_digests(self, parameters: SessionParameters) -> None:
        """From the PDU after the last of the login on, both ways, the digests that were agreed (RFC 7143 13.1)."""
        header_digest, data_digest = parameters.header_digest == CRC32C, parameters.data_digest == CRC32C
        if not header_digest and not data_digest:
            return
        self._input.stopped = True
        self._input = DigestedInput(self._input, header_digest=header_digest, data_digest=data_digest)
        if header_digest:
            self.add_header = self._add_digested_header
        if data_digest:
            self.add_data = self._add_digested_data

    def rejected(self, error: PduRejected, header: bytes) -> None:
        """Answer a PDU that is refused, and tell of it."""
        self.reject(error.reason, header)
        self.tell(EventKind.REJECT, str(error))

    def reject(self, reason: RejectReason, header: bytes) -> None:
        """Send a Reject that carries the header it refuses (RFC 7143 section 11.17)."""
        exp_cmd_sn, max_cmd_sn = self.window()
        self.add_header(
            _REJECT.pack(
                Opcode.REJECT,
                FINAL,
                reason,
                len(header),
                RESERVED_TAG,
                self.next_stat_sn(),
                exp_cmd_sn,
                max_cmd_sn,
                0,
            )
        )
        self.add_data(header)

    def window(self) -> tuple[int, int]:
        """Give ExpCmdSN and MaxCmdSN."""
        return (self.session.exp_cmd_sn, self.session.max_cmd_sn) if self.session else (0, 0)

    def next_stat_sn(self) -> int:
        stat_sn = self.stat_sn
        self.stat_sn = (stat_sn + 1) & 0xFFFFFFFF
        return stat_sn

    # End

    def tell(self, kind: EventKind, text: str) -> None:
        """Note an event, with who is at both ends."""
        session = self.session
        if session is not None:
            target = session.target.name if session.target is not None else "discovery"
            text = f"{text}; {session.initiator_name} at {target}, session {session.tsih:#06x}"
        elif self._login is not None and self._login.who:
            text = f"{text}; {self._login.who}"
        self.events.append(Event(kind, text))

    def _fail(self, error: IscsiError) -> None:
        self.failure = error
        kind = EventKind.CONNECTION_FAILURE
        if isinstance(error, LoginFailure):
            kind = EventKind.LOGIN_REDIRECT if error.status.moved else EventKind.LOGIN_FAILURE
        self.tell(kind, str(error))
        self.end()

    def lost(self) -> None:
        """The adapter has lost the socket."""
        if not self.closing and self.session is not None:
            self.tell(EventKind.CONNECTION_LOST, f"connection {self.cid}")
        self.end()

    def close(self) -> None:
        """Close from outside: reinstatement, shutdown."""
        if not self.closing:
            self.closing = self._input.stopped = True
            self.wake()

    def end(self) -> None:
        """End this connection, and its session with the last one."""
        self.closing = self._input.stopped = True
        self.ready.clear()
        session = self.session
        if session is None:
            return
        if session.connections.get(self.cid) is self:
            del session.connections[self.cid]
        if session.target is None:
            return
        if session.connections:
            session.target.connection_lost(session, self)
        else:
            session.target.close_session(session)

    def forget_input(self) -> None:
        """Let go of the receive buffer: the socket is closed. What else refers to this object may live on for long."""
        self._input.receiver.use(0)


def _nothing() -> None:
    return None


def _never() -> bool:
    return False


def gather(pieces: Sequence[Piece]) -> bytes:
    """Join output to bytes; for tests and captures, never on the data path."""
    return b"".join(cast("Sequence[Buffer]", pieces))
