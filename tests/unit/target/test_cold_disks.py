"""A disk that takes its time, or hangs, stalls nobody who does not need it: neither another disk nor what is cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csvd.iscsi.codes import Opcode
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.storage.file import FileDisk
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from csvd.target.export import Export
from csvd.target.service import TargetService
from tests.iscsi_wire import BLOCK_BYTES, TARGET, WRITE10, cdb10
from tests.unit.storage.pool_doubles import HeldThreads, result_now
from tests.unit.target.turns_rig import Client, FairReactor

SIZE_BYTES = 4 << 20
COLD_BLOCK = 1024
"""From here on the page cache has nothing of the first disk."""
SECOND = 1 << 48
"""The LUN field of the second disk."""


class Reactor(FairReactor):
    """With what a pool needs."""

    def callFromThread(self, callable: Callable[..., Any], *args: object) -> None:  # noqa: A002
        self.callLater(0, callable, *args)


class ColdThreads(HeldThreads):
    """Threads that hang in what they do for one lane, and do anything else at once."""

    cold: Any = None

    def callInThread(self, func: Callable[..., Any], *args: object) -> None:
        super().callInThread(func, *args)
        if args[0] is not self.cold:
            self.held.pop()()


class Rig:
    """A service with two files as LUNs 0 and 1. Reads of what is cold hang in their threads, and all threads are in
    them, until `release`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reactor = Reactor()
        self.threads = ColdThreads()
        self.pool = DiskPool(self.reactor, threads=8, thread_pool=self.threads)
        self.disks = []
        for number in range(2):
            disk = result_now(open_disk(str(folder / f"{number}.img"), pool=self.pool, create_bytes=SIZE_BYTES))
            assert isinstance(disk, FileDisk)
            self.disks.append(disk)
        self.threads.cold = self.disks[0]._lane
        cached = FileDisk.read_nowait

        def read_nowait(disk: FileDisk, buffer: memoryview, offset_bytes: int) -> bool:
            if disk is self.disks[0] and offset_bytes >= COLD_BLOCK * BLOCK_BYTES:
                return False
            return cached(disk, buffer, offset_bytes)

        monkeypatch.setattr(FileDisk, "read_nowait", read_nowait)
        units = [
            LogicalUnit(number, disk, BLOCK_BYTES, SIZE_BYTES // BLOCK_BYTES, Identity(serial=str(number)))
            for number, disk in enumerate(self.disks)
        ]
        self.service = TargetService(self.reactor, [Export(TARGET, units)])
        self.clients: list[Client] = []

    def client(self) -> Client:
        """A session that has heard of the power on of both."""
        client = Client(self, len(self.clients) + 1)
        client.say(client.end.command(bytes(16), lun=SECOND))
        self.reactor.turn()
        assert [answer.status for answer in client.answers()] == [2]
        self.clients.append(client)
        return client

    def make_cold(self, client: Client) -> None:
        """Have all threads hang in reads of the first disk, and more waiting."""
        client.say(b"".join(client.end.read(COLD_BLOCK + 64 * n, 8) for n in range(40)))
        for _ in range(4):
            self.reactor.turn()
        assert len(self.threads.held) == 8
        assert client.answers() == []

    def release(self) -> None:
        self.threads.cold = None
        held, self.threads.held = self.threads.held, []
        for call in held:
            call()

    def answered(self, client: Client, request: bytes, turns: int = 6) -> list[tuple[Opcode, int]]:
        """What comes within some turns of the loop."""
        client.say(request)
        for _ in range(turns):
            self.reactor.turn()
        return [(answer.opcode, answer.fields.get("status", 0)) for answer in client.answers()]

    def close(self) -> None:
        self.release()
        for client in self.clients:
            client.close()
        for disk in self.disks:
            disk.close()
        for _ in range(10):
            self.reactor.turn()


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    rig = Rig(tmp_path, monkeypatch)
    yield rig
    rig.close()


def requests_of(client: Client, kind: str, lun: int) -> bytes:
    end = client.end
    if kind == "ping":
        return client.ping()
    if kind == "read":
        return end.read(0, 8, lun=lun)
    if kind == "flush":
        return end.command(b"\x35" + bytes(15), lun=lun)
    if kind == "inquiry":
        return end.command(b"\x12\0\0\0\x60" + bytes(11), expected=96, flags=0xC0, lun=lun)
    fua = kind == "durable write"
    cdb = bytes((WRITE10, 8 * fua)) + cdb10(WRITE10, 0, 8)[2:]
    return end.command(cdb, expected=4096, flags=0xA0, data=bytes(4096), lun=lun)


EXPECTED = {"ping": Opcode.NOP_IN, "read": Opcode.DATA_IN, "inquiry": Opcode.DATA_IN}


@pytest.mark.parametrize("kind", ["ping", "read", "inquiry", "write", "durable write", "flush"])
def test_while_a_disk_hangs_in_every_thread_another_one_does_all_that_it_is_asked(rig: Rig, kind: str) -> None:
    cold, other = rig.client(), rig.client()
    rig.make_cold(cold)
    answer = (EXPECTED.get(kind, Opcode.SCSI_RESPONSE), 0)
    for client in (other, cold):  # the session whose reads hang is heard, too
        for _ in range(3):
            assert rig.answered(client, requests_of(client, kind, SECOND)) == [answer]


@pytest.mark.parametrize("kind", ["ping", "read", "inquiry"])
def test_while_reads_of_a_disk_wait_for_it_what_is_cached_of_it_is_served(rig: Rig, kind: str) -> None:
    cold, other = rig.client(), rig.client()
    rig.make_cold(cold)
    for client in (other, cold):
        assert rig.answered(client, requests_of(client, kind, 0)) == [(EXPECTED[kind], 0)]


def test_reads_that_hit_the_cache_wait_for_none_of_their_own_batch_that_does_not(rig: Rig) -> None:
    client = rig.client()
    first = client.end.cmd_sn
    blocks = [0, COLD_BLOCK, 8, COLD_BLOCK + 8, 16, 24, COLD_BLOCK + 16, 32]
    client.say(b"".join(client.end.read(block, 8) for block in blocks))
    for _ in range(4):
        rig.reactor.turn()
    hits = client.answers()
    assert [answer.initiator_task_tag - first for answer in hits] == [0, 2, 4, 5, 7]
    rig.release()
    for _ in range(4):
        rig.reactor.turn()
    late = client.answers()
    assert sorted(answer.initiator_task_tag - first for answer in late) == [1, 3, 6]
    numbers = [answer.stat_sn for answer in hits + late]
    assert numbers == list(range(numbers[0], numbers[0] + len(blocks))), "StatSN counts in the order of sending"


def test_what_hung_is_answered_when_the_disk_is_back(rig: Rig) -> None:
    client = rig.client()
    rig.make_cold(client)
    rig.release()
    answers = []
    for _ in range(20):
        rig.reactor.turn()
        answers += client.answers()
    assert [(answer.opcode, answer.status, len(answer.data)) for answer in answers] == [(Opcode.DATA_IN, 0, 4096)] * 40
    assert client.connection.held_bytes == 0
