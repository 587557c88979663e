"""Every command of a disk, against tgtd and against csvd; what tgtd does not have must be told as such."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import initiator
from initiator import Disk, third_party_copy
from initiator.errors import IllegalRequest, Miscompare, ReservationConflict, UnsupportedCommand, WriteProtected
from initiator.scsi.inquiry import RawPage
from initiator.scsi.mode import Caching, Control
from initiator.scsi.reservations import ReservationType
from initiator.scsi.target_ports import AccessState
from tests.bench.targets import TARGETS, Export, Target
from tests.own_reactor import run

pytestmark = pytest.mark.interop

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
ONES = b"\x01" * 512

TWO = ("iqn.2026-11.test:one", "iqn.2026-11.test:two")
REGISTRANTS_ONLY = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


class Peer:
    """A target with a disk of 64 MiB, and our disk on it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.is_csvd = target.name == "csvd"

    def use(self, use: Callable[..., Any], *, names: tuple[str, ...] = ("",)) -> Any:
        """Run ``use(disk, …)`` on a reactor of its own, with a session for each name; give its result or raise."""

        async def work(reactor: Any) -> Any:
            disks = []
            async with AsyncExitStack() as stack:
                for name in names:
                    disk = await initiator.connect(self.target.url, reactor=reactor, initiator_name=name)
                    disks.append(await stack.enter_async_context(disk))
                return await use(*disks)

        return run(work)


@pytest.fixture(params=["tgtd", "csvd"])
def peer(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Peer]:
    """Start a target; it is killed in the end."""
    target = TARGETS[request.param](Export((scratch / "disk.img",), create="64M"), scratch)
    yield Peer(target)
    if target.running:
        target.kill()


def test_write_same_writes_one_block_to_many(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        await disk.write_same(3, 70_000, ONES)
        assert await disk.read(2, 3) == bytes(512) + ONES * 2
        assert await disk.read(70_001, 3) == ONES * 2 + bytes(512)
        await disk.write_same(10, 5)
        assert await disk.read(9, 7) == ONES + bytes(5 * 512) + ONES
        await disk.write_zeroes(3, 70_000)
        assert await disk.read(3, 70_000) == bytes(70_000 * 512)

    peer.use(use)


def test_unmapped_blocks_read_as_zeros_and_are_told_of(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        await disk.write(0, os.urandom(4 * MIB))
        await disk.flush()
        runs = await disk.get_lba_status()
        assert (runs[0].lba, runs[-1].end) == (0, disk.block_count)
        assert all(one.end == next_one.lba for one, next_one in pairwise(runs))
        assert [run.mapped for run in runs if run.lba < 8192] == [True]
        assert not runs[-1].mapped
        if not peer.is_csvd:
            with pytest.raises(UnsupportedCommand):
                await disk.unmap([(0, 2048)])
            return
        await disk.unmap([(0, 2048), (4096, 1024)])
        assert await disk.read(0, 2048) == bytes(MIB)
        status = {run.lba: (run.blocks, run.mapped) for run in await disk.get_lba_status(0, 8192)}
        assert status == {0: (2048, False), 2048: (2048, True), 4096: (1024, False), 5120: (3072, True)}

    peer.use(use)


def test_compare_and_write_writes_only_what_is_as_expected(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        if not peer.is_csvd:
            with pytest.raises(UnsupportedCommand):
                await disk.compare_and_write(5, bytes(512), ONES)
            return
        await disk.compare_and_write(5, bytes(1024), ONES * 2)
        assert await disk.read(5, 2) == ONES * 2
        with pytest.raises(Miscompare) as differs:
            await disk.compare_and_write(5, ONES + ONES[:100] + bytes(412), bytes(1024), fua=True)
        assert differs.value.offset_bytes == 612
        assert await disk.read(5, 2) == ONES * 2

    peer.use(use)


def test_verify_reads_the_medium_and_compares(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        data = os.urandom(5 * MIB)
        await disk.write(7, data)
        await disk.verify(0, disk.block_count)
        await disk.verify(7, 10240, data)
        with pytest.raises(Miscompare) as differs:
            await disk.verify(7, 10240, data[: 5000 * 512] + bytes(5 * MIB - 5000 * 512))
        assert differs.value.lba == (5007 if peer.is_csvd else None)

    peer.use(use)


def test_a_flush_of_a_range(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        await disk.write(0, ONES)
        await disk.flush(0, 1)
        if peer.is_csvd:
            await disk.flush(immediate=True)
        else:
            with pytest.raises(IllegalRequest):
                await disk.flush(immediate=True)

    peer.use(use)


def test_scatter_lists_go_there_and_back(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        lengths = (100, 65536, 412, 4096, 2 * MIB, 1, 511)
        buffers = [os.urandom(length) for length in lengths]
        await disk.write(9, buffers)
        filled = [bytearray(length) for length in lengths]
        await disk.read_into(9, filled)
        assert filled == buffers
        assert await disk.read(9, sum(lengths) // 512) == b"".join(buffers)

    peer.use(use)


def test_the_commands_that_the_unit_has_are_told(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        commands = await disk.supported_commands()
        assert {"INQUIRY", "READ(16)", "WRITE SAME(16)"} <= {command.name for command in commands}
        support = await disk.command_support(0x88)
        assert support.supported
        assert support.usage[0] == 0x88
        if peer.is_csvd:
            assert not (await disk.command_support(0xF0)).supported
        else:
            with pytest.raises(UnsupportedCommand):
                await disk.command_support(0xF0)

    peer.use(use)


def test_every_page_that_the_unit_has_is_told(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        pages = [await disk.vpd(code) for code in await disk.supported_pages()]
        assert len(pages) >= 6
        assert not [page for page in pages if isinstance(page, RawPage)], "all of these are typed"

    peer.use(use)


def test_mode_pages_are_told_and_changed(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        parameters = await disk.mode_sense()
        assert not parameters.write_protected
        assert parameters.dpo_and_fua
        assert (await disk.mode_page(Caching)).write_cache_enabled
        assert isinstance(parameters.page(0x0A), Control)
        control = await disk.mode_page(Control)
        await disk.mode_select(control.replaced(software_write_protect=True))
        with pytest.raises(WriteProtected):
            await disk.write(0, ONES)
        await disk.mode_select(control)
        await disk.write(0, ONES)

    peer.use(use)


def test_a_registrant_reserves_and_the_other_is_kept_out(peer: Peer) -> None:
    async def use(one: Disk, two: Disk) -> None:
        assert (await one.reservations.keys()).keys == ()
        assert REGISTRANTS_ONLY in ((await one.reservations.capabilities()).types or ())
        await one.reservations.register(0x11)
        await one.reservations.reserve(REGISTRANTS_ONLY, key=0x11)
        held = await two.reservations.reservation()
        assert (held.held, held.key, held.type) == (True, 0x11, REGISTRANTS_ONLY)
        with pytest.raises(ReservationConflict):
            await two.write(0, ONES)
        with pytest.raises(ReservationConflict):
            await two.reservations.release(REGISTRANTS_ONLY, key=0x11)
        await two.reservations.register(0x22)
        await two.write(0, ONES)
        assert set((await one.reservations.keys()).keys) == {0x11, 0x22}
        await two.reservations.preempt(0x11, key=0x22, kind=REGISTRANTS_ONLY)
        with pytest.raises(ReservationConflict):
            await one.write(0, bytes(512))
        assert (await one.read(0, 1)) == ONES
        await two.reservations.clear(key=0x22)
        await one.write(0, bytes(512))
        assert (await one.reservations.keys()).keys == ()

    peer.use(use, names=TWO)


def test_everybody_who_is_registered_is_named(peer: Peer) -> None:
    async def use(one: Disk, two: Disk) -> None:
        await one.reservations.register(0x11)
        await two.reservations.register(0x22, ignore_existing=True)
        await one.reservations.reserve(REGISTRANTS_ONLY, key=0x11)
        if not peer.is_csvd:
            with pytest.raises(UnsupportedCommand):
                await one.reservations.full_status()
            return
        status = {r.initiator.name: r for r in (await one.reservations.full_status()).registrants}
        assert {name: (r.key, r.holder) for name, r in status.items()} == {TWO[0]: (0x11, True), TWO[1]: (0x22, False)}
        assert all(r.initiator.isid for r in status.values())
        two_port = status[TWO[1]]
        await one.reservations.register_and_move(
            0x33,
            key=0x11,
            initiator_name=TWO[1],
            isid=bytes.fromhex(two_port.initiator.isid),
            relative_target_port=two_port.relative_target_port,
            unregister=True,
        )
        held = await one.reservations.reservation()
        assert (held.key, (await one.reservations.keys()).keys) == (0x33, (0x33,))
        await two.reservations.release(REGISTRANTS_ONLY, key=0x33)

    peer.use(use, names=TWO)


def test_preempt_and_abort_keeps_the_victim_from_writing(peer: Peer) -> None:
    async def use(one: Disk, two: Disk) -> None:
        heard: list[tuple[int, int]] = []
        one.on_unit_attention.append(lambda found: heard.append((found.asc, found.ascq)))
        await one.reservations.register(0x11)
        await two.reservations.register(0x22)
        await two.reservations.reserve(REGISTRANTS_ONLY, key=0x22)
        if not peer.is_csvd:
            with pytest.raises(UnsupportedCommand):
                await two.reservations.preempt(0x11, key=0x22, kind=REGISTRANTS_ONLY, abort=True)
            return
        await two.reservations.preempt(0x11, key=0x22, kind=REGISTRANTS_ONLY, abort=True)
        with pytest.raises(ReservationConflict):
            await one.write(0, ONES)
        assert (0x2A, 0x05) in heard, "registrations preempted"

    peer.use(use, names=TWO)


def test_target_port_groups_are_told_and_set(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        if not peer.is_csvd:
            with pytest.raises(UnsupportedCommand):
                await disk.target_port_groups()
            return
        for extended in (False, True):
            found = await disk.target_port_groups(extended=extended)
            assert (found.implicit_transition_time_s is not None) is extended
            (group,) = found.groups
            assert (group.tag, group.state, group.ports) == (1, AccessState.ACTIVE_OPTIMIZED, (1,))
        await disk.set_target_port_groups({1: AccessState.ACTIVE_NON_OPTIMIZED})
        (group,) = (await disk.target_port_groups()).groups
        assert group.state is AccessState.ACTIVE_NON_OPTIMIZED

    peer.use(use)


def test_the_rest_of_what_every_unit_has(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        found = await disk.request_sense()
        assert found is not None
        assert found.key == 0
        await disk.start_stop(True)
        assert disk.lun in await disk.report_luns()
        if not peer.is_csvd:
            with pytest.raises(UnsupportedCommand):
                await disk.supported_log_pages()
            return
        assert (0x0C, 0) in await disk.supported_log_pages()
        await disk.write(0, bytes(8 * MIB))
        page = await disk.log_sense(0x0C)
        assert page.used_resources
        assert page.available_resources is not None
        assert (await disk.log_sense(0x0D)).temperature_celsius is None

    peer.use(use)


def test_the_target_copies_by_itself(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        data = os.urandom(3 * MIB)
        await disk.write(11, data)
        name = await disk.copy_name()
        if not peer.is_csvd:
            with pytest.raises(UnsupportedCommand):
                await disk.copy_to(11, 100, name, 50_000)
            return
        found = await third_party_copy.operating_parameters(disk)
        assert {0x02, 0xE4} <= found.descriptor_types
        for at, lid4 in ((20_000, False), (50_000, True)):
            await disk.copy_to(11, 6144, name, at, lid4=lid4)
            assert await disk.read(at, 6144) == data
        with pytest.raises(initiator.InitiatorError, match="overlap"):
            await disk.copy_to(11, 100, name, 12)
        await disk.copy_to(0, 65_536, name, 65_536)
        assert await disk.read(65_536 + 11, 6144) == data

    peer.use(use)


def test_the_target_copies_from_one_unit_to_another(scratch: Path) -> None:
    disks = (scratch / "from.img", scratch / "to.img")
    with TARGETS["csvd"](Export(disks, create="64M"), scratch) as target:

        async def use(one: Disk) -> None:
            data = os.urandom(40 * MIB)
            await one.write(0, data)
            other = await Disk.open(one.road, 1)
            await one.copy_to(0, 80 * 1024, await other.copy_name(), 7)
            assert await other.read(7, 80 * 1024) == data

        Peer(target).use(use)


def test_a_token_holds_blocks_as_they_were(peer: Peer) -> None:
    async def use(one: Disk, two: Disk) -> None:
        if not peer.is_csvd:
            with pytest.raises(UnsupportedCommand):
                await one.make_token(0, 100)
            return
        data = os.urandom(2 * MIB)
        await one.write(3, data)
        token, held = await one.make_token(3, 4096)
        assert held == 4096
        assert await two.write_token(token, 40_000, 4096) == 4096
        assert await two.read(40_000, 4096) == data
        assert await two.write_token(token, 60_000, 96, offset_blocks=4000) == 96
        assert await two.read(60_000, 96) == data[4000 * 512 :]
        with pytest.raises(IllegalRequest):
            await two.write_token(bytes(512), 0, 1)

    peer.use(use, names=TWO)
