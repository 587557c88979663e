"""A fence by persistent reservations: WRITE EXCLUSIVE - REGISTRANTS ONLY, each node with a key of its own.

Who is registered may write, all others may read (SPC-4 section 5.13.1). A node is kept off by taking its registration
away and aborting what it has under way: PREEMPT AND ABORT (section 5.13.11.2.6). The target refuses its later writes
with RESERVATION CONFLICT, whenever they come.

A registration is that of a session, and a process that is started again has another one, by the same key. So a node
that joins takes the registrations of its earlier selves away: it registers with a passing key first, because PREEMPT
of the own key would take the own registration, too.

The reservation must be held without a gap: while nobody holds it, a fenced node could write. It is released when its
holder unregisters, so a holder does not: a second session of the same node, the caretaker, preempts it, and then has
the reservation by a key by which nobody writes. A disk that was joined once stays reserved until a person clears it.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from csvd.storage.disk import FENCED, StorageError
from csvd.storage.iscsi import reservations as commands
from csvd.storage.iscsi.errors import RESERVATION_CONFLICT, storage_error
from csvd.storage.iscsi.reservations import Reservation
from initiator import CommandFailed, Disk, InitiatorError, SenseKey, TaskManagementFunction
from initiator.scsi import cdb

TRIES: Final = 8
"""Unit attentions that one command may meet, and turns that another node may get between two commands."""

_REGISTERING: Final = (commands.REGISTER, commands.REGISTER_AND_IGNORE_EXISTING_KEY)
_TYPE: Final = commands.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
_CARETAKER: Final = "\0caretaker"
_JOINING: Final = "\0joining"
"""Nothing that the name of a node has in it."""

T = TypeVar("T")

Connect = Callable[[str], Awaitable[Disk]]
"""Opens the LUN in a session of its own; for the caretaker in one of the same name every time."""


def key_of(identity: str, who: str) -> int:
    """The reservation key of a node on a disk: 8 bytes, never 0."""
    digest = hashlib.sha256(f"{identity}\0{who}".encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1


class Fence:
    """The place of this process on a LUN, and what it does to those of others.

    Args:
        unit: the LUN, in the session that is to have the place.
        identity: of the LUN, the same on every node.
        connect: opens the LUN in another session.
        url: the disk's, for messages.
    """

    def __init__(self, unit: Disk, identity: str, connect: Connect, url: str) -> None:
        self._unit = unit
        self._identity = identity
        self._connect = connect
        self._url = url
        self._node = ""
        self._outlive_power = False
        """Whether the target keeps registrations over a loss of power (APTPL)."""
        self._aborts = True
        """Whether the target has PREEMPT AND ABORT, as far as is known."""
        self._fenced: set[str] = set()
        """Nodes that this process has fenced, to the end."""

    @property
    def node(self) -> str:
        """As whom this process has joined; empty where it has not."""
        return self._node

    async def join(self, node: str) -> None:
        """Take the place of a node.

        Raises:
            StorageError: others have it reserved in another way, or the target can not do it.
        """
        if self._node not in ("", node):
            raise StorageError("join", errno.EINVAL, where=self._url, why=f"this process has joined as {self._node}")
        unit, key, passing = self._unit, *self._keys_of(node)
        self._check_type("join", await self._reservation("join", unit))
        await self._register("join", unit, passing)
        await self._have_it_reserved("join", unit, passing)
        await self._keep_off("join", passing, key, sure=True)
        if not await self._out("join", unit, commands.REGISTER, passing, key):
            raise StorageError("join", FENCED, where=self._url, why=f"{node} was fenced while it joined")
        self._node = node

    async def fence(self, node: str) -> None:
        """Keep a node off; see `FencingDisk.fence`."""
        own = self._joined("fence")
        if node == self._node:
            raise StorageError("fence", errno.EINVAL, where=self._url, why="a node does not fence itself")
        victims = self._keys_of(node)
        for victim in victims:
            await self._keep_off("fence", own, victim, sure=node in self._fenced or victim != victims[0])
        await self._have_it_reserved("fence", self._unit, own)
        keys = await self._keys("fence", self._unit)
        if own not in keys:
            raise self._is_fenced("fence")
        if not keys.isdisjoint(victims):
            raise StorageError("fence", errno.EBUSY, where=self._url, why=f"{node} has joined again meanwhile")
        self._fenced.add(node)

    async def writes_same_off(self) -> bool:
        """Whether the target holds WRITE SAME to the reservation, as it must (SBC-3 section 4.17): tgtd does not.

        Asked in a session that is not registered, for a block behind the last one: nothing is written either way.
        """
        outsider = await self._connected("join", "")
        try:
            beyond = cdb.write_same(outsider.block_count, 1)
            await _run(outsider, beyond, data_out=bytes(outsider.block_bytes))
        except CommandFailed as failed:
            return failed.status == RESERVATION_CONFLICT
        except InitiatorError as error:
            raise storage_error("join", error, where=self._url) from error
        finally:
            await outsider.close()
        return False

    async def leave(self) -> None:
        """Give the place up; see `FencingDisk.leave`."""
        if not self._node:
            return
        unit, own = self._unit, self._joined("leave")
        held = await self._reservation("leave", unit)
        if held is not None and held.kind == _TYPE and held.key == own:
            await self._hand_over(own)
        else:
            # A conflict: somebody has fenced this node, and there is nothing left to give up.
            await self._out("leave", unit, commands.REGISTER, own, 0)
        self._node = ""

    # How

    def _joined(self, operation: str) -> int:
        """The own key."""
        if not self._node:
            raise StorageError(operation, errno.EINVAL, where=self._url, why="this process has not joined the disk")
        return key_of(self._identity, self._node)

    def _keys_of(self, node: str) -> tuple[int, int]:
        """The key of a node, and the one that it has while it joins."""
        return key_of(self._identity, node), key_of(self._identity, f"{node}{_JOINING}")

    async def _connected(self, operation: str, who: str) -> Disk:
        try:
            return await self._connect(who)
        except InitiatorError as error:
            raise storage_error(operation, error, where=self._url) from error

    async def _register(self, operation: str, unit: Disk, key: int) -> None:
        """Register a key for a session, whatever it had; over a loss of power, too, where the target can."""
        asked = commands.reserve_in(commands.REPORT_CAPABILITIES, commands.CAPABILITIES_BYTES)
        found = await self._asked(operation, _run(unit, asked, data_in_bytes=commands.CAPABILITIES_BYTES))
        self._outlive_power = commands.parse_capabilities(found).outlives_power
        if not await self._out(operation, unit, commands.REGISTER_AND_IGNORE_EXISTING_KEY, 0, key):
            why = "another initiator has the LUN reserved by RESERVE"
            raise StorageError(operation, errno.EBUSY, where=self._url, why=why)

    async def _have_it_reserved(self, operation: str, unit: Disk, key: int) -> None:
        """See to it that the reservation is held by somebody who is registered; a gap is closed by taking it."""
        for _ in range(TRIES):
            held = await self._reservation(operation, unit)
            self._check_type(operation, held)
            if held is not None or await self._out(operation, unit, commands.RESERVE, key, kind=_TYPE):
                return
            # Another node was faster, or this one is not registered any more.
            if key not in await self._keys(operation, unit):
                raise self._is_fenced(operation)
        raise StorageError(operation, errno.EAGAIN, where=self._url, why="the reservation comes and goes")

    async def _keep_off(self, operation: str, own: int, victim: int, *, sure: bool) -> None:
        """Take a registration away, and have aborted what is under way by it.

        Args:
            sure: where there is no such registration, nothing of it can be under way.
        """
        found, aborted = await self._preempt(operation, own, victim)
        if aborted or (sure and not found):
            return
        # Perhaps the node never joined; perhaps a command has preempted it of which nobody has heard that it has
        # aborted the node's writes, too. A reset does, and others repeat what it costs them.
        reset = self._unit.road.task_management(TaskManagementFunction.LOGICAL_UNIT_RESET, lun=self._unit.lun)
        await self._asked(operation, reset)

    async def _preempt(self, operation: str, own: int, victim: int) -> tuple[bool, bool]:
        """Whether there was a registration to take away, and whether what was under way by it is aborted."""
        if self._aborts:
            try:
                found = await self._out(operation, self._unit, commands.PREEMPT_AND_ABORT, own, victim, kind=_TYPE)
            except StorageError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                # Some targets, tgtd among them, have PREEMPT alone.
                self._aborts = False
            else:
                return found, found
        return await self._out(operation, self._unit, commands.PREEMPT, own, victim, kind=_TYPE), False

    async def _hand_over(self, own: int) -> None:
        """Have the caretaker take the reservation, and this node's registration away with it."""
        caretaker = key_of(self._identity, _CARETAKER)
        unit = await self._connected("leave", _CARETAKER)
        try:
            await self._register("leave", unit, caretaker)
            await self._out("leave", unit, commands.PREEMPT, caretaker, own, kind=_TYPE)
            if own in await self._keys("leave", unit):
                raise StorageError("leave", errno.EBUSY, where=self._url, why="the target keeps the registration")
        finally:
            await unit.close()

    def _check_type(self, operation: str, held: Reservation | None) -> None:
        if held is not None and held.kind != _TYPE:
            hint = f"the disk is reserved otherwise: {held}"
            raise StorageError(operation, errno.EBUSY, where=self._url, why=hint)

    def _is_fenced(self, operation: str) -> StorageError:
        return StorageError(operation, FENCED, where=self._url, why=f"{self._node or 'this node'} was fenced itself")

    async def _keys(self, operation: str, unit: Disk) -> set[int]:
        asked = commands.reserve_in(commands.READ_KEYS, commands.KEYS_BYTES)
        return commands.parse_keys(await self._asked(operation, _run(unit, asked, data_in_bytes=commands.KEYS_BYTES)))

    async def _reservation(self, operation: str, unit: Disk) -> Reservation | None:
        asked = commands.reserve_in(commands.READ_RESERVATION, commands.RESERVATION_BYTES)
        found = await self._asked(operation, _run(unit, asked, data_in_bytes=commands.RESERVATION_BYTES))
        return commands.parse_reservation(found)

    async def _out(
        self,
        operation: str,
        unit: Disk,
        service_action: int,
        key: int,
        service_action_key: int = 0,
        *,
        kind: int = 0,
    ) -> bool:
        """False: RESERVATION CONFLICT."""
        # The last APTPL that a target got holds for all registrations, so every one has it, that which ends one, too.
        outlive_power = self._outlive_power and service_action in _REGISTERING
        parameters = commands.out_parameters(key, service_action_key, outlive_power=outlive_power)
        try:
            await _run(unit, commands.reserve_out(service_action, kind), data_out=parameters)
        except CommandFailed as failed:
            if failed.status == RESERVATION_CONFLICT:
                return False
            raise storage_error(operation, failed, where=self._url) from failed
        except InitiatorError as error:
            raise storage_error(operation, error, where=self._url) from error
        return True

    async def _asked(self, operation: str, asking: Awaitable[T]) -> T:
        try:
            return await asking
        except InitiatorError as error:
            raise storage_error(operation, error, where=self._url) from error


async def _run(unit: Disk, cdb_bytes: bytes, *, data_out: bytes | None = None, data_in_bytes: int = 0) -> bytes:
    """Run a command; again where a unit attention came in the place of it."""
    for _ in range(TRIES):
        try:
            return await unit.command(cdb_bytes, data_out=data_out, data_in_bytes=data_in_bytes)
        except CommandFailed as failed:
            if failed.sense_key != SenseKey.UNIT_ATTENTION:
                raise
    return await unit.command(cdb_bytes, data_out=data_out, data_in_bytes=data_in_bytes)
