"""The nodes' sessions with one coordinator: leases, reclaim after a takeover, and the end of a node, with proof.

A session ends in one of two ways. The node gives it up itself: its lease was out, it has ended what was under way and
left the disk, and comes back as a new one. Or the node is fenced: at once where its link is lost and the disk shows
that its process is gone, else when its lease is out. Only then it is *gone*, and the others may act on that.

Which nodes have a session is kept on the disk before they are told: so the next coordinator knows for whom to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from csvd.cluster.bell import Bell, spawn
from csvd.cluster.coordination.faces import FencingService, Json, OfficeOver, Service
from csvd.cluster.coordination.membership import Membership, Tell
from csvd.cluster.coordination.pushes import Pushes
from csvd.cluster.coordination.records import SESSIONS, Records
from csvd.cluster.errors import OutcomeUnknown
from csvd.cluster.reactor import Clock, DelayedCall
from csvd.cluster.timeouts import CLOCK_DRIFT, Timeouts
from csvd.errors import CsvdError
from csvd.shared_disk import FILE_LOCK, NO_FENCE, FenceProof, SharedDisk

EXPECTED: Final = "expected"
JOINING: Final = "joining"
LIVE: Final = "live"
ENDING: Final = "ending"

PROBE_PAUSE_S: Final = 0.02
"""Between two looks at the disk whether a node is gone, at first; twice as long each time, up to PROBE_PAUSE_MAXIMUM_S.
"""
PROBE_PAUSE_MAXIMUM_S: Final = 0.25


@dataclass(slots=True)
class Session:
    """One session.

    Attributes:
        id: `epoch/number` of the office that gave it; never given twice.
        until_s: when the node's lease is surely out, on this node's boot time.
        published: what the node tells others of itself.
        trouble: why its end is not proven yet.
        is_by_hand: a person wants it fenced now, and not only when its lease is out.
        is_vouched_for: a person has seen to it that the node is off.
    """

    node: str
    number: int
    incarnation: int
    id: str
    state: str
    until_s: float
    pushes: Pushes
    published: Json
    timer: DelayedCall | None = None
    trouble: str = ""
    is_by_hand: bool = False
    is_vouched_for: bool = False

    def record(self) -> Json:
        """What is kept on the disk."""
        return {"number": self.number, "incarnation": self.incarnation, "id": self.id}


@dataclass(frozen=True, slots=True)
class OfficeGround:
    """What the parts of one office stand on."""

    disk: str
    epoch: int
    shared_disk: SharedDisk
    membership: Membership
    clock: Clock
    boottime: Callable[[], float]
    timeouts: Timeouts
    is_live: Callable[[], bool]
    is_over: Callable[[], bool]
    tell: Tell


class Sessions:
    """The table of sessions of one office.

    Args:
        ground: the office.
        records: where it is kept who has a session.
        services: told of nodes that come and go, once `are_begun`.
    """

    def __init__(self, ground: OfficeGround, records: Records, services: Sequence[Service]) -> None:
        self._ground = ground
        self._records = records
        self._services = services
        self._table: dict[str, Session] = {}
        self._joining: dict[str, Session] = {}
        self._bell = Bell(ground.clock)
        self._last_number = 0
        self._probing: set[str] = set()
        self.are_begun = False
        """Whether the services have begun: from then on they are told."""
        self.last_proof: FenceProof | None = None

    @property
    def all(self) -> Sequence[Session]:
        """Every session, those that are not live with them."""
        return [*self._table.values(), *self._joining.values()]

    @property
    def published(self) -> Mapping[str, Json]:
        """What the nodes with a session have published."""
        return {session.node: session.published for session in self._table.values() if session.state == LIVE}

    def load(self, proof: FenceProof | None = None) -> None:
        """Expect the nodes that had a session with the coordinator before; that coordinator acts no more by now, so
        that no lease is longer than one from now.

        Args:
            proof: by which the coordinator before is off. Where its lock was had, its process is gone, and its session
                with it: nobody need look again.
        """
        until_s = self._ground.boottime() + self._ground.timeouts.node_lease_s * (1 + CLOCK_DRIFT)
        for node, record in list(self._records.table(SESSIONS).items()):
            session = self._made(node, record["number"], record["incarnation"], record["id"], EXPECTED)
            self._table[node] = session
            self._set_timer(session, until_s)
            is_proven = proof is not None and proof.kind == FILE_LOCK and proof.node == node
            if proof is not None and is_proven and not self._ground.membership.is_linked(node):
                self._begin_end(session, "its process is gone", proof)
            else:
                self._look_at(session)

    async def reclaimed(self) -> None:
        """Wait until every node that was expected has come, or is gone.

        Raises:
            OfficeOver: the office has ended.
        """
        while any(session.state in (EXPECTED, ENDING) for session in self._table.values()):
            self._check()
            await self._bell.wait()
        self._check()

    def stop(self) -> None:
        """The office is over."""
        for session in self.all:
            self._cancel(session)
            session.pushes.bell.ring()
        self._bell.ring()

    # What nodes ask; each answer is {"ok": …}, {"again": why} or {"lost": why}.

    def reclaim(self, node: str, session_id: str, incarnation: int, published: Json) -> Json:
        """A node goes on with the session that it had with the coordinator before."""
        session = self._table.get(node)
        if session is None or session.id != session_id or session.incarnation != incarnation:
            return {"lost": "the coordinator before has declared it gone"}
        if session.state == ENDING:
            return {"lost": "its lease is out"}
        session.state = LIVE
        session.published = published
        self._renew(session)
        self._bell.ring()
        return {"ok": True}

    async def opened(self, node: str, number: int, incarnation: int, published: Json) -> Json:
        """A node comes, or comes back: what it had before is over, by its own word; or by its joining the disk, where
        it was started again. Tells it to join."""
        old = self._table.get(node)
        if old is not None and old.state == ENDING:
            await self._bell.wait(self._ground.timeouts.node_heartbeat_s)
            return {"again": "it is being fenced"}
        if old is not None:
            self._cancel(old)
        before = self._joining.pop(node, None)
        if before is not None:
            self._cancel(before)
        self._last_number += 1
        session = self._made(node, number, incarnation, f"{self._ground.epoch}/{self._last_number}", JOINING)
        session.published = published
        self._joining[node] = session
        self._renew(session)
        return {"ok": True, "session": session.id}

    async def joined(self, node: str, session_id: str) -> Json:
        """A node has joined the disk: from the answer on it may use it."""
        session = self._joining.get(node)
        if session is not None and session.id == session_id:
            self._renew(session)
            await self._records.keep({SESSIONS: {node: session.record()}})
            if self._joining.get(node) is session:
                self._come(session)
        session = self._table.get(node)
        if session is None or session.id != session_id or session.state != LIVE:
            return {"lost": "its lease is out"}
        self._renew(session)
        if not await session.pushes.answered(self._ground.timeouts.node_heartbeat_s):
            return {"again": "it has not answered what it was told on coming"}
        return {"ok": True} if session.state == LIVE else {"lost": "its lease is out"}

    def beat(self, node: str, session_id: str, published: Json | None) -> Json:
        """A node renews its lease."""
        session = self._table.get(node)
        if session is None or session.id != session_id:
            return {"lost": "the coordinator does not know the session"}
        if session.state != LIVE:
            return {"lost": "its lease is out"}
        if published is not None:
            session.published = published
        self._renew(session)
        return {"ok": True}

    async def left(self, node: str, session_id: str) -> Json:
        """A node has ended what was under way and left the disk: it stops."""
        session = self._table.get(node)
        if session is not None and session.id == session_id and session.state == LIVE:
            session.state = ENDING
            await self._forget(session, f"{node} has left {self._ground.disk} by itself")
        return {"ok": True}

    def is_known(self, node: str, session_id: str) -> bool:
        """Whether a node has this session, and may ask."""
        session = self._table.get(node)
        return session is not None and session.id == session_id and session.state == LIVE

    # What the coordinator does

    async def push(
        self, service: str, method: str, params: Json, *, to: str | None, excluding: tuple[str, ...]
    ) -> dict[str, Json]:
        """See `Office.push`."""
        self._check()
        chosen = [
            session
            for session in self._table.values()
            if session.node not in excluding and (to is None or session.node == to)
        ]
        pushes = [(one.node, spawn(one.pushes.push(service, method, params), "a push")) for one in chosen]
        answers = {node: await push for node, push in pushes}
        self._check()
        return {node: answer for node, answer in answers.items() if isinstance(answer, dict)}

    def linked(self, node: str, is_up: bool) -> None:
        """The link to a node has come or gone."""
        session = self._table.get(node)
        if session is None:
            return
        session.pushes.bell.ring()
        if not is_up:
            self._look_at(session)

    def members_changed(self, numbers: Mapping[str, int]) -> None:
        """Nodes that are no members any more are fenced when their leases are out: they can renew them no more."""
        for session in self._table.values():
            if session.node not in numbers and session.state == LIVE:
                self._ground.tell("session", f"{session.node} is no member any more", self._ground.disk)
                self._begin_end(session, "it is no member any more")

    def fence_by_hand(self, node: str, *, is_vouched_for: bool) -> Session | None:
        """A person wants a node fenced now, and may vouch that it is off, where no fence can tell.

        Returns:
            The session that is being ended, None where there is none.
        """
        session = self._table.get(node)
        if session is not None:
            session.is_by_hand = True
            session.is_vouched_for = session.is_vouched_for or is_vouched_for
            self._begin_end(session, "a person asked for it")
            session.pushes.bell.ring()
        return session

    # How

    def _made(self, node: str, number: int, incarnation: int, session_id: str, state: str) -> Session:
        ground = self._ground
        pushes = Pushes(
            node, session_id, ground.disk, ground.epoch, ground.membership, Bell(ground.clock), ground.is_over
        )
        return Session(node, number, incarnation, session_id, state, 0.0, pushes, {})

    def _check(self) -> None:
        if not self._ground.is_live():
            raise OfficeOver("the office has ended, or its lease is out", where=self._ground.disk)

    def _renew(self, session: Session) -> None:
        lease_s = self._ground.timeouts.node_lease_s * (1 + CLOCK_DRIFT)
        self._set_timer(session, self._ground.boottime() + lease_s)

    def _set_timer(self, session: Session, until_s: float) -> None:
        session.until_s = max(until_s, session.until_s)
        if session.timer is None:
            left_s = session.until_s - self._ground.boottime()
            session.timer = self._ground.clock.callLater(max(0.0, left_s) + 0.001, self._timed, session)

    def _timed(self, session: Session) -> None:
        session.timer = None
        if self._ground.is_over():
            return
        if self._ground.boottime() < session.until_s:
            self._set_timer(session, session.until_s)
        elif session.state == JOINING:
            self._never_joined(session)
        else:
            self._begin_end(session, "its lease is out")

    def _cancel(self, session: Session) -> None:
        if session.timer is not None:
            session.timer.cancel()
            session.timer = None

    def _never_joined(self, session: Session) -> None:
        if self._joining.get(session.node) is not session:
            return
        del self._joining[session.node]
        old = self._table.get(session.node)
        if old is not None:
            self._begin_end(old, "it did not come back")

    def _come(self, session: Session) -> None:
        """The session takes the place of the one that the node had."""
        node = session.node
        del self._joining[node]
        old = self._table.pop(node, None)
        if old is not None:
            self._tell_gone(old, f"{node} has left by itself, and comes back")
        session.state = LIVE
        self._table[node] = session
        self._ground.tell("session", f"{node} has a session with the coordinator of {self._ground.disk}", node)
        if self.are_begun:
            for service in self._services:
                service.node_come(node)
        self._bell.ring()

    def _tell_gone(self, session: Session, text: str) -> None:
        self._cancel(session)
        self._ground.tell("session", text, session.node)
        if self.are_begun:
            for service in self._services:
                service.node_gone(session.node)
        session.pushes.is_gone = True
        session.pushes.bell.ring()
        self._bell.ring()

    def _look_at(self, session: Session) -> None:
        """See whether a node without a link is gone, by a look that does no harm."""
        ground = self._ground
        if ground.shared_disk.fence_kind != FILE_LOCK or ground.membership.is_linked(session.node):
            return
        if session.node != ground.membership.node and session.id not in self._probing:
            self._probing.add(session.id)
            spawn(self._probe(session), "a look at a node's lock")

    async def _probe(self, session: Session) -> None:
        ground = self._ground
        pause_s = PROBE_PAUSE_S
        try:
            while not ground.is_over() and session.state in (EXPECTED, LIVE) and not session.pushes.is_gone:
                if ground.membership.is_linked(session.node):
                    return
                try:
                    is_gone = await ground.shared_disk.is_gone(session.node, session.number)
                except CsvdError as error:
                    session.trouble = str(error)
                    is_gone = False
                if is_gone and not ground.membership.is_linked(session.node):
                    self._begin_end(session, "its link is lost and its process is gone")
                    return
                await session.pushes.bell.wait(pause_s)
                pause_s = min(2 * pause_s, PROBE_PAUSE_MAXIMUM_S)
        finally:
            self._probing.discard(session.id)

    def _begin_end(self, session: Session, why: str, proof: FenceProof | None = None) -> None:
        if session.state == ENDING or self._table.get(session.node) is not session or self._ground.is_over():
            return
        session.state = ENDING
        spawn(self._end(session, why, proof), "the end of a node's session")

    async def _end(self, session: Session, why: str, proof: FenceProof | None) -> None:
        """Fence a node, where it is not proven to be off, and let the others know that it is gone."""
        node = session.node
        self._ground.tell("fence", f"{node} is being fenced on {self._ground.disk}: {why}", node)
        try:
            proof = proof or await self._fenced(session)
            self.last_proof = proof
            await self._fence_on_services(session)
            self._check()
            await self._forget(session, f"{node} is off {self._ground.disk}: {proof.kind}: {proof.seen}")
        except (OfficeOver, OutcomeUnknown):
            return  # The next coordinator begins anew.

    async def _forget(self, session: Session, text: str) -> None:
        """Nothing of a session can act any more: have it durable, and let all know."""
        if self._table.get(session.node) is session:
            await self._records.keep({SESSIONS: {session.node: None}})
            del self._table[session.node]
            self._tell_gone(session, text)

    async def _fenced(self, session: Session) -> FenceProof:
        ground, disk = self._ground, self._ground.shared_disk
        while True:
            self._check()
            kind = disk.fence_kind
            if session.is_vouched_for:
                return FenceProof("by hand", session.node, "a person vouches for it", ground.boottime())
            is_out = ground.boottime() >= session.until_s
            if kind == NO_FENCE and is_out:
                return FenceProof("lease", session.node, "its lease is out", ground.boottime())
            if kind == FILE_LOCK or (kind != NO_FENCE and (is_out or session.is_by_hand)):
                try:
                    return await disk.fence(session.node, session.number)
                except CsvdError as error:
                    session.trouble = str(error)  # NotProven, or a fault of the disk: asking again is right.
            await session.pushes.bell.wait(PROBE_PAUSE_S if kind == FILE_LOCK else PROBE_PAUSE_MAXIMUM_S)

    async def _fence_on_services(self, session: Session) -> None:
        """Also before they have begun: who begins must find nobody that can still write by what was before."""
        for service in self._services:
            while isinstance(service, FencingService):
                self._check()
                try:
                    await service.fence_node(session.node, session.number)
                    break
                except OfficeOver:
                    raise
                except CsvdError as error:
                    session.trouble = str(error)
                    await session.pushes.bell.wait(PROBE_PAUSE_MAXIMUM_S)
