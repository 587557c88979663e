"""A node is kept off an image, whatever it is at: stopped in the midst of its writes, and woken later."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from csvd.errors import ConfigError
from csvd.storage.disk import FENCED, FencingDisk, StorageError
from tests.interop.ceph.cluster import Ceph
from tests.interop.ceph.disks import Disks, pause, read, run_with_disks
from tests.interop.ceph.writer import DEPTH, SLOT_BYTES
from tests.unit.storage.disk_suite import error_of

pytestmark = pytest.mark.interop

SLOTS = 128
OURS = b"O" * SLOT_BYTES
TIMEOUT_S = 60
MIB = 1 << 20


@contextmanager
def writing(url: str, node: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes as a node."""
    command = [sys.executable, "-m", "tests.interop.ceph.writer", url, node, str(SLOTS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
    finally:
        process.kill()
        process.wait()


def end_of(process: subprocess.Popen[str]) -> dict[str, int]:
    """What it says of its writes in the end."""
    printed, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", printed)}


@pytest.mark.parametrize("is_fenced", [True, False], ids=["fenced", "not fenced"])
def test_late_writes_of_a_node_that_was_stopped_land_only_when_it_was_not_fenced(ceph: Ceph, is_fenced: bool) -> None:
    url = ceph.url(ceph.new_image(SLOTS * SLOT_BYTES))
    seen: list[bytes] = []

    async def body(disks: Disks) -> None:
        disk = await disks.open(url)
        assert isinstance(disk, FencingDisk)
        await disk.join("two")
        with writing(url, "one") as process:
            os.kill(process.pid, signal.SIGSTOP)
            if is_fenced:
                await disk.fence("one")
            for slot in range(SLOTS):
                await disk.write_from((OURS,), slot * SLOT_BYTES)
            os.kill(process.pid, signal.SIGCONT)
            if is_fenced:
                said = end_of(process)
                assert said["fenced"] > 4 * DEPTH
                assert said["failed"] == 0
                assert said["acknowledged"] >= SLOTS
            else:
                await pause(disks.reactor, 1)
                process.terminate()
                assert end_of(process)["fenced"] == 0
        seen.append(await read(disk, 0, SLOTS * SLOT_BYTES))

    run_with_disks(body, time_limit_s=TIMEOUT_S)
    if is_fenced:
        assert seen[0] == OURS * SLOTS
    else:
        assert b"W" in seen[0]


def test_a_fence_concerns_one_disk_of_a_process_and_no_other(ceph: Ceph) -> None:
    first, second = ceph.url(ceph.new_image(MIB)), ceph.url(ceph.new_image(MIB))

    async def body(disks: Disks) -> None:
        fenced, other, by = await disks.open(first), await disks.open(second), await disks.open(first)
        await fenced.join("one")
        await other.join("one")
        await by.join("two")
        await by.fence("one")
        assert (await error_of(fenced.write_from((b"x" * 512,), 0))).errno == FENCED
        assert fenced.is_fenced
        # From the first refusal on the cluster is not even asked.
        for attempt in (fenced.flush(), fenced.unmap(0, 512), fenced.join("one"), fenced.resize(None)):
            assert (await error_of(attempt)).errno == FENCED
        await other.write_from((b"y" * 512,), 0)
        await by.write_from((b"z" * 512,), 0)
        assert await read(by, 0, 512) == b"z" * 512

    run_with_disks(body)


def test_a_fenced_node_comes_back_with_a_disk_opened_anew_and_can_be_fenced_again(ceph: Ceph) -> None:
    url = ceph.url(ceph.new_image(MIB))

    async def body(disks: Disks) -> None:
        by, before = await disks.open(url), await disks.open(url)
        await by.join("two")
        await before.join("one")
        await by.fence("one")
        await by.fence("one")
        after = await disks.open(url)
        await after.join("one")
        await after.write_from((b"a" * 512,), 0)
        await by.fence("one")
        for each in (before, after):
            assert (await error_of(each.write_from((b"b" * 512,), 0))).errno == FENCED
        assert await read(by, 0, 512) == b"a" * 512

    run_with_disks(body)


def test_a_node_that_starts_again_keeps_off_what_is_left_of_it(ceph: Ceph) -> None:
    url = ceph.url(ceph.new_image(MIB))

    async def body(disks: Disks) -> None:
        before, after = await disks.open(url), await disks.open(url)
        await before.join("one")
        await after.join("one")
        assert (await error_of(before.write_from((b"x" * 512,), 0))).errno == FENCED
        await after.write_from((b"y" * 512,), 0)

    run_with_disks(body)


def test_a_node_that_was_fenced_fences_nobody(ceph: Ceph) -> None:
    url = ceph.url(ceph.new_image(MIB))

    async def body(disks: Disks) -> None:
        one, two = await disks.open(url), await disks.open(url)
        await one.join("one")
        await two.join("two")
        await two.fence("one")
        knew = one.is_fenced
        assert (await error_of(one.fence("two"))).errno == FENCED
        assert (knew, one.is_fenced) == (False, True)
        await two.write_from((b"x" * 512,), 0)

    run_with_disks(body)


def test_who_has_left_is_not_fenced_and_goes_on_to_be_read_from(ceph: Ceph) -> None:
    url = ceph.url(ceph.new_image(MIB))

    async def body(disks: Disks) -> None:
        one, two = await disks.open(url), await disks.open(url)
        await one.leave()
        await one.join("one")
        await two.join("two")
        await one.leave()
        await one.leave()
        await two.fence("one")
        await two.fence("nobody")
        await two.catch_up()
        assert await read(one, 0, 512) == bytes(512)

    run_with_disks(body)


def test_only_single_clients_are_on_the_blocklist_and_for_years(ceph: Ceph) -> None:
    url = ceph.url(ceph.new_image(MIB))

    async def body(disks: Disks) -> None:
        one, two = await disks.open(url), await disks.open(url)
        await one.join("one")
        await two.join("two")
        await two.fence("one")

    run_with_disks(body)
    listed = json.loads(ceph.command("osd dump", format="json"))
    assert listed["blocklist"]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+/\d+", address) for address in listed["blocklist"])
    assert all(until > "2035" for until in listed["blocklist"].values())
    assert not listed["range_blocklist"]


def test_a_user_who_may_not_use_the_blocklist_is_told_which_capabilities_he_needs(ceph: Ceph) -> None:
    image = ceph.new_image(MIB)
    ceph.make_user("weak", "allow r", "allow rwx pool=pool")

    async def body(disks: Disks) -> None:
        one, weak = await disks.open(ceph.url(image)), await disks.open(ceph.url(image, user="weak"))
        await one.join("one")
        await weak.join("two")
        with pytest.raises((StorageError, ConfigError)) as refused:
            await weak.fence("one")
        assert "profile rbd" in str(refused.value)
        await one.write_from((b"x" * 512,), 0)

    run_with_disks(body)
