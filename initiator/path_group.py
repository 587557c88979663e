"""The paths to one disk: they are brought up, compared, watched, and brought up again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from initiator import path_check
from initiator.engine.paths import Due, Path, Paths, PathState
from initiator.errors import DifferentDisk, InitiatorError, NoPath
from initiator.multipath_options import MultipathOptions, PathListener, PathStatus
from initiator.path import Addresses, DiskPath, Nexus, Opener
from initiator.path_check import Access, Findings
from initiator.scsi.sense import Sense
from initiator.scsi.target_ports import AccessState
from initiator.session import Session
from initiator.url import IscsiUrl


class GroupOwner(Protocol):
    """Who uses the paths."""

    def paths_changed(self) -> None:
        """A path has another state, or time has come nearer: see what waits, and when to call again."""

    def proven_over(self, nexus: Nexus) -> None:
        """A nexus was reinstated, and the new session had a command answered."""

    async def prove_stale_writes(self, path: DiskPath) -> None:
        """Before a path logs in: have what it left behind proven over through another path, where that can be had."""


class PathGroup:
    """The paths, and the machine that chooses among them."""

    def __init__(
        self,
        owner: GroupOwner,
        places: Sequence[tuple[IscsiUrl, bytes]],
        opener: Opener,
        addresses: Addresses,
        how: MultipathOptions,
        listener: PathListener | None,
        *,
        reactor: Any,
    ) -> None:
        self.owner = owner
        self.opener = opener
        self.addresses = addresses
        self.how = how
        self.reactor = reactor
        self.log = Logger()
        self.choice = Paths([str(place) for place, _ in places], how.paths, self.now)
        self.paths = [DiskPath(self, index, place, isid) for index, (place, isid) in enumerate(places)]
        self.on_attention: Callable[[DiskPath, Sense], None] | None = None
        """Told of unit attentions that no command of the caller was told of."""
        self._listener = listener
        self._reference: Findings | None = None
        self._last_session: Session | None = None
        self._tried: set[int] = set()
        self._opened: Deferred[None] | None = None
        self._opening_ends: Any = None

    @property
    def now(self) -> float:
        """The time of the reactor."""
        return float(self.reactor.seconds())

    @property
    def where(self) -> str:
        """All paths, for messages."""
        return ", ".join(str(path.place) for path in self.paths)

    @property
    def session(self) -> Session | None:
        """The session of the first path that takes commands; where none does, one that did."""
        return self.active_session or self._last_session

    @property
    def active_session(self) -> Session | None:
        """The session of the first path that takes commands."""
        for path in self.paths:
            if path.session is not None and self.choice[path.index].active:
                return path.session
        return None

    def status(self) -> tuple[PathStatus, ...]:
        """Give each path as it is now."""
        return tuple(self._status(path) for path in self.choice)

    def _status(self, path: Path) -> PathStatus:
        since_s = self.now - path.since_s
        return PathStatus(path.name, path.state, path.access, path.preferred, path.in_flight, since_s, path.why)

    def explain(self) -> str:
        """Name each path, and why it takes no commands."""
        return "; ".join(f"{path.name} {path.words}" + (f": {path.why}" if path.why else "") for path in self.choice)

    # --- the opening

    async def open(self) -> None:
        """Bring the paths up; return when every one was tried, or one is up and the others had their time.

        Raises:
            DifferentDisk: two paths lead to different disks.
            NoPath: none leads to the disk.
        """
        self._opened = Deferred()
        self.owner.paths_changed()
        await self._opened

    def _settled(self, index: int) -> None:
        self._tried.add(index)
        if self._opened is None:
            return
        up = any(path.state is PathState.UP for path in self.choice)
        if len(self._tried) == len(self.paths):
            self._open_with(None if up else NoPath("no path leads to the disk", why=self.explain()))
        elif up and self._opening_ends is None:
            self._opening_ends = self.reactor.callLater(self.how.settle_s, self._open_with, None)

    def _open_with(self, error: InitiatorError | None) -> None:
        opened, self._opened = self._opened, None
        if self._opening_ends is not None and self._opening_ends.active():
            self._opening_ends.cancel()
        if opened is not None and error is None:
            opened.callback(None)
        elif opened is not None:
            opened.errback(error)

    # --- what is due

    def work(self) -> None:
        """Do what is due now: logins and checks."""
        for index, due in self.choice.due(self.now):
            path = self.paths[index]
            if due is Due.CHECK:
                path.check()
            else:
                path.log_in()

    async def close(self) -> None:
        """Log out of all paths. Never raises."""
        self._open_with(NoPath("the disk was closed"))
        await DeferredList([Deferred.fromCoroutine(path.close()) for path in self.paths], consumeErrors=True)

    def abort(self) -> None:
        """End all paths at once."""
        self._open_with(NoPath("the disk was closed"))
        for path in self.paths:
            path.abort()

    # --- what the paths tell

    async def admit(self, path: DiskPath, findings: Findings) -> None:
        """See that a path leads to the disk of the others.

        Raises:
            DifferentDisk: it does not.
        """
        known = self._reference
        if len(self.paths) > 1 and not findings.identity:
            raise DifferentDisk("the disk has no designator by which paths can be matched", where=str(path.place))
        if known is None:
            self._reference = findings
            return
        if (known.identity, known.serial) != (findings.identity, findings.serial):
            names = (f"{findings.identity} {findings.serial}".strip(), f"{known.identity} {known.serial}".strip())
            raise DifferentDisk(
                "this path leads to another disk",
                where=str(path.place),
                why=f"here is {names[0]}, and the other paths lead to {names[1]}",
            )
        if known.size_bytes is None:
            self._reference = findings
        elif findings.size_bytes not in (None, known.size_bytes):
            await self._compare_sizes(path, findings)

    async def _compare_sizes(self, path: DiskPath, findings: Findings) -> None:
        """The size is another than it was: see whether the disk has been resized, or the paths disagree."""
        for other in self.paths:
            if other.session is not None and other is not path:
                size_bytes = await path_check.size_of(other.session, other.place.lun, self.how.check_timeout_s)
                if size_bytes not in (None, findings.size_bytes):
                    raise DifferentDisk(
                        "this path leads to a disk of another size",
                        where=str(path.place),
                        why=f"{findings.size_bytes} bytes, and {size_bytes} at {other.place}",
                    )
        self._reference = findings

    def path_up(self, path: DiskPath, access: Access) -> None:
        """A path leads to the disk, or was checked."""
        before = self._status(self.choice[path.index])
        self._last_session = path.session
        self.choice.up(path.index, access.state, access.preferred, self.now, access.why)
        self._tell(path, before)
        self.owner.paths_changed()
        self._settled(path.index)

    def path_failed(self, path: DiskPath, error: InitiatorError) -> None:
        """A path could not be had."""
        before = self._status(self.choice[path.index])
        self.choice.failed(path.index, str(error), self.now)
        self._tell(path, before)
        if isinstance(error, DifferentDisk):
            self._open_with(error)
        self._settled(path.index)
        self.owner.paths_changed()

    def path_left(self, path: DiskPath, why: str) -> None:
        """A path that was up is lost; its commands come back after this."""
        before = self._status(self.choice[path.index])
        self.choice.failed(path.index, why, self.now)
        self._tell(path, before)
        self.owner.paths_changed()

    def refused(self, path: DiskPath, state: AccessState, why: str) -> None:
        """A command was refused for the state of its path."""
        before = self._status(self.choice[path.index])
        self.choice.access_is(path.index, state, self.now, why)
        self._tell(path, before)
        self.owner.paths_changed()

    def attention(self, path: DiskPath, found: Sense) -> None:
        """A path's nexus had a unit attention condition that no command of the caller was told of."""
        self.log.info("{path} says: {sense}", path=str(path.place), sense=str(found))
        if self.on_attention is not None:
            self.on_attention(path, found)

    def _tell(self, path: DiskPath, before: PathStatus) -> None:
        status = self._status(self.choice[path.index])
        if (status.words, status.why) == (before.words, before.why):
            return
        self.log.info("{status}", status=str(status))
        if self._listener is not None:
            self._listener(status)
