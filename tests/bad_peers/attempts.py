"""What a bad peer tries: one row an attempt, each with what must come back. docs/security.md shows this table."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from csvd.iscsi import text
from csvd.iscsi.codes import Opcode
from tests.bad_peers.peer import NO_TAG, Peer
from tests.iscsi_wire import pdu


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row.

    Args:
        tried: what the peer does.
        comes_back: what it hears.
        attempt: does it on a fresh connection; gives what it heard.
        chap: whether the target demands CHAP.
    """

    tried: str
    comes_back: str
    attempt: Callable[[Peer], str]
    chap: bool = False


INITIATOR_ERROR: Final = "Login Response 0x0200 INITIATOR ERROR, closed"
AUTHENTICATION_FAILURE: Final = "Login Response 0x0201 AUTHENTICATION FAILURE, closed"


def _login_with(data: bytes, *, flags: int = 0x87) -> Callable[[Peer], str]:
    def attempt(peer: Peer) -> str:
        peer.send(peer.login_pdu(text.build(peer.names.items()) + data, flags=flags))
        return peer.heard()

    return attempt


def _login_of(size_bytes: int) -> Callable[[Peer], str]:
    """A login whose text is exactly so long, by values that nobody understands."""

    def attempt(peer: Peer) -> str:
        begin = text.build(peer.names.items())
        room = size_bytes - len(begin) - len(b"X-pad=\0")
        peer.send(peer.login_pdu(begin + b"X-pad=" + b"x" * room + b"\0"))
        return peer.heard()

    return attempt


def _chap_response(value: str) -> Callable[[Peer], str]:
    def attempt(peer: Peer) -> str:
        peer.send(peer.login_pdu(text.build([*peer.names.items(), ("AuthMethod", "CHAP")]), flags=0x81))
        assert peer.next_pdu() is not None
        peer.send(peer.login_pdu(text.build([("CHAP_A", "5")]), flags=0x00))
        assert peer.next_pdu() is not None
        peer.send(peer.login_pdu(text.build([("CHAP_N", "joe"), ("CHAP_R", value)]), flags=0x81))
        return peer.heard()

    return attempt


def _short_login(peer: Peer) -> str:
    """The header says 200 bytes; 40 come, and then the peer waits for an answer."""
    peer.send(peer.login_pdu(bytes(200))[: 48 + 40])
    return peer.heard()


def _half_a_header(peer: Peer) -> str:
    peer.send(peer.login_pdu(b"")[:20])
    return peer.heard()


def _before_login(peer: Peer) -> str:
    heard = set()
    for opcode in (Opcode.SCSI_COMMAND, Opcode.TEXT_REQUEST, Opcode.NOP_OUT, Opcode.TASK_MANAGEMENT_REQUEST):
        with peer.again() as another:
            another.send(pdu(opcode, b"", opcode=int(opcode) | 0x40))
            heard.add(another.heard())
    return " or ".join(sorted(heard))


def _large_before_login(peer: Peer) -> str:
    """255 words of AHS and 16 MiB of data in a PDU that is no login."""
    peer.send(pdu(Opcode.SCSI_COMMAND, b"", flags=0x80, lengths=0xFF << 24 | 0xFFFFFF) + bytes(1 << 20))
    return peer.heard()


def _large_login(peer: Peer) -> str:
    peer.send(peer.login_pdu(b"", lengths=0xFFFFFF) + bytes(1 << 20))
    return peer.heard()


def _endless_login_text(peer: Peer) -> str:
    for _ in range(100):
        peer.send(peer.login_pdu(b"a=" + b"x" * 1000, flags=0x44))
    return peer.heard().removeprefix("Login Response 0x0000 SUCCESS, " * 40)[-len(INITIATOR_ERROR) :]


def _endless_empty_text(peer: Peer) -> str:
    """Empty Text Requests with the C bit: each asks for the next, for ever."""
    peer.login()
    transfer_tag = NO_TAG
    for _ in range(100):
        request = pdu(
            Opcode.TEXT_REQUEST, b"", opcode=0x44, flags=0x40, initiator_task_tag=77, target_transfer_tag=transfer_tag
        )
        peer.send(request)
        answer = peer.next_pdu()
        if answer is None or answer[0].opcode & 0x3F != Opcode.TEXT_RESPONSE:
            break
        transfer_tag = answer[0].target_transfer_tag
    return "an empty Text Response for each, of bounded memory" if answer else "closed"


def _prout(parameters: bytes) -> Callable[[Peer], str]:
    def attempt(peer: Peer) -> str:
        peer.login()
        cdb = struct.pack(">BBB2xIB", 0x5F, 0x00, 0x00, len(parameters), 0)
        return peer.command(cdb, data=parameters)

    return attempt


def _transport_ids(ids: bytes) -> bytes:
    """PERSISTENT RESERVE OUT parameters with SPEC_I_PT and these TransportIDs."""
    return struct.pack(">8s8s4xB3x", bytes(8), b"key12345", 0x08) + struct.pack(">I", len(ids)) + ids


def _wild_service_actions(peer: Peer) -> str:
    peer.login()
    heard = set()
    for operation_code, length in ((0x5E, 10), (0x5F, 10), (0x83, 16), (0x84, 16), (0x9E, 16), (0xA3, 12), (0xA4, 12)):
        cdb = bytes((operation_code, 0x1F)) + bytes(length - 2)
        heard.add(peer.command(cdb, flags=0xC0, expected=255))
    return " or ".join(sorted(heard))


def _beyond_r2t(peer: Peer) -> str:
    """An R2T for 4,096 bytes, and 8,192 come."""
    r2t = _ask_to_write(peer)
    peer.send(_data_out(r2t.initiator_task_tag, r2t.target_transfer_tag, bytes(8192)))
    return peer.heard()


def _wrong_transfer_tag(peer: Peer) -> str:
    r2t = _ask_to_write(peer)
    peer.send(_data_out(r2t.initiator_task_tag, r2t.target_transfer_tag + 1, bytes(4096)))
    return peer.heard()


def _unsolicited_data(peer: Peer) -> str:
    """Unsolicited data behind a command whose F bit said that there is none."""
    r2t = _ask_to_write(peer)
    peer.send(_data_out(r2t.initiator_task_tag, NO_TAG, bytes(4096)))
    return peer.heard()


def _ask_to_write(peer: Peer) -> Any:
    peer.login(InitialR2T="Yes", ImmediateData="No")
    cdb = struct.pack(">BBIBHB", 0x2A, 0, 0, 0, 8, 0)
    peer.send(peer.command_pdu(cdb, expected=4096, flags=0xA0))
    answer = peer.next_pdu()
    assert answer is not None
    assert answer[0].opcode & 0x3F == Opcode.R2T
    return answer[0]


def _data_out(tag: int, transfer_tag: int, data: bytes) -> bytes:
    return pdu(Opcode.DATA_OUT, data, flags=0x80, initiator_task_tag=tag, target_transfer_tag=transfer_tag)


def _large_data(peer: Peer) -> str:
    """A data segment beyond the MaxRecvDataSegmentLength that the target declared."""
    peer.login()
    peer.send(pdu(Opcode.SCSI_COMMAND, b"", flags=0xA0, lengths=0xFFFFFF) + bytes(1 << 20))
    return peer.heard()


def _second_login(peer: Peer) -> str:
    peer.login()
    peer.send(peer.login_pdu(text.build(peer.names.items())))
    return peer.heard()


ATTEMPTS: Final = (
    Attempt("a login key of 65 characters", INITIATOR_ERROR, _login_with(b"k" * 65 + b"=1\0")),
    Attempt("2,048 `a=b` keys in one Login Request", INITIATOR_ERROR, _login_with(b"a=b\0" * 2048)),
    Attempt("the same key twice", INITIATOR_ERROR, _login_with(b"MaxBurstLength=512\0MaxBurstLength=1024\0")),
    Attempt("login text without `=`", INITIATOR_ERROR, _login_with(b"HeaderDigest\0")),
    *(
        Attempt(f"login text of {size:,} bytes", "Login Response 0x0000 SUCCESS", _login_of(size))
        for size in (8189, 8190, 8191, 8192)
    ),
    Attempt("login text of 20,000 bytes in one PDU", "closed", _login_of(20000)),
    Attempt("login text without end, in PDUs with the C bit", INITIATOR_ERROR, _endless_login_text),
    Attempt("CHAP_R of 8,000 hexadecimal digits", AUTHENTICATION_FAILURE, _chap_response("0x" + "a" * 8000), chap=True),
    Attempt("CHAP_R of 8,000 base64 digits", AUTHENTICATION_FAILURE, _chap_response("0b" + "A" * 8000), chap=True),
    Attempt("an empty CHAP_R", AUTHENTICATION_FAILURE, _chap_response(""), chap=True),
    Attempt("a login shorter than its header says", "nothing", _short_login),
    Attempt("20 bytes of a header", "nothing", _half_a_header),
    Attempt("SCSI Command, Text, NOP-Out or task management before login", "closed", _before_login),
    Attempt("a PDU with 1,020 bytes of AHS and 16 MiB of data before login", "closed", _large_before_login),
    Attempt("a Login Request of 16 MiB", "closed", _large_login),
    Attempt("a Login Request in full-feature phase", "closed", _second_login),
    Attempt(
        "100 empty Text Requests with the C bit",
        "an empty Text Response for each, of bounded memory",
        _endless_empty_text,
    ),
    Attempt(
        "PERSISTENT RESERVE OUT with a TransportID without its terminating NUL",
        "CHECK CONDITION, ILLEGAL REQUEST, INVALID FIELD IN PARAMETER LIST",
        _prout(_transport_ids(struct.pack(">BBH", 0x05, 0, 20) + b"iqn.2026-11.test:abc")),
    ),
    Attempt(
        "PERSISTENT RESERVE OUT with a TransportID longer than the list",
        "CHECK CONDITION, ILLEGAL REQUEST, INVALID FIELD IN PARAMETER LIST",
        _prout(_transport_ids(struct.pack(">BBH", 0x05, 0, 0xFFFC) + b"iqn.2026-11.test:abc")),
    ),
    Attempt(
        "service action 1Fh of every operation code that has service actions",
        "CHECK CONDITION, ILLEGAL REQUEST, INVALID FIELD IN CDB",
        _wild_service_actions,
    ),
    Attempt(
        "8,192 bytes of Data-Out for an R2T of 4,096", "CHECK CONDITION, ABORTED COMMAND, DATA PHASE ERROR", _beyond_r2t
    ),
    Attempt("Data-Out with a wrong Target Transfer Tag", "Reject 0x09 INVALID PDU FIELD", _wrong_transfer_tag),
    Attempt("unsolicited Data-Out that was ruled out", "Reject 0x04 PROTOCOL ERROR", _unsolicited_data),
    Attempt("a data segment of 16 MiB where 256 KiB were declared", "closed", _large_data),
)
"""Each on a connection of its own; after each the target still serves everybody else."""
