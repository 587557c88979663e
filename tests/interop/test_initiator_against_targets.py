"""Our initiator against targets that are not ours: tgtd here, LIO in guest/test_guest_lio.py; and, with the same tests,
against csvd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, DeferredList

import initiator
from csvd.iscsi.codes import TaskManagementFunction
from csvd.iscsi.keys import OFFER
from initiator import AuthenticationFailed, CommandFailed, Credentials, LoginRefused, SenseKey, SessionLost
from initiator.scsi import cdb
from tests.bench.targets import TARGETS, Chap, Export, Target
from tests.own_reactor import run

pytestmark = pytest.mark.interop

CHAP = Chap("joe", "opensesame12345")
BOTH = Chap("joe", "opensesame12345", "the-target", "battery-staple-12")
MIB = 1 << 20
SIZE_BYTES = 64 * MIB

Start = Callable[..., Target]

TOLD_PORTALS = {"lio": initiator.Portal("10.0.2.15")}
"""What a target is called on its own network, where that is not ours."""

CONNECTIONS = {"tgtd": 1}
"""How many of four connections a session gets where it does not get all."""


def holds(target: Any, disk: Path, model: bytes | bytearray) -> bool:
    """Give whether the disk of a target holds this, as the target's own machine sees it."""
    return target.content_is(model) if hasattr(target, "content_is") else disk.read_bytes() == model


@pytest.fixture(params=["tgtd", "csvd"])
def start(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Start]:
    """Start a target with one disk of 64 MiB; it is killed in the end."""
    started: list[Target] = []

    def begin(**how: Any) -> Target:
        target = TARGETS[request.param](Export((scratch / "disk.img",), create="64M", **how), scratch)
        started.append(target)
        return target

    yield begin
    for target in started:
        if target.running:
            target.kill()


def test_discovery_names_the_target_and_its_portal(start: Start) -> None:
    target = start()
    place = initiator.parse_url(target.url)
    (found,) = run(lambda reactor: initiator.discover(place.portal, reactor=reactor))
    assert found.name == place.target_name
    assert TOLD_PORTALS.get(target.name, place.portal) in [address.portal for address in found.addresses]


def test_the_addresses_of_one_target_are_asked_for(start: Start) -> None:
    target = start()
    place = initiator.parse_url(target.url)

    async def main() -> None:
        (found,) = await initiator.discover(place)
        assert found.name == place.target_name
        assert place.portal in [address.portal for address in found.addresses]
        with contextlib.suppress(initiator.SessionLost):
            # Who does not know a target says nothing of it; tgtd hangs up.
            assert await initiator.discover(place.portal, target_name="iqn.2026-11.test:nobody") == []

    asyncio.run(main())


def test_the_asyncio_face_reads_what_it_wrote(start: Start) -> None:
    target, data = start(digests=True), os.urandom(3 * MIB)

    async def main() -> None:
        async with initiator.connect(f"{target.url}?header_digest=crc32c&data_digest=crc32c") as disk:
            assert disk.session.parameters.data_digest == "CRC32C"
            await disk.write(1, data)
            async with asyncio.TaskGroup() as group:
                parts = [group.create_task(disk.read(1 + 8 * part, 8)) for part in range(len(data) // 4096)]
            assert b"".join(part.result() for part in parts) == data

    asyncio.run(main())


def test_what_is_written_is_on_the_disk_and_is_read_back(start: Start, scratch: Path) -> None:
    target, model, chance = start(), bytearray(SIZE_BYTES), random.Random(7)

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor) as disk:
            assert disk.size_bytes == SIZE_BYTES
            for length in (512, 1024, 4096, 8192, 65536, 100 * 512, MIB, MIB + 512, 7 * MIB):
                lba = chance.randrange((SIZE_BYTES - length) // 512)
                data = os.urandom(length)
                await disk.write(lba, data, fua=chance.random() < 0.3)
                model[lba * 512 : lba * 512 + length] = data
                assert await disk.read(lba, length // 512) == data
            await disk.flush()
            whole = bytearray(SIZE_BYTES)
            await disk.read_into(0, whole)
            assert whole == model

    run(work)
    assert holds(target, scratch / "disk.img", model)


@pytest.mark.parametrize(
    ("header_digest", "data_digest"), [("CRC32C", "None"), ("None", "CRC32C"), ("CRC32C", "CRC32C")]
)
def test_with_digests_what_is_written_is_read_back(start: Start, header_digest: str, data_digest: str) -> None:
    target, chance = start(digests=True), random.Random(9)
    offer = replace(OFFER, header_digest=header_digest, data_digest=data_digest)
    options = initiator.SessionOptions(offer=offer)

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor, options=options) as disk:
            agreed = disk.session.parameters
            assert (agreed.header_digest, agreed.data_digest) == (header_digest, data_digest)
            for length in (512, 4096, 65536, 100 * 512, MIB, 7 * MIB):
                lba = chance.randrange((SIZE_BYTES - length) // 512)
                data = os.urandom(length)
                await disk.write(lba, data)
                assert await disk.read(lba, length // 512) == data
            assert await disk.nop() < 5

    run(work)


def test_many_calls_at_once_each_get_their_own_data(start: Start) -> None:
    target = start()

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor) as disk:

            async def one(slot: int) -> None:
                data = slot.to_bytes(4, "big") * 1024
                await disk.write(slot * 8, data)
                assert await disk.read(slot * 8, 8) == data

            results = await DeferredList(
                [Deferred.fromCoroutine(one(slot)) for slot in range(1000)], consumeErrors=True
            )
            assert [result for succeeded, result in results if not succeeded] == []

    run(work)


def test_what_several_connections_write_at_once_is_on_the_disk(start: Start, scratch: Path) -> None:
    target, chance = start(digests=True), random.Random(11)
    model = bytearray(SIZE_BYTES)
    offer = replace(OFFER, header_digest="CRC32C", data_digest="CRC32C")
    options = initiator.SessionOptions(connections=4, offer=offer)

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor, options=options) as disk:
            assert disk.session.connections == CONNECTIONS.get(target.name, 4)
            slots = [
                (slot * 300, chance.randbytes(chance.choice((512, 4096, 40960, 150000 // 512 * 512))))
                for slot in range(200)
            ]
            for lba, data in slots:
                model[lba * 512 : lba * 512 + len(data)] = data
            writes = [Deferred.fromCoroutine(disk.write(lba, data)) for lba, data in slots]
            assert all(succeeded for succeeded, _ in await DeferredList(writes, consumeErrors=True))
            reads = [Deferred.fromCoroutine(disk.read(lba, len(data) // 512)) for lba, data in slots]
            results = await DeferredList(reads, consumeErrors=True)
            assert [data for _, data in results] == [data for _, data in slots]
            await disk.session.task_management(TaskManagementFunction.LOGICAL_UNIT_RESET, lun=disk.lun)
            await disk.flush()

    run(work)
    assert holds(target, scratch / "disk.img", model)


def test_the_disk_says_what_it_is(start: Start) -> None:
    target = start()

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor) as disk:
            assert (await disk.inquiry()).device_type_name == "disk"
            assert disk.lun in await disk.report_luns()
            pages = await disk.vpd(0x00)
            assert isinstance(pages, initiator.SupportedPages)
            assert {0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2} <= set(pages.pages)
            for page in pages.pages:
                await disk.vpd(page)
            assert isinstance(await disk.vpd(0x83), initiator.DeviceIdentification)
            assert await disk.write_cache_enabled()
            assert await disk.nop() < 5

    run(work)


def test_a_refused_command_says_why(start: Start) -> None:
    target = start()

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor) as disk:
            with pytest.raises(CommandFailed) as beyond:
                await disk.command(cdb.read(SIZE_BYTES // 512, 1), data_in_bytes=512)
            assert (beyond.value.sense_key, beyond.value.asc) == (SenseKey.ILLEGAL_REQUEST, 0x21)
            with pytest.raises(CommandFailed) as unknown:
                await disk.command(b"\xf0" + bytes(9))
            assert (unknown.value.sense_key, unknown.value.asc) == (SenseKey.ILLEGAL_REQUEST, 0x20)
            assert await disk.read(0, 1) == bytes(512)

    run(work)


def test_a_session_goes_on_after_a_reset_of_the_unit(start: Start) -> None:
    target = start()

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor) as disk:
            await disk.session.task_management(TaskManagementFunction.LOGICAL_UNIT_RESET, lun=disk.lun)
            assert await disk.read(0, 1) == bytes(512)

    run(work)


def test_a_missing_unit_and_a_missing_target_are_told(start: Start) -> None:
    target = start()
    place = initiator.parse_url(target.url)

    async def unit(reactor: Any) -> None:
        await initiator.connect(initiator.IscsiUrl(place.portal, place.target_name, 99), reactor=reactor)

    async def nobody(reactor: Any) -> None:
        await initiator.connect(initiator.IscsiUrl(place.portal, "iqn.2026-11.test:nobody"), reactor=reactor)

    with pytest.raises(initiator.InitiatorError, match=r"99|logical unit not supported"):
        run(unit)
    with pytest.raises(LoginRefused) as refused:
        run(nobody)
    assert refused.value.status >> 8 == (3 if target.name == "lio" else 2), (
        "LIO calls what it does not have unavailable"
    )


def test_the_right_secret_opens(start: Start) -> None:
    target = start(chap=CHAP)

    async def work(reactor: Any) -> None:
        credentials = Credentials(CHAP.user, CHAP.secret.encode())
        async with await initiator.connect(target.url, reactor=reactor, credentials=credentials) as disk:
            await disk.write(0, b"\xab" * 512)
        url = target.url.replace("//", f"//{CHAP.user}%{CHAP.secret}@")
        async with await initiator.connect(url, reactor=reactor) as disk:
            assert await disk.read(0, 1) == b"\xab" * 512

    run(work)


@pytest.mark.parametrize(
    "credentials", [Credentials("joe", b"opensesame12346"), Credentials("eve", b"opensesame12345"), None]
)
def test_a_wrong_secret_does_not_open(start: Start, credentials: Credentials | None) -> None:
    target = start(chap=CHAP)

    async def work(reactor: Any) -> None:
        await initiator.connect(target.url, reactor=reactor, credentials=credentials)

    with pytest.raises(AuthenticationFailed):
        run(work)


def test_both_sides_prove_themselves(start: Start) -> None:
    target = start(chap=BOTH)
    ours, theirs = (
        Credentials(BOTH.user, BOTH.secret.encode()),
        Credentials(BOTH.target_user, BOTH.target_secret.encode()),
    )

    async def work(reactor: Any) -> None:
        proofs: dict[str, Any] = {"credentials": ours, "target_credentials": theirs}
        async with await initiator.connect(target.url, reactor=reactor, **proofs) as disk:
            assert await disk.read(0, 1) == bytes(512)
        proofs["target_credentials"] = Credentials(BOTH.target_user, b"not what it should know")
        with pytest.raises(AuthenticationFailed):
            await initiator.connect(target.url, reactor=reactor, **proofs)

    run(work)


def test_no_call_hangs_when_the_target_dies(start: Start) -> None:
    target = start()

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor, timeout_s=20, recover=False) as disk:
            calls = [Deferred.fromCoroutine(disk.write(0, bytes(4 * MIB))) for _ in range(20)]
            reactor.callLater(0, target.kill)
            results = await DeferredList(calls, consumeErrors=True)
            failures: list[Any] = [result for succeeded, result in results if not succeeded]
            assert failures
            assert all(isinstance(failure.value, SessionLost) for failure in failures)

    run(work)


def test_the_program_moves_an_image_there_and_back(start: Start, scratch: Path) -> None:
    target, data = start(), os.urandom(5 * MIB + 300)
    (scratch / "in").write_bytes(data)
    program = [sys.executable, "-m", "initiator"]
    root = Path(__file__).parents[2]
    subprocess.run([*program, "write", target.url, scratch / "in", "--offset", "1M"], check=True, timeout=60, cwd=root)
    command = [*program, "read", target.url, "--offset", "1M", "--length", str(len(data)), "-o", str(scratch / "out")]
    subprocess.run(command, check=True, timeout=60, cwd=root)
    assert (scratch / "out").read_bytes() == data
