"""The initiator engine: the same events however its input is split; whatever a target sends, only typed errors."""

from __future__ import annotations

import tracemalloc
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.iscsi.chap import Credentials
from csvd.iscsi.codes import Opcode
from initiator.engine.connection import MAX_PING_REPLIES, InitiatorConnection
from initiator.engine.output import BATCH_BUFFERS
from initiator.engine.requests import AsyncMessage, Command, ConnectionFailed, Event, Ping, Request, TextExchange
from initiator.engine.session import SessionState
from initiator.errors import InitiatorError, LoginRefused, ProtocolViolation
from tests.unit.initiator.target_script import ISID, Script, failure, logged_in, parse_pdus, pdu
from tests.unit.initiator.target_script import settings as login_settings

READ_BYTES = 9001
WRITE_BYTES = 30000
GUARD = b"\xa5" * 64
OPCODES = [opcode for opcode in Opcode if opcode >= 0x20]


class Conversation:
    """An engine with a read, a write, a ping and a text under way, between guarded buffers."""

    def __init__(self, staging_bytes: int = 4096, login: bool = True) -> None:
        credentials = None if login else Credentials("joe", b"opensesame12345")
        self.script = Script(login_settings(credentials=credentials), staging_bytes=staging_bytes)
        self.room = bytearray(GUARD + bytes(READ_BYTES) + GUARD)
        self.data = bytes(i * 31 & 0xFF for i in range(WRITE_BYTES))
        self.requests: list[Request] = []
        if login:
            self.script.log_in({"InitialR2T": "Yes", "ImmediateData": "Yes", "MaxBurstLength": "65536"})
            window = memoryview(self.room)[64:-64]
            self.read = Command(0, b"\x28", data_in=window)
            self.write = Command(0, b"\x2a", data_out=self.data)
            self.plain = Command(0, bytes(6))
            self.ping = Ping(b"ping")
            self.text = TextExchange(b"SendTargets=All\0", limit=20000)
            self.requests = [self.read, self.write, self.plain, self.ping, self.text]
            for request in self.requests:
                self.script.engine.send(request)
        self.first_output = self.output()

    def output(self) -> bytes:
        """Take all that the engine has to send."""
        stream = b""
        while batch := self.script.engine.data_to_send():
            assert len(batch) < BATCH_BUFFERS + 2 * MAX_PING_REPLIES
            stream += b"".join(batch)
        return stream

    def check(self) -> None:
        """Nothing beyond the buffer was written, and nothing grew past its limits."""
        assert self.room[:64] == GUARD
        assert self.room[-64:] == GUARD
        engine = self.script.engine
        assert len(engine.outstanding) <= len(self.requests) + 1
        assert len(self.text_answer()) <= 20000 + 262144
        for buffer in engine.buffers():
            assert len(buffer) <= 262144

    def text_answer(self) -> bytearray:
        return self.text.answer if self.requests else bytearray()


def whole_answer(talk: Conversation) -> bytes:
    """Give all that a target says to the requests of a conversation, in one stream."""
    script, read = talk.script, bytes(i * 17 & 0xFF for i in range(READ_BYTES))
    none: dict[str, Any] = {"target_transfer_tag": 0xFFFFFFFF}
    ping: dict[str, Any] = {"initiator_task_tag": talk.ping.tag}
    text: dict[str, Any] = {"initiator_task_tag": talk.text.tag}
    sense = b"\0\x12" + bytes((0x70, 0, 5)) + bytes(15)

    def say(opcode: Opcode, data: bytes = b"", counts: bool = True, **fields: Any) -> bytes:
        return pdu(opcode, data, **script.numbers(status=counts) | fields)

    return b"".join(
        (
            script.data_in(talk.read, 0, read[:5000], 0),
            say(Opcode.NOP_IN, b"hello", False, initiator_task_tag=0xFFFFFFFF, target_transfer_tag=9),
            script.r2t(talk.write, 0, 8192, WRITE_BYTES - 8192),
            say(Opcode.TEXT_RESPONSE, b"TargetName=iqn.2026", flags=0x40, target_transfer_tag=3, **text),
            script.response(talk.plain, 2, sense),
            say(Opcode.NOP_IN, b"ping", **ping, **none),
            script.data_in(talk.read, 5000, read[5000:9000], 1),
            say(Opcode.ASYNC_MESSAGE, async_event=1, parameter3=9),
            script.data_in(talk.read, 9000, read[9000:], 2, flags=0x81),
            say(Opcode.TEXT_RESPONSE, b"-11.test:a\0", **text, **none),
        )
    )


def described(events: list[Event]) -> list[tuple[Any, ...]]:
    """Give what events say, in a form that can be compared between conversations."""
    told: list[tuple[Any, ...]] = []
    for event in events:
        match event:
            case Command():
                told.append(("command", event.tag, event.status, event.sense, event.received, event.residual))
            case TextExchange():
                told.append(("text", bytes(event.answer)))
            case AsyncMessage():
                told.append(("async", event.event, event.parameters))
            case ConnectionFailed():
                told.append(("failed", type(event.error), str(event.error)))
            case _:
                told.append((type(event).__name__,))
    return told


def outcome(stream: bytes, cuts: list[int], staging_bytes: int) -> tuple[Any, ...]:
    """Let a target say this in pieces; give all that can be seen of it."""
    talk = Conversation(staging_bytes)
    events: list[Event] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += talk.script.engine.feed(stream[start:end])
        talk.check()
    return described(events), bytes(talk.room), talk.output()


STREAM = whole_answer(Conversation())
CUTS = st.lists(st.integers(0, len(STREAM)), max_size=12).map(sorted)
STAGING = st.sampled_from([48, 61, 500, 4096, 131072])


def test_the_whole_conversation_ends_as_it_should() -> None:
    events, room, output = outcome(STREAM, [], 131072)
    assert [event[0] for event in events] == ["command", "Ping", "async", "command", "text"]
    assert events[-1] == ("text", b"TargetName=iqn.2026-11.test:a\0")
    assert room[64:-64] == bytes(i * 17 & 0xFF for i in range(READ_BYTES))
    assert [sent.opcode for sent in parse_pdus(output)] == [
        Opcode.TEXT_REQUEST,
        Opcode.NOP_OUT,
        Opcode.DATA_OUT,
        Opcode.DATA_OUT,
        Opcode.DATA_OUT,
    ]


@given(CUTS, STAGING)
@settings(deadline=None)
def test_any_split_gives_the_same_events_data_and_output(cuts: list[int], staging_bytes: int) -> None:
    assert outcome(STREAM, cuts, staging_bytes) == outcome(STREAM, [], 131072)


@given(st.integers(1, 97), STAGING)
@settings(deadline=None)
def test_pieces_of_one_size_give_the_same_events_data_and_output(step: int, staging_bytes: int) -> None:
    cuts = list(range(step, len(STREAM), step))
    assert outcome(STREAM, cuts, staging_bytes) == outcome(STREAM, [], 131072)


def attack(talk: Conversation, stream: bytes, step: int) -> None:
    """Say anything; what comes of it is events, of which the failure is the last one and a typed error."""
    events: list[Event] = []
    for start in range(0, len(stream), step):
        events += talk.script.engine.feed(stream[start : start + step])
        talk.output()
        talk.check()
    failures = [event for event in events if isinstance(event, ConnectionFailed)]
    if failures:
        assert events[-1] is failures[0]
        assert isinstance(failures[0].error, ProtocolViolation | LoginRefused)
        assert str(failures[0].error).isprintable()
        assert talk.script.engine.feed(stream) == []
        assert talk.output() == b""


@given(
    st.lists(st.tuples(st.integers(0, len(STREAM) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.sampled_from([1, 48, 1000, 1 << 20]),
)
@settings(max_examples=300, deadline=None)
def test_a_conversation_with_bytes_changed_ends_in_a_typed_error_or_goes_on(
    changes: list[tuple[int, int]], step: int
) -> None:
    stream = bytearray(STREAM)
    for at, value in changes:
        stream[at] = value
    attack(Conversation(), bytes(stream), step)


@given(st.integers(0, len(STREAM)), st.integers(0, 200), st.binary(max_size=100), st.sampled_from([48, 1 << 20]))
@settings(deadline=None)
def test_a_conversation_with_a_piece_cut_out_or_put_in_ends_in_a_typed_error_or_goes_on(
    at: int, cut: int, put: bytes, step: int
) -> None:
    attack(Conversation(), STREAM[:at] + put + STREAM[at + cut :], step)


@st.composite
def pdus(draw: st.DrawFn) -> bytes:
    """Give a PDU of a target with plausible numbers in its fields, right and wrong."""
    opcode = draw(st.sampled_from(OPCODES))
    number = st.sampled_from([0, 1, 2, 3, 4, 5, 64, 100, 101, 102, 512, 8192, 9001, 30000, 0xFFFFFFFF, 0xFFFFFE00])
    data = draw(st.binary(max_size=80) | st.sampled_from([bytes(9001), bytes(512), b"a=b\0" * 300]))
    header = pdu(opcode, data, flags=draw(st.sampled_from([0, 0x01, 0x40, 0x80, 0x81, 0x83, 0x85, 0xC0, 0xFF])))
    words = bytearray(header)
    words[2:4] = draw(st.binary(min_size=2, max_size=2))
    for at in range(16, 48, 4):
        words[at : at + 4] = draw(number).to_bytes(4, "big")
    return bytes(words)


@given(st.lists(pdus(), max_size=12), st.booleans())
@settings(max_examples=300, deadline=None)
def test_plausible_pdus_in_any_order_end_in_a_typed_error_or_go_on(stream: list[bytes], login: bool) -> None:
    attack(Conversation(login=login), b"".join(stream), 1 << 20)


@given(st.binary(max_size=400), st.booleans())
@settings(deadline=None)
def test_any_bytes_end_in_a_typed_error_or_wait_for_more(stream: bytes, login: bool) -> None:
    attack(Conversation(login=login), stream, 48)


TEXTS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "AuthMethod",
                "CHAP_A",
                "CHAP_I",
                "CHAP_C",
                "HeaderDigest",
                "MaxBurstLength",
                "InitialR2T",
                "FirstBurstLength",
                "X-a.b.c",
                "IFMarker",
                "MaxRecvDataSegmentLength",
                "TargetPortalGroupTag",
                "TargetAlias",
                "MaxConnections",
                "DefaultTime2Wait",
            ]
        ),
        st.sampled_from(
            [
                "CHAP",
                "None",
                "Yes",
                "No",
                "0",
                "1",
                "5",
                "7",
                "512",
                "65536",
                "0x1F",
                "0x0123",
                "0bAAAA",
                "Reject",
                "Irrelevant",
                "NotUnderstood",
                "é",
            ]
        )
        | st.text(max_size=20),
    ),
    max_size=8,
)


@given(st.lists(st.tuples(TEXTS, st.sampled_from([0x00, 0x04, 0x40, 0x44, 0x81, 0x87])), max_size=8), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_login_ends_in_a_typed_error_or_in_parameters_within_their_bounds(
    answers: list[tuple[list[tuple[str, str]], int]], with_chap: bool
) -> None:
    credentials = Credentials("joe", b"opensesame12345") if with_chap else None
    engine = InitiatorConnection(SessionState(ISID), login_settings(credentials=credentials))
    events: list[Event] = []
    for count, (pairs, flags) in enumerate(answers):
        engine.data_to_send()
        data = "".join(f"{key}={value}\0" for key, value in pairs).encode()
        if engine.logged_in or events:
            break
        fields = {"flags": flags, "isid": ISID, "tsih": 1, "initiator_task_tag": 1}
        events += engine.feed(pdu(Opcode.LOGIN_RESPONSE, data, stat_sn=count, exp_cmd_sn=1, max_cmd_sn=9, **fields))
    if engine.failed is not None:
        assert isinstance(engine.failed, InitiatorError)
        assert str(engine.failed).isprintable()
    if engine.logged_in:
        outcome = engine.session.parameters
        assert 512 <= outcome.first_burst_length <= outcome.max_burst_length <= 1048576
        assert 512 <= outcome.max_recv_data_segment_length < 1 << 24
        assert outcome.data_pdu_in_order
        assert outcome.data_sequence_in_order
        assert (outcome.header_digest, outcome.data_digest) == ("None", "None")
        assert (outcome.max_connections, outcome.error_recovery_level) == (1, 0)


def test_a_flood_of_what_a_target_may_send_costs_no_memory() -> None:
    script = logged_in({"InitialR2T": "Yes", "ImmediateData": "No", "MaxBurstLength": "65536"})
    write = script.command(data_out=bytes(60000))
    script.sent()
    asynchronous = [script.numbers() for _ in range(20000)]
    stream = b"".join(pdu(Opcode.ASYNC_MESSAGE, **numbers, async_event=255) for numbers in asynchronous)
    moves = script.numbers(status=False) | {"initiator_task_tag": 0xFFFFFFFF, "target_transfer_tag": 0xFFFFFFFF}
    stream += pdu(Opcode.NOP_IN, bytes(8192), **moves) * 1000
    tracemalloc.start()
    count = 0
    for start in range(0, len(stream), 4096):
        count += len(script.engine.feed(stream[start : start + 4096]))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20000
    assert peak_bytes < 300_000
    small = b"".join(script.r2t(write, number, number, 1) for number in range(2))
    assert isinstance(failure(script.say(small)), ProtocolViolation), "R2Ts beyond what was agreed"
