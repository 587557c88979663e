"""SCSI disks of the kernel: persistent reservations by SG_IO, against a logical unit of csvd behind a made-up ioctl."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.shared_disk import PERSISTENT_RESERVATION, NotProven
from csvd.storage import file_locks
from csvd.storage.device.disk import DeviceDisk, device_disk
from csvd.storage.device.sysfs import wwid_of
from csvd.storage.disk import DIFFERS, FENCED, DiskCapabilities, StorageError
from tests.unit.scsi.reserving_host import WE_RO, a_target
from tests.unit.scsi.store import Store
from tests.unit.storage.device.scsi_hosts import ScsiHost
from tests.unit.storage.pool_doubles import InlinePool

SIZE = 1 << 20
WWID = "naa.6000000000000001"
CAN = DiskCapabilities(
    discard=False,
    write_zeroes=False,
    volatile_cache=True,
    fence="file lock",
    shared_between="processes of a host",
    physical_block_bytes=512,
)


class Hosts:
    """Hosts with the same disk. Each has a file of its own for it: a lock on one is none on another."""

    def __init__(self, folder: Path, inline: InlinePool) -> None:
        self.target = a_target()
        self.store = Store()
        self._folder = folder
        self._inline = inline
        self.opened: list[DeviceDisk] = []

    def host(self, name: str) -> ScsiHost:
        return ScsiHost(self.target, name, self.store)

    def open(self, host: ScsiHost) -> DeviceDisk:
        path = self._folder / host.host.initiator_name
        path.touch()
        os.truncate(path, SIZE)
        fd = os.open(path, os.O_RDWR)
        how: dict[str, Any] = {"url": "/dev/sdx", "size_bytes": SIZE, "read_only": False, "identity": "x"}
        disk = device_disk(fd, WWID, pool=self._inline.pool, capabilities=CAN, ioctl=host.ioctl, **how)
        if disk is None:
            os.close(fd)
        assert disk is not None
        self.opened.append(disk)
        return disk


@pytest.fixture
def inline() -> InlinePool:
    return InlinePool()


@pytest.fixture
def hosts(tmp_path: Path, inline: InlinePool) -> Iterator[Hosts]:
    made = Hosts(tmp_path, inline)
    yield made
    for disk in made.opened:
        inline.settle(disk.close())


@pytest.fixture
def errno_of(inline: InlinePool) -> Callable[[Deferred[Any]], int]:
    def errno_of(failing: Deferred[Any]) -> int:
        with pytest.raises(StorageError) as failed:
            inline.settle(failing)
        return failed.value.errno

    return errno_of


def test_a_host_that_is_fenced_is_registered_no_more(
    hosts: Hosts, inline: InlinePool, errno_of: Callable[[Deferred[Any]], int]
) -> None:
    one, two = hosts.host("one"), hosts.host("two")
    a, b = hosts.open(one), hosts.open(two)
    assert (a.capabilities.fence, a.capabilities.shared_between) == (PERSISTENT_RESERVATION, "hosts")
    inline.settle(a.join("a", 1))
    inline.settle(a.join("a", 1))
    inline.settle(b.join("b", 2))
    keys = one.host.keys()
    assert len(keys) == 2
    assert one.host.reservation() == (keys[0], WE_RO)
    assert not inline.settle(a.is_gone("b", 2))
    proof = inline.settle(a.fence("b", 2))
    assert (proof.kind, proof.node) == (PERSISTENT_RESERVATION, "b")
    assert "is not registered, and the LUN is reserved for who is" in proof.seen
    assert len(one.host.keys()) == 1
    assert two.host.ask("2A 00 00 00 00 00 00 00 01 00", bytes(512)) != 0, "the disk refuses its writes"
    assert errno_of(b.fence("a", 1)) == FENCED
    # The one that holds the reservation is fenced as well, and it goes to who fences.
    inline.settle(b.join("b", 2))
    inline.settle(b.fence("a", 1))
    assert len(two.host.keys()) == 1
    assert two.host.reservation() == (two.host.keys()[0], WE_RO)


def test_a_process_of_the_same_host_that_lives_is_not_fenced(
    hosts: Hosts, inline: InlinePool, errno_of: Callable[[Deferred[Any]], int]
) -> None:
    host, other = hosts.host("one"), hosts.host("two")
    a, twin, same = hosts.open(host), hosts.open(host), hosts.open(host)
    inline.settle(a.join("a", 1))
    assert errno_of(twin.join("b", 2)) == errno.EBUSY
    assert errno_of(same.join("a", 1)) == errno.EBUSY
    assert len(host.host.keys()) == 1, "whose place it is has kept it"
    inline.settle(a.leave())
    inline.settle(twin.join("b", 2))
    c = hosts.open(other)
    inline.settle(c.join("c", 3))
    inline.settle(twin.fence("c", 3))
    inline.settle(twin.leave())
    inline.settle(same.join("a", 1))
    with pytest.raises(StorageError):
        inline.settle(same.fence("a", 1))


def test_the_lock_of_a_process_of_this_host_is_looked_at_before_the_reservation(
    hosts: Hosts, inline: InlinePool
) -> None:
    host = hosts.host("one")
    a, b = hosts.open(host), hosts.open(host)
    inline.settle(a.join("a", 1))
    # As one that joined by another name of the device did.
    assert file_locks.take(b.fileno(), 2)
    before = len(host.cdbs)
    with pytest.raises(NotProven):
        inline.settle(a.fence("b", 2))
    assert len(host.cdbs) == before


def test_a_holder_that_leaves_keeps_the_disk_reserved_and_writes_nothing(
    hosts: Hosts, inline: InlinePool, errno_of: Callable[[Deferred[Any]], int]
) -> None:
    one, two = hosts.host("one"), hosts.host("two")
    a, b = hosts.open(one), hosts.open(two)
    inline.settle(a.join("a", 1))
    inline.settle(b.join("b", 2))
    inline.settle(a.leave())
    assert errno_of(a.write_from((bytes(512),), 0)) == FENCED
    held = two.host.reservation()
    assert held is not None
    keys = two.host.keys()
    assert held[0] in keys
    inline.settle(b.leave())
    assert two.host.keys() == [held[0]], "who does not hold it is registered no more"
    inline.settle(b.join("b", 2))
    inline.settle(b.fence("a", 1))
    assert two.host.reservation() == (two.host.keys()[0], WE_RO)


def test_a_node_that_never_joined_costs_a_reset(hosts: Hosts, inline: InlinePool) -> None:
    host = hosts.host("one")
    a = hosts.open(host)
    inline.settle(a.join("a", 1))
    inline.settle(a.fence("stranger", 9))
    assert host.resets == 1


def test_a_block_is_compared_and_written_by_the_disk(
    hosts: Hosts, inline: InlinePool, errno_of: Callable[[Deferred[Any]], int]
) -> None:
    host = hosts.host("one")
    a = hosts.open(host)
    zeros, one, two = bytes(4096), b"1" * 512 + bytes(3584), b"2" * 512 + bytes(3584)
    inline.settle(a.compare_and_write(4096, zeros, one))
    assert errno_of(a.compare_and_write(4096, zeros, two)) == DIFFERS
    inline.settle(a.compare_and_write(4096, one, two))
    sent = host.cdbs[-1]
    assert (sent[0], int.from_bytes(sent[2:10], "big"), sent[13]) == (0x89, 8, 1)
    assert sent[1] & 0x08, "it is durable when it is answered: FUA"


def test_what_the_host_adapter_loses_is_unknown_and_told(
    hosts: Hosts, inline: InlinePool, errno_of: Callable[[Deferred[Any]], int]
) -> None:
    host = hosts.host("one")
    a = hosts.open(host)
    host.fails = [0x03]
    with pytest.raises(StorageError, match="the kernel did not send a SCSI command"):
        inline.settle(a.compare_and_write(4096, bytes(4096), bytes(4096)))
    host.fails = [0x03]
    with pytest.raises(StorageError):
        inline.settle(a.join("a", 1))
    inline.settle(a.join("a", 1))
    host.fails = [0, 0x03]
    with pytest.raises(StorageError):
        inline.settle(a.fence("b", 2))
    inline.settle(a.fence("b", 2))


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTTY])
def test_a_disk_whose_reservations_can_not_be_used_is_one_of_locks(
    hosts: Hosts, tmp_path: Path, inline: InlinePool, number: int
) -> None:
    host = hosts.host("one")
    host.refuses = number
    path = tmp_path / "x"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    how: dict[str, Any] = {"url": "/dev/sdx", "size_bytes": SIZE, "read_only": False, "identity": "x"}
    assert device_disk(fd, WWID, pool=inline.pool, capabilities=CAN, ioctl=host.ioctl, **how) is None
    os.close(fd)


def test_the_name_of_a_disk_is_found_in_sysfs_and_that_of_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.touch()
    fd = os.open("/dev/null", os.O_RDWR)
    try:
        folder = tmp_path / "1:3" / "device"
        assert wwid_of(fd, str(tmp_path)) == ""
        folder.mkdir(parents=True)
        (folder / "wwid").write_text(f"{WWID}\n")
        (folder / "type").write_text("5\n")
        assert wwid_of(fd, str(tmp_path)) == "", "a CD"
        (folder / "type").write_text("0\n")
        assert wwid_of(fd, str(tmp_path)) == WWID
    finally:
        os.close(fd)
