"""A node over a shared file, in a process of its own, for `tests.integration.fence_order`.

``python -m tests.integration.fenced_node writer PATH LEASE_S`` joins as the member 1 when it reads ``go``, and writes
stamped records all over the file, as fast as it can, as long as its lease is good. It says ``beat TIME`` twenty times a
second, and the lease is good for LEASE_S from that time on when ``ok TIME`` comes back. When it is out, or it reads
``leave``, it leaves the disk and says ``left``; every write that it tries after that must fail. Its watchdog ends it
where it does not come to that.

``python -m tests.integration.fenced_node successor PATH`` joins as the member 2. When it reads ``fence`` it asks for
the fence of member 1 until it has it, reads what that one has written, writes its own records all over the file for a
while, and tells what it saw in a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import time
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from csvd.runtime import install_reactor
from csvd.shared_disk import NotProven
from csvd.storage.disk import FENCED, StorageError
from csvd.storage.file import FileDisk
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from csvd.watchdog import Watchdog

BEAT_S = 0.05
GRACE_S = 0.5
"""What a node has for its last writes, and for leaving, before its watchdog ends it."""

RECORD_BYTES = 4096
RECORDS = 256
DEPTH = 8
TAKEN_OVER_S = 0.15
_RECORD = struct.Struct(">8sQQQ")
_MAGIC = b"fenced!!"
NODES = {"writer": 1, "successor": 2}


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def a_record(number: int, sequence: int) -> bytes:
    """It says who wrote it, and when it was about to."""
    return _RECORD.pack(_MAGIC, number, sequence, now_ns()).ljust(RECORD_BYTES, bytes([number]))


def records_in(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Number, sequence and stamp of each; a torn one must not be."""
    for at in range(0, len(data), RECORD_BYTES):
        if any(data[at : at + RECORD_BYTES]):
            magic, number, sequence, stamp_ns = _RECORD.unpack_from(data, at)
            assert magic == _MAGIC, at
            assert data[at + _RECORD.size : at + RECORD_BYTES] == bytes([number]) * (RECORD_BYTES - _RECORD.size)
            yield number, sequence, stamp_ns


class Node:
    """One of the two, over an open disk.

    Attributes:
        lease_s: how long an answered heartbeat is good for; of a writer.
        lease_until_s: no write begins after it.
        written: how many writes have been acknowledged.
    """

    def __init__(self, reactor: Any, disk: FileDisk, number: int, lease_s: float = 0.0) -> None:
        self.lease_s = lease_s
        self.lease_until_s = 0.0
        self.written = 0
        self.reactor = reactor
        self.disk = disk
        self._number = number
        self._sequence = 0

    async def write(self, until_s: float | None = None) -> None:
        """Write, several at a time, while the lease is good, or up to a time."""
        await DeferredList([Deferred.fromCoroutine(self._write(until_s)) for _ in range(DEPTH)], fireOnOneErrback=True)

    async def _write(self, until_s: float | None) -> None:
        while now_s() < (self.lease_until_s if until_s is None else until_s):
            self._sequence += 1
            at = self._sequence % RECORDS * RECORD_BYTES
            record = a_record(self._number, self._sequence)
            # As a logical unit does it: at once where that can be, else by a thread.
            if not self.disk.write_nowait((record,), at):
                await self.disk.write_from((record,), at)
            self.written += 1
            if self._sequence % 16 == 0:
                # Others, and the pipe, have their turn.
                await deferLater(self.reactor, 0, lambda: None)


def on_lines(reactor: Any, take: Any) -> None:
    """Call with each line of stdin, in the loop."""

    def read() -> None:
        for line in sys.stdin:
            with contextlib.suppress(RuntimeError):
                reactor.callFromThread(take, line.split())

    Thread(target=read, daemon=True).start()


async def live_as_writer(node: Node) -> None:
    watchdog = Watchdog()
    go: Deferred[None] = Deferred()
    is_leaving = False

    def take(words: list[str]) -> None:
        nonlocal is_leaving
        match words:
            case ["go"]:
                go.callback(None)
            case ["ok", _] if is_leaving:
                pass  # It answers a heartbeat from before.
            case ["ok", sent]:
                node.lease_until_s = float(sent) + node.lease_s
                watchdog.arm(node.lease_until_s + GRACE_S)
            case ["leave"]:
                is_leaving = True
                node.lease_until_s = 0.0

    def beat() -> None:
        tell(f"beat {now_s()}")
        node.reactor.callLater(BEAT_S, beat)

    on_lines(node.reactor, take)
    await go
    await node.disk.join("writer", NODES["writer"])
    beat()
    while not node.lease_until_s:
        await deferLater(node.reactor, 0.001, lambda: None)
    node.reactor.callLater(BEAT_S, tell, "writing")
    await node.write()
    await node.disk.leave()
    watchdog.disarm()
    tell(f"left {now_ns()}")
    # It lives on, and would write: nothing of that may land.
    for fua in (False, True):
        assert not node.disk.write_nowait((bytes(RECORD_BYTES),), 0)
        with pytest.raises(StorageError) as refused:
            await node.disk.write_from((bytes(RECORD_BYTES),), 0, fua=fua)
        assert refused.value.errno == FENCED
    tell("refused")
    await Deferred()


async def live_as_successor(node: Node) -> None:
    fence: list[Deferred[None]] = []

    def take(words: list[str]) -> None:
        assert words == ["fence"]
        fence[0].callback(None)

    on_lines(node.reactor, take)
    await node.disk.join("successor", NODES["successor"])
    while True:
        fence[:] = [Deferred()]
        tell("ready")
        await fence[0]
        await take_over(node)


async def take_over(node: Node) -> None:
    asked_ns, refused = now_ns(), 0
    while True:
        try:
            proof = await node.disk.fence("writer", NODES["writer"])
            break
        except NotProven:
            refused += 1
            await deferLater(node.reactor, 0.001, lambda: None)
    granted_ns = now_ns()
    before = bytearray(RECORDS * RECORD_BYTES)
    await node.disk.read_into(memoryview(before), 0)
    first_ns = now_ns()
    await node.write(now_s() + TAKEN_OVER_S)
    after = bytearray(RECORDS * RECORD_BYTES)
    await node.disk.read_into(memoryview(after), 0)
    theirs = [record for record in records_in(bytes(before)) if record[0] == NODES["writer"]]
    tell(
        json.dumps(
            {
                "asked_ns": asked_ns,
                "refused": refused,
                "proven_ns": int(proof.at_s * 1e9),
                "granted_ns": granted_ns,
                "first_ns": first_ns,
                "last_ns": max(stamp_ns for _, _, stamp_ns in theirs),
                "records": len(theirs),
                "late": sum(number != NODES["successor"] for number, _, _ in records_in(bytes(after))),
                "own": sum(number == NODES["successor"] for number, _, _ in records_in(bytes(after))),
                "written": node.written,
            }
        )
    )


async def live(reactor: Any, what: str, path: str, lease_s: str = "0") -> None:
    disk = await open_disk(path, pool=DiskPool(reactor))
    assert isinstance(disk, FileDisk)
    node = Node(reactor, disk, NODES[what], float(lease_s))
    await (live_as_writer(node) if what == "writer" else live_as_successor(node))


def main() -> None:
    reactor: Any = install_reactor()

    def failed(failure: Any) -> None:
        tell(failure.getTraceback())
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(live(reactor, *sys.argv[1:])).addErrback(failed))
    reactor.run()


if __name__ == "__main__":
    main()
