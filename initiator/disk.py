"""A disk behind a LUN: its data, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from initiator.engine.requests import BUSY, CHECK_CONDITION, GOOD, TASK_SET_FULL, Buffer, Command, flat
from initiator.errors import CommandFailed, InitiatorError, MalformedAnswer, ResidualMismatch
from initiator.road import Road, submit
from initiator.scsi import answers, cdb, inquiry, sense
from initiator.scsi import lun as luns
from initiator.scsi.answers import Capacity
from initiator.scsi.inquiry import BlockLimits, Inquiry, SupportedPages, VpdPage
from initiator.scsi.sense import SenseKey
from initiator.session import Session

CHUNK_BYTES: Final = 1 << 20
"""One command moves at most so much; the target's own MAXIMUM TRANSFER LENGTH may be less."""

UNIT_ATTENTIONS: Final = 8
"""Unit attentions after which one call repeats its command; one more fails it."""

_FIRST_BACKOFF_S: Final = 0.01
_LAST_BACKOFF_S: Final = 1.0
_INQUIRY_BYTES: Final = 255
_LUN_LIST_BYTES: Final = 4096

_Builder = Callable[[int, int], bytes]
"""Gives the CDB for an address and a number of blocks."""


class Disk:
    """One LUN of a target. Made by :func:`initiator.connect` or :meth:`Disk.open`.

    Every call takes ``timeout_s``, for the call as a whole; without it the road's holds. Every call raises
    CommandFailed when the target refuses, TimedOut at its deadline and SessionLost when the session ends under it:
    after the last two it is unknown whether the target did what was asked. A command that meets a unit attention, BUSY
    or TASK SET FULL was not executed (SAM-5 section 5.3), and is repeated within the deadline.
    """

    def __init__(self, road: Road, lun: int) -> None:
        self.road = road
        self.lun = lun
        self.capacity = Capacity(0, 512, 512)
        self.limits = BlockLimits()
        self.log = Logger()
        self._lun_field = luns.encode(lun)
        self._chunk_blocks = 1

    @classmethod
    async def open(cls, road: Road, lun: int, *, timeout_s: float | None = None) -> Disk:
        """Make a LUN ready for use: clear its unit attentions, ask for its size and its limits.

        Raises:
            CommandFailed: there is no such LUN, or it does not become ready in time.
            InitiatorError: the LUN is no disk.
        """
        disk = cls(road, lun)
        found = await disk.inquiry(timeout_s=timeout_s)
        if not found.connected or found.device_type not in (0x00, 0x14):
            what = "is not there" if not found.connected else f"is no disk but {found.device_type_name}"
            raise InitiatorError(f"LUN {lun} {what}", where=road.where)
        await disk.test_unit_ready(timeout_s=timeout_s)
        if 0xB0 in await disk._supported_pages(timeout_s):
            limits = await disk.vpd(0xB0, timeout_s=timeout_s)
            if isinstance(limits, BlockLimits):
                disk.limits = limits
        await disk.read_capacity(timeout_s=timeout_s)
        return disk

    async def __aenter__(self) -> Disk:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Log out, and so close all disks of the road. Nothing is flushed. Never raises."""
        await self.road.close()

    def __repr__(self) -> str:
        return f"<Disk LUN {self.lun} of {self.size_bytes} bytes on {self.road!r}>"

    @property
    def session(self) -> Session:
        """The session that the road has now, or had last."""
        return self.road.session

    @property
    def block_bytes(self) -> int:
        """Bytes of a logical block."""
        return self.capacity.block_bytes

    @property
    def block_count(self) -> int:
        """Logical blocks of the disk, as READ CAPACITY last said."""
        return self.capacity.block_count

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk, as READ CAPACITY last said."""
        return self.capacity.size_bytes

    # --- data

    async def read(self, lba: int, blocks: int, *, timeout_s: float | None = None) -> bytes:
        """Read blocks.

        Raises:
            InitiatorError: the range is not on the disk.
        """
        self._check_range(lba, blocks)
        buffer = bytearray(blocks * self.block_bytes)
        await self._in_parts(lba, memoryview(buffer), cdb.read, timeout_s, reads=True)
        return bytes(buffer)

    async def read_into(self, lba: int, buffer: bytearray | memoryview, *, timeout_s: float | None = None) -> None:
        """Fill a buffer with blocks, without a copy; what is large is read in parallel.

        The buffer means nothing unless the call succeeds. It is never written to after the call has ended.

        Raises:
            InitiatorError: the buffer is not of whole blocks, or the range is not on the disk.
        """
        await self._in_parts(lba, flat(buffer), cdb.read, timeout_s, reads=True)

    async def write(self, lba: int, data: Buffer, *, fua: bool = False, timeout_s: float | None = None) -> None:
        """Write blocks; what is large is written in parallel.

        The data is not copied: it must not change before the call has ended. With ``fua`` it is on stable storage then;
        else after :meth:`flush`.

        Raises:
            InitiatorError: the data is not of whole blocks, or the range is not on the disk.
        """
        build = partial(cdb.write, fua=True) if fua else cdb.write
        await self._in_parts(lba, flat(data), build, timeout_s, reads=False)

    async def flush(self, *, timeout_s: float | None = None) -> None:
        """Have everything on stable storage that was written before (SYNCHRONIZE CACHE)."""
        await self._run(cdb.synchronize_cache(), self._deadline(timeout_s))

    # --- what it says of itself

    async def test_unit_ready(self, *, timeout_s: float | None = None) -> None:
        """Return when the LUN is ready."""
        await self._run(cdb.TEST_UNIT_READY, self._deadline(timeout_s))

    async def inquiry(self, *, timeout_s: float | None = None) -> Inquiry:
        """Ask for the standard INQUIRY data.

        Raises:
            MalformedAnswer: it is too short.
        """
        return inquiry.parse_standard(await self._ask(cdb.inquiry(_INQUIRY_BYTES), _INQUIRY_BYTES, timeout_s))

    async def vpd(self, page: int, *, timeout_s: float | None = None) -> VpdPage:
        """Ask for a VPD page; of 00, 80, 83, B0, B1 and B2 the fields, of all others the bytes.

        Raises:
            MalformedAnswer: the page contradicts itself.
        """
        data = await self._ask(cdb.inquiry(_INQUIRY_BYTES, page=page), _INQUIRY_BYTES, timeout_s)
        whole = 4 + int.from_bytes(data[2:4], "big")
        if len(data) == _INQUIRY_BYTES < whole:
            data = await self._ask(cdb.inquiry(min(whole, 0xFFFF), page=page), min(whole, 0xFFFF), timeout_s)
        return inquiry.parse_vpd(page, data)

    async def read_capacity(self, *, timeout_s: float | None = None) -> Capacity:
        """Ask for the size of the disk, and take it over.

        Raises:
            MalformedAnswer: the answer is too short.
        """
        try:
            self.capacity = answers.parse_capacity_16(await self._ask(cdb.read_capacity_16(), 32, timeout_s))
        except CommandFailed as failed:
            if failed.sense_key != SenseKey.ILLEGAL_REQUEST:
                raise
            # A device of SBC-2's time may know READ CAPACITY(10) alone.
            capacity = answers.parse_capacity_10(await self._ask(cdb.read_capacity_10(), 8, timeout_s))
            if capacity is None:
                raise
            self.capacity = capacity
        chunk = CHUNK_BYTES // self.block_bytes
        self._chunk_blocks = max(1, min(chunk, self.limits.maximum_transfer_length or chunk))
        return self.capacity

    async def report_luns(self, *, timeout_s: float | None = None) -> list[int]:
        """Ask for the LUNs of the target.

        Raises:
            MalformedAnswer: the answer is not a list of LUNs.
        """
        data = await self._ask(cdb.report_luns(_LUN_LIST_BYTES), _LUN_LIST_BYTES, timeout_s)
        found, whole_bytes = answers.parse_luns(data)
        if whole_bytes > _LUN_LIST_BYTES:
            room = min(whole_bytes, 8 + 8 * answers.LUN_LIST_LIMIT)
            found, _ = answers.parse_luns(await self._ask(cdb.report_luns(room), room, timeout_s))
        return found

    async def write_cache_enabled(self, *, timeout_s: float | None = None) -> bool:
        """Ask whether a volatile write cache is in use (WCE of the caching mode page): then only FUA and :meth:`flush`
        make data durable. False where the device has no such page.

        Raises:
            MalformedAnswer: the answer has no caching page.
        """
        try:
            data = await self._ask(cdb.mode_sense_6(answers.CACHING_PAGE), 255, timeout_s)
        except CommandFailed as failed:
            if failed.sense_key == SenseKey.ILLEGAL_REQUEST:
                return False
            raise
        return answers.parse_write_cache(data)

    async def nop(self, *, timeout_s: float | None = None) -> float:
        """Ping the target; give the seconds until its answer."""
        return await self.road.nop(timeout_s=timeout_s)

    async def command(
        self,
        cdb_bytes: bytes,
        *,
        data_out: Buffer | None = None,
        data_in_bytes: int = 0,
        timeout_s: float | None = None,
    ) -> bytes:
        """Run any command, once; give its Data-In.

        Raises:
            CommandFailed: the status is not GOOD; also for a unit attention, BUSY and TASK SET FULL.
        """
        buffer = bytearray(data_in_bytes) if data_in_bytes else None
        command = Command(self._lun_field, cdb_bytes, data_in=buffer, data_out=data_out)
        await submit(self.road, command, timeout_s)
        if command.status != GOOD or command.response:
            raise failure_of(command)
        return bytes(buffer[: command.received]) if buffer is not None else b""

    # --- how

    def _deadline(self, timeout_s: float | None) -> float:
        return float(self.road.reactor.seconds() + (self.road.options.timeout_s if timeout_s is None else timeout_s))

    def _check_range(self, lba: int, blocks: int) -> None:
        if lba < 0 or blocks < 0 or lba + blocks > self.block_count:
            raise InitiatorError(
                f"blocks {lba} to {lba + blocks - 1} are not on the disk", why=f"it has {self.block_count} blocks"
            )

    async def _supported_pages(self, timeout_s: float | None) -> tuple[int, ...]:
        try:
            page = await self.vpd(0x00, timeout_s=timeout_s)
        except (CommandFailed, MalformedAnswer):
            return ()
        return page.pages if isinstance(page, SupportedPages) else ()

    async def _ask(self, cdb_bytes: bytes, room_bytes: int, timeout_s: float | None) -> bytes:
        buffer = bytearray(room_bytes)
        command = await self._run(cdb_bytes, self._deadline(timeout_s), data_in=memoryview(buffer))
        return bytes(buffer[: command.received])

    async def _run(
        self,
        cdb_bytes: bytes,
        deadline_s: float,
        *,
        data_in: memoryview | None = None,
        data_out: memoryview | None = None,
        exact: bool = False,
    ) -> Command:
        """Run a command until it has status GOOD; ``exact`` makes a residual an error."""
        attentions, backoff_s = 0, _FIRST_BACKOFF_S
        reactor = self.road.reactor
        while True:
            command = Command(self._lun_field, cdb_bytes, data_in=data_in, data_out=data_out)
            await submit(self.road, command, deadline_s - reactor.seconds())
            if command.status == GOOD and not command.response:
                if exact and command.residual:
                    left = f"{command.residual} of {command.length} bytes over"
                    raise ResidualMismatch(f"{cdb.name_of(cdb_bytes)} left {left}")
                return command
            failure = failure_of(command)
            if command.response:
                raise failure
            if failure.sense_key == SenseKey.UNIT_ATTENTION and attentions < UNIT_ATTENTIONS:
                attentions += 1
                self.log.info("LUN {lun} says: {sense}", lun=self.lun, sense=str(failure.sense))
                continue
            if not _passes(failure) or reactor.seconds() + backoff_s >= deadline_s:
                raise failure
            await deferLater(reactor, backoff_s, lambda: None)
            backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)

    async def _in_parts(
        self, lba: int, view: memoryview, build: _Builder, timeout_s: float | None, *, reads: bool
    ) -> None:
        """Move a range in commands of at most a chunk, several at a time."""
        blocks, odd_bytes = divmod(len(view), self.block_bytes)
        if odd_bytes:
            raise InitiatorError(f"{len(view)} bytes are not whole blocks of {self.block_bytes}")
        self._check_range(lba, blocks)
        deadline_s = self._deadline(timeout_s)
        if blocks <= self._chunk_blocks:
            if blocks:
                await self._move(build(lba, blocks), deadline_s, view, reads)
            return
        parts = self._parts(lba, blocks, view)
        stop = False

        async def work() -> None:
            nonlocal stop
            for start, count, part in parts:
                if stop:
                    return
                try:
                    await self._move(build(start, count), deadline_s, part, reads)
                except BaseException:
                    stop = True
                    raise

        workers = min(self.road.options.queue_depth, -(-blocks // self._chunk_blocks))
        # All of them end before this call does: only then may the caller have its buffer back.
        running: list[Deferred[Any]] = [Deferred.fromCoroutine(work()) for _ in range(workers)]
        results = await DeferredList(running, consumeErrors=True)
        failures = [result for succeeded, result in results if not succeeded and isinstance(result, Failure)]
        if failures:
            failures[0].raiseException()

    def _move(
        self, cdb_bytes: bytes, deadline_s: float, view: memoryview, reads: bool
    ) -> Coroutine[Deferred[Any], Any, Command]:
        if reads:
            return self._run(cdb_bytes, deadline_s, data_in=view, exact=True)
        return self._run(cdb_bytes, deadline_s, data_out=view, exact=True)

    def _parts(self, lba: int, blocks: int, view: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        for first in range(0, blocks, self._chunk_blocks):
            count = min(self._chunk_blocks, blocks - first)
            begin = first * self.block_bytes
            yield lba + first, count, view[begin : begin + count * self.block_bytes]


def failure_of(command: Command) -> CommandFailed:
    """Give the error of a command that ended without GOOD."""
    found = sense.parse(command.sense) if command.status == CHECK_CONDITION else None
    return CommandFailed(cdb.name_of(command.cdb), command.status, found, response=command.response)


def _passes(failure: CommandFailed) -> bool:
    """Whether waiting helps: the device is busy, its queue full, or it is becoming ready."""
    if failure.status in (BUSY, TASK_SET_FULL):
        return True
    found = failure.sense
    return found is not None and (found.key, found.asc, found.ascq) == (SenseKey.NOT_READY, 0x04, 0x01)
