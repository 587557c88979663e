"""``csv-initiator write``."""

from __future__ import annotations

import os
import stat
import sys
from typing import Any, BinaryIO

import click

from initiator import client
from initiator.cli import options, runtime
from initiator.cli.login import Login, login_options
from initiator.cli.path_options import PathChoice, several_paths
from initiator.cli.transfer import WINDOW_BYTES, Report, both, progress
from initiator.disk import Disk
from initiator.errors import InitiatorError
from initiator.parallel import in_thread
from initiator.url import IscsiUrl


@click.command()
@click.argument("url", type=options.url, metavar="URL")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE")
@click.option(
    "--offset",
    "offset_bytes",
    type=options.size,
    default="0",
    help="Where on the disk to begin, in bytes: whole blocks.",
)
@click.option("--fua", is_flag=True, help="Have every write on stable storage before it is answered.")
@login_options
@several_paths
@options.json_option
def write(
    url: IscsiUrl,
    file: str,
    offset_bytes: int,
    fua: bool,
    paths: PathChoice,
    login: Login,
    as_json: bool,
) -> None:
    """Write FILE onto a disk (- is stdin). When this ends with 0, the data is on stable storage.

    Where FILE ends inside a block, the rest of that block keeps what it holds.

    \b
    Examples:
      csv-initiator write iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 system.img
      zstdcat system.img.zst | csv-initiator write iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 - --offset 1M
    """
    how = login.of(url.user)

    async def work(reactor: Any) -> Report:
        with _open(file) as source:
            disk = await client.connect(
                paths.to(url),
                multipath=paths.how(),
                reactor=reactor,
                **how,
            )
            async with disk:
                _check(url, disk, offset_bytes, source)
                began_s = reactor.seconds()
                length = await _copy(reactor, disk, source, offset_bytes, fua)
                await disk.flush()
                return Report(str(url), offset_bytes, length, reactor.seconds() - began_s)

    runtime.run(work).show(as_json)


def _open(file: str) -> BinaryIO:
    return open(os.dup(sys.stdin.fileno()) if file == "-" else file, "rb", buffering=0)


def _size(source: BinaryIO) -> int:
    """Give the bytes that are left of a file; 0 of a pipe, whose length nobody knows."""
    status = os.fstat(source.fileno())
    return status.st_size - source.tell() if stat.S_ISREG(status.st_mode) else 0


def _check(url: IscsiUrl, disk: Disk, offset_bytes: int, source: BinaryIO) -> None:
    if offset_bytes % disk.block_bytes:
        raise InitiatorError("the offset is not of whole blocks", where=str(url), why=f"{disk.block_bytes} bytes each")
    if offset_bytes + _size(source) > disk.size_bytes:
        raise _too_long(disk)


def _too_long(disk: Disk) -> InitiatorError:
    return InitiatorError("the file does not fit on the disk", why=f"it has {disk.size_bytes} bytes")


async def _copy(reactor: Any, disk: Disk, source: BinaryIO, offset_bytes: int, fua: bool) -> int:
    """Copy up to the end of the file; give the bytes written."""
    spare, buffer = bytearray(WINDOW_BYTES), bytearray(WINDOW_BYTES)
    lba, length = offset_bytes // disk.block_bytes, 0
    with progress(_size(source), "writing") as bar:
        count = await in_thread(reactor, _fill, source, buffer)
        while count:
            if lba * disk.block_bytes + count > disk.size_bytes:
                raise _too_long(disk)
            whole = await _with_rest_of_block(disk, lba, buffer, count)
            # A window is of whole blocks: only the last one can be short.
            writing = disk.write(lba, memoryview(buffer)[:whole], fua=fua)
            following = await both(writing, in_thread(reactor, _fill, source, spare))
            bar.update(count)
            length += count
            lba += whole // disk.block_bytes
            buffer, spare, count = spare, buffer, following
    return length


async def _with_rest_of_block(disk: Disk, lba: int, buffer: bytearray, count: int) -> int:
    """Complete the last block of a window with what the disk holds; give the length of the whole blocks."""
    block = disk.block_bytes
    whole = -(-count // block) * block
    if whole > count:
        held = await disk.read(lba + whole // block - 1, 1)
        buffer[count:whole] = held[block - (whole - count) :]
    return whole


def _fill(source: BinaryIO, buffer: bytearray) -> int:
    """Read until the buffer is full or the file at its end; give the bytes read."""
    view, count = memoryview(buffer), 0
    while count < len(view):
        read = source.readinto(view[count:])  # type: ignore[attr-defined]
        if not read:
            break
        count += read
    return count
