"""Storage daemons die, and come back: no wrong data, and no call that hangs."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from csvd.storage.disk import StorageError
from csvd.storage.rbd.disk import RbdDisk
from tests.interop.ceph.cluster import Ceph
from tests.interop.ceph.disks import Disks, pause, read, run_with_disks

pytestmark = pytest.mark.interop

MIB = 1 << 20
SLOT_BYTES = 64 << 10
SLOTS = 256
DEADLINE_S = 4
ROOM_S = 20
"""A call ends at its deadline, and this machine may be busy with other things."""


@pytest.fixture
def three() -> Iterator[Ceph]:
    """Three storage daemons that have every object, of which two have to be there."""
    with Ceph(osds=3, copies_to_write=2) as cluster:
        yield cluster


def test_a_daemon_that_is_killed_under_load_makes_calls_wait_and_nothing_is_wrong(ceph: Ceph) -> None:
    url = ceph.url(ceph.new_image(SLOTS * SLOT_BYTES))
    chance = random.Random(5)
    model = [bytes(SLOT_BYTES) for _ in range(SLOTS)]
    done = 0

    async def lane(disk: RbdDisk, slots: range, is_over: Callable[[], bool]) -> None:
        nonlocal done
        while not is_over():
            slot = chance.choice(slots)
            how = chance.randrange(4)
            if how == 0:
                assert await read(disk, slot * SLOT_BYTES, SLOT_BYTES) == model[slot]
            elif how == 1:
                await disk.unmap(slot * SLOT_BYTES, SLOT_BYTES)
                model[slot] = bytes(SLOT_BYTES)
            else:
                data = chance.randbytes(4096) * (SLOT_BYTES // 4096)
                await disk.write_from((data,), slot * SLOT_BYTES)
                model[slot] = data
            done += 1

    async def body(disks: Disks) -> None:
        disk = await disks.open(url, timeout_s=60)
        over: list[bool] = []
        lanes = [Deferred.fromCoroutine(lane(disk, range(first, SLOTS, 16), lambda: bool(over))) for first in range(16)]
        working = DeferredList(lanes, fireOnOneErrback=True, consumeErrors=True)
        await pause(disks.reactor, 0.5)
        assert done > 0
        for _ in range(2):
            ceph.kill_osd(0)
            await pause(disks.reactor, 0.3)
            stopped_at = done
            await pause(disks.reactor, 0.3)
            assert done == stopped_at, "calls are answered by nobody"
            ceph.start_osd(0)
            while done < stopped_at + 200:
                await pause(disks.reactor, 0.05)
        over.append(True)
        await working
        for slot in range(SLOTS):
            assert await read(disk, slot * SLOT_BYTES, SLOT_BYTES) == model[slot]

    run_with_disks(body, time_limit_s=60)


def calls_of(disk: RbdDisk) -> dict[str, Callable[[], Deferred[Any]]]:
    """Everything that asks the cluster."""
    return {
        "read": lambda: disk.read_into(memoryview(bytearray(4096)), 0),
        "write": lambda: disk.write_from((b"x" * 4096,), 4096),
        "write with fua": lambda: disk.write_from((b"x" * 4096,), 8192, fua=True),
        "write zeroes": lambda: disk.write_zeroes(0, MIB),
        "unmap": lambda: disk.unmap(MIB, 3 * MIB),
        "allocation": lambda: disk.allocation(0, 8 * MIB),
        "allocated bytes": disk.allocated_bytes,
        "resize": lambda: disk.resize(16 * MIB),
        "join": lambda: disk.join("one"),
        "fence": lambda: disk.fence("two"),
    }


def test_with_two_of_three_daemons_gone_every_call_ends_at_its_deadline_and_goes_on_later(three: Ceph) -> None:
    url = three.url(three.new_image(8 * MIB))

    async def body(disks: Disks) -> None:
        disk = await disks.open(url, timeout_s=DEADLINE_S)
        await disk.write_from((b"a" * 4096,), 0)
        for number in (0, 1):
            three.kill_osd(number)
        three.command("osd down", ids=["0", "1"])
        began = time.monotonic()
        ends: dict[str, object] = {}

        def ended(result: object, name: str) -> None:
            ends[name] = result.value if isinstance(result, Failure) else result

        await DeferredList([call().addBoth(ended, name) for name, call in calls_of(disk).items()])
        assert time.monotonic() - began < DEADLINE_S + ROOM_S
        for name, end in ends.items():
            assert isinstance(end, StorageError), (name, end)
            assert end.errno == errno.ETIMEDOUT, (name, end)
        for number in (0, 1):
            three.start_osd(number)
        await until_it_answers(disks, disk)
        for call in calls_of(disk).values():
            await call()
        await disk.write_from((b"b" * 4096,), 4096)
        assert await read(disk, 0, 12288) == bytes(4096) + b"b" * 4096 + bytes(4096)

    run_with_disks(body, time_limit_s=120)


async def until_it_answers(disks: Disks, disk: RbdDisk) -> None:
    """The cluster finds itself again by and by."""
    for _ in range(30):
        try:
            await read(disk, 0, 4096)
        except StorageError:
            await pause(disks.reactor, 0.2)
        else:
            return
    pytest.fail("the disk did not come back with its cluster")


def test_a_disk_is_closed_and_opened_within_its_deadline_whether_the_cluster_is_there_or_not(three: Ceph) -> None:
    url = three.url(three.new_image(MIB))

    async def body(disks: Disks) -> None:
        disk = await disks.open(url, timeout_s=DEADLINE_S)
        for number in range(3):
            three.pause_osd(number)
        writing = disk.write_from((b"x" * 512,), 0)
        began = time.monotonic()
        closing = disk.close()
        with pytest.raises(StorageError) as late:
            await writing
        assert late.value.errno == errno.ETIMEDOUT
        await closing
        with pytest.raises(StorageError) as late:
            await disks.open(url, timeout_s=DEADLINE_S)
        assert late.value.errno == errno.ETIMEDOUT
        assert time.monotonic() - began < 3 * DEADLINE_S + ROOM_S

    run_with_disks(body, time_limit_s=60)
