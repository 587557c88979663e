"""Our initiator against LIO, the target of the Linux kernel: the tests that tgtd and csvd pass, and what tgtd does not
have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, DeferredList

import initiator
from initiator import CommandFailed, Disk, SessionLost, SessionOptions
from initiator.errors import AttentionPending, Miscompare
from initiator.scsi import target_ports
from initiator.scsi.target_ports import AccessState
from tests.bench.targets import Chap, Export
from tests.interop.guest.lio import Lio
from tests.interop.guest.machine import Guest
from tests.interop.test_initiator_against_targets import (  # noqa: F401 - run here, on the `start` below
    test_a_missing_unit_and_a_missing_target_are_told,
    test_a_refused_command_says_why,
    test_a_session_goes_on_after_a_reset_of_the_unit,
    test_a_wrong_secret_does_not_open,
    test_both_sides_prove_themselves,
    test_discovery_names_the_target_and_its_portal,
    test_many_calls_at_once_each_get_their_own_data,
    test_no_call_hangs_when_the_target_dies,
    test_the_disk_says_what_it_is,
    test_the_program_moves_an_image_there_and_back,
    test_the_right_secret_opens,
    test_what_is_written_is_on_the_disk_and_is_read_back,
    test_what_several_connections_write_at_once_is_on_the_disk,
    test_with_digests_what_is_written_is_read_back,
)
from tests.own_reactor import run

pytestmark = pytest.mark.interop

ONES = b"\x01" * 512
RESERVE_OUT = 0x5F
REGISTER, RESERVE, PREEMPT_AND_ABORT, REGISTER_AND_IGNORE = 0x00, 0x01, 0x05, 0x06
WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
RESERVATION_CONFLICT = 0x18

Start = Callable[..., Lio]


@pytest.fixture
def start(guest: Guest) -> Iterator[Start]:
    """Start LIO with one disk of 64 MiB in the guest."""
    started: list[Lio] = []

    def begin(*, chap: Chap | None = None, digests: bool = False, connections: int = 4) -> Lio:
        del digests  # whoever asks for them gets them
        started.append(Lio(guest, Export((), create="64M", chap=chap), connections=connections))
        return started[-1]

    yield begin
    if guest.usable:
        for target in started:
            target.kill()


def test_a_session_has_as_many_connections_as_the_target_takes(start: Start) -> None:
    target = start(connections=2)

    async def work(reactor: Any) -> None:
        options = SessionOptions(connections=5)
        async with await initiator.connect(target.url, reactor=reactor, options=options) as disk:
            assert disk.session.connections == 2
            assert disk.session.parameters.max_connections == 2

    run(work)


def test_calls_over_several_connections_end_when_the_target_dies(start: Start) -> None:
    target = start()

    async def work(reactor: Any) -> None:
        options = SessionOptions(connections=4)
        async with await initiator.connect(
            target.url, reactor=reactor, options=options, timeout_s=20, recover=False
        ) as disk:
            calls = [Deferred.fromCoroutine(disk.write(0, bytes(4 << 20))) for _ in range(20)]
            reactor.callLater(0, target.kill)
            results = await DeferredList(calls, consumeErrors=True)
            failures: list[Any] = [result for succeeded, result in results if not succeeded]
            assert failures
            assert all(isinstance(failure.value, SessionLost) for failure in failures)

    run(work)


def test_compare_and_write_writes_only_what_is_as_expected(start: Start) -> None:
    target = start()

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor) as disk:
            await disk.compare_and_write(5, bytes(512), ONES)
            assert await disk.read(5, 1) == ONES
            with pytest.raises(Miscompare) as differs:
                await disk.compare_and_write(5, ONES[:100] + bytes(412), bytes(512))
            assert differs.value.offset_bytes == 100
            assert await disk.read(5, 1) == ONES

    run(work)


def test_what_is_unmapped_or_written_the_same_reads_so(start: Start) -> None:
    target = start()

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor) as disk:
            await disk.write(0, ONES * 8192)
            await disk.unmap([(0, 2048), (4096, 1024)])
            assert await disk.read(0, 2049) == bytes(2048 * 512) + ONES
            assert await disk.read(4095, 1026) == ONES + bytes(1024 * 512) + ONES
            await disk.write_same(100, 1000, ONES)
            assert await disk.read(99, 1002) == bytes(512) + ONES * 1000 + bytes(512)
            await disk.write_zeroes(100, 1000)
            assert await disk.read(99, 1002) == bytes(1002 * 512)

    run(work)


def test_the_state_of_a_port_group_is_told_as_the_target_sets_it(start: Start) -> None:
    target = start()

    async def states(disk: Disk) -> list[tuple[int, AccessState]]:
        try:
            data = await disk.command(target_ports.report_cdb(1024), data_in_bytes=1024)
        except AttentionPending:  # that the states have changed
            return await states(disk)
        return [(group.tag, group.state) for group in target_ports.parse(data).groups]

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor) as disk:
            assert await states(disk) == [(0, AccessState.ACTIVE_OPTIMIZED)]
            target.join_group("second", 16, AccessState.ACTIVE_NON_OPTIMIZED)
            assert (16, AccessState.ACTIVE_NON_OPTIMIZED) in await states(disk)
            assert await disk.read(0, 1) == bytes(512)
            target.set_state("second", AccessState.STANDBY)
            assert (16, AccessState.STANDBY) in await states(disk)
            with pytest.raises(CommandFailed) as standby:
                await disk.read(0, 1)
            assert (standby.value.sense_key, standby.value.asc, standby.value.ascq) == (2, 0x04, 0x0B)
            target.set_state("second", AccessState.ACTIVE_OPTIMIZED)
            assert await disk.read(0, 1) == bytes(512)

    run(work)


async def reserve_out(disk: Disk, action: int, key: int, service_key: int = 0) -> None:
    """PERSISTENT RESERVE OUT (SPC-4 section 6.16)."""
    cdb = bytes((RESERVE_OUT, action, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, 0, 0)) + (24).to_bytes(4) + b"\0"
    await disk.command(cdb, data_out=key.to_bytes(8) + service_key.to_bytes(8) + bytes(8))


def test_who_is_preempted_writes_no_more(start: Start) -> None:
    target = start()

    async def work(reactor: Any) -> None:
        name = "iqn.2026-11.org.csvd:second"
        async with (
            await initiator.connect(target.url, reactor=reactor) as first,
            await initiator.connect(target.url, reactor=reactor, initiator_name=name) as second,
        ):
            await reserve_out(first, REGISTER_AND_IGNORE, 0, 0xA)
            await reserve_out(first, RESERVE, 0xA)
            with pytest.raises(CommandFailed) as stranger:
                await second.write(0, ONES)
            assert stranger.value.status == RESERVATION_CONFLICT
            assert await second.read(0, 1) == bytes(512)
            await reserve_out(second, REGISTER_AND_IGNORE, 0, 0xB)
            await second.write(0, ONES)
            await reserve_out(second, PREEMPT_AND_ABORT, 0xB, 0xA)
            with pytest.raises(CommandFailed) as preempted:
                await first.write(0, bytes(512))
            assert preempted.value.status == RESERVATION_CONFLICT
            assert await first.read(0, 1) == ONES

    run(work)
