from __future__ import annotations

from typing import Any

import pytest

from initiator import third_party_copy
from initiator.engine.requests import Command
from initiator.errors import CopyFailed, InitiatorError, MalformedAnswer
from initiator.scsi import extended_copy, rod_token
from initiator.scsi.designators import Designator
from initiator.scsi.extended_copy import Cscd, Segment
from tests.unit.initiator.stub_road import Rig, good, refused

NAA = bytes.fromhex("6001405000000000 0000000000000001")
OTHER = bytes.fromhex("6001405000000000 0000000000000002")


def names(value: bytes) -> bytes:
    """Give VPD page 83h with a port's designator, a long T10 name and this NAA."""
    body = bytes.fromhex("01140004 00000001") + b"\x02\x01\x00\x20" + b"x" * 32
    body += bytes((0x01, 0x03, 0, len(value))) + value
    return b"\0\x83" + len(body).to_bytes(2, "big") + body


def parameters(segments: int = 64, segment_bytes: int = 1 << 28, list_bytes: int = 2560) -> bytes:
    """Give RECEIVE COPY OPERATING PARAMETERS."""
    data = bytearray(47)
    data[8:12] = (16).to_bytes(2, "big") + segments.to_bytes(2, "big")
    data[12:20] = list_bytes.to_bytes(4, "big") + segment_bytes.to_bytes(4, "big")
    data[36], data[43], data[44:47] = 4, 3, b"\x02\x0a\xe4"
    return bytes(data)


def device(name: bytes, limits: Any) -> Any:
    def answer(command: Command) -> Any:
        match command.cdb[0]:
            case 0x12:
                return names(name)
            case 0x84:
                return limits
        return good(command)

    return answer


def copies(rig: Rig) -> list[tuple[bytes, bytes]]:
    """Give CDB and parameter list of the EXTENDED COPY commands that came."""
    return [(cdb, data) for cdb, data in zip(rig.road.cdbs, rig.road.data_out, strict=True) if cdb[0] == 0x83]


def pair(limits: Any) -> tuple[Rig, Rig]:
    return Rig(device(NAA, limits)), Rig(device(OTHER, limits))


def test_a_copy_names_both_disks_and_the_blocks() -> None:
    source, destination = pair(parameters())
    assert source.settle(run(source, destination, 5, 100, 7)) is None
    ((cdb, data),) = copies(source)
    assert copies(destination) == []
    assert cdb.hex() == "83000000000000000000" + f"{len(data):08x}" + "0000"
    want = "0018" + "0040" + "00000000" + "0000001c" + "00000000"
    want += "e4000000" + "01030010" + NAA.hex() + "00000000" + "00000200"
    want += "e4000000" + "01030010" + OTHER.hex() + "00000000" + "00000200"
    want += "02000018" + "00000001" + "00000064" + f"{5:016x}" + f"{7:016x}"
    assert data.hex() == want


async def run(source: Rig, destination: Rig, lba: int, blocks: int, to: int, **options: Any) -> Any:
    """Copy, with both roads on one clock."""
    destination.road.reactor = source.road.reactor
    await source.disk.copy_to(lba, blocks, await destination.disk.copy_name(), to, **options)


def test_a_long_copy_keeps_to_the_limits_of_the_target() -> None:
    source, destination = pair(parameters(segments=3, segment_bytes=10 * 512))
    source.settle(run(source, destination, 0, 75, 1000, lid4=True))
    found = copies(source)
    assert [cdb[1] for cdb, _ in found] == [1, 1, 1]
    spans = []
    for _, data in found:
        assert (data[0], data[1], data[15], data[16]) == (1, 0x18, 0, 0xFF)
        assert int.from_bytes(data[42:44], "big") == 64
        body = data[48 + 64 :]
        assert int.from_bytes(data[44:46], "big") == len(body)
        for at in range(0, len(body), 28):
            fields = body[at : at + 28]
            numbers = fields[10:12], fields[12:20], fields[20:28]
            spans.append(tuple(int.from_bytes(number, "big") for number in numbers))
    assert spans == [(10, at, at + 1000) for at in range(0, 70, 10)] + [(5, 70, 1070)]


def test_the_length_of_the_list_is_a_limit_too() -> None:
    source, destination = pair(parameters(segments=64, segment_bytes=512, list_bytes=64 + 2 * 28))
    source.settle(run(source, destination, 0, 5, 0))
    assert [len(data) for _, data in copies(source)] == [16 + 64 + 56, 16 + 64 + 56, 16 + 64 + 28]


def test_a_target_that_tells_no_limits_gets_one_segment_a_command() -> None:
    source, destination = pair(refused(5, 0x24))
    source.settle(run(source, destination, 0, 70000, 0))
    assert len(copies(source)) == 2


def test_ranges_that_overlap_are_refused() -> None:
    rig = Rig(device(NAA, parameters()))
    assert isinstance(rig.settle(run(rig, rig, 0, 10, 9)), InitiatorError)
    assert copies(rig) == []
    assert rig.settle(run(rig, rig, 0, 10, 10)) is None


def test_a_disk_without_a_name_can_not_be_copied() -> None:
    rig = Rig(lambda c: b"\0\x83\0\0" if c.cdb[0] == 0x12 else good(c))
    assert isinstance(rig.settle(run(rig, rig, 0, 10, 10)), InitiatorError)
    assert copies(rig) == []


def test_a_copy_that_ends_in_the_middle_is_told() -> None:
    def answer(command: Command) -> Any:
        return refused(0xA, 0x0D, 2) if command.cdb[0] == 0x83 else device(NAA, parameters())(command)

    rig = Rig(answer)
    assert isinstance(rig.settle(run(rig, rig, 0, 10, 10)), CopyFailed)


def test_a_designator_has_room_for_20_bytes() -> None:
    with pytest.raises(InitiatorError):
        Cscd(Designator(1, 0, 2, b"x" * 21), 512).encode()


def test_the_identifier_of_a_list_is_there_to_ask_for_its_status() -> None:
    lists = (
        extended_copy.lid1_list([], [Segment(0, 0, 0, 0, 1)], list_identifier=9),
        extended_copy.lid4_list([], [Segment(0, 0, 0, 0, 1)], list_identifier=9, immediate=True),
    )
    assert lists[0][:2] == b"\x09\x00"
    assert (lists[1][1], lists[1][15], lists[1][20:24]) == (0, 2, b"\0\0\0\x09")
    rig = Rig(lambda c: bytes.fromhex("00000008 01 0003 f1 00000064") if c.cdb[1] == 0 else lid4_status())
    first = rig.settle(third_party_copy.status_lid1(rig.disk, 9))
    assert (first.status, first.segments_processed, first.transfer_count) == (1, 3, 100)
    assert not first.under_way
    second = rig.settle(third_party_copy.status_lid4(rig.disk, 9))
    assert second.failed
    assert (second.segments_processed, second.transfer_count, second.sense.key) == (2, 64, 0xA)
    assert [cdb.hex() for cdb in rig.road.cdbs] == [
        "84000900000000000000" + "0000000c" + "0000",
        "84050000000900000000" + "00000120" + "0000",
    ]


def lid4_status() -> bytes:
    data = bytearray(32)
    data[5], data[13], data[14], data[15] = 0x02, 18, 18, 0
    data[16:26] = (64).to_bytes(8, "big") + (2).to_bytes(2, "big")
    return bytes(data) + refused(0xA, 0x0D, 2)[1]


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (extended_copy.parse_operating_parameters, bytes(43)),
        (extended_copy.parse_operating_parameters, bytes(43) + b"\x01"),
        (extended_copy.parse_status_lid1, bytes(11)),
        (extended_copy.parse_status_lid4, bytes(31)),
        (extended_copy.parse_status_lid4, bytes(14) + b"\x01" + bytes(17)),
    ],
)
def test_an_answer_that_is_too_short_is_malformed(parse: Any, data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        parse(data)


# --- tokens

TOKEN = bytes(range(256)) * 2


def token_answer(count: int, token: bytes = TOKEN, status: int = 1, units: int = 0xF1) -> bytes:
    data = bytearray(32)
    data[5], data[15] = status, units
    data[16:24] = count.to_bytes(8, "big")
    descriptors = b"\0\0" + token if token else b""
    return bytes(data) + len(descriptors).to_bytes(4, "big") + descriptors


def test_a_token_is_made_and_tells_how_much_it_holds() -> None:
    rig = Rig(lambda c: token_answer(60) if c.cdb[0] == 0x84 else good(c))
    assert rig.settle(rig.disk.make_token(5, 100, inactivity_timeout_s=30)) == (TOKEN, 60)
    populate, receive = rig.road.cdbs
    assert (populate[0], populate[1], receive[0], receive[1]) == (0x83, 0x10, 0x84, 0x07)
    assert populate[6:10] == receive[2:6] != bytes(4)
    want = "001e" + "0000" + "0000001e" + "00000000" + "0000" + "0010" + f"{5:016x}" + "00000064" + "00000000"
    assert rig.road.data_out[0].hex() == want


def test_a_token_is_written_from_an_offset() -> None:
    rig = Rig(lambda c: token_answer(30, b"") if c.cdb[0] == 0x84 else good(c))
    assert rig.settle(rig.disk.write_token(TOKEN, 7, 50, offset_blocks=10)) == 30
    (data, _) = rig.road.data_out
    assert data[:16].hex() == f"{534 + 16:04x}" + "00" * 6 + f"{10:016x}"
    assert data[16:528] == TOKEN
    assert data[534:].hex() == "0010" + f"{7:016x}" + "00000032" + "00000000"


@pytest.mark.parametrize("answer", [token_answer(10, b""), token_answer(0)])
def test_no_token_is_an_error(answer: bytes) -> None:
    rig = Rig(lambda c: answer if c.cdb[0] == 0x84 else good(c))
    assert isinstance(rig.settle(rig.disk.make_token(0, 10)), InitiatorError)


@pytest.mark.parametrize("answer", [token_answer(0, b""), token_answer(5, b"", status=2)])
def test_what_was_not_written_is_an_error(answer: bytes) -> None:
    rig = Rig(lambda c: answer if c.cdb[0] == 0x84 else good(c))
    assert isinstance(rig.settle(rig.disk.write_token(TOKEN, 0, 10)), InitiatorError)


def test_a_token_of_another_length_is_malformed() -> None:
    with pytest.raises(MalformedAnswer):
        rod_token.parse_answer(token_answer(1, TOKEN[1:]))
