"""Text Requests at the target: SendTargets, and everything else that nobody negotiates after login
(RFC 7143 sections 11.10 and 11.11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from csvd.iscsi import text
from csvd.iscsi.codes import CONTINUE, FINAL, RESERVED_TAG, Opcode, RejectReason
from csvd.iscsi.errors import PduRejected, TextError
from csvd.iscsi.layouts import PACKING

if TYPE_CHECKING:
    from csvd.iscsi.connection import TargetConnection
    from csvd.iscsi.session import Session

MAX_TEXT_BYTES: Final = 16384
PIECE_BYTES: Final = 8192
"""What one Text Response carries at most; the rest is asked for piece by piece."""

_TEXT_REQUEST: Final = PACKING[Opcode.TEXT_REQUEST]
_TEXT_RESPONSE: Final = PACKING[Opcode.TEXT_RESPONSE]


class TextExchange:
    """The text exchange of one connection; there is one at a time, and a new one ends the one before."""

    def __init__(self, connection: TargetConnection) -> None:
        self._connection = connection
        self._gathered = b""
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
            self._gathered, self._pieces = b"", []
        self._gathered += data
        if len(self._gathered) > MAX_TEXT_BYTES:
            self._gathered = b""
            raise PduRejected(RejectReason.PROTOCOL_ERROR, f"text above {MAX_TEXT_BYTES} bytes")
        if flags & CONTINUE:
            self._respond(tag, b"", 0, more=True)
            return
        if not self._pieces:
            try:
                # A key once: SendTargets many times over would make much of little.
                pairs = text.parse_unique(self._gathered)
            except TextError as error:
                raise PduRejected(RejectReason.PROTOCOL_ERROR, str(error)) from error
            finally:
                self._gathered = b""
            limit_bytes = min(self._connection.parameters.max_recv_data_segment_length, PIECE_BYTES)
            self._pieces = text.split(text.build(self._answer(pairs)), limit_bytes)
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
                # Nothing but MaxRecvDataSegmentLength may be negotiated after login, and nobody does.
                answer.append((name, "Reject" if name == "MaxRecvDataSegmentLength" else "NotUnderstood"))
        return answer

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
