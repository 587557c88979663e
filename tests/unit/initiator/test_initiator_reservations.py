from __future__ import annotations

from typing import Any

import pytest

from initiator.errors import InitiatorError, MalformedAnswer, ReservationConflict
from initiator.scsi import reservations, transport_id
from initiator.scsi.reservations import Reservation, ReservationType, ReserveOut
from tests.unit.initiator.stub_road import Rig, good

REGISTRANTS_ONLY = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
ISID = b"\x80\x01\x02\x03\x04\x05"
JOE = "iqn.2026-11.test:joe"


def sent(rig: Rig) -> tuple[str, str]:
    """Give the CDB and the parameter list of the one command that came."""
    (cdb,), (data,) = rig.road.cdbs, rig.road.data_out
    return cdb.hex(), data.hex()


@pytest.mark.parametrize(
    ("call", "cdb", "parameters"),
    [
        (lambda r: r.register(0x11), "5f000000000000001800", "0" * 16 + "0000000000000011" + "0" * 16),
        (
            lambda r: r.register(0x22, key=0x11, through_power_loss=True, all_target_ports=True),
            "5f000000000000001800",
            "0000000000000011" + "0000000000000022" + "00000000" + "05" + "000000",
        ),
        (
            lambda r: r.register(0x22, ignore_existing=True),
            "5f060000000000001800",
            "0" * 16 + "0000000000000022" + "0" * 16,
        ),
        (
            lambda r: r.reserve(REGISTRANTS_ONLY, key=0x11),
            "5f010500000000001800",
            "0000000000000011" + "0" * 32,
        ),
        (lambda r: r.release(REGISTRANTS_ONLY, key=0x11), "5f020500000000001800", "0000000000000011" + "0" * 32),
        (lambda r: r.clear(key=0x11), "5f030000000000001800", "0000000000000011" + "0" * 32),
        (
            lambda r: r.preempt(0x22, key=0x11, kind=REGISTRANTS_ONLY),
            "5f040500000000001800",
            "0000000000000011" + "0000000000000022" + "0" * 16,
        ),
        (
            lambda r: r.preempt(0x22, key=0x11, kind=REGISTRANTS_ONLY, abort=True),
            "5f050500000000001800",
            "0000000000000011" + "0000000000000022" + "0" * 16,
        ),
    ],
)
def test_a_call_sends_the_bytes_of_its_standard(call: Any, cdb: str, parameters: str) -> None:
    rig = Rig(good)
    assert rig.settle(call(rig.disk.reservations)) is None
    assert sent(rig) == (cdb, parameters)


def test_further_initiator_ports_are_registered_by_their_transport_ids() -> None:
    rig = Rig(good)
    names = [transport_id.iscsi(JOE, ISID), transport_id.iscsi("iqn.a")]
    rig.settle(rig.disk.reservations.register(1, initiators=names))
    (data,) = rig.road.data_out
    assert data[20] == 0x08
    assert int.from_bytes(data[24:28], "big") == len(data) - 28 == sum(map(len, names))
    assert int.from_bytes(rig.road.cdbs[0][5:9], "big") == len(data)
    first = transport_id.parse(data[28:])
    second = transport_id.parse(data[28 + len(first.raw) :])
    assert (first.name, first.isid) == (JOE, ISID.hex())
    assert first.text == f"{JOE},i,0x800102030405"
    assert (second.name, second.isid, len(second.raw)) == ("iqn.a", "", 24)


def test_register_and_move_names_the_other_nexus() -> None:
    rig = Rig(good)
    move = rig.disk.reservations.register_and_move(
        2, key=1, initiator_name=JOE, isid=ISID, relative_target_port=3, unregister=True, through_power_loss=True
    )
    assert rig.settle(move) is None
    cdb, parameters = sent(rig)
    other = transport_id.iscsi(JOE, ISID)
    want = (1).to_bytes(8, "big") + (2).to_bytes(8, "big") + bytes((0, 3, 0, 3)) + len(other).to_bytes(4, "big") + other
    assert cdb[:4] == "5f07"
    assert parameters == want.hex()


@pytest.mark.parametrize("key", [-1, 1 << 64])
def test_a_key_has_64_bits(key: int) -> None:
    rig = Rig(good)
    assert isinstance(rig.settle(rig.disk.reservations.register(key)), InitiatorError)
    assert rig.road.cdbs == []


def test_a_name_that_is_none_has_no_transport_id() -> None:
    for name in ("", "a" * 224, "a\0b"):
        with pytest.raises(InitiatorError):
            transport_id.iscsi(name)


def test_a_wrong_key_is_a_conflict() -> None:
    rig = Rig(lambda _: (0x18, b""))
    assert isinstance(rig.settle(rig.disk.reservations.clear(key=1)), ReservationConflict)
    assert len(rig.road.cdbs) == 1


def header(body: bytes, generation: int = 7) -> bytes:
    return generation.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body


def test_keys_are_told_and_a_long_list_is_asked_for_again() -> None:
    keys = [number << 32 | number for number in range(1000)]
    answer = header(b"".join(key.to_bytes(8, "big") for key in keys))
    rig = Rig(lambda _: answer)
    found = rig.settle(rig.disk.reservations.keys())
    assert (found.generation, found.keys) == (7, tuple(keys))
    assert [int.from_bytes(cdb[7:9], "big") for cdb in rig.road.cdbs] == [4096, 8008]


def test_more_keys_than_an_answer_can_have_are_none() -> None:
    answer = header(bytes(8 * 8192))
    rig = Rig(lambda cdb: answer[: int.from_bytes(cdb.cdb[7:9], "big")])
    assert isinstance(rig.settle(rig.disk.reservations.keys()), MalformedAnswer)
    assert [int.from_bytes(cdb[7:9], "big") for cdb in rig.road.cdbs] == [4096, 0xFFFF]


def test_nobody_or_somebody_holds_the_unit() -> None:
    nobody = reservations.parse_reservation(header(b""))
    assert nobody == Reservation(7, False)
    assert nobody.type is None
    somebody = reservations.parse_reservation(header((0x55).to_bytes(8, "big") + bytes(5) + b"\x05" + bytes(2)))
    assert (somebody.held, somebody.key, somebody.type) == (True, 0x55, REGISTRANTS_ONLY)
    strange = reservations.parse_reservation(header(bytes(13) + b"\x0e" + bytes(2)))
    assert (strange.held, strange.type, strange.kind) == (True, None, 14)


def test_capabilities_are_told() -> None:
    found = reservations.parse_capabilities(bytes.fromhex("00081dc1ea010000"))
    assert found.persist_through_power_loss
    assert found.persist_through_power_loss_active
    assert found.all_target_ports
    assert found.specify_initiator_ports
    assert found.compatible_reservation_handling
    assert found.allow_commands == 4
    assert found.types == tuple(ReservationType)
    assert reservations.parse_capabilities(bytes.fromhex("0008000000000000")).types is None


def registrant(key: int, flags: int, kind: int, port: int, name: bytes) -> bytes:
    fixed = key.to_bytes(8, "big") + bytes(4) + bytes((flags, kind)) + bytes(4) + port.to_bytes(2, "big")
    return fixed + len(name).to_bytes(4, "big") + name


def test_full_status_names_everybody() -> None:
    sas = bytes.fromhex("06000000 5000c50012345678 000000000000000000000000")
    body = registrant(1, 1, 5, 1, transport_id.iscsi(JOE, ISID)) + registrant(2, 2, 9, 0, sas)
    found = reservations.parse_full_status(header(body))
    joe, other = found.registrants
    assert (joe.key, joe.holder, joe.type, joe.relative_target_port) == (1, True, REGISTRANTS_ONLY, 1)
    assert joe.initiator.name == JOE
    assert (other.holder, other.type, other.all_target_ports) == (False, None, True)
    assert other.initiator.text.startswith("sas:")


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (reservations.parse_keys, b""),
        (reservations.parse_keys, header(bytes(9))),
        (reservations.parse_keys, header(bytes(16))[:-1]),
        (reservations.parse_reservation, header(bytes(8))),
        (reservations.parse_reservation, header(bytes(32))),
        (reservations.parse_capabilities, bytes(7)),
        (reservations.parse_full_status, header(bytes(23))),
        (reservations.parse_full_status, header(registrant(1, 0, 0, 1, bytes(24)))[:-1]),
        (reservations.parse_full_status, header(registrant(1, 0, 0, 1, b"\x45\0\xff\xff" + bytes(20)))),
        (reservations.parse_full_status, header(registrant(1, 0, 0, 1, b""))),
    ],
)
def test_what_contradicts_itself_is_malformed(parse: Any, data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        parse(data)


def test_every_service_action_has_a_name_of_its_own() -> None:
    from initiator.scsi import cdb

    names = {cdb.name_of(reservations.reserve_out(action, 24)) for action in ReserveOut}
    assert len(names) == len(ReserveOut)
    assert all(name.startswith("PERSISTENT RESERVE OUT, ") for name in names)
