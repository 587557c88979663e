"""What a bad target tries: one row an attempt, each with what must come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from csvd.iscsi.codes import Opcode
from initiator.errors import (
    AuthenticationFailed,
    CommandFailed,
    CommandRejected,
    InitiatorError,
    LoginRedirected,
    LoginRefused,
    MalformedAnswer,
    ProtocolViolation,
    SessionLost,
    TaskManagementFailed,
    TimedOut,
)
from tests.bad_targets.target import NO_TAG, READ, WRITE, Attempt, BadConnection, drop_by_drop, silence
from tests.unit.initiator.target_script import Pdu

READ_BYTES: Final = 65536
WRITE_BYTES: Final = 262144
LOGIN: Final = Opcode.LOGIN_REQUEST
TEXT: Final = Opcode.TEXT_REQUEST
CAPACITY: Final = 0x9E
INQUIRY: Final = 0x12

ATTEMPTS: Final[list[Attempt]] = []

_Say = Callable[[BadConnection, Pdu], Iterator[bytes]]
_One = Callable[[BadConnection, Pdu], bytes]


def attempt(name: str, on: int, work: str, **how: Any) -> Callable[[_Say], _Say]:
    """Put a function that says something into the table."""

    def put(say: _Say) -> _Say:
        ATTEMPTS.append(Attempt(name, say, on, work, **how))
        return say

    return put


def one(name: str, on: int, work: str, say: _One, **how: Any) -> None:
    """Put one saying into the table."""
    attempt(name, on, work, **how)(lambda c, r: iter((say(c, r),)))


def _login(name: str, say: _One, says: str, ends: type[InitiatorError] = ProtocolViolation, **how: Any) -> None:
    one(f"login: {name}", LOGIN, how.pop("work", "login"), say, ends=ends, says=says, **how)


def _read(name: str, say: _One, says: str, **how: Any) -> None:
    one(f"read: {name}", READ, "read", say, says=says, **how)


def _write(name: str, say: _One, says: str, **how: Any) -> None:
    one(f"write: {name}", WRITE, "write", say, says=says, **how)


# --- login: header fields

_login("a SCSI Response instead", lambda c, r: c.status(r), "before the login was done")
_login("another ISID", lambda c, r: c.login(r, isid=b"\x80notme"), "ISID")
_login("another task tag", lambda c, r: c.login(r, initiator_task_tag=77), "task tag")
_login("version 1", lambda c, r: c.login(r, version_active=1), "version")
_login("no session handle at the end", lambda c, r: c.login(r, tsih=0), "TSIH")
_login("an end of a stage that we are not in", lambda c, r: c.login(r, flags=0x83), "flags")
_login("a stage that there is not", lambda c, r: c.login(r, flags=0x8B), "flags")
_login("the end, and more to come", lambda c, r: c.login(r, flags=0xC7), "flags")
_login("a segment of 16 MiB", lambda c, r: c.login(r, lengths=0xFFFFFF), "bytes of data, more than")
_login("additional header segments", lambda c, r: c.login(r, lengths=0xFF000000), "additional header segment")
_login(
    "commands acknowledged that were not sent", lambda c, r: c.login(r, exp_cmd_sn=0x7000, max_cmd_sn=0x7001), "CmdSN"
)
_login("a status that nobody knows", lambda c, r: c.login(r, status=0x0999), "0x0999", LoginRefused)
_login("moved, nobody says where", lambda c, r: c.login(r, status=0x0101), "where")
_login("moved to nonsense", lambda c, r: c.login(r, {"TargetAddress": "]]:99999,x"}, status=0x0101), "portal group tag")
_login("moved to no host", lambda c, r: c.login(r, {"TargetAddress": "[::1:3260,1"}, status=0x0101), "TargetAddress")
_login(
    "moved to itself, for ever",
    lambda c, r: c.login(r, {"TargetAddress": f"127.0.0.1:{c.target.port},1"}, status=0x0101),
    "in a circle",
    LoginRedirected,
    again=True,
)

# --- login: keys

_login("a key twice", lambda c, r: c.login(r, b"InitialR2T=Yes\0InitialR2T=Yes\0"), "malformed")
_login("text that is no text", lambda c, r: c.login(r, b"\xff\xfe\0\1\2"), "malformed")
_login("a key without end", lambda c, r: c.login(r, b"K" * 8000), "malformed")
_login("a thousand keys", lambda c, r: c.login(r, b"".join(b"X-%d=1\0" % n for n in range(700))), "malformed")
_login("a value that nobody offered", lambda c, r: c.login(r, {"MaxBurstLength": "16777215"}), "MaxBurstLength")
_login("more connections than asked for", lambda c, r: c.login(r, {"MaxConnections": "65535"}), "MaxConnections")
_login("a digest that nobody offered", lambda c, r: c.login(r, {"HeaderDigest": "CRC32C"}), "HeaderDigest")
_login("segments of no bytes", lambda c, r: c.login(r, {"MaxRecvDataSegmentLength": "0"}), "MaxRecvDataSegmentLength")
_login(
    "segments of 2^63 bytes",
    lambda c, r: c.login(r, {"MaxRecvDataSegmentLength": str(2**63)}),
    "MaxRecvDataSegmentLength",
)
_login(
    "a number of 8,000 digits",
    lambda c, r: c.login(r, {"MaxRecvDataSegmentLength": "9" * 8000}),
    "MaxRecvDataSegmentLength",
)
_login("recovery that we do not have", lambda c, r: c.login(r, {"ErrorRecoveryLevel": "2"}), "ErrorRecoveryLevel")
_login("data out of order", lambda c, r: c.login(r, {"DataPDUInOrder": "No"}), "DataPDUInOrder")
_login("a portal group beyond 16 bits", lambda c, r: c.login(r, {"TargetPortalGroupTag": "65536"}), "portal group tag")
_login("a question in the last PDU", lambda c, r: c.login(r, {"iSCSIProtocolLevel": "2"}), "proposes")


# --- login: without end


@attempt("login: text that always continues", LOGIN, "login", ends=ProtocolViolation, says="no end", again=True)
def _always_continues(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    yield c.login(r, b"X" * 8192, flags=0x44)


@attempt("login: round after round of nothing", LOGIN, "login", ends=ProtocolViolation, says="no end", again=True)
def _round_after_round(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    yield c.login(r, flags=0x04)


@attempt("login: round after round of new questions", LOGIN, "login", ends=ProtocolViolation, says="no end", again=True)
def _questions(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    yield c.login(r, b"".join(b"X-%d-%d=%s\0" % (c.stat_sn, n, b"v" * 200) for n in range(30)), flags=0x04)


@attempt("login: a StatSN that skips", LOGIN, "login", ends=ProtocolViolation, says="StatSN", again=True)
def _login_stat_sn(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    c.stat_sn += 1
    yield c.login(r, flags=0x04)


@attempt("login: half an answer, then silence", LOGIN, "login", ends=TimedOut, says="login")
def _half(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    yield c.login(r)[:40]
    yield from silence(c, r)


@attempt("login: an answer drop by drop", LOGIN, "login", ends=TimedOut, says="login")
def _drops(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    yield from drop_by_drop(c.login(r))
    yield from silence(c, r)


@attempt("login: responses without end", LOGIN, "login", ends=InitiatorError, says="no place")
def _login_flood(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    for _ in range(100000):
        yield c.login(r)


@attempt("login: hangs up", LOGIN, "login", ends=SessionLost, says="broke")
def _hangs_up(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    yield b""
    raise ConnectionError


# --- CHAP


def _chap(name: str, challenge: dict[str, str], says: str, ends: type[InitiatorError] = ProtocolViolation) -> None:
    @attempt(f"CHAP: {name}", LOGIN, "chap login", ends=ends, says=says, again=True)
    def say(c: BadConnection, r: Pdu) -> Iterator[bytes]:
        keys = r.keys
        if "AuthMethod" in keys:
            yield c.login(r, {"AuthMethod": "CHAP"}, flags=0)
        elif "CHAP_A" in keys:
            yield c.login(r, challenge, flags=0)
        else:
            yield c.login(r, {"CHAP_N": "the target", "CHAP_R": "0x" + "00" * 16}, flags=0x81)


CHALLENGE: Final = {"CHAP_A": "5", "CHAP_I": "9", "CHAP_C": "0x" + "ab" * 16}
_chap("no challenge", {"CHAP_A": "5", "CHAP_I": "9"}, "lacks CHAP_C")
_chap("an empty challenge", CHALLENGE | {"CHAP_C": "0x"}, "malformed")
_chap("a challenge of 1,025 bytes", CHALLENGE | {"CHAP_C": "0x" + "ab" * 1025}, "malformed")
_chap("a challenge in no known code", CHALLENGE | {"CHAP_C": "0bÄÖ=="}, "malformed")
_chap("an algorithm that nobody offered", CHALLENGE | {"CHAP_A": "99"}, "CHAP_A=99")
_chap("a list of algorithms", CHALLENGE | {"CHAP_A": "5,7"}, "malformed")
_chap("an identifier beyond 8 bits", CHALLENGE | {"CHAP_I": "256"}, "CHAP_I=256")
_chap("a negative identifier", CHALLENGE | {"CHAP_I": "-1"}, "malformed")
_chap("a proof that proves nothing", CHALLENGE, "did not prove itself", AuthenticationFailed)


@attempt(
    "CHAP: our own challenge back", LOGIN, "chap login", ends=AuthenticationFailed, says="prove itself", again=True
)
def _no_proof(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    keys = r.keys
    if "AuthMethod" in keys:
        yield c.login(r, {"AuthMethod": "CHAP"}, flags=0)
    elif "CHAP_A" in keys:
        yield c.login(r, CHALLENGE, flags=0)
    else:
        yield c.login(r, {"CHAP_N": keys["CHAP_N"], "CHAP_R": keys["CHAP_R"]}, flags=0x81)


one(
    "CHAP: the target needs none, and we want its proof",
    LOGIN,
    "chap login",
    lambda c, r: c.login(r, {"AuthMethod": "None"}, flags=0),
    ends=AuthenticationFailed,
    says="AuthMethod",
)
one(
    "CHAP: it ends the stage before the challenge",
    LOGIN,
    "chap login",
    lambda c, r: c.login(r, {"AuthMethod": "CHAP"}, flags=0x81),
    ends=ProtocolViolation,
    says="flags",
)

# --- reads: Data-In

DATA: Final = bytes(512)
_read("more than the buffer holds", lambda c, r: c.data_in(r, bytes(READ_BYTES + 512)), "of a buffer of")
_read("data before the buffer", lambda c, r: c.data_in(r, DATA, 0xFFFFFE00), "was due")
_read("data behind the buffer", lambda c, r: c.data_in(r, DATA, READ_BYTES), "was due")
_read("data with a gap", lambda c, r: c.data_in(r, DATA, 512), "was due")
_read("data again", lambda c, r: c.data_in(r, DATA) + c.data_in(r, DATA, 0, 1), "was due")
_read("a DataSN that skips", lambda c, r: c.data_in(r, DATA, 0, 1), "was due")
_read("data for a task that nobody began", lambda c, r: c.data_in(r, DATA, initiator_task_tag=0x777), "not under way")
_read("data for no task", lambda c, r: c.data_in(r, DATA, initiator_task_tag=NO_TAG), "not under way")
_read("a segment of 16 MiB", lambda c, r: c.data_in(r, b"", lengths=0xFFFFFF), "more than")
_read("additional header segments", lambda c, r: c.data_in(r, DATA, lengths=0x01000200), "additional header segment")
_read("neither data nor status", lambda c, r: c.data_in(r, b"") * 1000, "neither data nor status")
_read("status, and not the last", lambda c, r: c.data_in(r, bytes(READ_BYTES), flags=0x01), "not the last")

# --- reads: status and residuals

_read("GOOD before the data", lambda c, r: c.status(r), "GOOD after 0 bytes")
_read("GOOD after half of the data", lambda c, r: c.data_in(r, bytes(READ_BYTES // 2)) + c.status(r), "GOOD after")
_read(
    "a residual beyond the buffer", lambda c, r: c.status(r, flags=0x82, residual_count=READ_BYTES + 1), "residual of"
)
_read("a residual of 4 GiB", lambda c, r: c.status(r, 2, flags=0x82, residual_count=0xFFFFFFFF), "residual of")
_read(
    "a residual of what came",
    lambda c, r: c.data_in(r, bytes(READ_BYTES), flags=0x83, residual_count=512),
    "residual of",
)
_read("too little and too much", lambda c, r: c.status(r, flags=0x86, residual_count=1), "both")
_read(
    "4 GiB too much",
    lambda c, r: c.data_in(r, bytes(READ_BYTES), flags=0x85, residual_count=0xFFFFFFFF),
    "",
    ends=InitiatorError,
)
_read("sense data beyond its segment", lambda c, r: c.status(r, 2, b"\xff\xff\x70"), "sense data of")
_read("sense data of one byte", lambda c, r: c.status(r, 2, b"\0\1\x70"), "READ", ends=CommandFailed)
_read("64 KiB of sense data", lambda c, r: c.status(r, 2, b"\xff\xff" + b"\x72" * 65535), "READ", ends=CommandFailed)
_read("a status that nobody knows", lambda c, r: c.status(r, 0xFE), "0xfe", ends=CommandFailed)
_read("a response that nobody knows", lambda c, r: c.status(r, response=0xFE), "0xfe", ends=CommandFailed)
_read("busy for ever", lambda c, r: c.status(r, 8), "", ends=InitiatorError, again=True)
_read(
    "unit attentions for ever",
    lambda c, r: c.status(r, 2, b"\0\x12\x70\0\x06" + bytes(9) + b"\x29\0\0\0\0\0"),
    "",
    ends=CommandFailed,
    again=True,
)

# --- reads: what has no place there

_read("an R2T", lambda c, r: c.r2t(r, 0, 512), "writes nothing")
_read("a StatSN that skips", lambda c, r: c.status(r, 2, stat_sn=c.stat_sn + 1), "StatSN")
_read("a StatSN that stands still", lambda c, r: c.status(r, 2, stat_sn=c.stat_sn - 1), "StatSN")
_read(
    "commands acknowledged that were not sent",
    lambda c, r: c.status(r, 2, exp_cmd_sn=c.cmd_sn + 1, max_cmd_sn=c.cmd_sn + 9),
    "CmdSN",
)
_read("an opcode that there is not", lambda c, r: b"\x3a" + bytes(47), "no place")
_read("a request of ours", lambda c, r: b"\x01" + bytes(47), "no place")
_read("a Login Response", lambda c, r: b"\x23" + bytes(47), "no place")
_read(
    "an answer to a ping that nobody sent",
    lambda c, r: c.number(Opcode.NOP_IN, initiator_task_tag=0x777),
    "nobody asked",
)
_read(
    "an answer to our read as to a ping",
    lambda c, r: c.number(Opcode.NOP_IN, initiator_task_tag=r.initiator_task_tag),
    "nobody asked",
)
_read("an answer to text that nobody sent", lambda c, r: c.text(r, b"a=b\0"), "nobody asked")
_read(
    "an answer to a function that nobody asked for",
    lambda c, r: c.number(Opcode.TASK_MANAGEMENT_RESPONSE, initiator_task_tag=r.initiator_task_tag),
    "nobody asked",
)
_read(
    "an answer to a logout that nobody asked for",
    lambda c, r: c.number(Opcode.LOGOUT_RESPONSE, initiator_task_tag=r.initiator_task_tag),
    "nobody asked",
)
_read(
    "a Reject of nothing", lambda c, r: c.number(Opcode.REJECT, bytes(47), initiator_task_tag=NO_TAG), "Reject without"
)
_read(
    "a Reject, and the data all the same",
    lambda c, r: (
        c.number(Opcode.REJECT, bytes(16) + r.initiator_task_tag.to_bytes(4) + bytes(28), initiator_task_tag=NO_TAG)
        + c.data_in(r, bytes(READ_BYTES), flags=0x81)
    ),
    "rejected",
    ends=CommandRejected,
)
_read(
    "a message whose sense data has no end",
    lambda c, r: c.number(Opcode.ASYNC_MESSAGE, b"\xff\xff", async_event=0),
    "sense data of",
)
_read("the session is dropped", lambda c, r: c.number(Opcode.ASYNC_MESSAGE, async_event=3), "drop")


@attempt("read: GOOD twice", READ, "read twice", ends=InitiatorError, says="not under way")
def _good_twice(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    yield c.data_in(r, bytes(READ_BYTES), flags=0x81)
    yield c.status(r)


# --- reads: floods


@attempt("read: pings without end, and no answer is read", READ, "read", says="pings on")
def _pings(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    fields: dict[str, Any] = {"counts": False, "initiator_task_tag": NO_TAG, "target_transfer_tag": 5}
    many = c.number(Opcode.NOP_IN, **fields) * 1000
    while True:
        yield many


@attempt("read: pings of 256 KiB without end", READ, "read", ends=InitiatorError)
def _large_pings(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    fields: dict[str, Any] = {"counts": False, "initiator_task_tag": NO_TAG, "target_transfer_tag": 5}
    large = c.number(Opcode.NOP_IN, bytes(262144), **fields)
    while True:
        yield large


@attempt("read: NOP-Ins that ask nothing, without end", READ, "read", ends=TimedOut)
def _nops(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    fields: dict[str, Any] = {"counts": False, "initiator_task_tag": NO_TAG, "target_transfer_tag": NO_TAG}
    many = c.number(Opcode.NOP_IN, **fields) * 1000
    while True:
        yield many


def _messages(event: int) -> _Say:
    def say(c: BadConnection, r: Pdu) -> Iterator[bytes]:
        while True:
            yield b"".join(c.number(Opcode.ASYNC_MESSAGE, async_event=event) for _ in range(100))

    return say


attempt("read: messages without end", READ, "read", ends=TimedOut)(_messages(255))
attempt("read: demands for a logout without end", READ, "read", ends=TimedOut)(_messages(1))
attempt("read: demands for a negotiation without end", READ, "read", ends=TimedOut)(_messages(4))


@attempt("read: Rejects of what nobody sent, without end", READ, "read", ends=TimedOut)
def _rejects(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    while True:
        yield b"".join(c.number(Opcode.REJECT, bytes(48), initiator_task_tag=NO_TAG) for _ in range(100))


@attempt("read: data of a read that was given up, without end", READ, "read", ends=TimedOut)
def _data_for_ever(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    yield c.data_in(r, bytes(512))
    c.sock.recv(48)  # the abort
    large = c.data_in(r, bytes(262144), 512, 1)
    while True:
        yield large


# --- writes

_write("an R2T past the end", lambda c, r: c.r2t(r, 8192, WRITE_BYTES), "R2T asks")
_write("an R2T for 4 GiB", lambda c, r: c.r2t(r, 8192, 0xFFFFFFFF), "R2T asks")
_write("an R2T for more than a burst", lambda c, r: c.r2t(r, 8192, 131072), "R2T asks")
_write("an R2T for nothing", lambda c, r: c.r2t(r, 8192, 0), "R2T asks")
_write("an R2T far behind the end", lambda c, r: c.r2t(r, 0xFFFFFE00, 512), "was due")
_write("an R2T for what was sent unasked", lambda c, r: c.r2t(r, 0, 512), "was due")
_write("an R2T for what was asked for", lambda c, r: c.r2t(r, 8192, 512) + c.r2t(r, 8192, 512, 1), "was due")
_write("an R2T without a tag", lambda c, r: c.r2t(r, 8192, 512, target_transfer_tag=NO_TAG), "without a tag")
_write("an R2T with a number that skips", lambda c, r: c.r2t(r, 8192, 512, 1), "was due")
_write("two R2Ts where one was agreed", lambda c, r: c.r2t(r, 8192, 512) + c.r2t(r, 8704, 512, 1), "open")
_write("an R2T for a task that nobody began", lambda c, r: c.r2t(r, 0, 512, initiator_task_tag=0x777), "not under way")
_write("an R2T after the status", lambda c, r: c.status(r, 2) + c.r2t(r, 8192, 512), "", ends=InitiatorError)
_write("GOOD before the data was taken", lambda c, r: c.status(r), "were taken")
_write(
    "a residual of more than all", lambda c, r: c.status(r, flags=0x82, residual_count=WRITE_BYTES + 1), "residual of"
)
_write(
    "a residual of all: nothing was written",
    lambda c, r: c.status(r, flags=0x82, residual_count=WRITE_BYTES),
    "",
    ends=InitiatorError,
)
_write("Data-In", lambda c, r: c.data_in(r, bytes(512)), "reads nothing")
_write("Data-In with its status", lambda c, r: c.data_in(r, b"", flags=0x81), "were taken")


@attempt("write: an R2T for each byte, none of them waited for", WRITE, "write", says="are agreed")
def _byte_by_byte(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    for number in range(WRITE_BYTES - 8192):
        yield c.r2t(r, 8192 + number, 1, number)


# --- pings, text, functions, logout

one(
    "ping: other data",
    Opcode.NOP_OUT,
    "ping",
    lambda c, r: c.number(Opcode.NOP_IN, b"other", initiator_task_tag=r.initiator_task_tag),
    says="other data",
)
one(
    "ping: more data",
    Opcode.NOP_OUT,
    "ping",
    lambda c, r: c.number(Opcode.NOP_IN, r.data + b"!", initiator_task_tag=r.initiator_task_tag),
    says="other data",
)
one(
    "function: rejected",
    Opcode.TASK_MANAGEMENT_REQUEST,
    "reset",
    lambda c, r: c.number(Opcode.TASK_MANAGEMENT_RESPONSE, response=255, initiator_task_tag=r.initiator_task_tag),
    ends=TaskManagementFailed,
)
one(
    "function: an answer that nobody knows",
    Opcode.TASK_MANAGEMENT_REQUEST,
    "reset",
    lambda c, r: c.number(Opcode.TASK_MANAGEMENT_RESPONSE, response=77, initiator_task_tag=r.initiator_task_tag),
    ends=TaskManagementFailed,
)


def _gives_up(name: str, response: int | None) -> None:
    @attempt(f"function: {name}", READ, "give up", ends=TimedOut)
    def say(c: BadConnection, r: Pdu) -> Iterator[bytes]:
        while True:
            request = c.receive()
            if response is not None:
                tag = {"initiator_task_tag": request.initiator_task_tag}
                yield c.number(Opcode.TASK_MANAGEMENT_RESPONSE, response=response, **tag)


_gives_up("none has an answer", None)
_gives_up("all are rejected", 255)
_gives_up("all are done, it says, and none of it is true", 0)
attempt("logout: silence", Opcode.LOGOUT_REQUEST, "logout", ends=None)(silence)
one("logout: nonsense", Opcode.LOGOUT_REQUEST, "logout", lambda c, r: b"\xff" * 48, ends=None)


def _discovery(name: str, say: _One, says: str, **how: Any) -> None:
    one(f"discovery: {name}", TEXT, "discover", say, **{"ends": ProtocolViolation, "says": says} | how)


_discovery("the last, and more to come", lambda c, r: c.text(r, b"a=b\0", flags=0xC0), "continues", ends=SessionLost)
_discovery(
    "more to come, and no tag", lambda c, r: c.text(r, b"a=b\0", flags=0x40), "without a target", ends=SessionLost
)
_discovery("an address of nobody", lambda c, r: c.text(r, b"TargetAddress=127.0.0.1:3260,1\0"), "before the first")
_discovery("a target without a proper name", lambda c, r: c.text(r, b"TargetName=\x1b[2J\0"), "not a target name")
_discovery(
    "a name of 8 KiB", lambda c, r: c.text(r, b"TargetName=iqn.2026-11.x:" + b"x" * 8100 + b"\0"), "not a target name"
)
_discovery(
    "an address that is none",
    lambda c, r: c.text(r, b"TargetName=iqn.2026-11.x:y\0TargetAddress=:::,,\0"),
    "portal group tag",
)
_discovery("no text", lambda c, r: c.text(r, b"\xff" * 100), "malformed")
_discovery(
    "thousands of addresses",
    lambda c, r: c.text(
        r,
        b"TargetName=iqn.2026-11.x:y\0"
        + b"".join(b"TargetAddress=10.0.%d.%d,1\0" % (n >> 8, n & 255) for n in range(5000)),
    ),
    "one too many",
    memory_mib=16,
)


def _more_text(c: BadConnection, r: Pdu, data: bytes) -> bytes:
    return c.text(r, data, flags=0x40, target_transfer_tag=9)


@attempt("discovery: empty text that always continues", TEXT, "discover", says="no end", memory_mib=6)
def _empty_text(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    yield b"".join(_more_text(c, r, b"") for _ in range(1100))


@attempt("discovery: text that always continues, unasked", TEXT, "discover", says="no end", memory_mib=24)
def _text_for_ever(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    while True:
        yield _more_text(c, r, b"TargetName=iqn.2026-11.x:y\0" * 1000)


@attempt(
    "discovery: thousands of targets", TEXT, "discover", ends=ProtocolViolation, says="one too many", memory_mib=24
)
def _targets(c: BadConnection, r: Pdu) -> Iterator[bytes]:
    for start in range(0, 8000, 4000):
        yield _more_text(c, r, b"".join(b"TargetName=iqn.2026-11.x:%d\0" % n for n in range(start, start + 4000)))
    yield c.text(r, b"")


# --- what a disk says of itself


def _facts(name: str, on: int, data: bytes) -> None:
    def say(c: BadConnection, r: Pdu) -> bytes:
        room = r.expected_data_transfer_length
        part = data[:room]
        flags = 0x81 | (2 if len(part) < room else 0)
        return c.data_in(r, part, flags=flags, residual_count=room - len(part))

    one(f"disk: {name}", on, "login", say, ends=MalformedAnswer)


_facts("blocks of no bytes", CAPACITY, bytes(32))
_facts("blocks of 4 GiB", CAPACITY, bytes(8) + b"\xff" * 4 + bytes(20))
_facts("a capacity of three bytes", CAPACITY, bytes(3))
_facts("an INQUIRY of three bytes", INQUIRY, bytes(3))
