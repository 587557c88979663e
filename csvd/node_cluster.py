"""A daemon's part in its cluster: the membership, the shared disks, and their coordination, put together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from csvd.api.members import named_in, taker_in
from csvd.cluster.assembly import ClusterNode
from csvd.cluster.coordination.coordination import NodeCoordination
from csvd.cluster.coordination.membership import Tell, Watchdog
from csvd.cluster.register_disks import DISK_NAME_RULE, DiskRecord, is_disk_name
from csvd.config.secrets import read_secret_file
from csvd.errors import ConfigError, CsvdError
from csvd.shared_disk import SharedDisk
from csvd.storage.cluster_disk.disk import ClusterDisk
from csvd.storage.cluster_disk.errors import AreaError
from csvd.storage.cluster_disk.opening import create_cluster_disk, open_cluster_disk
from csvd.storage.open import kind_of
from csvd.storage.pool import DiskPool
from csvd.watchdog import NoWatchdog, take_notice
from csvd.watchdog import Watchdog as KernelWatchdog

SUBMIT_S: Final = 10.0
WATCHDOG: Final = "watchdog"
"""The kind of events that tell of it."""
NOTICE_NAME: Final = "watchdog-notice"

Json = dict[str, Any]

_log: Final = Logger()


class Unwatched:
    """In the place of a watchdog where the kernel has none: successors wait until this process has let go by itself."""

    def arm(self, deadline_boottime_s: float) -> None:
        """Nothing bites."""

    def disarm(self) -> None:
        """Nothing bit."""


@dataclass(frozen=True, slots=True)
class DiskLogin:
    """How this node logs in where shared disks are.

    Args:
        secret_file: the CHAP secret of the user in a URL.
        initiator_name: what this node is called there; None for a name made of the host's.
    """

    secret_file: Path | None = None
    initiator_name: str | None = None

    def to(self, url: str) -> Json:
        """What `open_disk` is told for a disk.

        Raises:
            ConfigError: the secret can not be read.
        """
        if kind_of(url) != "iscsi":
            return {}
        has_user = "@" in url.removeprefix("iscsi://").partition("/")[0]
        secret = read_secret_file(self.secret_file) if has_user and self.secret_file is not None else None
        return {"secret": secret, "initiator_name": self.initiator_name}


class NodeCluster:
    """The parts.

    Args:
        node: what the host has of the cluster, not started.
        reactor: the node's loop.
        tell: for events.
        disk_login: how this node logs in where shared disks are.
        directory: where the watchdog leaves its notice.

    Raises:
        ClusterError: what this node has promised can not be read.
    """

    def __init__(self, node: ClusterNode, reactor: Any, *, tell: Tell, disk_login: DiskLogin, directory: Path) -> None:
        def told(kind: str, text: str, subject: str) -> None:
            """Events of the cluster are in the log, too: it is there yet when the process is not."""
            log = _log.error if kind == WATCHDOG else _log.info
            log("{kind}: {text}", kind=kind, text=text)
            tell(kind, text, subject)

        self.node = node
        self.cluster = cluster = node.cluster
        self._pool = DiskPool(reactor)
        self._disk_login = disk_login
        self._watchdog = _watchdog(told, directory)
        self.coordination = NodeCoordination(
            cluster,
            files=cluster.files,
            run_blocking=cluster.run_blocking,
            clock=reactor,
            boottime=cluster.boottime,
            now_ms=cluster.now_ms,
            timeouts=cluster.timeouts,
            open_disk=self._open,
            watchdog=self._watchdog,
            tell=told,
        )

    async def start(self) -> None:
        """Take part, once all services have been added.

        Raises:
            CsvdError: the cluster could not be started.
        """
        await self.coordination.start()
        await self.cluster.start()
        if self.node.own_record is not None:
            self.node.own_record.start()

    async def stop(self) -> None:
        """Give up offices and sessions in order, then the membership."""
        await self.coordination.stop()
        await self.cluster.stop()
        await maybeDeferred(self._pool.stop)
        if isinstance(self._watchdog, KernelWatchdog):
            self._watchdog.close()

    # What people do with shared disks

    def list_disks(self) -> list[Json]:
        """The shared disks, as this node sees them."""
        return [dict(disk) for disk in self.coordination.status()]

    async def show_disk(self, name: str) -> Json:
        """One of them, with what its blocks say of the owner and the records.

        Raises:
            CsvdError: there is none of this name.
        """
        found = next((disk for disk in self.list_disks() if disk["name"] == name), None)
        if found is None:
            raise NoSuchDisk(f"there is no disk {name} in the cluster", hint="csvd disk ls lists them")
        shared_disk = self.coordination.shared_disk(name)
        if shared_disk is not None:
            try:
                owner, slot = await shared_disk.read_owner(), await shared_disk.read_records()
            except CsvdError as error:
                found["trouble"] = str(error)
            else:
                found["owner"] = {
                    "epoch": owner.epoch,
                    "node": owner.node,
                    "number": owner.number,
                    "is_released": owner.is_released,
                }
                found["slot"] = {"epoch": slot.epoch, "sequence": slot.sequence, "bytes": len(slot.data)}
        return found

    async def add_disk(self, name: str, url: str, *, create_bytes: int | None, adopt: bool, force: bool) -> Json:
        """Have the cluster share a disk.

        Args:
            url: the same on every node.
            create_bytes: make it first.
            adopt: take one that was formatted before, with all that is on it; otherwise it is formatted.
            force: format it, whatever is on it.

        Raises:
            CsvdError: it was not added.
        """
        if not is_disk_name(name):
            raise ConfigError(f"{name!r} can not be the name of a disk", hint=f"a name is {DISK_NAME_RULE}")
        for known in self.cluster.register.disks.values():
            if known.name == name or known.url == url:
                raise ConfigError(f"the cluster has the disk {known.name} already, at {known.url}")
        disk = await (self._adopted(url) if adopt else self._formatted(name, url, create_bytes, force))
        try:
            owner = await disk.read_owner()
            command = {"op": "disk_add", "name": name, "url": url, "uuid": disk.uuid, "epoch": owner.epoch}
        finally:
            await disk.close()
        return await self.cluster.submit(command, timeout_s=SUBMIT_S)

    async def remove_disk(self, name: str) -> Json:
        """Have the cluster share a disk no more; what is on it stays.

        Raises:
            CsvdError: it was not removed.
        """
        return await self.cluster.submit({"op": "disk_remove", "name": name}, timeout_s=SUBMIT_S)

    async def move_coordinator(self, disk: str, node: str) -> Json:
        """Have another node be the coordinator of a disk.

        Raises:
            CsvdError: it is not.
        """
        nothing = "coordinates nothing"
        member = taker_in(self.cluster.members, node, witness_does=nothing, drained_does=nothing)
        return await self.coordination.move(disk, member.id)

    async def fence(self, node: str, *, force: bool, is_vouched_for: bool) -> Json:
        """Have a node fenced on every shared disk; gives the proofs by disk.

        Raises:
            CsvdError: it is not proven on each of them.
        """
        node = named_in(self.cluster.members, node).id
        proofs = {}
        for disk in self.cluster.register.disks:
            told = await self.coordination.fence(disk, node, force=force, is_vouched_for=is_vouched_for)
            proofs[disk] = told["proof"]
        return {"node": node, "proofs": proofs}

    async def _formatted(self, name: str, url: str, create_bytes: int | None, force: bool) -> ClusterDisk:
        return await create_cluster_disk(
            url,
            name=name,
            uuid=uuid4(),
            pool=self._pool,
            create_bytes=create_bytes,
            force=force,
            **self._disk_login.to(url),
        )

    async def _adopted(self, url: str) -> ClusterDisk:
        try:
            return await open_cluster_disk(url, pool=self._pool, **self._disk_login.to(url))
        except AreaError as error:
            raise ConfigError(error.what, where=error.where, why=error.why) from error

    def _open(self, record: DiskRecord) -> Deferred[SharedDisk]:
        return Deferred.fromCoroutine(self._opened(record))

    async def _opened(self, record: DiskRecord) -> SharedDisk:
        disk = await open_cluster_disk(record.url, pool=self._pool, **self._disk_login.to(record.url))
        if disk.uuid != record.uuid:
            await disk.close()
            raise ConfigError(
                "it is another disk than the cluster's",
                where=record.url,
                why=f"its uuid is {disk.uuid}, not {record.uuid}",
            )
        return disk


class NoSuchDisk(ConfigError):
    """There is no such thing in the cluster."""


def _watchdog(tell: Tell, directory: Path) -> Watchdog:
    notice, kept = directory / NOTICE_NAME, directory / f"{NOTICE_NAME}.last"
    was_at = take_notice(notice, kept)
    if was_at is not None:
        text = f"the run before this was ended, for it had not let go of the shared disks in time; it was at {was_at}"
        tell(WATCHDOG, f"{text}; more is in {kept}", "")
    try:
        return KernelWatchdog(notice)
    except NoWatchdog as error:
        tell(WATCHDOG, f"nothing ends this process where it does not let go of shared disks in time: {error}", "")
        return Unwatched()
