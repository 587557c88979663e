"""Text Requests at the target: SendTargets, and what an initiator may still declare after login
(RFC 7143 sections 11.10 and 11.11)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from csvd.iscsi import text
from csvd.iscsi.codes import CONTINUE, FINAL, RESERVED_TAG, Opcode, RejectReason
from csvd.iscsi.errors import PduRejected, TextError
from csvd.iscsi.keys import KEYS, BadValue, Use, agree
from csvd.iscsi.layouts import PACKING

if TYPE_CHECKING:
    from csvd.iscsi.connection import TargetConnection
    from csvd.iscsi.session import Session

MAX_TEXT_BYTES: Final = 16384
MAX_TEXT_REQUESTS: Final = 64
"""Requests that one text may come in: one that continues with nothing in it has no end."""
PIECE_BYTES: Final = 8192
"""What one Text Response carries at most; the rest is asked for piece by piece."""

_TEXT_REQUEST: Final = PACKING[Opcode.TEXT_REQUEST]
_TEXT_RESPONSE: Final = PACKING[Opcode.TEXT_RESPONSE]


class TextExchange:
    """The text exchange of one connection; there is one at a time, and a new one ends the one before."""

    def __init__(self, connection: TargetConnection) -> None:
        self._connection = connection
        self._gathered = b""
        self._requests = 0
        """Requests that the text gathered came in."""
        self._pieces: list[bytes] = []
        self._tag = RESERVED_TAG

    @property
    def _session(self) -> Session:
        session = self._connection.session
        assert session is not None
        return session

    def request(self, header: bytes, data: bytes) -> None:
        """Take a Text Request; long texts come and go in pieces (RFC 7143 sections 11.10 and 11.11)."""
        _, flags, _, _, tag, transfer_tag, _, _ = _TEXT_REQUEST.unpack(header)
        if transfer_tag != RESERVED_TAG and transfer_tag != self._tag:
            raise PduRejected(RejectReason.INVALID_PDU_FIELD, f"no text exchange {transfer_tag:#x} is under way")
        if transfer_tag == RESERVED_TAG:
            self._forget()
        if self._pieces:
            self._send_piece(tag, data)
            return
        self._gather(data, flags)
        if flags & CONTINUE:
            self._respond(tag, b"", 0, more=True)
            return
        try:
            # A key once: SendTargets many times over would make much of little.
            pairs = text.parse_unique(self._gathered)
        except TextError as error:
            raise PduRejected(RejectReason.PROTOCOL_ERROR, str(error)) from error
        finally:
            self._forget()
        limit_bytes = min(self._connection.parameters.max_recv_data_segment_length, PIECE_BYTES)
        self._pieces = text.split(text.build(self._answer(pairs)), limit_bytes)
        self._send_piece(tag, b"")

    def _forget(self) -> None:
        self._gathered, self._requests, self._pieces = b"", 0, []

    def _gather(self, data: bytes, flags: int) -> None:
        """Keep a part of a text that is not complete; its bytes and its parts are bounded."""
        self._gathered += data
        self._requests += 1
        what = ""
        if flags & CONTINUE and flags & FINAL:
            what = "a Text Request that is the last one and continues"
        elif self._requests > MAX_TEXT_REQUESTS:
            what = f"a text in more than {MAX_TEXT_REQUESTS} requests"
        elif len(self._gathered) > MAX_TEXT_BYTES:
            what = f"text above {MAX_TEXT_BYTES} bytes"
        if what:
            self._forget()
            self._tag = RESERVED_TAG
            raise PduRejected(RejectReason.PROTOCOL_ERROR, what)

    def _send_piece(self, tag: int, data: bytes) -> None:
        if data:
            self._forget()
            self._tag = RESERVED_TAG
            raise PduRejected(RejectReason.PROTOCOL_ERROR, "text before the answer to the last one was complete")
        piece = self._pieces.pop(0)
        more = bool(self._pieces)
        self._respond(tag, piece, CONTINUE if more else FINAL, more=more)

    def _answer(self, pairs: dict[str, str]) -> list[tuple[str, str]]:
        answer: list[tuple[str, str]] = []
        for name, value in pairs.items():
            if name == "SendTargets":
                connection = self._connection
                answer += connection.entity.send_targets(
                    value, self._session, connection.origin, connection.local_address
                )
            else:
                reply = self._declared(name, value)
                if reply is not None:
                    answer.append((name, reply))
        return answer

    def _declared(self, name: str, value: str) -> str | None:
        """What an initiator may still say after the login; the rest is settled (RFC 7143 section 13)."""
        key = KEYS.get(name)
        if key is None:
            return "NotUnderstood"
        if key.use is not Use.ALWAYS or key.from_target:
            return "Reject"
        if key.attribute:
            try:
                agreed = agree(key, None, value)
            except BadValue:
                return "Reject"
            self._connection.change(replace(self._connection.parameters, **{key.attribute: agreed}))
        return None

    def _respond(self, tag: int, data: bytes, flags: int, *, more: bool) -> None:
        session = self._session
        if more:
            session.next_transfer_tag = session.next_transfer_tag % 0x7FFFFFFF + 1
        self._tag = session.next_transfer_tag if more else RESERVED_TAG
        self._connection.add_header(
            _TEXT_RESPONSE.pack(
                Opcode.TEXT_RESPONSE,
                flags,
                len(data),
                0,
                tag,
                self._tag,
                self._connection.next_stat_sn(),
                session.exp_cmd_sn,
                session.max_cmd_sn,
            )
        )
        self._connection.add_data(data)
