"""The commands of a disk beside reading and writing: unmap, write same, compare and write, provisioning (SBC-3)."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred

from initiator.engine.requests import Buffer, Command, flat
from initiator.errors import CommandFailed, IllegalRequest, InitiatorError, MalformedAnswer
from initiator.parallel import Work, run_all
from initiator.road import Road
from initiator.scsi import cdb, provisioning
from initiator.scsi.answers import Capacity
from initiator.scsi.inquiry import BlockLimits
from initiator.scsi.provisioning import Extent, LbaStatus
from initiator.scsi.ranges import cut, transfer_granularity
from initiator.unit import LogicalUnit

PARALLEL_COMMANDS: Final = 4
"""Commands without much data, but with much work for the target, that one call has under way."""

WRITE_SAME_BYTES: Final = 256 << 20
"""What one WRITE SAME writes of a disk that reports no limit: so that it ends before its deadline."""

VERIFY_BYTES: Final = 64 << 20
"""What one VERIFY without data reads of a disk that reports no limit."""

LBA_STATUS_EXTENTS: Final = 65536
"""The runs that get_lba_status gives at most, unless told otherwise."""

_LBA_STATUS_BYTES: Final = 8 + 16 * 1024
_COMPARE_LIMIT: Final = 0xFF
_NDOB: Final = 0x01


class BlockCommands(LogicalUnit):
    """The part of a :class:`Disk <initiator.disk.Disk>` that neither reads nor writes the caller's data at length."""

    def __init__(self, road: Road, lun: int) -> None:
        super().__init__(road, lun)
        self.capacity = Capacity(0, 512, 512)
        self.limits = BlockLimits()
        self._no_data_out: bool | None = None

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

    def check_range(self, lba: int, blocks: int) -> None:
        """See that blocks are on the disk.

        Raises:
            InitiatorError: they are not.
        """
        if lba < 0 or blocks < 0 or lba + blocks > self.block_count:
            raise InitiatorError(
                f"blocks {lba} to {lba + blocks - 1} are not on the disk", why=f"it has {self.block_count} blocks"
            )

    # --- what is without data on the wire

    async def flush(
        self, lba: int = 0, blocks: int = 0, *, immediate: bool = False, timeout_s: float | None = None
    ) -> None:
        """Have on stable storage what was written before (SYNCHRONIZE CACHE): of these blocks, or with 0 blocks of all.

        With ``immediate`` the target only begins with it: nothing is known of the data when the call ends.
        """
        build = cdb.synchronize_cache(lba, blocks, immediate=immediate)
        await self._run(build, self.deadline(timeout_s))

    async def unmap(
        self, extents: Iterable[Extent | tuple[int, int]], *, anchor: bool = False, timeout_s: float | None = None
    ) -> None:
        """Tell the disk that these blocks hold nothing any more (UNMAP). ``extents`` are pairs of LBA and blocks.

        A target may leave any of them as they were. Of a disk whose ``capacity.read_zeros`` holds they read as zeros
        where they were unmapped. They are sorted, joined where they touch, and split as VPD page B0h says.

        Raises:
            InitiatorError: an extent is not on the disk.
        """
        merged = provisioning.merge((Extent(*_pair(extent)) for extent in extents), self.block_count)
        deadline_s = self.deadline(timeout_s)

        def works() -> Iterator[Work]:
            for batch in provisioning.unmap_batches(merged, self.limits):
                yield partial(self._unmap, provisioning.unmap_list(batch), anchor, deadline_s)

        await run_all(works(), PARALLEL_COMMANDS)

    def _unmap(self, parameters: bytes, anchor: bool, deadline_s: float) -> Coroutine[Deferred[Any], Any, Command]:
        return self._run(cdb.unmap(len(parameters), anchor=anchor), deadline_s, data_out=memoryview(parameters))

    async def write_same(
        self,
        lba: int,
        blocks: int,
        pattern: Buffer | None = None,
        *,
        unmap: bool = False,
        anchor: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Write one block to many (WRITE SAME(16)); without a pattern zeros.

        With ``unmap`` the target may unmap them instead, where they read the same then. Where the target has NDOB,
        zeros are not even sent.

        Raises:
            InitiatorError: the pattern is not one block, or the range is not on the disk.
        """
        self.check_range(lba, blocks)
        block = bytes(self.block_bytes) if pattern is None else flat(pattern)
        if len(block) != self.block_bytes:
            raise InitiatorError(f"a pattern of {len(block)} bytes", why=f"a block has {self.block_bytes}")
        deadline_s = self.deadline(timeout_s)
        bare = pattern is None and await self._has_no_data_out(timeout_s)
        data = None if bare else memoryview(block)

        def works() -> Iterator[Work]:
            for at, count in self._write_same_parts(lba, blocks, unmap):
                build = cdb.write_same(at, count, unmap=unmap, anchor=anchor, no_data_out=bare)
                yield partial(self._run, build, deadline_s, data_out=data)

        await run_all(works(), PARALLEL_COMMANDS)

    async def write_zeroes(self, lba: int, blocks: int, *, unmap: bool = True, timeout_s: float | None = None) -> None:
        """Have blocks read as zeros, whatever the target does for it: unmap them where it may, else write them."""
        unmap = unmap and self.capacity.provisioning_management and self.capacity.read_zeros
        try:
            await self.write_same(lba, blocks, unmap=unmap, timeout_s=timeout_s)
        except IllegalRequest:
            if not unmap:
                raise
            await self.write_same(lba, blocks, timeout_s=timeout_s)

    async def compare_and_write(
        self, lba: int, compare: Buffer, write: Buffer, *, fua: bool = False, timeout_s: float | None = None
    ) -> None:
        """Write blocks, if they hold what is to be compared, as one step that nothing comes between.

        Never split: VPD page B0h says how long it may be. After TimedOut and SessionLost it is unknown whether the
        blocks were written.

        Raises:
            Miscompare: they hold something else; nothing was written.
            InitiatorError: the two differ in length, are not of whole blocks or too long, or not on the disk.
        """
        data = bytes(compare) + bytes(write)
        blocks, odd_bytes = divmod(len(compare), self.block_bytes)
        if odd_bytes or len(data) != 2 * blocks * self.block_bytes or not blocks:
            raise InitiatorError(f"{len(compare)} bytes to compare and {len(write)} to write are not the same blocks")
        most = self.limits.maximum_compare_and_write_length or _COMPARE_LIMIT
        if blocks > most:
            raise InitiatorError(f"{blocks} blocks are too many to compare and write", why=f"the target takes {most}")
        self.check_range(lba, blocks)
        await self._run(
            cdb.compare_and_write(lba, blocks, fua=fua),
            self.deadline(timeout_s),
            data_out=memoryview(data),
            exact=True,
        )

    async def _verify_medium(self, lba: int, blocks: int, timeout_s: float | None) -> None:
        """Have the disk read blocks, and nothing sent (VERIFY, BYTCHK 00b)."""
        self.check_range(lba, blocks)
        deadline_s = self.deadline(timeout_s)
        most = self.limits.maximum_transfer_length or max(1, VERIFY_BYTES // self.block_bytes)

        def works() -> Iterator[Work]:
            for at, count in cut(lba, blocks, most, *self._cut_at(most)):
                yield partial(self._run, cdb.verify(at, count), deadline_s)

        await run_all(works(), PARALLEL_COMMANDS)

    async def get_lba_status(
        self, lba: int = 0, blocks: int | None = None, *, most: int = LBA_STATUS_EXTENTS, timeout_s: float | None = None
    ) -> list[LbaStatus]:
        """Ask which blocks are mapped (GET LBA STATUS): runs of one status each, in order and without a gap.

        The target is asked again and again until the range is told of, or there are ``most`` runs: then what follows
        the last one is still to be asked for. Without ``blocks`` the range goes up to the end of the disk.

        Raises:
            InitiatorError: the range is not on the disk.
            MalformedAnswer: an answer does not go on where the last one ended.
        """
        blocks = self.block_count - lba if blocks is None else blocks
        self.check_range(lba, blocks)
        deadline_s = self.deadline(timeout_s)
        found: list[LbaStatus] = []
        at, end = lba, lba + blocks
        buffer = bytearray(_LBA_STATUS_BYTES)
        while at < end and len(found) < most:
            build = cdb.get_lba_status(at, _LBA_STATUS_BYTES)
            command = await self._run(build, deadline_s, data_in=memoryview(buffer))
            # Every answer tells of one block at least; one after the other of such is ended by the deadline.
            provisioning.extend(found, provisioning.parse_lba_status(bytes(buffer[: command.received]), at, end))
            at = found[-1].end
        return found[:most]

    # --- how

    def _cut_at(self, most: int) -> tuple[int, int]:
        """Give the granularity and the alignment at which ranges are cut into ``most`` blocks."""
        return transfer_granularity(self.capacity, self.limits, most), self.capacity.lowest_aligned_lba

    def _write_same_parts(self, lba: int, blocks: int, unmap: bool) -> Iterator[tuple[int, int]]:
        most = self.limits.maximum_write_same_length or max(1, WRITE_SAME_BYTES // self.block_bytes)
        most = min(most, 0xFFFFFFFF)
        limits = self.limits
        if unmap and 1 < limits.optimal_unmap_granularity <= most:
            return cut(lba, blocks, most, limits.optimal_unmap_granularity, limits.unmap_granularity_alignment or 0)
        return cut(lba, blocks, most, *self._cut_at(most))

    async def _has_no_data_out(self, timeout_s: float | None) -> bool:
        """Whether WRITE SAME(16) has NDOB: a target of an older standard would take the bit for nothing."""
        if self._no_data_out is None:
            try:
                support = await self.command_support(0x93, timeout_s=timeout_s)
            except (CommandFailed, MalformedAnswer):
                self._no_data_out = False
            else:
                self._no_data_out = len(support.usage) > 1 and bool(support.usage[1] & _NDOB)
        return self._no_data_out


def _pair(extent: Extent | tuple[int, int]) -> tuple[int, int]:
    return (extent.lba, extent.blocks) if isinstance(extent, Extent) else extent
