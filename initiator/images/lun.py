"""A LUN as an end of a copy."""

from __future__ import annotations

from typing import Any, Final

from initiator.disk import Disk
from initiator.errors import CommandFailed, MalformedAnswer
from initiator.images.end import Identity
from initiator.images.plan import Run
from initiator.scsi.inquiry import DeviceIdentification, UnitSerialNumber

CHUNK_BYTES: Final = 1 << 20
MOST_RUNS: Final = 1024


class LunEnd:
    """A LUN. What :meth:`open` has found out of it holds as long as it is open."""

    ordered = False
    grows = False

    def __init__(self, name: str, disk: Disk, unit: str) -> None:
        capacity = disk.capacity
        self.name = name
        self.disk = disk
        self.size_bytes: int | None = disk.size_bytes
        self.align_bytes = disk.block_bytes
        self.chunk_bytes = CHUNK_BYTES // disk.block_bytes * disk.block_bytes or disk.block_bytes
        self.has_map = capacity.provisioning_management and capacity.read_zeros
        """Whether GET LBA STATUS tells where it reads as zeros; false once the target has refused to."""
        self.zeroes_fast = True
        self.reads_zero = False
        self._unit = unit

    @classmethod
    async def open(cls, name: str, disk: Disk) -> LunEnd:
        """Find out what tells this LUN from all others: VPD page 83h, else 80h, else target and LUN."""
        pages = await disk.supported_pages()
        unit = ""
        for code in (0x83, 0x80):
            if code in pages and not unit:
                unit = await _unit_of(disk, code)
        return cls(name, disk, unit or f"{disk.session.target_name}/{disk.lun}")

    @property
    def identity(self) -> Identity:
        """The LUN's own name, its size and its block length."""
        return {"kind": "lun", "unit": self._unit, "size": self.size_bytes, "block_bytes": self.align_bytes}

    async def runs(self, offset: int, length: int) -> list[Run]:
        """By GET LBA STATUS, where unmapped blocks read as zeros; else nothing is known."""
        whole = [Run(offset, length, zero=False)]
        if not self.has_map:
            return whole
        block = self.align_bytes
        first = offset // block
        try:
            found = await self.disk.get_lba_status(first, -(-(offset + length) // block) - first, most=MOST_RUNS)
        except (CommandFailed, MalformedAnswer):
            self.has_map = False
            return whole
        runs = []
        for run in found:
            start, end = max(offset, run.lba * block), min(offset + length, run.end * block)
            runs.append(Run(start, end - start, zero=not run.mapped))
        return runs

    async def read_into(self, offset: int, view: memoryview) -> int:
        """Read whole blocks; where the view ends inside one, only its beginning is kept."""
        block = self.align_bytes
        whole = len(view) - len(view) % block
        if whole:
            await self.disk.read_into(offset // block, view[:whole])
        if whole < len(view):
            last = await self.disk.read((offset + whole) // block, 1)
            view[whole:] = last[: len(view) - whole]
        return len(view)

    async def write(self, offset: int, view: memoryview) -> None:
        """Write whole blocks; where the view ends inside one, the rest of it keeps what it holds."""
        block = self.align_bytes
        whole = len(view) - len(view) % block
        if whole:
            await self.disk.write(offset // block, view[:whole])
        if whole < len(view):
            await self._write_in_block(offset + whole, view[whole:])

    async def zero(self, offset: int, length: int) -> None:
        """WRITE SAME, with UNMAP where unmapped blocks read as zeros; where the target has it not, write zeros."""
        block = self.align_bytes
        whole = length - length % block
        if whole and not await self._write_same(offset // block, whole // block):
            zeros = memoryview(bytes(min(whole, self.chunk_bytes)))
            for at in range(offset, offset + whole, len(zeros)):
                await self.disk.write(at // block, zeros[: offset + whole - at])
        if whole < length:
            await self._write_in_block(offset + whole, memoryview(bytes(length - whole)))

    async def ends_at(self, size: int) -> None:
        """A LUN has its size."""

    async def flush(self) -> None:
        """SYNCHRONIZE CACHE."""
        await self.disk.flush()

    async def close(self) -> None:
        """Log out."""
        await self.disk.close()

    async def _write_same(self, lba: int, blocks: int) -> bool:
        if not self.zeroes_fast:
            return False
        try:
            # Not UNMAP: that a target may ignore, for any blocks, and what was there stays.
            await self.disk.write_zeroes(lba, blocks)
        except CommandFailed as failed:
            if not _is_refused(failed):
                raise
            self.zeroes_fast = False
        return self.zeroes_fast

    async def _write_in_block(self, offset: int, view: memoryview) -> None:
        lba, at = divmod(offset, self.align_bytes)
        block = bytearray(await self.disk.read(lba, 1))
        block[at : at + len(view)] = view
        await self.disk.write(lba, block)


def _is_refused(failed: CommandFailed) -> bool:
    return failed.sense_key == 0x05


async def _unit_of(disk: Disk, code: int) -> str:
    try:
        page: Any = await disk.vpd(code)
    except (CommandFailed, MalformedAnswer):
        return ""
    if isinstance(page, DeviceIdentification):
        return page.unit_identity
    return page.serial if isinstance(page, UnitSerialNumber) else ""
