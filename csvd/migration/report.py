"""What a migration says of itself: its progress while it runs, its report at the end. JSON faces of both."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One round.

    Args:
        is_last: sent while the guest was stopped.
        pages_dirty: pages that were sent; ``pages_zero`` of them without payload, because they are zero.
        dirty_bytes_per_s: what the guest wrote in the time before, in distinct pages; None for the first round.
    """

    number: int
    is_last: bool
    pages_scanned: int
    pages_dirty: int
    pages_zero: int
    bytes_sent: int
    seconds: float
    scan_seconds: float
    throughput_bytes_per_s: float
    dirty_bytes_per_s: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """A migration that is over.

    Args:
        state: completed, failed or cancelled.
        reason: why it was not completed; empty otherwise.
        notes: what else is worth knowing.
        bytes_sent: bytes of the stream, of all rounds.
        zero_pages_elided: pages that were zero and did not have to be sent.
        downtime_ms: from the last write at the source to the first instruction at the destination; None when the guest
            was paused, or the destination did not say.
        downtime_measured: by what clock.
        total_s: from the request to the end.
        tracker: how written pages were found.
    """

    migration_id: str
    guest: str
    source: str
    destination: str
    state: str
    reason: str
    notes: list[str]
    memory_bytes: int
    rounds: list[RoundReport]
    bytes_sent: int
    zero_pages_elided: int
    downtime_ms: float | None
    downtime_measured: str
    total_s: float
    tracker: str

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object with the names of its fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Progress:
    """A migration under way.

    Args:
        state: the machine's state, in words.
        round: the number of the round, 0 before the first.
        remaining_bytes: what is left of this round, or expected for the next.
        expected_downtime_ms: if the guest were stopped now; None before it can be told.
        percent: of the memory that is in place and not known to be written since.
        is_cancellable: whether it may still be called off.
        report: once it is over.
    """

    migration_id: str
    guest: str
    source: str
    destination: str
    state: str
    round: int
    memory_bytes: int
    bytes_sent: int
    remaining_bytes: int
    throughput_bytes_per_s: float
    dirty_bytes_per_s: float
    expected_downtime_ms: float | None
    percent: float
    elapsed_s: float
    tracker: str
    is_cancellable: bool
    report: Report | None

    def to_json(self) -> dict[str, Any]:
        """The progress as a JSON object with the names of its fields."""
        return asdict(self)
