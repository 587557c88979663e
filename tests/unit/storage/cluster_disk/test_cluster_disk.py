"""The area of a shared disk over memory whose power goes, and over files that several have open."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from uuid import UUID

import pytest
from twisted.internet.defer import Deferred, DeferredList

from csvd.errors import ConfigError, CsvdError
from csvd.shared_disk import FILE_LOCK, NO_FENCE, NotProven, OwnerBlock, OwnerChanged, RecordSlot, SharedDisk
from csvd.storage.cluster_disk import layout
from csvd.storage.cluster_disk.disk import ClusterDisk
from csvd.storage.cluster_disk.errors import AreaError
from csvd.storage.cluster_disk.formatting import find_superblock, format_disk, read_superblock
from csvd.storage.cluster_disk.layout import BLOCK_BYTES, DATA_OFFSET, SLOT_OFFSETS
from csvd.storage.cluster_disk.opening import create_cluster_disk, open_cluster_disk
from csvd.storage.disk import Disk, StorageError
from csvd.storage.file import FileDisk
from csvd.storage.memory import MemoryDisk
from csvd.storage.null import NullDisk
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from tests.unit.storage.cluster_disk.torn_disk import TornDisk
from tests.unit.storage.pool_doubles import result_now
from tests.unit.storage.reactor_loop import run_in_reactor

T = TypeVar("T")

SIZE = DATA_OFFSET + (1 << 20)
UUIDS = [UUID(int=number) for number in (1, 2)]


def now(work: Coroutine[Deferred[Any], Any, T]) -> T:
    """The result of what waits for nothing but memory."""
    return result_now(Deferred.fromCoroutine(work))


def formatted(disk: Disk, *, uuid: UUID = UUIDS[0], force: bool = False) -> ClusterDisk:
    return ClusterDisk(disk, now(format_disk(disk, name="shared", uuid=uuid, force=force)))


def reopened(disk: Disk) -> ClusterDisk:
    return ClusterDisk(disk, now(read_superblock(disk)))


@pytest.fixture
def memory() -> MemoryDisk:
    return MemoryDisk(SIZE)


def poke(disk: MemoryDisk, offset_bytes: int, data: bytes) -> None:
    result_now(disk.write_from((data,), offset_bytes))


# What a new one is


def test_a_new_area_has_no_owner_and_no_records(memory: MemoryDisk) -> None:
    disk = formatted(memory)
    for each in (disk, reopened(memory)):
        shared: SharedDisk = each
        assert (shared.uuid, each.name, shared.fence_kind) == (str(UUIDS[0]), "shared", NO_FENCE)
        assert each.data_offset_bytes == DATA_OFFSET
        assert result_now(shared.read_owner()) == OwnerBlock()
        assert result_now(shared.read_records()) == RecordSlot()


@pytest.mark.parametrize(
    ("at", "data", "told"),
    [
        (0x438, b"\x53\xef", "an ext4, ext3 or ext2 file system"),
        (510, b"\x55\xaa", "a partition table or a boot sector"),
        (777, b"?", "data that csvd does not know, from byte 777 on"),
        (0, b"XFSB", "an XFS file system"),
    ],
)
def test_a_disk_that_has_something_on_it_is_formatted_by_force_alone(
    memory: MemoryDisk, at: int, data: bytes, told: str
) -> None:
    poke(memory, at, data)
    with pytest.raises(AreaError, match=told):
        formatted(memory)
    with pytest.raises(AreaError, match=f"not one that nodes share.*{told}"):
        reopened(memory)
    formatted(memory, force=True)
    assert reopened(memory).uuid == str(UUIDS[0])


def test_a_shared_disk_is_formatted_anew_by_force_alone_and_nothing_of_it_stays(memory: MemoryDisk) -> None:
    disk = formatted(memory)
    result_now(disk.write_owner(OwnerBlock(), OwnerBlock(5, "a", 1)))
    result_now(disk.write_records(RecordSlot(5, 1, b"x" * 9000)))
    with pytest.raises(AreaError, match=f"the shared disk shared of csvd .{UUIDS[0]}"):
        formatted(memory, uuid=UUIDS[1])
    assert result_now(disk.read_records()).sequence == 1
    anew = formatted(memory, uuid=UUIDS[1], force=True)
    assert anew.uuid == str(UUIDS[1])
    assert result_now(anew.read_owner()) == OwnerBlock()
    assert result_now(anew.read_records()) == RecordSlot()
    with pytest.raises(AreaError, match="another area"):
        result_now(disk.read_owner())


def test_a_disk_that_is_too_small_or_can_not_be_shared_is_refused() -> None:
    with pytest.raises(AreaError, match="too small"):
        formatted(MemoryDisk(DATA_OFFSET - 4096))
    with pytest.raises(StorageError, match="can not compare and write"):
        formatted(NullDisk(SIZE))
    empty = MemoryDisk(4096)
    assert now(find_superblock(empty)) is None
    with pytest.raises(AreaError, match="it has nothing on it"):
        reopened(empty)


def test_one_superblock_is_enough_and_none_is_not(memory: MemoryDisk) -> None:
    formatted(memory)
    poke(memory, 100, b"damage")
    assert reopened(memory).name == "shared"
    formatted(memory, force=True)
    poke(memory, layout.COPY_OFFSET + 100, b"damage")
    assert reopened(memory).name == "shared"
    poke(memory, 100, b"damage")
    with pytest.raises(AreaError, match="not one that nodes share"):
        reopened(memory)


# The owner


def test_the_owner_is_written_by_who_knows_the_one_before(memory: MemoryDisk) -> None:
    disk, other = formatted(memory), reopened(memory)
    first, second, late = OwnerBlock(1, "a", 1), OwnerBlock(2, "b", 2), OwnerBlock(2, "c", 3)
    result_now(disk.write_owner(OwnerBlock(), first))
    result_now(other.write_owner(first, second))
    with pytest.raises(OwnerChanged) as changed:
        result_now(disk.write_owner(first, late))
    assert changed.value.found == second
    assert result_now(disk.read_owner()) == second
    # Whose answer was lost writes it once more.
    result_now(other.write_owner(first, second))


def test_a_damaged_owner_block_is_refused(memory: MemoryDisk) -> None:
    disk = formatted(memory)
    poke(memory, layout.OWNER_OFFSET + 40, b"\x01z")
    with pytest.raises(AreaError, match="the owner block of the disk is damaged"):
        result_now(disk.read_owner())
    with pytest.raises(AreaError, match="the owner block of the disk is damaged"):
        result_now(disk.write_owner(OwnerBlock(), OwnerBlock(1, "a", 1)))


# The records


def test_writes_go_to_the_slots_by_turns_and_the_newest_counts(memory: MemoryDisk) -> None:
    disk = formatted(memory)
    for sequence in range(1, 6):
        before = [memory._memory[at : at + 8192] for at in SLOT_OFFSETS]
        slot = RecordSlot(1, sequence, b"%d" % sequence * 1000)
        result_now(disk.write_records(slot))
        after = [memory._memory[at : at + 8192] for at in SLOT_OFFSETS]
        assert [old != new for old, new in zip(before, after, strict=True)].count(True) == 1
        for each in (disk, reopened(memory)):
            assert result_now(each.read_records()) == slot


def test_what_is_not_new_is_refused_and_what_another_wrote_is_not_written_over(memory: MemoryDisk) -> None:
    one, other = formatted(memory), reopened(memory)
    result_now(one.write_records(RecordSlot(1, 1, b"one")))
    for slot in (RecordSlot(1, 1, b""), RecordSlot(1, 0, b""), RecordSlot(0, 7, b"")):
        with pytest.raises(AreaError, match="are not new"):
            result_now(one.write_records(slot))
    result_now(other.write_records(RecordSlot(2, 1, b"other")))
    # It knew of one write; it looks again before it writes in another epoch, and takes the older one's place.
    result_now(one.write_records(RecordSlot(3, 1, b"three")))
    assert result_now(other.read_records()).data == b"three"
    poke(memory, SLOT_OFFSETS[0], b"torn")
    assert result_now(other.read_records()).data in (b"other", b"three")


def test_a_torn_slot_does_not_count_and_is_written_next(memory: MemoryDisk) -> None:
    disk = formatted(memory)
    for sequence in (1, 2, 3):
        result_now(disk.write_records(RecordSlot(1, sequence, b"%d" % sequence * 5000)))
    # Sequence 3 is in slot 1: 1, 0, 1.
    poke(memory, SLOT_OFFSETS[1] + BLOCK_BYTES + 4000, b"damage")
    disk = reopened(memory)
    assert result_now(disk.read_records()).sequence == 2
    result_now(disk.write_records(RecordSlot(2, 1, b"new")))
    assert result_now(disk.read_records()).data == b"new"
    poke(memory, SLOT_OFFSETS[1], b"damage")
    assert result_now(disk.read_records()).sequence == 2


def test_two_damaged_slots_are_refused(memory: MemoryDisk) -> None:
    disk = formatted(memory)
    for sequence in (1, 2):
        result_now(disk.write_records(RecordSlot(1, sequence, b"data")))
    for at in SLOT_OFFSETS:
        poke(memory, at + BLOCK_BYTES, b"DATA")
    both: tuple[Deferred[Any], ...] = (
        disk.read_records(),
        reopened(memory).write_records(RecordSlot(9, 9, b"")),
    )
    for failing in both:
        with pytest.raises(AreaError, match="neither of the record slots"):
            result_now(failing)


def test_a_slot_that_can_not_be_read_is_not_taken_for_a_torn_one(
    memory: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = formatted(memory)
    for sequence in (1, 2):
        result_now(disk.write_records(RecordSlot(1, sequence, b"data")))
    real = memory.read_into

    def read_into(buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        if offset_bytes == SLOT_OFFSETS[0]:
            raise StorageError("read", errno.EIO, where=memory.url)
        return real(buffer, offset_bytes)

    monkeypatch.setattr(memory, "read_into", read_into)
    with pytest.raises(StorageError):
        result_now(disk.read_records())


@pytest.mark.parametrize("seed", range(40))
def test_no_acknowledged_write_is_lost_whenever_the_power_goes(seed: int) -> None:
    random = Random(seed)
    store = TornDisk(SIZE, random)
    disk = formatted(store)
    acknowledged, epoch, sequence = RecordSlot(), 1, 0
    owner = OwnerBlock()
    for _ in range(12):
        store.calls_left = random.randrange(9)
        tried = acknowledged
        next_owner = owner
        try:
            while True:
                next_owner = OwnerBlock(epoch, f"n{epoch}", 1 + epoch % 32)
                if owner.epoch != epoch:
                    result_now(disk.write_owner(owner, next_owner))
                    owner = next_owner
                sequence += 1
                tried = RecordSlot(epoch, sequence, random.randbytes(random.choice((0, 10, 4096, 9000))))
                result_now(disk.write_records(tried))
                acknowledged = tried
        except CsvdError:
            store.power_on()
        disk = reopened(store)
        found = result_now(disk.read_records())
        assert found in (acknowledged, tried)
        assert result_now(disk.read_owner()) in (owner, next_owner)
        owner = result_now(disk.read_owner())
        acknowledged, epoch, sequence = found, epoch + random.randrange(2), found.sequence


def test_a_format_that_was_interrupted_leaves_no_area() -> None:
    probe = TornDisk(SIZE, Random(0))
    formatted(probe)
    for calls in range(probe.calls - 1):
        store = TornDisk(SIZE, Random(calls))
        store.calls_left = calls
        with pytest.raises(CsvdError):
            formatted(store)
        store.power_on()
        found = now(find_superblock(store))
        if found is not None:
            # The last superblock alone was under way: the area is whole.
            disk = reopened(store)
            assert result_now(disk.read_owner()) == OwnerBlock()
            assert result_now(disk.read_records()) == RecordSlot()
        formatted(store, force=True)


# Over files


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "shared.img")


def on_files(path: str, body: Callable[[Callable[[], Any]], Coroutine[Deferred[Any], Any, None]]) -> None:
    """Run a test that opens the disk at a path, as often as it likes; all of them are closed in the end."""

    async def main(reactor: Any) -> None:
        pool = DiskPool(reactor)
        opened: list[ClusterDisk] = []

        async def opener() -> ClusterDisk:
            if os.path.exists(path):
                opened.append(await open_cluster_disk(path, pool=pool))
            else:
                how: dict[str, Any] = {"name": "shared", "uuid": UUIDS[0], "create_bytes": SIZE}
                opened.append(await create_cluster_disk(path, pool=pool, **how))
            return opened[-1]

        try:
            await body(opener)
        finally:
            for disk in opened:
                await disk.close()
                await disk.close()
            await pool.stop()

    run_in_reactor(main)


def test_a_shared_disk_is_never_read_through_the_page_cache(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(opener: Callable[[], Any]) -> None:
        shared = await opener()
        assert isinstance(shared.disk, FileDisk)
        assert fcntl.fcntl(shared.disk.fileno(), fcntl.F_GETFL) & os.O_DIRECT

        def refuse(*_: object) -> None:
            raise ConfigError("direct I/O is not possible")

        monkeypatch.setattr("csvd.storage.open_file._go_direct", refuse)
        with pytest.raises(ConfigError, match="direct I/O"):
            await opener()

    on_files(path, body)


def test_nodes_share_a_file(path: str) -> None:
    async def body(opener: Callable[[], Any]) -> None:
        a, b = await opener(), await opener()
        assert a.fence_kind == FILE_LOCK
        assert isinstance(a.disk, FileDisk)
        await a.join("a", 1)
        await b.join("b", 2)
        await a.write_owner(OwnerBlock(), OwnerBlock(1, "a", 1))
        assert await b.read_owner() == OwnerBlock(1, "a", 1)
        slot = RecordSlot(1, 1, b"r" * 70000)
        await a.write_records(slot)
        assert await b.read_records() == slot
        with pytest.raises(NotProven):
            await b.fence("a", 1)
        assert not await b.is_gone("a", 1)
        await a.close()
        assert await b.is_gone("a", 1)
        assert (await b.fence("a", 1)).kind == FILE_LOCK
        await b.write_owner(OwnerBlock(1, "a", 1), OwnerBlock(2, "b", 2))
        await b.write_records(RecordSlot(2, 1, b"b"))
        assert (await (await opener()).read_records()).data == b"b"

    on_files(path, body)


def test_of_many_who_take_the_office_at_once_one_gets_it(path: str) -> None:
    async def body(opener: Callable[[], Any]) -> None:
        disks = [await opener() for _ in range(6)]
        expected = OwnerBlock()
        for epoch in range(1, 6):
            claims = [OwnerBlock(epoch, f"node-{number}", number) for number in range(1, 7)]
            pairs = zip(disks, claims, strict=True)
            writes = [disk.write_owner(expected, claim) for disk, claim in pairs]
            outcomes: list[Any] = await DeferredList(writes, consumeErrors=True)
            won = [claim for claim, (succeeded, _) in zip(claims, outcomes, strict=True) if succeeded]
            assert len(won) == 1
            (expected,) = won
            for succeeded, failure in outcomes:
                assert succeeded or failure.value.found == expected
            assert await disks[0].read_owner() == expected

    on_files(path, body)


def test_a_disk_that_is_there_is_not_made_over_and_one_that_is_not_is_told(path: str) -> None:
    async def main(reactor: Any) -> None:
        pool = DiskPool(reactor)
        try:
            with pytest.raises(ConfigError, match="no such file"):
                await open_cluster_disk(path, pool=pool)
            plain = await open_disk(path, pool=pool, create_bytes=SIZE)
            await plain.close()
            with pytest.raises(AreaError, match="it has nothing on it"):
                await open_cluster_disk(path, pool=pool)
            with pytest.raises(ConfigError, match="exists already"):
                await create_cluster_disk(path, name="x", uuid=UUIDS[0], pool=pool, create_bytes=SIZE)
            disk = await create_cluster_disk(path, name="x", uuid=UUIDS[0], pool=pool)
            await disk.close()
            with pytest.raises(AreaError, match="is not empty"):
                await create_cluster_disk(path, name="x", uuid=UUIDS[1], pool=pool)
            disk = await create_cluster_disk(path, name="x", uuid=UUIDS[1], pool=pool, force=True)
            await disk.close()
        finally:
            await pool.stop()

    run_in_reactor(main)
