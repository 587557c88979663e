"""Sending rounds: the tracker finds and copies in a thread, the loop writes, the transport's back-pressure holds both.

In flight at most: one batch that waits for the transport, one that the thread works on, and what the transport buffers.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.defer import Deferred

from csvd.errors import CsvdError
from csvd.migration.chunks import HEADER_BYTES, encode_raw_header, encode_round_end, encode_zero
from csvd.migration.interfaces import Buffer, RunInThread
from csvd.migration.tracker import SLICE_BYTES, DirtyTracker

# A thread's job ends when it has this much to send, or has looked at this much: hand-offs cost 0.1 to 0.2 ms each.
BATCH_BYTES: Final = SLICE_BYTES
_LOOK_BYTES: Final = 32 << 20


@dataclass(slots=True)
class RoundCount:
    """What a round has done so far."""

    memory_bytes: int
    scanned_bytes: int = 0
    pages_scanned: int = 0
    pages_dirty: int = 0
    pages_zero: int = 0
    pages_elided: int = 0
    bytes_sent: int = 0
    scan_seconds: float = 0.0


@dataclass(slots=True)
class _Batch:
    """What one job of the thread found, ready to be sent."""

    end_bytes: int
    buffers: list[Buffer] = field(default_factory=list)
    bytes_to_send: int = 0
    pages: int = 0
    pages_dirty: int = 0
    pages_zero: int = 0
    pages_elided: int = 0
    seconds: float = 0.0


class RoundSender:
    """Sends passes over one guest's memory.

    Args:
        write: sends bytes.
        writable: awaited before each write; returns when the transport takes more, and raises to give the round up.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Buffer]], None],
        tracker: DirtyTracker,
        memory_bytes: int,
        run_in_thread: RunInThread,
        writable: Callable[[], Awaitable[None]],
    ) -> None:
        self._write = write
        self._tracker = tracker
        self._memory_bytes = memory_bytes
        self._run_in_thread = run_in_thread
        self._writable = writable
        self.count = RoundCount(memory_bytes)

    async def send_round(self, number: int, *, is_last: bool) -> RoundCount:
        """Send all that the tracker finds in one pass, and the end of the round. Raises what ``writable`` or it raise.

        No thread works on the memory any more when this is over, however it ends.
        """
        self.count = count = RoundCount(self._memory_bytes)
        looking = self._look_from(0)
        while True:
            batch = await looking
            is_end = batch.end_bytes == self._memory_bytes
            if not is_end:
                looking = self._look_from(batch.end_bytes)
            try:
                await self._writable()
            except CsvdError:
                if not is_end:
                    await looking
                raise
            self._send(batch)
            if is_end:
                break
        self._write([encode_round_end(number, is_last=is_last)])
        count.bytes_sent += HEADER_BYTES
        return count

    def _look_from(self, start_bytes: int) -> Deferred[_Batch]:
        return self._run_in_thread(lambda: self._look(start_bytes))

    def _look(self, start_bytes: int) -> _Batch:
        """In a thread: go over the memory until there is a batch to send, or for a while."""
        began_s = time.perf_counter()
        batch = _Batch(start_bytes)
        while (
            batch.end_bytes < self._memory_bytes
            and batch.bytes_to_send < BATCH_BYTES
            and batch.end_bytes - start_bytes < _LOOK_BYTES
        ):
            length_bytes = min(SLICE_BYTES, self._memory_bytes - batch.end_bytes)
            found = self._tracker.collect(batch.end_bytes, length_bytes)
            batch.end_bytes += length_bytes
            batch.pages += found.pages
            batch.pages_dirty += found.pages_dirty
            batch.pages_zero += found.pages_zero
            batch.pages_elided += found.pages_elided
            for run in found.runs:
                if run.payload is None:
                    batch.buffers.append(encode_zero(run.offset_bytes, run.length_bytes))
                    batch.bytes_to_send += HEADER_BYTES
                else:
                    batch.buffers += (encode_raw_header(run.offset_bytes, run.payload), run.payload)
                    batch.bytes_to_send += HEADER_BYTES + run.length_bytes
        batch.seconds = time.perf_counter() - began_s
        return batch

    def _send(self, batch: _Batch) -> None:
        if batch.buffers:
            self._write(batch.buffers)
        count = self.count
        count.scanned_bytes = batch.end_bytes
        count.pages_scanned += batch.pages
        count.pages_dirty += batch.pages_dirty
        count.pages_zero += batch.pages_zero
        count.pages_elided += batch.pages_elided
        count.bytes_sent += batch.bytes_to_send
        count.scan_seconds += batch.seconds
