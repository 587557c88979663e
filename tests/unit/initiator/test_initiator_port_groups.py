from __future__ import annotations

import pytest

from initiator.scsi.port_groups import state_refused_by, states_changed
from initiator.scsi.sense import Sense, SenseKey
from initiator.scsi.target_ports import AccessState


@pytest.mark.parametrize(
    ("key", "code", "state"),
    [
        (SenseKey.NOT_READY, (0x04, 0x0A), AccessState.TRANSITIONING),
        (SenseKey.NOT_READY, (0x04, 0x0B), AccessState.STANDBY),
        (SenseKey.NOT_READY, (0x04, 0x0C), AccessState.UNAVAILABLE),
        (SenseKey.NOT_READY, (0x04, 0x01), None),
        (SenseKey.UNIT_ATTENTION, (0x04, 0x0B), None),
    ],
)
def test_a_refusal_names_the_access_state(key: SenseKey, code: tuple[int, int], state: AccessState | None) -> None:
    assert state_refused_by(Sense(key, *code)) is state


def test_a_unit_attention_says_that_access_states_changed() -> None:
    assert states_changed(Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x06))
    assert states_changed(Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x07))
    assert not states_changed(Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x09))
    assert not states_changed(Sense(SenseKey.NOT_READY, 0x2A, 0x06))


def test_states_have_the_names_that_people_write() -> None:
    assert AccessState.ACTIVE_OPTIMIZED.words == "active/optimized"
    assert AccessState.STANDBY.words == "standby"
