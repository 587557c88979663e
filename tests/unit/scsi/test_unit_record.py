"""The record of a logical unit of several nodes: each change makes a whole value."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from csvd.scsi.reservations import Registrant
from csvd.scsi.unit_record import UnitRecord

WHO = Registrant("iqn.2026-11.test:a,i,0x000000000001", "iqn.2026-11.test:t", 1)

ENDS: dict[str, Callable[[UnitRecord], UnitRecord]] = {
    "switched on": lambda record: record.switched_on()[0],
    "reset": lambda record: record.was_reset()[0],
    "released": lambda record: record.released(WHO)[0],
    "nexus lost": lambda record: record.legacy_ended(WHO)[0],
}


@pytest.mark.parametrize("end", ENDS)
def test_a_reservation_without_registration_leaves_nothing_behind(end: str) -> None:
    reserved, _ = UnitRecord(power=1, version=1).reserved(WHO, "n1")
    assert (reserved.legacy_holder, reserved.legacy_node) == (WHO, "n1")
    record = ENDS[end](reserved)
    assert (record.legacy_holder, record.legacy_node) == (None, "")
    assert UnitRecord.of(record.to_json()) == record, "it is what another node reads"
