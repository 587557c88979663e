"""One initiator of the soak: it writes, reads and checks its region, and loses, drops and reinstates its session."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.task import deferLater

from csvd.iscsi.codes import TaskManagementFunction
from initiator import CommandFailed, Disk, InitiatorError, Session, SessionOptions, parse_url
from initiator.dial import dial
from initiator.engine.connection import InitiatorConnection
from initiator.engine.login import LoginSettings
from initiator.engine.session import SessionState
from initiator.link import Link
from tests.soak.content import BLOCK_BYTES, ZEROS, Region

OPTIONS: Final = SessionOptions(timeout_s=8.0, nop_interval_s=2.0, nop_timeout_s=6.0)
MOST_BLOCKS: Final = 128
ILLEGAL_REQUEST: Final = 0x5
MISCOMPARE: Final = 0xE


class Worker:
    """Works on its region until it is told to stop. A `Mismatch` ends it, and the soak.

    Args:
        region: which blocks are its own.
        url: where the target is, now: a restarted one may be elsewhere.
        counts: of all that happened, by name.
    """

    def __init__(
        self, reactor: Any, region: Region, url: Callable[[], str], seed: int, counts: Counter[str], resets: bool
    ) -> None:
        self._reactor = reactor
        self._region = region
        self._url = url
        self._chance = random.Random(seed)
        self._counts = counts
        self._isid = b"\x80" + region.worker.to_bytes(5)
        self._session: Session | None = None
        self.stopping = False
        deeds: list[tuple[Callable[[Disk], Awaitable[None]], int]] = [
            (self._write, 40),
            (self._read, 40),
            (self._compare_and_write, 10),
            (self._verify, 6),
            (self._unmap, 5),
            (self._write_same, 5),
            (self._flush, 3),
            (self._logout, 1),
            (self._drop, 1),
            (self._reinstate, 1),
        ]
        if resets:
            deeds.append((self._reset, 1))
        self._deeds = [deed for deed, _ in deeds]
        self._weights = [weight for _, weight in deeds]

    async def run(self) -> None:
        """Work; at the end read everything once, and log out.

        Raises:
            Mismatch: the disk held something wrong.
            CommandFailed: the target called a command illegal.
        """
        while not self.stopping:
            try:
                disk = await self._connect()
                while not self.stopping and self._session is not None and self._session.alive:
                    deed = self._chance.choices(self._deeds, self._weights)[0]
                    await deed(disk)
            except InitiatorError as error:
                if isinstance(error, CommandFailed) and error.sense_key == ILLEGAL_REQUEST:
                    raise
                self._counts[f"lost: {type(error).__name__}"] += 1
                await self._pause(self._chance.uniform(0.05, 0.5))
        await self._check_all()

    async def _check_all(self) -> None:
        disk = await self._connect()
        region = self._region
        for begin in range(0, region.blocks, 1024):
            count = min(1024, region.blocks - begin)
            region.check(region.first + begin, await disk.read(region.first + begin, count))
        await disk.close()
        self._session = None

    async def _connect(self) -> Disk:
        if self._session is not None:
            self._session.abort()
        session = self._session = await self._login()
        self._counts["logins"] += 1
        return await Disk.open(session, 0)

    async def _login(self) -> Session:
        """A session of always the same initiator port: each new one reinstates the one before, if it is still there."""
        place = parse_url(self._url())
        settings = LoginSettings(
            initiator_name=f"iqn.2026-11.test:soak{self._region.worker}", target_name=place.target_name
        )
        sock = await dial(place.portal, reactor=self._reactor, timeout_s=OPTIONS.timeout_s)
        session = Session(place.portal, settings.target_name, OPTIONS, reactor=self._reactor)
        engine = InitiatorConnection(SessionState(self._isid), settings)
        await session.attach(engine, Link(sock, engine, session, reactor=self._reactor))
        return session

    async def _pause(self, seconds: float) -> None:
        await deferLater(self._reactor, seconds, lambda: None)

    def _range(self, most: int = MOST_BLOCKS) -> tuple[int, int]:
        blocks = self._chance.randint(1, most)
        return self._region.first + self._chance.randrange(self._region.blocks - blocks), blocks

    # Deeds

    async def _change(self, lba: int, blocks: int, version: int, change: Awaitable[Any]) -> None:
        """Do something that gives blocks a version, and remember what is known of it whatever comes."""
        try:
            await change
        except InitiatorError:
            self._region.may_have_written(lba, blocks, version)
            raise
        self._region.wrote(lba, blocks, version)

    async def _write(self, disk: Disk) -> None:
        lba, blocks = self._range()
        version = self._region.new_version()
        data = self._region.data(lba, blocks, version)
        await self._change(lba, blocks, version, disk.write(lba, data, fua=self._chance.random() < 0.1))
        self._counts["writes"] += 1

    async def _read(self, disk: Disk) -> None:
        lba, blocks = self._range()
        self._region.check(lba, await disk.read(lba, blocks))
        self._counts["reads checked"] += 1

    async def _compare_and_write(self, disk: Disk) -> None:
        lba, _ = self._range(1)
        if not self._region.is_known(lba, 1):
            return
        version = self._region.new_version()
        expects = self._region.known(lba)
        right = self._chance.random() < 0.8
        data = (expects if right else b"?" * BLOCK_BYTES) + self._region.data(lba, 1, version)
        cdb = struct.pack(">BBQ3xBBB", 0x89, 0, lba, 1, 0, 0)
        try:
            await disk.command(cdb, data_out=data)
        except InitiatorError as failed:
            if isinstance(failed, CommandFailed) and failed.sense_key == MISCOMPARE:
                assert not right, "COMPARE AND WRITE did not find what is there"
                self._counts["MISCOMPARE"] += 1
                return
            if right:
                self._region.may_have_written(lba, 1, version)
            raise
        assert right, "COMPARE AND WRITE wrote over what was not there"
        self._region.wrote(lba, 1, version)
        self._counts["COMPARE AND WRITE"] += 1

    async def _verify(self, disk: Disk) -> None:
        lba, blocks = self._range(16)
        if not self._region.is_known(lba, blocks):
            return
        data = b"".join(self._region.known(lba + offset) for offset in range(blocks))
        await disk.command(struct.pack(">BBQIBB", 0x8F, 0x02, lba, blocks, 0, 0), data_out=data)
        self._counts["VERIFY"] += 1

    async def _unmap(self, disk: Disk) -> None:
        lba, blocks = self._range()
        descriptor = struct.pack(">QI4x", lba, blocks)
        data = struct.pack(">HH4x", 6 + len(descriptor), len(descriptor)) + descriptor
        cdb = struct.pack(">BB4xBHB", 0x42, 0, 0, len(data), 0)
        await self._change(lba, blocks, ZEROS, disk.command(cdb, data_out=data))
        self._counts["UNMAP"] += 1

    async def _write_same(self, disk: Disk) -> None:
        lba, blocks = self._range()
        cdb = struct.pack(">BBQIBB", 0x93, 0, lba, blocks, 0, 0)
        await self._change(lba, blocks, ZEROS, disk.command(cdb, data_out=bytes(BLOCK_BYTES)))
        self._counts["WRITE SAME"] += 1

    async def _flush(self, disk: Disk) -> None:
        await disk.flush()
        self._counts["SYNCHRONIZE CACHE"] += 1

    async def _logout(self, disk: Disk) -> None:
        await disk.close()
        self._counts["logouts"] += 1

    async def _drop(self, disk: Disk) -> None:
        """Cut the connection in the middle of a write."""
        lba, blocks = self._range()
        version = self._region.new_version()
        self._reactor.callLater(self._chance.uniform(0, 0.003), disk.session.abort)
        try:
            await self._change(lba, blocks, version, disk.write(lba, self._region.data(lba, blocks, version)))
        finally:
            self._counts["connections cut"] += 1

    async def _reinstate(self, disk: Disk) -> None:
        """Log in with the same ISID while the session is there: the target must end the old one first."""
        old = self._session
        self._session = await self._login()
        await self._pause(0.05)
        assert old is not None
        assert not old.alive, "a session was reinstated, and the old one lives on"
        self._counts["reinstatements"] += 1

    async def _reset(self, disk: Disk) -> None:
        await disk.session.task_management(TaskManagementFunction.LOGICAL_UNIT_RESET, lun=0)
        self._counts["LOGICAL UNIT RESET"] += 1
