"""PERSISTENT RESERVE IN and OUT, byte by byte (SPC-4 sections 6.15 and 6.16)."""

from __future__ import annotations

import pytest

from csvd.storage.iscsi import reservations
from csvd.storage.iscsi.fence import key_of
from csvd.storage.iscsi.reservations import Reservation, ReservationCapabilities
from initiator import MalformedAnswer


def test_the_cdbs() -> None:
    assert reservations.reserve_in(reservations.READ_KEYS, 0x1234) == bytes.fromhex("5E00 0000000000 1234 00")
    made = reservations.reserve_out(reservations.PREEMPT_AND_ABORT, 5)
    assert made == bytes.fromhex("5F05 05 0000 00000018 00")


def test_the_parameter_list() -> None:
    made = reservations.out_parameters(1, 0x0203, outlive_power=True)
    assert made == bytes.fromhex("0000000000000001 0000000000000203 00000000 01 000000")
    assert reservations.out_parameters(1)[20] == 0


def test_keys() -> None:
    assert reservations.parse_keys(bytes(8)) == set()
    data = bytes.fromhex("00000007 00000010 0000000000000001 00000000000000FF") + bytes(50)
    assert reservations.parse_keys(data) == {1, 255}


@pytest.mark.parametrize("data", ["", "00000000 000000", "00000000 00000008", "00000000 00000007" + "00" * 8])
def test_keys_that_are_not_whole(data: str) -> None:
    with pytest.raises(MalformedAnswer):
        reservations.parse_keys(bytes.fromhex(data))


def test_more_registrations_than_are_read_are_no_answer() -> None:
    too_many = 8 * reservations.MOST_KEYS + 8
    with pytest.raises(MalformedAnswer, match="registrations"):
        reservations.parse_keys(bytes(4) + too_many.to_bytes(4) + bytes(too_many))


def test_a_reservation() -> None:
    assert reservations.parse_reservation(bytes(24)) is None
    found = reservations.parse_reservation(bytes.fromhex("00000001 00000010 00000000000000AB 00000000 00 05 0000"))
    assert found == Reservation(0xAB, 5)
    assert str(found) == "WRITE EXCLUSIVE - REGISTRANTS ONLY by the key 0x00000000000000ab"
    assert str(Reservation(0, 7)) == "WRITE EXCLUSIVE - ALL REGISTRANTS"
    with pytest.raises(MalformedAnswer):
        reservations.parse_reservation(bytes.fromhex("00000001 00000010 0000"))


@pytest.mark.parametrize(
    ("data", "registrants_only", "outlives_power"),
    [
        ("0008 01 80 2000 0000", True, True),
        ("0008 00 80 EA01 0000", True, False),
        ("0008 01 80 DF01 0000", False, True),
        ("0008 00 00 0000 0000", True, False),
    ],
)
def test_capabilities(data: str, registrants_only: bool, outlives_power: bool) -> None:
    found = reservations.parse_capabilities(bytes.fromhex(data))
    assert found == ReservationCapabilities(registrants_only, outlives_power)


def test_every_node_has_a_key_of_its_own_on_every_disk() -> None:
    keys = {key_of(disk, node) for disk in ("naa.1", "naa.2") for node in ("a", "b", "ab", "")}
    assert len(keys) == 8
    assert all(0 < key < 1 << 64 for key in keys)
    assert key_of("naa.1", "a") == key_of("naa.1", "a")
