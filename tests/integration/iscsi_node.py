"""A node that uses an iscsi:// disk, in a process of its own; it tells what it does by lines on stdout.

``python -m tests.integration.iscsi_node URL NODE`` and one of

* ``write LETTER``: joins, and writes the letter all over the disk until it is refused;
* ``stop LETTER``: the same, but stops itself when it has sent its first commands, and a part of their data;
* ``fence VICTIM LETTER``: joins, fences another node and writes the letter once;
* ``intrude LETTER``: writes once without joining;
* ``leave``: joins and leaves.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred

from csvd.errors import CsvdError
from csvd.runtime import install_reactor
from csvd.storage.disk import Disk, FencingDisk, StorageError
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool

PIECE_BYTES = 1 << 20


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def write_all(disk: Disk, letter: str, *, fua: bool) -> None:
    """Write all pieces at once, so that more is under way than any socket takes."""
    data = letter.encode() * PIECE_BYTES
    writes = [disk.write_from((data,), at, fua=fua) for at in range(0, disk.size_bytes, PIECE_BYTES)]
    error: StorageError | None = None
    for written in writes:
        try:
            await written
        except StorageError as failed:
            error = error or failed
    if error is not None:
        raise error


async def write_until_refused(disk: Disk, letter: str) -> None:
    try:
        for number in count():
            await write_all(disk, letter, fua=number % 2 == 1)
            tell(f"wrote {number}")
    except StorageError as error:
        tell(f"error {error.errno}")
    # It does not give up so soon, and it reads as before.
    for _ in range(3):
        try:
            await write_all(disk, letter, fua=True)
            tell("wrote after all")
        except StorageError as error:
            tell(f"error {error.errno}")
    buffer = bytearray(PIECE_BYTES)
    await disk.read_into(memoryview(buffer), 0)
    tell(f"read {chr(buffer[0])}")


async def live(reactor: Any, url: str, node: str, what: str, *words: str) -> None:
    pool = DiskPool(reactor)
    disk = await open_disk(url, pool=pool, initiator_name=f"iqn.2026-11.org.example:{node}")
    assert isinstance(disk, FencingDisk)
    if what != "intrude":
        await disk.join(node)
        tell("joined")
    if what == "fence":
        await disk.fence(words[0])
        tell("fenced")
    if what == "leave":
        await disk.leave()
        tell("left")
        await disk.close()
        await pool.stop()
        return
    if what == "stop":
        # The next turn of the loop sends; what the target asks for then is never read.
        reactor.callLater(0, reactor.callLater, 0, os.kill, os.getpid(), signal.SIGSTOP)
    try:
        if what in ("write", "stop"):
            await write_until_refused(disk, words[0])
        else:
            await write_all(disk, words[-1], fua=True)
            tell("done")
    except StorageError as error:
        tell(f"error {error.errno}")
    await pool.stop()


def main() -> None:
    reactor: Any = install_reactor()
    status = []

    def ended(result: Any) -> None:
        status.append(0)
        if result is not None:
            error = result.value
            tell(str(error) if isinstance(error, CsvdError) else result.getTraceback())
            status[0] = 1
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(live(reactor, *sys.argv[1:])).addBoth(ended))
    reactor.run()
    sys.exit(status[0])


if __name__ == "__main__":
    main()
