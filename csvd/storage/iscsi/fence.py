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
from csvd.storage.iscsi.errors import storage_error
from initiator import (
    CommandFailed,
    Disk,
    InitiatorError,
    Reservation,
    ReservationConflict,
    ReservationType,
    TaskManagementFunction,
)
from initiator.scsi import cdb

TRIES: Final = 8
"""Turns that another node may get between two commands."""

_TYPE: Final = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
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
        connect: opens the LUN in another session; None where there is no other: then a holder that leaves stays
            registered, and so has to be fenced before another writes what it wrote.
        url: the disk's, for messages.
    """

    def __init__(self, unit: Disk, identity: str, connect: Connect | None, url: str) -> None:
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
        if not await self._registered("join", unit, passing, key):
            raise StorageError("join", FENCED, where=self._url, why=f"{node} was fenced while it joined")
        self._node = node

    async def fence(self, node: str) -> str:
        """Keep a node off; see `FencingDisk.fence`. Returns what was seen that proves it."""
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
        if any(victim in keys for victim in victims):
            raise StorageError("fence", errno.EBUSY, where=self._url, why=f"{node} has joined again meanwhile")
        self._fenced.add(node)
        return f"its key {victims[0]:#018x} is not registered, and the LUN is reserved for who is"

    async def writes_same_off(self) -> bool:
        """Whether the target holds WRITE SAME to the reservation, as it must (SBC-3 section 4.17): tgtd does not.

        Asked in a session that is not registered, for a block behind the last one: nothing is written either way.
        """
        outsider = await self._connected("join", "")
        try:
            beyond = cdb.write_same(outsider.block_count, 1)
            await outsider.tell(beyond, bytes(outsider.block_bytes))
        except ReservationConflict:
            return True
        except CommandFailed:
            return False
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
        if held.type is _TYPE and held.key == own:
            if self._connect is not None:
                await self._hand_over(own)
        else:
            # A conflict: somebody has fenced this node, and there is nothing left to give up.
            await self._registered("leave", unit, own, 0)
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
        assert self._connect is not None
        try:
            return await self._connect(who)
        except InitiatorError as error:
            raise storage_error(operation, error, where=self._url) from error

    async def _register(self, operation: str, unit: Disk, key: int) -> None:
        """Register a key for a session, whatever it had; over a loss of power, too, where the target can."""
        capabilities = await self._asked(operation, unit.reservations.capabilities())
        self._outlive_power = capabilities.persist_through_power_loss
        registering = unit.reservations.register(key, ignore_existing=True, through_power_loss=self._outlive_power)
        if not await self._done(operation, registering):
            why = "another initiator has the LUN reserved by RESERVE"
            raise StorageError(operation, errno.EBUSY, where=self._url, why=why)

    async def _registered(self, operation: str, unit: Disk, key: int, new_key: int) -> bool:
        """Put a key in the place of the one that is registered, 0 for none; False: that one is not registered."""
        # The last APTPL that a target got holds for all registrations, so every one has it, that which ends one, too.
        registering = unit.reservations.register(new_key, key=key, through_power_loss=self._outlive_power)
        return await self._done(operation, registering)

    async def _have_it_reserved(self, operation: str, unit: Disk, key: int) -> None:
        """See to it that the reservation is held by somebody who is registered; a gap is closed by taking it."""
        for _ in range(TRIES):
            held = await self._reservation(operation, unit)
            self._check_type(operation, held)
            if held.held or await self._done(operation, unit.reservations.reserve(_TYPE, key=key)):
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
        preempt = self._unit.reservations.preempt
        if self._aborts:
            try:
                found = await self._done(operation, preempt(victim, key=own, kind=_TYPE, abort=True))
            except StorageError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                # Some targets, tgtd among them, have PREEMPT alone.
                self._aborts = False
            else:
                return found, found
        return await self._done(operation, preempt(victim, key=own, kind=_TYPE)), False

    async def _hand_over(self, own: int) -> None:
        """Have the caretaker take the reservation, and this node's registration away with it."""
        caretaker = key_of(self._identity, _CARETAKER)
        unit = await self._connected("leave", _CARETAKER)
        try:
            await self._register("leave", unit, caretaker)
            await self._done("leave", unit.reservations.preempt(own, key=caretaker, kind=_TYPE))
            if own in await self._keys("leave", unit):
                raise StorageError("leave", errno.EBUSY, where=self._url, why="the target keeps the registration")
        finally:
            await unit.close()

    def _check_type(self, operation: str, held: Reservation) -> None:
        if held.held and held.type is not _TYPE:
            why = f"the disk is reserved otherwise: {_told(held)}"
            raise StorageError(operation, errno.EBUSY, where=self._url, why=why)

    def _is_fenced(self, operation: str) -> StorageError:
        return StorageError(operation, FENCED, where=self._url, why=f"{self._node or 'this node'} was fenced itself")

    async def _keys(self, operation: str, unit: Disk) -> tuple[int, ...]:
        return (await self._asked(operation, unit.reservations.keys())).keys

    async def _reservation(self, operation: str, unit: Disk) -> Reservation:
        return await self._asked(operation, unit.reservations.reservation())

    async def _done(self, operation: str, change: Awaitable[None]) -> bool:
        """False: RESERVATION CONFLICT."""
        try:
            await change
        except ReservationConflict:
            return False
        except InitiatorError as error:
            raise storage_error(operation, error, where=self._url) from error
        return True

    async def _asked(self, operation: str, asking: Awaitable[T]) -> T:
        try:
            return await asking
        except InitiatorError as error:
            raise storage_error(operation, error, where=self._url) from error


def _told(held: Reservation) -> str:
    """A reservation for people: the type as the standard writes it, and whose it is, where it is not everybody's."""
    name = f"type {held.kind:#x}" if held.type is None else held.type.name
    name = name.replace("_REGISTRANTS_ONLY", " - REGISTRANTS ONLY").replace("_ALL_REGISTRANTS", " - ALL REGISTRANTS")
    name = name.replace("_", " ")
    return f"{name} by the key {held.key:#018x}" if held.key else name
