"""``csv-initiator read``."""

from __future__ import annotations

import os
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
@click.option("--offset", "offset_bytes", type=options.size, default="0", help="Where to begin, in bytes.")
@click.option("--length", "length_bytes", type=options.size, help="How much to read.  [default: up to the end]")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default="-",
    metavar="FILE",
    help="Where to write it; - is stdout, the default.",
)
@login_options
@several_paths
@options.json_option
def read(
    url: IscsiUrl,
    offset_bytes: int,
    length_bytes: int | None,
    output: str,
    paths: PathChoice,
    login: Login,
    as_json: bool,
) -> None:
    """Read a disk, or a part of it, into a file. Offset and length are in bytes and may be odd.

    \b
    Examples:
      csv-initiator read iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 -o disk.img
      csv-initiator read iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --offset 1M --length 64M | sha256sum
    """
    if output == "-" and as_json:
        raise click.UsageError("--json prints on stdout, and so does the data: give -o FILE")
    if output == "-" and sys.stdout.isatty():
        raise click.UsageError("the data of a disk is not for a terminal: give -o FILE, or a pipe")
    how = login.of(url.user)

    async def work(reactor: Any) -> Report:
        disk = await client.connect(
            paths.to(url),
            multipath=paths.how(),
            reactor=reactor,
            **how,
        )
        async with disk:
            length = disk.size_bytes - offset_bytes if length_bytes is None else length_bytes
            if length < 0 or offset_bytes + length > disk.size_bytes:
                raise InitiatorError("the disk ends before that", where=str(url), why=f"it has {disk.size_bytes} bytes")
            began_s = reactor.seconds()
            with _open(output) as file:
                await _copy(reactor, disk, offset_bytes, length, file)
            return Report(str(url), offset_bytes, length, reactor.seconds() - began_s)

    runtime.run(work).show(as_json)


def _open(output: str) -> BinaryIO:
    # Unbuffered, and never the interpreter's own stdout: a reader that goes away must not cost a traceback at exit.
    return open(os.dup(sys.stdout.fileno()) if output == "-" else output, "wb", buffering=0)


async def _copy(reactor: Any, disk: Disk, offset_bytes: int, length_bytes: int, file: BinaryIO) -> None:
    block = disk.block_bytes
    buffers = [bytearray(WINDOW_BYTES), bytearray(WINDOW_BYTES)]
    at, end = offset_bytes, offset_bytes + length_bytes
    ready: memoryview | None = None
    with progress(length_bytes, "reading") as bar:
        while at < end or ready is not None:
            pending, window = None, memoryview(b"")
            if at < end:
                first = at // block
                stop = min(end, first * block + WINDOW_BYTES // block * block)
                view = memoryview(buffers[0])[: -(-stop // block) * block - first * block]
                window = view[at - first * block : stop - first * block]
                pending = disk.read_into(first, view)
                at = stop
            if ready is not None:
                written = in_thread(reactor, _write_all, file, ready)
                await (written if pending is None else both(pending, written))
                bar.update(len(ready))
            elif pending is not None:
                await pending
            ready = window if len(window) else None
            buffers.reverse()


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) or 0 :]
