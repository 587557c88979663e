"""A disk behind a LUN: its data and its size."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from initiator import third_party_copy
from initiator.block_commands import BlockCommands
from initiator.engine.requests import Buffer, Command, flat
from initiator.errors import CommandFailed, InitiatorError, Miscompare
from initiator.parallel import Work, run_all
from initiator.road import Road, begin
from initiator.scatter import Piece, pieces
from initiator.scsi import answers, cdb
from initiator.scsi.answers import Capacity
from initiator.scsi.extended_copy import Cscd
from initiator.scsi.inquiry import BlockLimits
from initiator.scsi.ranges import cut
from initiator.scsi.sense import Sense, SenseKey

CHUNK_BYTES: Final = 1 << 20
"""One command moves at most so much; the target's own MAXIMUM TRANSFER LENGTH may be less."""

_Builder = Callable[[int, int], bytes]
"""Gives the CDB for an address and a number of blocks."""


class Disk(BlockCommands):
    """One LUN of a target. Made by :func:`initiator.connect` or :meth:`Disk.open`.

    Every call takes ``timeout_s``, for the call as a whole; without it the road's holds. Every call raises
    CommandFailed when the target refuses, TimedOut at its deadline and SessionLost when the session ends under it:
    after the last two it is unknown whether the target did what was asked. A command that meets a unit attention, BUSY
    or TASK SET FULL was not executed (SAM-5 section 5.3), and is repeated within the deadline.

    What is larger than a command may be is cut at multiples of the optimal transfer length granularity and of the
    physical block, and moved by several commands at a time. A unit attention that the capacity has changed has it read
    again.
    """

    def __init__(self, road: Road, lun: int) -> None:
        super().__init__(road, lun)
        self._chunk_blocks = 1
        self._granularity = (1, 0)
        self._rereading = False

    @classmethod
    async def open(cls, road: Road, lun: int, *, timeout_s: float | None = None) -> Disk:
        """Make a LUN ready for use: clear its unit attentions, ask for its size and its limits.

        Raises:
            CommandFailed: there is no such LUN, or it does not become ready in time.
            InitiatorError: the LUN is no disk.
        """
        disk = cls(road, lun)
        found = await disk.inquiry(timeout_s=timeout_s)
        if found.no_disk:
            raise InitiatorError(f"LUN {lun} {found.no_disk}", where=road.where)
        await disk.test_unit_ready(timeout_s=timeout_s)
        if 0xB0 in await disk.supported_pages(timeout_s=timeout_s):
            limits = await disk.vpd(0xB0, timeout_s=timeout_s)
            if isinstance(limits, BlockLimits):
                disk.limits = limits
        await disk.read_capacity(timeout_s=timeout_s)
        return disk

    def __repr__(self) -> str:
        return f"<Disk LUN {self.lun} of {self.size_bytes} bytes on {self.road!r}>"

    # --- data

    async def read(self, lba: int, blocks: int, *, timeout_s: float | None = None) -> bytes:
        """Read blocks.

        Raises:
            InitiatorError: the range is not on the disk.
        """
        self.check_range(lba, blocks)
        buffer = bytearray(blocks * self.block_bytes)
        await self._in_parts(lba, memoryview(buffer), cdb.read, timeout_s, reads=True)
        return bytes(buffer)

    async def read_into(
        self,
        lba: int,
        buffer: bytearray | memoryview | Sequence[bytearray | memoryview],
        *,
        timeout_s: float | None = None,
    ) -> None:
        """Fill a buffer with blocks, without a copy; what is large is read in parallel.

        A list of buffers is filled one after the other; together they are of whole blocks, and a border may be
        anywhere. Those of less than 64 KiB share commands, and are copied.

        The buffers mean nothing unless the call succeeds. They are never written to after the call has ended.

        Raises:
            InitiatorError: the buffer is not of whole blocks, or the range is not on the disk.
        """
        if isinstance(buffer, (bytearray, memoryview)):
            await self._in_parts(lba, flat(buffer), cdb.read, timeout_s, reads=True)
        else:
            await self._scattered(lba, buffer, cdb.read, timeout_s, reads=True)

    async def write(
        self, lba: int, data: Buffer | Sequence[Buffer], *, fua: bool = False, timeout_s: float | None = None
    ) -> None:
        """Write blocks; what is large is written in parallel. A list of buffers is written one after the other.

        The data is not copied (but of lists, see :meth:`read_into`): it must not change before the call has ended. With
        ``fua`` it is on stable storage then; else after :meth:`flush`.

        Raises:
            InitiatorError: the data is not of whole blocks, or the range is not on the disk.
        """
        build = partial(cdb.write, fua=True) if fua else cdb.write
        if isinstance(data, (bytes, bytearray, memoryview)):
            await self._in_parts(lba, flat(data), build, timeout_s, reads=False)
        else:
            await self._scattered(lba, data, build, timeout_s, reads=False)

    async def verify(
        self, lba: int, blocks: int, data: Buffer | None = None, *, timeout_s: float | None = None
    ) -> None:
        """Have the disk read its blocks and, where data is given, compare them with it (VERIFY, BYTCHK 00b and 01b).

        Raises:
            Miscompare: they differ; its ``lba`` is the first block that does, where the target tells.
            MediumError: they can not be read.
            InitiatorError: the data is not of so many blocks, or the range is not on the disk.
        """
        if data is None:
            await self._verify_medium(lba, blocks, timeout_s)
            return
        view = flat(data)
        if len(view) != blocks * self.block_bytes:
            raise InitiatorError(f"{len(view)} bytes are not {blocks} blocks of {self.block_bytes}")
        self.check_range(lba, blocks)
        deadline_s = self.deadline(timeout_s)
        differences: list[tuple[int, Miscompare]] = []

        async def compare(at: int, count: int, part: memoryview) -> None:
            try:
                await self._run(cdb.verify(at, count, byte_check=True), deadline_s, data_out=part, exact=True)
            except Miscompare as found:
                first = None if found.sense is None else found.sense.information
                if first is not None and at <= first < at + count:
                    found.lba = first
                differences.append((at, found))
                raise

        try:
            await run_all((partial(compare, *part) for part in self._parts(lba, blocks, view)), self._workers(blocks))
        except Miscompare as any_of_them:
            # All parts before one that differs were compared: the first difference of all is in the first of those.
            raise min(differences, key=lambda found: found[0])[1] from any_of_them

    async def copy_name(self, *, timeout_s: float | None = None) -> Cscd:
        """Give by what this disk is named in copies that the target makes (:meth:`copy_to`).

        Raises:
            InitiatorError: it has no name that fits.
        """
        return await third_party_copy.cscd_of(self, timeout_s=timeout_s)

    async def copy_to(
        self,
        lba: int,
        blocks: int,
        destination: Cscd,
        destination_lba: int,
        *,
        lid4: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Have the target copy blocks to another disk that it reaches, or within this one (EXTENDED COPY).

        No data passes here. It is split by what the target says that it can do, and each command waits for the one
        before. After an error any part may have been copied; after TimedOut and SessionLost it may still go on.

        Args:
            destination: what the other disk's :meth:`copy_name` gave.
            lid4: by EXTENDED COPY(LID4); by default (LID1), which more targets have.

        Raises:
            CopyFailed: it ended in the middle.
            InitiatorError: the range is not on the disk, the two overlap, or block lengths differ.
        """
        await third_party_copy.copy_blocks(
            self, lba, blocks, destination, destination_lba, lid4=lid4, timeout_s=timeout_s
        )

    async def make_token(
        self, lba: int, blocks: int, *, inactivity_timeout_s: int = 0, timeout_s: float | None = None
    ) -> tuple[bytes, int]:
        """Have the target make a token of blocks as they are now (POPULATE TOKEN); give it, and how many it holds.

        It may hold fewer than asked for: the rest wants another one. The target forgets it after a while (0 leaves it
        to the target how long that is).

        Raises:
            InitiatorError: the range is not on the disk, or no token came of it.
        """
        return await third_party_copy.make_token(
            self, lba, blocks, inactivity_timeout_s=inactivity_timeout_s, timeout_s=timeout_s
        )

    async def write_token(
        self, token: bytes, lba: int, blocks: int, *, offset_blocks: int = 0, timeout_s: float | None = None
    ) -> int:
        """Have the target write blocks of a token, from an offset on, here (WRITE USING TOKEN); give how many.

        It may be fewer than asked for: the rest is to be asked for again.

        Raises:
            IllegalRequest: the target does not know the token, or knows it no more.
            InitiatorError: the range is not on the disk, or nothing was written.
        """
        return await third_party_copy.write_token(
            self, token, lba, blocks, offset_blocks=offset_blocks, timeout_s=timeout_s
        )

    # --- size

    async def read_capacity(self, *, timeout_s: float | None = None) -> Capacity:
        """Ask for the size of the disk, and take it over.

        Raises:
            MalformedAnswer: the answer is too short.
        """
        try:
            self.capacity = answers.parse_capacity_16(await self.ask(cdb.read_capacity_16(), 32, timeout_s=timeout_s))
        except CommandFailed as failed:
            if failed.sense_key != SenseKey.ILLEGAL_REQUEST:
                raise
            # A device of SBC-2's time may know READ CAPACITY(10) alone.
            capacity = answers.parse_capacity_10(await self.ask(cdb.read_capacity_10(), 8, timeout_s=timeout_s))
            if capacity is None:
                raise
            self.capacity = capacity
        chunk = max(1, CHUNK_BYTES // self.block_bytes)
        self._chunk_blocks = min(chunk, self.limits.maximum_transfer_length or chunk)
        self._granularity = self._cut_at(self._chunk_blocks)
        return self.capacity

    def _attention(self, found: Sense) -> None:
        super()._attention(found)
        if found.capacity_changed and not self._rereading:
            # READ CAPACITY may meet the same attention, and is repeated then: it must not begin another one.
            self._rereading = True
            Deferred.fromCoroutine(self.read_capacity()).addBoth(self._reread)

    def _reread(self, outcome: Any) -> None:
        self._rereading = False
        if isinstance(outcome, Failure):
            self.log.warn("LUN {lun}: its new size: {why}", lun=self.lun, why=str(outcome.value))

    # --- how

    async def _in_parts(
        self, lba: int, view: memoryview, build: _Builder, timeout_s: float | None, *, reads: bool
    ) -> None:
        """Move a range in commands of at most a chunk, several at a time."""
        capacity = self.capacity
        blocks, odd_bytes = divmod(len(view), capacity.block_bytes)
        if odd_bytes:
            raise InitiatorError(f"{len(view)} bytes are not whole blocks of {self.block_bytes}")
        if lba < 0 or lba + blocks > capacity.block_count:
            self.check_range(lba, blocks)
        deadline_s = self.deadline(timeout_s)
        if 0 < blocks <= self._chunk_blocks:
            # What most calls are: no coroutine more than they must.
            cdb_bytes = build(lba, blocks)
            if reads:
                command = Command(self._lun_field, cdb_bytes, data_in=view)
            else:
                command = Command(self._lun_field, cdb_bytes, data_out=view)
            await begin(self.road, command, deadline_s)
            if command.status or command.response or command.residual:
                await self._move(cdb_bytes, deadline_s, view, reads, ended=command)
            return

        def works() -> Iterator[Work]:
            for start, count, part in self._parts(lba, blocks, view):
                yield partial(self._move, build(start, count), deadline_s, part, reads)

        await run_all(works(), self._workers(blocks))

    def _workers(self, blocks: int) -> int:
        """Give how many commands a range of blocks is worth at once; a first part up to a border is one more."""
        return min(self.road.options.queue_depth, blocks // self._chunk_blocks + 2)

    def _move(
        self, cdb_bytes: bytes, deadline_s: float, view: memoryview, reads: bool, *, ended: Command | None = None
    ) -> Coroutine[Deferred[Any], Any, Command]:
        if reads:
            return self._run(cdb_bytes, deadline_s, data_in=view, exact=True, ended=ended)
        return self._run(cdb_bytes, deadline_s, data_out=view, exact=True, ended=ended)

    def _parts(self, lba: int, blocks: int, view: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        for start, count in cut(lba, blocks, self._chunk_blocks, *self._granularity):
            begin = (start - lba) * self.block_bytes
            yield start, count, view[begin : begin + count * self.block_bytes]

    async def _scattered(
        self, lba: int, buffers: Sequence[Buffer], build: _Builder, timeout_s: float | None, *, reads: bool
    ) -> None:
        """Move a range between the disk and several buffers."""
        views = [flat(buffer) for buffer in buffers]
        length = sum(map(len, views))
        blocks, odd_bytes = divmod(length, self.block_bytes)
        if odd_bytes:
            raise InitiatorError(f"{length} bytes are not whole blocks of {self.block_bytes}")
        self.check_range(lba, blocks)
        deadline_s = self.deadline(timeout_s)

        def limit(at: int) -> int:
            return next(cut(at, self._chunk_blocks, self._chunk_blocks, *self._granularity))[1]

        found = pieces(lba, views, self.block_bytes, limit)
        works = (partial(self._move_piece, piece, build, deadline_s, reads) for piece in found)
        await run_all(works, self.road.options.queue_depth)

    async def _move_piece(self, piece: Piece, build: _Builder, deadline_s: float, reads: bool) -> None:
        cdb_bytes = build(piece.lba, piece.blocks)
        if len(piece.views) == 1:
            await self._move(cdb_bytes, deadline_s, piece.views[0], reads)
        elif not reads:
            await self._move(cdb_bytes, deadline_s, memoryview(b"".join(piece.views)), reads)
        else:
            together = memoryview(bytearray(piece.blocks * self.block_bytes))
            await self._move(cdb_bytes, deadline_s, together, reads)
            at = 0
            for view in piece.views:
                view[:] = together[at : at + len(view)]
                at += len(view)
