"""One migration away from this node: carries out what the pre-copy machine orders, and tells it what came of it.

Tasks are done one after the other. What happens meanwhile (a cancel, a lost link, a word of the destination, the
guest's death) goes into the machine at once; when that brings new tasks, the one under way is superseded: it ends at
its next wait, and its outcome no longer counts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.cluster.errors import CommandRefused, OutcomeUnknown
from csvd.errors import CsvdError
from csvd.migration.chunks import (
    DestinationEvent,
    Opening,
    Ready,
    RoundReceived,
    Running,
    encode_abort,
    encode_end,
    encode_handed_over,
    encode_opening,
)
from csvd.migration.destination_stream import DestinationStream, Superseded
from csvd.migration.errors import MigrationError, TransitionError, one_line
from csvd.migration.handover import HandOver
from csvd.migration.image import MemoryImage
from csvd.migration.interfaces import Clock, Cluster, RunInThread, SourceGuest, Timer
from csvd.migration.precopy import (
    Cancel,
    DestinationRunning,
    GuestFailed,
    Input,
    MoveAccepted,
    MoveRefused,
    MoveUnknown,
    Precopy,
    Prepared,
    Resumed,
    RoundFinished,
    Settled,
    State,
    Stopped,
    Task,
    TransferFailed,
    Verified,
)
from csvd.migration.report import Progress, Report, RoundReport
from csvd.migration.sender import RoundCount, RoundSender
from csvd.migration.tracker import DirtyTracker, choose_tracker

METHOD_PREPARE: Final = "migration.prepare"
METHOD_ABORT: Final = "migration.abort"
STREAM_KIND: Final = "migration"
PREPARE_TIMEOUT_S: Final = 30.0
ABORT_TIMEOUT_S: Final = 5.0
STANDSTILL_S: Final = 30.0
"""How long a guest may stand still before its hand-over is submitted; then it stays where it is."""
SETTLE_AGAIN_S: Final = 1.0


def boottime_ns() -> int:
    """CLOCK_BOOTTIME: the clock that every process of this kernel shares."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_id() -> bytes:
    """Identifies this run of this kernel."""
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every migration of a node uses."""

    cluster: Cluster
    clock: Clock
    run_in_thread: RunInThread
    silence_timeout_s: float = 30.0


class OutgoingMigration:
    """One guest on its way from here to ``destination``.

    Args:
        migration_id: 16 bytes that name it.
        digest_seed: a number that nobody outside can guess, for the digests of pages.
    """

    _log = Logger()

    def __init__(
        self,
        surroundings: Surroundings,
        guest: SourceGuest,
        name: str,
        destination: str,
        machine: Precopy,
        *,
        migration_id: bytes,
        digest_seed: int,
    ) -> None:
        self.name = name
        self.destination = destination
        self.migration_id = migration_id.hex()
        self._cluster = surroundings.cluster
        self._clock = surroundings.clock
        self._run_in_thread = surroundings.run_in_thread
        self._silence_timeout_s = surroundings.silence_timeout_s
        self._guest = guest
        self._was_running = guest.is_running
        self._machine = machine
        self._opening = Opening(migration_id, name, guest.memory_bytes, guest.page_bytes, digest_seed)
        self._hand_over = HandOver(
            self._cluster,
            self._clock,
            guest=name,
            source=self._cluster.node,
            destination=destination,
            epoch=guest.epoch,
        )
        self._tasks: deque[Task] = deque()
        self._present: Task | None = None
        self._is_superseded = False
        self._is_released = False
        self._may_be_prepared = False
        self._image: MemoryImage | None = None
        self._tracker: DirtyTracker | None = None
        self._tracker_name = ""
        self._stream: DestinationStream | None = None
        self._sender: RoundSender | None = None
        self._began_s = self._clock.seconds()
        self._round_began_s = self._began_s
        self._standstill: Timer | None = None
        self._stopped_ns: int | None = None
        self._downtime_ms: float | None = None
        self._downtime_measured = ""
        self._report: Report | None = None
        self._watchers: list[Deferred[Report]] = []

    async def run(self) -> Report:
        """Do it all. Never raises what a peer, the guest or the machine it runs on can cause: the report says it."""
        self._guest.when_ended().addCallback(self._guest_ended)
        self._tasks.extend(self._machine.begin())
        try:
            while self._tasks:
                self._present = self._tasks.popleft()
                self._is_superseded = False
                outcome = await self._done(self._present)
                if outcome is not None and not self._is_superseded:
                    self._tasks.extend(self._machine.handle(outcome))
        except TransitionError as error:
            self._log.failure("guest {guest}: a fault in the order of its migration", guest=self.name)
            self._machine.notes.append(f"a fault of csvd: {error}")
        return self._finish()

    async def _done(self, task: Task) -> Input | None:
        """Carry out one task, and say what came of it."""
        try:
            return await _PERFORM[task](self)
        except Superseded:
            return None
        except CsvdError as error:
            return await self._failed(task, error)
        except Exception as error:  # noqa: BLE001 - a fault of this program must not leave a guest with no decision
            self._log.failure("guest {guest}: a fault in: {task}", guest=self.name, task=task.value)
            return await self._failed(task, MigrationError("a fault of csvd", why=one_line(error)))

    async def _failed(self, task: Task, error: CsvdError) -> Input | None:
        """What the failure of a task means for the machine."""
        reason = one_line(error)
        if task is Task.SUBMIT_MOVE:
            return MoveRefused(reason) if isinstance(error, CommandRefused) else MoveUnknown(reason)
        if task in (Task.STOP_GUEST, Task.RESUME_GUEST):
            return GuestFailed(reason)
        if task is Task.SETTLE:
            await self._hand_over.changed(SETTLE_AGAIN_S)
            self._tasks.appendleft(Task.SETTLE)
            return None
        if task in (Task.RELEASE_GUEST, Task.ABORT_DESTINATION, Task.END_GUEST):
            self._log.warn("guest {guest}: {task}: {reason}", guest=self.name, task=task.value, reason=reason)
            self._machine.notes.append(f"{task.value}: {reason}")
            return None
        return TransferFailed(reason)

    def _interrupt(self, event: Input) -> None:
        """Something happened besides the present task."""
        if self._machine.is_over:
            return
        tasks = self._machine.handle(event)
        if tasks or self._machine.is_over:
            self._tasks = deque(tasks)
            self._is_superseded = True
            if self._stream is not None:
                self._stream.wake()

    def cancel(self, reason: str = "cancelled on request") -> None:
        """Call it off: the guest stays here. Raises MigrationError when the hand-over was submitted already."""
        if not self._machine.is_cancellable:
            raise MigrationError(
                "this migration can no longer be cancelled", where=f"guest {self.name}", why=f"it is {self._machine}"
            )
        self._interrupt(Cancel(reason))

    def _guest_ended(self, reason: object) -> None:
        if not self._is_released:
            self._interrupt(GuestFailed(str(reason)))

    # The tasks.

    async def _prepare(self) -> Input:
        opening = self._opening
        image = self._image = MemoryImage.open(self._guest.image_path, opening.memory_bytes)
        process_id = self._guest.process_id
        # Its table takes a while to make for a large guest.
        tracker = self._tracker = await self._run_in_thread(
            lambda: choose_tracker(image, process_id, opening.page_bytes, opening.digest_seed)
        )
        self._tracker_name = tracker.name
        await self._ask_to_prepare()
        if self._is_superseded:
            raise Superseded("overtaken")
        link = await self._cluster.open_stream(self.destination, STREAM_KIND, {"migration_id": self.migration_id})
        self._stream = DestinationStream(
            link,
            self._clock,
            silence_timeout_s=self._silence_timeout_s,
            on_failed=lambda reason: self._interrupt(TransferFailed(reason)),
            is_superseded=lambda: self._is_superseded,
        )
        self._stream.write([encode_opening(opening)])
        self._sender = RoundSender(
            self._stream.write, tracker, opening.memory_bytes, self._run_in_thread, self._stream.writable
        )
        return Prepared()

    async def _ask_to_prepare(self) -> None:
        opening = self._opening
        params = {
            "version": opening.version,
            "migration_id": self.migration_id,
            "guest": self.name,
            "epoch": self._hand_over.epoch,
            "spec": dict(self._guest.spec),
            "memory_bytes": opening.memory_bytes,
            "page_bytes": opening.page_bytes,
            "digest_seed": opening.digest_seed,
            "is_running": self._was_running,
        }
        try:
            await self._cluster.call(self.destination, METHOD_PREPARE, params, timeout_s=PREPARE_TIMEOUT_S)
        except OutcomeUnknown:
            self._may_be_prepared = True
            raise
        self._may_be_prepared = True

    async def _send_round(self) -> Input:
        assert self._sender is not None
        number = self._machine.round
        self._round_began_s = self._clock.seconds()
        count = await self._sender.send_round(number, is_last=self._present is Task.SEND_LAST_ROUND)
        await self._expect(RoundReceived(number))
        return RoundFinished(
            pages_scanned=count.pages_scanned,
            pages_dirty=count.pages_dirty,
            pages_zero=count.pages_zero,
            pages_elided=count.pages_elided,
            bytes_sent=count.bytes_sent,
            seconds=self._clock.seconds() - self._round_began_s,
            scan_seconds=count.scan_seconds,
        )

    async def _expect(self, expected: DestinationEvent) -> None:
        assert self._stream is not None
        event = await self._stream.answer()
        if event != expected:
            raise MigrationError(f"the destination answered {event} where {expected} was due")

    async def _stop_guest(self) -> Input:
        self._standstill = self._clock.callLater(STANDSTILL_S, self._stands_still)
        self._stopped_ns = await self._guest.stop()
        return Stopped()

    def _stands_still(self) -> None:
        self._interrupt(TransferFailed(f"the guest stood still for {STANDSTILL_S:.0f} s and was not there yet"))

    def _end_standstill(self) -> None:
        if self._standstill is not None and self._standstill.active():
            self._standstill.cancel()

    async def _send_end(self) -> Input:
        assert self._stream is not None
        assert self._tracker is not None
        digest = await self._run_in_thread(self._tracker.digest)
        self._stream.write([encode_end(digest)])
        await self._expect(Ready(digest))
        return Verified()

    async def _submit_move(self) -> Input:
        self._end_standstill()
        await self._hand_over.submit(self.destination)
        return MoveAccepted()

    async def _settle(self) -> Input:
        return Settled(await self._hand_over.settle(self._preferred_owner))

    def _preferred_owner(self) -> str:
        """The side to propose while nothing is decided: the destination, as long as it is there to run the guest."""
        is_there = self._stream is not None and not self._stream.is_lost
        return self.destination if is_there else self._cluster.node

    async def _release_guest(self) -> None:
        assert self._stream is not None
        self._is_released = True
        self._stream.write([encode_handed_over(self._hand_over.epoch + 1)])
        self._close_image()
        await self._guest.release()

    async def _await_running(self) -> Input:
        assert self._stream is not None
        event = await self._stream.answer()
        if not isinstance(event, Running):
            raise MigrationError(f"the destination answered {event} where it should say that the guest runs")
        self._measure_downtime(event)
        return DestinationRunning()

    def _measure_downtime(self, event: Running) -> None:
        if self._stopped_ns is None or not self._was_running or not event.boottime_ns:
            return
        # What this side can tell for certain; more than the truth by the way of the answer.
        here_ns = boottime_ns() - self._stopped_ns
        there_ns = event.boottime_ns - self._stopped_ns
        if event.boot_id == boot_id() and 0 <= there_ns <= here_ns:
            self._downtime_ms = there_ns / 1e6
            self._downtime_measured = "last write to first instruction, on the one clock of both nodes' host"
        else:
            self._downtime_ms = here_ns / 1e6
            self._downtime_measured = "last write to the destination's word that the guest runs, on the source's clock"

    async def _abort_destination(self) -> None:
        if self._stream is not None:
            self._stream.write([encode_abort(self._machine.reason)])
            self._stream.close()
        elif self._may_be_prepared:
            # It waits for a stream that will not come.
            await self._cluster.call(
                self.destination, METHOD_ABORT, {"migration_id": self.migration_id}, timeout_s=ABORT_TIMEOUT_S
            )

    async def _resume_guest(self) -> Input:
        self._end_standstill()
        await self._guest.resume()
        return Resumed()

    async def _end_guest(self) -> None:
        self._is_released = True
        await self._guest.end()

    # What it says of itself.

    def progress(self) -> Progress:
        """Where it is now."""
        machine, estimate = self._machine, self._machine.estimate
        sending = self._sender.count if self._sender is not None and self._present in _SENDING else None
        sent_bytes = sum(result.bytes_sent for result in machine.rounds)
        throughput = estimate.throughput_bytes_per_s
        if sending is not None:
            sent_bytes += sending.bytes_sent
            if not machine.rounds:
                throughput = sending.bytes_sent / max(self._clock.seconds() - self._round_began_s, 1e-3)
        remaining_bytes = self._remaining_bytes(sending)
        return Progress(
            migration_id=self.migration_id,
            guest=self.name,
            source=self._cluster.node,
            destination=self.destination,
            state=str(machine),
            round=machine.round,
            memory_bytes=machine.memory_bytes,
            bytes_sent=sent_bytes,
            remaining_bytes=remaining_bytes,
            throughput_bytes_per_s=throughput,
            dirty_bytes_per_s=estimate.dirty_bytes_per_s,
            expected_downtime_ms=None if estimate.downtime_s == float("inf") else estimate.downtime_s * 1000,
            percent=100.0 * (1 - remaining_bytes / machine.memory_bytes),
            elapsed_s=self._report.total_s if self._report else self._clock.seconds() - self._began_s,
            tracker=self._tracker_name,
            is_cancellable=machine.is_cancellable,
            report=self._report,
        )

    def _remaining_bytes(self, sending: RoundCount | None) -> int:
        """What is left of this round, as far as it can be told, or expected for the next."""
        machine = self._machine
        if machine.state is State.COMPLETED:
            return 0
        if sending is None or (machine.rounds and not sending.pages_scanned):
            return machine.estimate.remaining_bytes
        unscanned_bytes = machine.memory_bytes - sending.scanned_bytes
        if not machine.rounds:
            return unscanned_bytes
        # As dirty as what this pass has seen so far.
        return unscanned_bytes * sending.pages_dirty // sending.pages_scanned

    def when_finished(self) -> Deferred[Report]:
        """Fires with the report when it is over (at once when it is over already)."""
        watcher: Deferred[Report] = Deferred()
        if self._report is not None:
            watcher.callback(self._report)
        else:
            self._watchers.append(watcher)
        return watcher

    def _finish(self) -> Report:
        self._end_standstill()
        if self._stream is not None:
            self._stream.close()
        self._close_image()
        if not self._is_released:
            self._guest.stay()
        machine = self._machine
        rounds = _round_reports(machine)
        self._report = Report(
            migration_id=self.migration_id,
            guest=self.name,
            source=self._cluster.node,
            destination=self.destination,
            state=machine.state.value,
            reason=machine.reason,
            notes=list(machine.notes),
            memory_bytes=machine.memory_bytes,
            rounds=rounds,
            bytes_sent=sum(result.bytes_sent for result in rounds),
            zero_pages_elided=machine.rounds[0].pages_elided if machine.rounds else 0,
            downtime_ms=self._downtime_ms,
            downtime_measured=self._downtime_measured,
            total_s=self._clock.seconds() - self._began_s,
            tracker=self._tracker_name,
        )
        # Reports are kept for a while; what is large about a migration is not.
        if self._tracker is not None:
            self._tracker.close()
        self._tracker = self._sender = None
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.callback(self._report)
        return self._report

    def _close_image(self) -> None:
        if self._image is not None:
            self._image.close()


def _round_reports(machine: Precopy) -> list[RoundReport]:
    reports = []
    for index, result in enumerate(machine.rounds):
        before = machine.rounds[index - 1] if index else None
        reports.append(
            RoundReport(
                number=index + 1,
                is_last=index + 1 == machine.last_round,
                pages_scanned=result.pages_scanned,
                pages_dirty=result.pages_dirty,
                pages_zero=result.pages_zero,
                bytes_sent=result.bytes_sent,
                seconds=result.seconds,
                scan_seconds=result.scan_seconds,
                throughput_bytes_per_s=result.bytes_sent / max(result.seconds, 1e-9),
                dirty_bytes_per_s=result.pages_dirty * machine.page_bytes / max(before.seconds, 1e-9)
                if before
                else None,
            )
        )
    return reports


_SENDING: Final = frozenset({Task.SEND_ROUND, Task.SEND_LAST_ROUND})
_PERFORM: Final[Mapping[Task, Callable[[OutgoingMigration], Awaitable[Input | None]]]] = {
    Task.PREPARE: OutgoingMigration._prepare,
    Task.SEND_ROUND: OutgoingMigration._send_round,
    Task.STOP_GUEST: OutgoingMigration._stop_guest,
    Task.SEND_LAST_ROUND: OutgoingMigration._send_round,
    Task.SEND_END: OutgoingMigration._send_end,
    Task.SUBMIT_MOVE: OutgoingMigration._submit_move,
    Task.SETTLE: OutgoingMigration._settle,
    Task.RELEASE_GUEST: OutgoingMigration._release_guest,
    Task.AWAIT_RUNNING: OutgoingMigration._await_running,
    Task.ABORT_DESTINATION: OutgoingMigration._abort_destination,
    Task.RESUME_GUEST: OutgoingMigration._resume_guest,
    Task.END_GUEST: OutgoingMigration._end_guest,
}
