"""The target engine against any split of its input and any bytes at all."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.iscsi.codes import Opcode
from csvd.iscsi.receiver import BUFFER_BYTES
from csvd.iscsi.session import R2T_BUDGET_BYTES
from tests.iscsi_wire import BLOCK_BYTES, DISK_BYTES, End, Wire, digested, parse_pdus, pdu
from tests.unit.iscsi.test_full_feature import NO_TAG, logged_in

BLOCKS = DISK_BYTES // BLOCK_BYTES


DIGESTS = st.sampled_from(["None", "CRC32C"])


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """A whole conversation of an initiator that needs no R2T: a login and then requests of all kinds, with digests or
    without."""
    end = Wire().connect()
    header_digest, data_digest = draw(DIGESTS), draw(DIGESTS)
    keys = {
        "HeaderDigest": header_digest,
        "DataDigest": data_digest,
        "InitiatorName": "iqn.2026-11.test:any",
        "TargetName": end.wire.target.name,
        "InitialR2T": "No",
        "MaxRecvDataSegmentLength": str(draw(st.sampled_from([512, 1000, 8192, 262144]))),
        "MaxBurstLength": str(draw(st.sampled_from([512, 65536, 262144]))),
    }
    login, stream = end.login_pdu(keys), b""
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.integers(0, 5))
        block = draw(st.integers(0, BLOCKS))
        blocks = draw(st.integers(0, 40))
        if kind == 0:
            stream += end.read(block, blocks, expected=draw(st.sampled_from([0, 512, blocks * 512, 30000])))
        elif kind == 1:
            data = random.Random(block).randbytes(min(blocks, 1) * BLOCK_BYTES)
            stream += end.write(block, min(blocks, 1), data)
        elif kind == 2:
            data = random.Random(block).randbytes(512)
            tag = end.cmd_sn
            stream += end.write(block, 1, flags=0x20)
            stream += pdu(Opcode.DATA_OUT, data, flags=0x80, initiator_task_tag=tag, target_transfer_tag=NO_TAG)
        elif kind == 3:
            ping = random.Random(block).randbytes(draw(st.integers(0, 3000)))
            stream += pdu(
                Opcode.NOP_OUT, ping, opcode=0x40, flags=0x80, initiator_task_tag=7, target_transfer_tag=NO_TAG
            )
        elif kind == 4:
            text = b"SendTargets=\0"
            stream += pdu(Opcode.TEXT_REQUEST, text, opcode=0x44, flags=0x80, target_transfer_tag=NO_TAG)
        else:
            stream += pdu(Opcode.NOP_OUT, bytes(draw(st.integers(0, 50))), opcode=0x5F)
    return login + digested(stream, header_digest=header_digest == "CRC32C", data_digest=data_digest == "CRC32C")


def answer_to(stream: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    end = Wire().connect()
    end.wire.disk[:] = random.Random(1).randbytes(DISK_BYTES)
    # Executed at the end: what ExpCmdSN says in an answer rightly depends on what had come by then.
    end.wire.hold = True
    sent = b""
    begin = 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        end.feed(stream[begin:cut])
        sent += end.take()
        begin = cut
    end.wire.finish()
    return sent + end.take(), bytes(end.wire.disk)


CUTS = st.lists(st.integers(0, 2**20), max_size=30)


@given(conversations(), CUTS)
def test_the_same_bytes_come_out_however_the_input_is_split(stream: bytes, cuts: list[int]) -> None:
    assert answer_to(stream, cuts) == answer_to(stream, [])


@given(conversations())
@settings(max_examples=20)
def test_the_same_bytes_come_out_byte_by_byte(stream: bytes) -> None:
    stream = stream[:6000]
    cuts = list(range(len(stream)))
    assert answer_to(stream, cuts) == answer_to(stream, [])


def held_bytes(end: End) -> int:
    """What the engine keeps for this connection beside its receive buffer and what waits to be sent."""
    session = end.engine.session
    if session is None:
        return 0
    kept = sum(len(task.data) for task in session.tasks.values())
    assert len(session.tasks) <= session.queue_depth + 16
    assert len(session.held) <= session.queue_depth
    return kept


def check_limits(end: End, other: End) -> None:
    """Whatever came in: memory within its limits, and the other session goes on."""
    receiver = end.engine._input.receiver
    assert len(receiver.buffer) <= max(BUFFER_BYTES, 262144 + 48 + 1020 + 8)
    assert held_bytes(end) <= 80 * 262144 + R2T_BUDGET_BYTES
    (answer,) = other.ask(other.read(0, 1))
    assert answer.opcode == Opcode.DATA_IN


def other_session(wire: Wire) -> End:
    end = wire.connect()
    keys = {"InitiatorName": "iqn.2026-11.test:bystander", "TargetName": wire.target.name}
    (answer,) = end.ask(end.login_pdu(keys))
    assert answer.status == 0
    return end


@given(st.binary(max_size=4096))
def test_random_bytes_before_login_end_in_an_answer_or_a_closed_connection(stream: bytes) -> None:
    wire = Wire()
    other, end = other_session(wire), wire.connect()
    end.feed(stream)
    assert len(end.take()) <= 65536
    check_limits(end, other)
    if len(stream) >= 48 and stream[0] & 0x3F != Opcode.LOGIN_REQUEST:
        assert end.engine.closing


@given(st.lists(st.tuples(st.integers(0, 63), st.binary(min_size=48, max_size=300)), max_size=30))
def test_random_requests_after_login_end_in_answers_rejects_or_a_closed_connection(
    requests: list[tuple[int, bytes]],
) -> None:
    wire = Wire()
    other, end = other_session(wire), logged_in(wire)
    for opcode, body in requests:
        data = body[48:]
        header = bytearray(body[:48])
        header[0] = header[0] & 0x40 | opcode
        header[4:8] = len(data).to_bytes(4)
        end.feed(bytes(header) + data + bytes(-len(data) % 4))
        for answer in end.answers():
            assert answer.opcode in Opcode
        check_limits(end, other)


@given(
    st.lists(st.tuples(st.integers(0, 63), st.binary(min_size=48, max_size=300), st.booleans()), max_size=30),
    st.lists(st.integers(0, 2**20), max_size=20),
)
def test_random_requests_with_digests_good_or_bad_end_in_answers_rejects_or_a_closed_connection(
    requests: list[tuple[int, bytes, bool]], cuts: list[int]
) -> None:
    wire = Wire()
    other, end = other_session(wire), logged_in(wire, HeaderDigest="CRC32C", DataDigest="CRC32C")
    stream = b""
    for opcode, body, is_sound in requests:
        data = body[48:]
        header = bytearray(body[:48])
        header[0] = header[0] & 0x40 | opcode
        header[4:8] = len(data).to_bytes(4)
        whole = bytearray(digested(bytes(header) + data + bytes(-len(data) % 4)))
        whole[-1] ^= not is_sound
        stream += whole
    begin = 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        end.feed(stream[begin:cut])
        begin = cut
        for answer in parse_pdus(end.take(), header_digest=True, data_digest=True):
            assert answer.opcode in Opcode
        check_limits(end, other)
    if any(not is_sound and len(body) == 48 for _, body, is_sound in requests):
        assert end.engine.closing  # a header that is damaged


@given(conversations(), st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_mutated_conversation_never_raises_and_never_grows(stream: bytes, changes: list[tuple[int, int]]) -> None:
    mutated = bytearray(stream)
    for place, value in changes:
        mutated[place % len(mutated)] = value
    wire = Wire()
    other, end = other_session(wire), wire.connect()
    end.feed(bytes(mutated))
    end.take()
    check_limits(end, other)


@given(st.integers(0, 2**20), st.integers(0, 7), st.lists(st.integers(0, 2**20), max_size=8))
def test_with_digests_no_flipped_bit_ever_reaches_the_disk(place: int, bit: int, cuts: list[int]) -> None:
    end = logged_in(HeaderDigest="CRC32C", DataDigest="CRC32C", FirstBurstLength="65536", MaxBurstLength="65536")
    tag = end.cmd_sn
    head = end.write(0, 8, bytes(512), flags=0x20)
    zeros = pdu(
        Opcode.DATA_OUT,
        bytes(3584),
        flags=0x80,
        initiator_task_tag=tag,
        target_transfer_tag=NO_TAG,
        buffer_offset=512,
    )
    stream = bytearray(digested(head + zeros + end.write(8, 8, bytes(4096))))
    stream[place % len(stream)] ^= 1 << bit
    end.wire.disk[:] = bytes(DISK_BYTES)
    begin = 0
    for cut in [*sorted(cut % len(stream) for cut in cuts), len(stream)]:
        end.feed(bytes(stream[begin:cut]))
        begin = cut
    assert not any(end.wire.disk)


@given(st.lists(st.tuples(st.integers(0, BLOCKS - 64), st.integers(1, 64), st.integers(1, 4)), min_size=1, max_size=8))
def test_writes_by_r2t_land_where_they_belong(writes: list[tuple[int, int, int]]) -> None:
    end = logged_in(MaxBurstLength="4096")
    model = bytearray(DISK_BYTES)
    for block, blocks, pieces in writes:
        data = random.Random(block * blocks).randbytes(blocks * BLOCK_BYTES)
        answers = end.ask(end.write(block, blocks))
        while answers[-1].opcode == Opcode.R2T:
            r2t = answers[-1]
            begin, stop = r2t.buffer_offset, r2t.buffer_offset + r2t.desired_data_transfer_length
            step = max(512, (stop - begin) // pieces // 512 * 512)
            for number, offset in enumerate(range(begin, stop, step)):
                piece = data[offset : min(offset + step, stop)]
                end.feed(
                    pdu(
                        Opcode.DATA_OUT,
                        piece,
                        flags=0x80 if offset + len(piece) == stop else 0,
                        initiator_task_tag=r2t.initiator_task_tag,
                        target_transfer_tag=r2t.target_transfer_tag,
                        data_sn=number,
                        buffer_offset=offset,
                    )
                )
            answers = end.answers()
        assert answers[-1].status == 0
        model[block * BLOCK_BYTES : block * BLOCK_BYTES + len(data)] = data
    assert end.wire.disk == model
