"""What sense data says of asymmetric access states (SPC-4 section 5.15)."""

from __future__ import annotations

from typing import Final

from initiator.scsi.sense import Sense, SenseKey
from initiator.scsi.target_ports import AccessState

_NOT_ACCESSIBLE: Final = {
    (0x04, 0x0A): AccessState.TRANSITIONING,
    (0x04, 0x0B): AccessState.STANDBY,
    (0x04, 0x0C): AccessState.UNAVAILABLE,
}
_STATES_CHANGED: Final = {(0x2A, 0x06), (0x2A, 0x07)}
"""ASYMMETRIC ACCESS STATE CHANGED, IMPLICIT ASYMMETRIC ACCESS STATE TRANSITION FAILED."""


def state_refused_by(sense: Sense) -> AccessState | None:
    """Give the access state for which a command was refused (SPC-4 sections 5.15.2.4 to 5.15.2.8); None where it was
    refused for anything else."""
    return _NOT_ACCESSIBLE.get((sense.asc, sense.ascq)) if sense.key is SenseKey.NOT_READY else None


def states_changed(sense: Sense) -> bool:
    """Whether a unit attention says that access states are others than they were."""
    return sense.key is SenseKey.UNIT_ATTENTION and (sense.asc, sense.ascq) in _STATES_CHANGED
