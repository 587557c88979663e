"""The asyncio face: the disks and sessions of this package for programs that run on asyncio, or on uvloop.

Every method is that of :class:`Disk` or :class:`Session`, with its arguments, results and errors; it is one line here,
and a test holds that none is missing. ``asyncio.timeout``, ``TaskGroup`` and ``Task.cancel`` work as ever: a call that
is cancelled aborts its command (ABORT TASK), and has given its buffers back when it ends.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from csvd.iscsi.keys import SessionParameters
from initiator.deferred_await import in_task
from initiator.disk import Disk
from initiator.multipath_options import PathStatus
from initiator.options import SessionOptions
from initiator.reservations import Reservations
from initiator.scsi.answers import Capacity
from initiator.scsi.inquiry import BlockLimits
from initiator.scsi.mode import ModePage
from initiator.scsi.sense import Sense
from initiator.session import Session
from initiator.url import Portal

_P = ParamSpec("_P")
_Result = TypeVar("_Result")
_Value = TypeVar("_Value")
_Page = TypeVar("_Page", bound=ModePage)
_Behind = TypeVar("_Behind", covariant=True)


def _of(
    method: Callable[Concatenate[_Behind, _P], Awaitable[_Result]],
) -> Callable[Concatenate[_Face[_Behind], _P], Coroutine[Any, Any, _Result]]:
    """Make a method of a face of one of what stands behind it."""

    @functools.wraps(method)
    async def call(self: _Face[_Behind], /, *args: _P.args, **kwargs: _P.kwargs) -> _Result:
        return await in_task(method(self._behind, *args, **kwargs))

    return call


class _Fact(Generic[_Value]):
    """An attribute that is read from what stands behind."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, face: _Face[Any] | None, owner: type) -> _Value:
        if face is None:
            return self  # type: ignore[return-value] # as with a property: for documentation and introspection
        value: _Value = getattr(face._behind, self._name)
        return value


class _Face(Generic[_Behind]):
    def __init__(self, behind: _Behind) -> None:
        self._behind = behind

    def __repr__(self) -> str:
        return f"<asyncio face of {self._behind!r}>"


class AsyncioSession(_Face[Session]):
    """An I_T nexus for asyncio: the road to all LUNs of one target. Made by :func:`initiator.login`."""

    @property
    def session(self) -> Session:
        """The session behind, for what Twisted code does with it."""
        return self._behind

    alive = _Fact[bool]()
    connections = _Fact[int]()
    options = _Fact[SessionOptions]()
    parameters = _Fact[SessionParameters]()
    portal = _Fact[Portal]()
    portal_group_tag = _Fact["int | None"]()
    target_alias = _Fact[str]()
    target_name = _Fact[str]()
    tsih = _Fact[int]()
    where = _Fact[str]()

    close = _of(Session.close)
    nop = _of(Session.nop)
    task_management = _of(Session.task_management)
    text = _of(Session.text)

    def abort(self) -> None:
        """Close the connection at once, without a logout; calls under way fail with SessionLost."""
        self._behind.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncioReservations(_Face[Reservations]):
    """The registrations and the reservation of a disk, for asyncio, as ``disk.reservations``."""

    capabilities = _of(Reservations.capabilities)
    clear = _of(Reservations.clear)
    full_status = _of(Reservations.full_status)
    keys = _of(Reservations.keys)
    preempt = _of(Reservations.preempt)
    register = _of(Reservations.register)
    register_and_move = _of(Reservations.register_and_move)
    release = _of(Reservations.release)
    reservation = _of(Reservations.reservation)
    reserve = _of(Reservations.reserve)


class AsyncioDisk(_Face[Disk]):
    """One LUN of a target, for asyncio. Made by :func:`initiator.connect` without a reactor, or by
    :meth:`AsyncioDisk.open`."""

    @property
    def disk(self) -> Disk:
        """The disk behind, for what Twisted code does with it."""
        return self._behind

    @property
    def session(self) -> AsyncioSession:
        """The session that carries its commands."""
        return AsyncioSession(self._behind.session)

    @property
    def reservations(self) -> AsyncioReservations:
        """The registrations and the reservation of the disk."""
        return AsyncioReservations(self._behind.reservations)

    async def mode_page(self, kind: type[_Page], *, timeout_s: float | None = None) -> _Page:
        """Ask for a mode page that this package knows; as :meth:`Disk.mode_page`."""
        return await in_task(self._behind.mode_page(kind, timeout_s=timeout_s))

    @classmethod
    async def open(cls, session: AsyncioSession, lun: int, *, timeout_s: float | None = None) -> Self:
        """Make a LUN ready for use; as :meth:`Disk.open`."""
        return cls(await in_task(Disk.open(session.session, lun, timeout_s=timeout_s)))

    block_bytes = _Fact[int]()
    block_count = _Fact[int]()
    capacity = _Fact[Capacity]()
    limits = _Fact[BlockLimits]()
    lun = _Fact[int]()
    on_unit_attention = _Fact[list[Callable[[Sense], None]]]()
    paths = _Fact[tuple[PathStatus, ...]]()
    size_bytes = _Fact[int]()

    ask = _of(Disk.ask)
    close = _of(Disk.close)
    command = _of(Disk.command)
    command_support = _of(Disk.command_support)
    compare_and_write = _of(Disk.compare_and_write)
    copy_name = _of(Disk.copy_name)
    copy_to = _of(Disk.copy_to)
    flush = _of(Disk.flush)
    get_lba_status = _of(Disk.get_lba_status)
    inquiry = _of(Disk.inquiry)
    log_sense = _of(Disk.log_sense)
    make_token = _of(Disk.make_token)
    mode_select = _of(Disk.mode_select)
    mode_sense = _of(Disk.mode_sense)
    nop = _of(Disk.nop)
    read = _of(Disk.read)
    read_capacity = _of(Disk.read_capacity)
    read_into = _of(Disk.read_into)
    report_luns = _of(Disk.report_luns)
    request_sense = _of(Disk.request_sense)
    set_target_port_groups = _of(Disk.set_target_port_groups)
    start_stop = _of(Disk.start_stop)
    supported_commands = _of(Disk.supported_commands)
    supported_log_pages = _of(Disk.supported_log_pages)
    supported_pages = _of(Disk.supported_pages)
    target_port_groups = _of(Disk.target_port_groups)
    tell = _of(Disk.tell)
    test_unit_ready = _of(Disk.test_unit_ready)
    unmap = _of(Disk.unmap)
    verify = _of(Disk.verify)
    vpd = _of(Disk.vpd)
    write = _of(Disk.write)
    write_cache_enabled = _of(Disk.write_cache_enabled)
    write_same = _of(Disk.write_same)
    write_token = _of(Disk.write_token)
    write_zeroes = _of(Disk.write_zeroes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
