"""What the demonstration guest keeps in its RAM: a header page and a working set of checksummed pages.

All of the guest's state is in its memory image, so that whoever has the image has the guest. Integers are little
endian.

Page 0, the header: magic, version, page size, page count, pages of the working set, pages filled so far, counter,
state of the generator, the page that will be rewritten next, total pages rewritten, CRC32C of all of this. Pages 1 to
N, the working set: page number, generation (1 when first filled, one more each time it is rewritten), payload, CRC32C
of the whole page before it. Everything after the working set is zero.
"""

from __future__ import annotations

import os
import random
import struct
from dataclasses import dataclass
from mmap import mmap
from typing import Final

import crc32c

PAGE_BYTES: Final = 4096
MINIMUM_PAGES: Final = 16

_MAGIC: Final = b"CSVDGST\0"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sIIQQQQQQQ")
_PAGE_HEAD: Final = struct.Struct("<QQ")
_CRC: Final = struct.Struct("<I")
_PAYLOAD_BYTES: Final = PAGE_BYTES - _PAGE_HEAD.size - _CRC.size
_CRC_OFFSET: Final = PAGE_BYTES - _CRC.size

# Payloads are windows of one block of pseudo-random bytes: making 4 KiB of fresh ones costs more than all the rest of
# a write.
_POOL_BYTES: Final = 1 << 20
_POOL_SEED: Final = 0x43535644
_POOL_WINDOWS: Final = _POOL_BYTES - _PAYLOAD_BYTES

# Knuth's 64-bit linear congruential generator (MMIX): one multiplication a page; its high bits are good enough here.
_MULTIPLIER: Final = 6364136223846793005
_INCREMENT: Final = 1442695040888963407
_MASK: Final = (1 << 64) - 1


class LayoutError(Exception):
    """The image is not one that this guest made, or its header is damaged."""


@dataclass(slots=True)
class Header:
    """The guest's registers, as page 0 holds them."""

    page_count: int
    working_set_pages: int
    filled_pages: int = 0
    counter: int = 0
    generator: int = _POOL_SEED
    next_page: int = 1
    pages_rewritten: int = 0


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of every page found.

    ``missing_rewrites`` is the number of rewrites the header counts and the pages do not show: a page that went back
    to an older, whole version of itself has a right CRC, and only this tells.
    """

    pages_checked: int
    pages_bad: int
    missing_rewrites: int
    stray_pages: int
    counter: int


class WorkingSet:
    """The guest's memory: reads, writes and checks its pages.

    Args:
        memory: a writable shared mapping of the whole image.
        fd: the image's file, through which empty parts are read: a mapped read of a hole would allocate it on tmpfs.

    Nothing of the image is looked at before ``load``.
    """

    def __init__(self, memory: mmap, fd: int) -> None:
        self.header = Header(page_count=len(memory) // PAGE_BYTES, working_set_pages=0)
        self._fd = fd
        self._view = memoryview(memory)
        self._pool = memoryview(random.Random(_POOL_SEED).randbytes(_POOL_BYTES))  # noqa: S311 - no secret

    def load(self, working_set_pages: int) -> None:
        """Take up the state in the image, or begin a new one with this working set when the header page is zero.

        Raises LayoutError when page 0 holds something else.
        """
        page_count = self.header.page_count
        first = bytes(self._view[:PAGE_BYTES])
        if not any(first):
            self.header = Header(page_count, working_set_pages)
            return
        magic, version, page_bytes, *registers = _HEADER.unpack_from(first)
        if magic != _MAGIC or version != _VERSION:
            raise LayoutError("page 0 is not the header of a csvd guest, version 1")
        if _CRC.unpack_from(first, _HEADER.size)[0] != crc32c.crc32c(first[: _HEADER.size]):
            raise LayoutError("the CRC of the header in page 0 is wrong")
        header = Header(*registers)
        if page_bytes != PAGE_BYTES or header.page_count != page_count:
            raise LayoutError(
                f"the image was made for {header.page_count} pages of {page_bytes} bytes, "
                f"not {page_count} of {PAGE_BYTES}"
            )
        self.header = header

    @property
    def is_filled(self) -> bool:
        """Whether every page of the working set was written once."""
        return self.header.filled_pages >= self.header.working_set_pages

    def store_header(self) -> None:
        """Write the registers to page 0."""
        header = self.header
        packed = _HEADER.pack(
            _MAGIC,
            _VERSION,
            PAGE_BYTES,
            header.page_count,
            header.working_set_pages,
            header.filled_pages,
            header.counter,
            header.generator,
            header.next_page,
            header.pages_rewritten,
        )
        self._view[: _HEADER.size + _CRC.size] = packed + _CRC.pack(crc32c.crc32c(packed))

    def fill(self, pages: int) -> None:
        """Write the next ``pages`` pages of the working set for the first time."""
        header = self.header
        for number in range(header.filled_pages + 1, min(header.filled_pages + pages, header.working_set_pages) + 1):
            self._write(number, generation=1)
            header.filled_pages = number

    def rewrite(self, pages: int) -> None:
        """Give ``pages`` pages, picked by the generator, a new generation and payload."""
        header = self.header
        for _ in range(pages):
            number = header.next_page
            generation = _PAGE_HEAD.unpack_from(self._view, number * PAGE_BYTES)[1]
            self._write(number, generation + 1)
            header.pages_rewritten += 1
            header.next_page = 1 + (header.generator >> 33) % header.working_set_pages

    def _write(self, number: int, generation: int) -> None:
        header = self.header
        header.generator = generator = (header.generator * _MULTIPLIER + _INCREMENT) & _MASK
        window = (generator >> 20) % _POOL_WINDOWS
        start = number * PAGE_BYTES
        page = self._view[start : start + PAGE_BYTES]
        _PAGE_HEAD.pack_into(page, 0, number, generation)
        page[_PAGE_HEAD.size : _CRC_OFFSET] = self._pool[window : window + _PAYLOAD_BYTES]
        _CRC.pack_into(page, _CRC_OFFSET, crc32c.crc32c(page[:_CRC_OFFSET]))

    def verify(self) -> Verification:
        """Check number, generation and CRC of every page of the working set, and that nothing lies after it."""
        header = self.header
        bad = 0
        generations = 0
        for number in range(1, header.filled_pages + 1):
            page = self._view[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
            stored_number, generation = _PAGE_HEAD.unpack_from(page)
            if stored_number != number or _CRC.unpack_from(page, _CRC_OFFSET)[0] != crc32c.crc32c(page[:_CRC_OFFSET]):
                bad += 1
            else:
                generations += generation - 1
        return Verification(
            pages_checked=header.filled_pages,
            pages_bad=bad,
            missing_rewrites=header.pages_rewritten - generations if not bad else 0,
            stray_pages=self._stray_pages(header.filled_pages + 1),
            counter=header.counter,
        )

    def _stray_pages(self, first: int) -> int:
        """Pages from ``first`` to the end that are not zero."""
        stray = 0
        block_bytes = 256 * PAGE_BYTES
        zeros = bytes(block_bytes)
        end_bytes = self.header.page_count * PAGE_BYTES
        for start in range(first * PAGE_BYTES, end_bytes, block_bytes):
            block = os.pread(self._fd, min(block_bytes, end_bytes - start), start)
            if block != zeros[: len(block)]:
                stray += sum(any(block[offset : offset + PAGE_BYTES]) for offset in range(0, len(block), PAGE_BYTES))
        return stray
