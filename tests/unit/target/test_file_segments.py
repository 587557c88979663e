"""Large READs that are sent from the page cache: what is sent, and who waits for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.iscsi.session import Task
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.outcome import READ, Transfer
from csvd.scsi.range_locks import Claim, Claims
from csvd.scsi.task_set import ORDERED, SIMPLE, TaskSet
from csvd.storage.disk import StorageError
from csvd.storage.memory import MemoryDisk
from csvd.target.connection import HELD_BYTES, ServerConnection
from csvd.target.file_segments import CALM_S, LOOK_S, MOST_LENT_S, SEGMENT_BYTES
from tests.iscsi_wire import BLOCK_BYTES
from tests.unit.target.test_connection import MemoryExecutor, Rig

FILE_BYTES = 1 << 20
LENT_BLOCKS = SEGMENT_BYTES // BLOCK_BYTES


class CachedDisk(MemoryDisk):
    """A file, of which the test says whether it is cached, and when a read is done."""

    def __init__(self, path: Path) -> None:
        super().__init__(FILE_BYTES)
        self.content = b"".join(number.to_bytes(4) * (BLOCK_BYTES // 4) for number in range(FILE_BYTES // BLOCK_BYTES))
        path.write_bytes(self.content)
        self.file = path.open("r+b")
        self.is_cached = True
        self.reads: list[tuple[memoryview, int, Deferred[None]]] = []

    def fileno(self) -> int:
        return self.file.fileno()

    def cached(self, offset_bytes: int, length_bytes: int) -> bool:
        return self.is_cached

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        return self.is_cached and os.preadv(self.fileno(), (buffer,), offset_bytes) == len(buffer)

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        self.reads.append((buffer, offset_bytes, Deferred()))
        return self.reads[-1][2]

    def finish_read(self) -> None:
        buffer, offset_bytes, done = self.reads.pop(0)
        os.preadv(self.fileno(), (buffer,), offset_bytes)
        done.callback(None)


class LendingExecutor(MemoryExecutor):
    """Has large READ(10)s sent from the disk, as the executor of a target does."""

    def __init__(self, rig: LendingRig) -> None:
        super().__init__(rig.wire)
        self.rig = rig

    def execute(self, connection: ServerConnection, task: Task) -> None:
        offset_bytes = int.from_bytes(task.cdb[2:6]) * BLOCK_BYTES
        length_bytes = int.from_bytes(task.cdb[7:9]) * BLOCK_BYTES
        if length_bytes < SEGMENT_BYTES:
            connection.engine.data_in(task, self.rig.disk.content[offset_bytes : offset_bytes + length_bytes])
            return
        assert connection.segments is not None
        transfer = Transfer(READ, self.rig.unit, offset_bytes, length_bytes, False)
        self.rig.task_set.begun += 1
        segment = connection.segments.lend(transfer, length_bytes, self.rig.task_set, self.rig.task_set.leave_simple)
        self.rig.lent.append(segment is not None)
        if segment is None:
            self.rig.task_set.begun -= 1
            data = self.rig.disk.content[offset_bytes : offset_bytes + length_bytes]
            connection.engine.data_in(task, data)
        else:
            connection.engine.data_in(task, segment)


class LendingRig(Rig):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.disk = CachedDisk(path)
        self.unit = LogicalUnit(0, self.disk, BLOCK_BYTES, FILE_BYTES // BLOCK_BYTES, Identity(serial="lent"))
        self.task_set = TaskSet()
        self.lent: list[bool] = []
        self.executor: Any = LendingExecutor(self)
        self.login()

    def ask_for(self, block: int, blocks: int = LENT_BLOCKS) -> None:
        self.peer.sendall(self.requests.read(block, blocks))
        self.reactor.turn()

    def data(self, count: int) -> dict[int, bytes]:
        """The data of so many READs, by task tag, in the order in which they end."""
        received, data = bytearray(), {}
        for _ in range(10_000):
            self.reactor.turn()
            try:
                received += self.peer.recv(1 << 20)
            except BlockingIOError:
                continue
            ended = [tag for tag, (_, final) in _gathered(received).items() if final]
            if len(ended) == count:
                gathered = _gathered(received)
                data = {tag: gathered[tag][0] for tag in ended}
                break
        return data

    def claim(self, block: int) -> list[str]:
        """Claim a block for somebody else."""
        granted: list[str] = []
        claims = Claims([Claim(self.unit.locks, block * BLOCK_BYTES, BLOCK_BYTES, True)])

        def now() -> None:
            granted.append("granted")
            claims.release()

        claims.acquire(now)
        return granted

    def look(self, times: int) -> None:
        for _ in range(times):
            self.reactor.advance(LOOK_S)


def _gathered(received: bytearray) -> dict[int, tuple[bytes, bool]]:
    """The Data-In of each task as far as it has come whole, and whether its status has."""
    gathered: dict[int, tuple[bytes, bool]] = {}
    at = 0
    while at + 48 <= len(received):
        length = int.from_bytes(received[at + 5 : at + 8])
        if at + 48 + length > len(received):
            break
        tag = int.from_bytes(received[at + 16 : at + 20])
        before, _ = gathered.get(tag, (b"", False))
        gathered[tag] = before + bytes(received[at + 48 : at + 48 + length]), bool(received[at + 1] & 1)
        at += 48 + length
    return gathered


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[LendingRig]:
    rig = LendingRig(tmp_path / "disk")
    yield rig
    rig.peer.close()
    rig.connection.abort()
    rig.disk.file.close()


def test_large_and_small_reads_come_in_their_order_and_with_their_data(rig: LendingRig) -> None:
    sizes = [(0, LENT_BLOCKS), (5, 1), (100, 1024), (7, 3), (300, LENT_BLOCKS + 1)]
    rig.peer.sendall(b"".join(rig.requests.read(*size) for size in sizes))
    data = rig.data(5)
    assert list(data) == sorted(data)
    for read, (block, blocks) in zip(data.values(), sizes, strict=True):
        assert read == rig.disk.content[block * BLOCK_BYTES : (block + blocks) * BLOCK_BYTES]
    assert rig.lent == [True] * 3


def test_a_peer_that_does_not_read_holds_up_no_more_than_its_share_and_gets_it_all(rig: LendingRig) -> None:
    for index in range(60):
        rig.ask_for(index, 512)
    assert rig.connection._unsent_bytes <= HELD_BYTES + 262144 + 48
    data = rig.data(60)
    assert [read[:4] for read in data.values()] == [index.to_bytes(4) for index in range(60)]


def test_who_claims_a_range_for_himself_waits_until_it_has_come(rig: LendingRig) -> None:
    rig.ask_for(0)
    elsewhere = rig.claim(1000)
    assert elsewhere == ["granted"]
    granted = rig.claim(3)
    assert not granted
    rig.data(1)
    rig.look(3)
    assert granted == ["granted"]


def test_an_ordered_task_waits_until_it_has_come(rig: LendingRig) -> None:
    rig.ask_for(0)
    begun: list[str] = []
    rig.task_set.enter(ORDERED, lambda: begun.append("ordered"))
    assert not begun
    rig.data(1)
    rig.look(3)
    assert begun == ["ordered"]


@pytest.mark.parametrize("what", ["claim", "ordered"])
def test_after_an_exclusive_claim_or_an_ordered_task_nothing_is_lent_for_a_while(rig: LendingRig, what: str) -> None:
    rig.ask_for(0)
    if what == "claim":
        rig.claim(1000)
    else:
        rig.look(3)
        rig.task_set.enter(ORDERED, lambda: None)
        rig.task_set.leave(ORDERED)
    rig.ask_for(0)
    rig.reactor.advance(CALM_S + 0.1)
    rig.ask_for(0)
    assert rig.lent == [True, False, True]
    rig.data(3)


def test_what_is_not_cached_is_not_lent(rig: LendingRig) -> None:
    rig.disk.is_cached = False
    rig.ask_for(0)
    assert rig.lent == [False]
    assert rig.data(1)


def test_what_is_evicted_while_it_waits_is_read_elsewhere_and_nothing_overtakes_it(rig: LendingRig) -> None:
    for index in range(4):
        rig.ask_for(index, 512)
    rig.disk.is_cached = False
    received = _drain(rig)
    assert len(rig.disk.reads) == 1
    assert rig.connection not in rig.reactor.writers
    while rig.disk.reads:
        rig.disk.finish_read()
        received += _drain(rig)
    assert [data[:4] for data, final in _gathered(received).values() if final] == [n.to_bytes(4) for n in range(4)]
    assert all(len(data) == 262144 for data, _ in _gathered(received).values())


def _drain(rig: LendingRig) -> bytearray:
    received = bytearray()
    for _ in range(50):
        rig.reactor.turn()
        try:
            received += rig.peer.recv(1 << 20)
        except BlockingIOError:
            continue
    return received


def test_what_can_not_be_read_any_more_ends_the_connection(rig: LendingRig) -> None:
    for index in range(4):
        rig.ask_for(index, 512)
    rig.disk.is_cached = False
    _drain(rig)
    rig.disk.reads[0][2].errback(StorageError("read", 5, where="disk"))
    assert rig.lost == [rig.connection]
    assert rig.claim(0) == ["granted"]


def test_a_disk_that_has_become_shorter_ends_the_connection(rig: LendingRig) -> None:
    rig.disk.file.truncate(4096)
    rig.ask_for(0, 512)
    assert rig.lost == [rig.connection]


def test_with_its_connection_a_read_ends_for_others(rig: LendingRig) -> None:
    rig.ask_for(0)
    granted = rig.claim(0)
    rig.connection.abort()
    assert granted == ["granted"]
    assert rig.task_set.begun == 0
    assert not rig.reactor.getDelayedCalls()


def test_a_slow_peer_holds_nobody_up_for_long_and_its_data_is_read_out(rig: LendingRig) -> None:
    for index in range(4):
        rig.ask_for(index, 512)
    granted = rig.claim(600)
    rig.reactor.advance(MOST_LENT_S + LOOK_S)
    assert granted == ["granted"]
    rig.connection.tick(rig.reactor.seconds())
    os.pwrite(rig.disk.fileno(), bytes(BLOCK_BYTES), 514 * BLOCK_BYTES)
    data = rig.data(4)
    last = data[max(data)]
    assert last == rig.disk.content[3 * BLOCK_BYTES : 515 * BLOCK_BYTES]


def test_a_simple_task_waits_for_nothing(rig: LendingRig) -> None:
    rig.ask_for(0)
    begun: list[str] = []
    rig.task_set.enter(SIMPLE, lambda: begun.append("simple"))
    assert begun == ["simple"]


def test_with_data_digests_there_is_nothing_to_lend(tmp_path: Path) -> None:
    rig = Rig()
    names = {"InitiatorName": "iqn.2026-11.test:i", "TargetName": rig.wire.target.name, "DataDigest": "CRC32C"}
    rig.ask(rig.requests.login_pdu(names))
    assert rig.engine.is_normal
    assert rig.connection.segments is None
    rig.peer.close()
    rig.connection.abort()
