"""The facade: one node of the cluster, as the rest of csvd sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.cluster.calls import Handler
from csvd.cluster.coordinator import Coordinator
from csvd.cluster.durability import RunBlocking
from csvd.cluster.election import Election
from csvd.cluster.errors import ClusterError, JournalError, PeerMessageError
from csvd.cluster.journal import JOURNAL_NAME, Journal
from csvd.cluster.listeners import Listeners
from csvd.cluster.member_links import LEAVING_S, MemberLinks
from csvd.cluster.names import text_of_address
from csvd.cluster.network import Address, Network, PeerEvents
from csvd.cluster.reactor import Clock
from csvd.cluster.register import Register
from csvd.cluster.register_members import Member
from csvd.cluster.replicated_register import ReplicatedRegister, foreseen_register
from csvd.cluster.state_directory import Files
from csvd.cluster.stream import StreamHandler, StreamLink
from csvd.cluster.timeouts import Timeouts


class Cluster:
    """This node's membership in its cluster.

    Everything that it stands on is given, so that it runs in the simulation as on a host: csvd.cluster.assembly makes
    one of a host's parts.

    Args:
        node: the id of this node.
        network: the links to the others, not started.
        files: where the node keeps what it must not forget, with its journal (csvd.cluster.beginning).
        clock: the node's loop.
        boottime: seconds since the host was started, with those in which it slept; leases are measured by it.
        now_ms: the time of day.
        run_blocking: where the journal is written.
        random: for the times of elections.
        timeouts: the same on every node.
        failed: called when the node can take no part any more (its journal could not be written, or contradicts the
            cluster); it has closed its links by then, and only a new start after the cause is mended helps.
        stopped: called at the end of `stop`, once.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        node: str,
        network: Network,
        files: Files,
        clock: Clock,
        boottime: Callable[[], float],
        now_ms: Callable[[], int],
        run_blocking: RunBlocking,
        random: Random,
        timeouts: Timeouts | None = None,
        failed: Callable[[ClusterError], None] | None = None,
        stopped: Callable[[], None] | None = None,
    ) -> None:
        self.node = node
        self._network = network
        self.files = files
        self.clock = clock
        self.boottime = boottime
        self.now_ms = now_ms
        self.run_blocking = run_blocking
        self._random = random
        self._was_member = False
        self._removal: ClusterError | None = None
        self.timeouts = timeouts or Timeouts()
        self._failed = failed
        self._stopped = stopped
        self._replicated = ReplicatedRegister(clock)
        self._links = MemberLinks(node, self._replicated.register, network, clock, self._heard_of)
        self._election: Election | None = None
        self._coordinator: Coordinator | None = None
        self._link_callbacks: Listeners[Callable[[str, bool], None]] = Listeners()

    @property
    def register(self) -> Register:
        """The register as far as this node has applied it; it may lag behind the coordinator's."""
        return self._replicated.register

    @property
    def members(self) -> Mapping[str, Member]:
        """The members by id, as far as this node has applied the register."""
        return self._replicated.register.members

    @property
    def address(self) -> Address | None:
        """Where this node listens for the others; None where it listens nowhere."""
        return self._network.address

    @property
    def is_coordinator(self) -> bool:
        """Whether this node is the coordinator, as far as it knows."""
        return self._coordinator is not None and self._coordinator.is_acting

    @property
    def voters(self) -> frozenset[str]:
        """Who votes, by the latest configuration in this node's log, whether it is committed or not; none before it is
        started."""
        return self._election.voters if self._election is not None else frozenset()

    def is_linked(self, node: str) -> bool:
        """Whether there is a link to a node now; always to this one."""
        return node == self.node or self._network.link_state(node)[0]

    def on_link(self, callback: Callable[[str, bool], None]) -> Callable[[], None]:
        """Call back when the link to a node has come (True) or gone (False); gives what ends it."""
        return self._link_callbacks.add(callback)

    def on_change(self, callback: Callable[[Register], None]) -> Callable[[], None]:
        """Call back after every change of this node's register; gives what ends it."""
        return self._replicated.on_change(callback)

    async def start(self) -> None:
        """Read the state, listen, and take part from now on; does not wait for a coordinator.

        Raises:
            ConfigError: the state directory or the address can not be used.
            JournalError: the state is damaged, or belongs to another node.
        """
        try:
            if self.files.read(JOURNAL_NAME) is None:
                raise JournalError(
                    "the journal is missing",
                    where=f"{JOURNAL_NAME} of node {self.node}",
                    why="without it a node does not know what it promised to the others",
                    hint="restore it, or evict the node at another one and let it join anew",
                )
            journal = Journal(self.files, self.node, now_ms=self.now_ms())
            self._election = Election(
                node=self.node,
                journal=journal,
                machine=self._replicated,
                link_to=self._network.link_to,
                changed=self._changed,
                failed=self._election_failed,
                timeouts=self.timeouts,
                clock=self.clock,
                random=self._random,
                run_blocking=self.run_blocking,
            )
            if self._election.failure is not None:
                raise self._election.failure
            foreseen = foreseen_register(journal.snapshot, journal.entries).members
            self._links.start(foreseen, until_committed=journal.entries[-1][1])
            self._register_changed()
            self._replicated.on_change(lambda register: self._register_changed())
            self._coordinator = Coordinator(
                node=self.node,
                election=self._election,
                replicated=self._replicated,
                network=self._network,
                clock=self.clock,
                incarnation=journal.incarnation,
            )
            self._network.start(PeerEvents(self._link_up, self._link_down, self._raft_received))
            self._election.start()
        except BaseException:
            await self.stop()
            raise

    def evicted(self, by: str) -> None:
        """A member says that this node is none any more: it was away when that was decided. It takes no part."""
        if self._removal is None and self._election is not None:
            self._removal = ClusterError(
                "this node was evicted from the cluster",
                where=self.node,
                why=f"{by} says so",
                hint="csvd join, with a new token and a new state directory, makes it a member again",
            )
            self.clock.callLater(0, self._removed, self._removal)

    async def stop(self) -> None:
        """Take no part any more, close everything; may be called again, but a stopped node is not started again."""
        self._links.stop()
        await self._network.stop()
        election, self._election = self._election, None
        if election is not None:
            await election.stop()
        if self._coordinator is not None:
            self._coordinator.changed()
        stopped, self._stopped = self._stopped, None
        if stopped is not None:
            stopped()

    def status(self) -> dict[str, Any]:
        """What this node knows of the cluster, as a JSON object."""
        election, record = self._election, self.register.coordinator
        failure = self._removal or (election.failure if election is not None else None)
        return {
            "node": self.node,
            "members": [self._member_status(member) for member in self.members.values()],
            "coordinator": record.node if record else None,
            "epoch": self.register.epoch,
            "is_coordinator": self.is_coordinator,
            "leader": election.leader if election else None,
            "term": election.term if election else 0,
            "commit_index": election.commit_index if election else 0,
            "revision": self.register.revision,
            "guests": [guest.to_json() for guest in self.register.guests.values()],
            "failure": str(failure) if failure else "",
        }

    async def submit(self, command: dict[str, Any], *, timeout_s: float, key: str | None = None) -> dict[str, Any]:
        """Have the coordinator carry out a command of the register, once, from any node.

        Args:
            command: `op` and its fields (csvd.cluster.register.OPERATIONS).
            timeout_s: how long to try, over changes of the coordinator.
            key: of an OutcomeUnknown, to ask for the same command again.

        Raises:
            CommandRefused: a definite no.
            OutcomeUnknown: the time is up; its `key` can be submitted again with the same command.
        """
        return await self._started_coordinator().submit(command, timeout_s=timeout_s, key=key)

    async def read_guest(self, name: str, *, timeout_s: float) -> dict[str, Any] | None:
        """The record of a guest as it is now, read through the log (linearizable); None where there is none.

        Raises:
            CommandRefused: no coordinator answered in time.
        """
        answer = await self.submit({"op": "guest_read", "name": name}, timeout_s=timeout_s)
        guest: dict[str, Any] | None = answer["guest"]
        return guest

    async def call(self, node: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Call a method of a node.

        Raises:
            PeerUnreachable: nothing was sent.
            RemoteError: the error of the handler there.
            OutcomeUnknown: no answer came in time.
        """
        return await self._network.call(node, method, params, timeout_s=timeout_s)

    def serve(self, method: str, handler: Handler) -> None:
        """Answer a method: `async handler(peer, params) -> result`; a CsvdError that it raises goes to the caller."""
        self._network.serve(method, handler)

    async def open_stream(self, node: str, kind: str, header: dict[str, Any]) -> StreamLink:
        """Open a stream to another node.

        Raises:
            PeerUnreachable: it could not be connected.
            RemoteError: it refused.
        """
        return await self._network.open_stream(node, kind, header)

    def serve_stream(self, kind: str, handler: StreamHandler) -> None:
        """Take streams of a kind: `handler(peer, header, link)`; a CsvdError that it raises refuses the stream."""
        self._network.serve_stream(kind, handler)

    def _member_status(self, member: Member) -> dict[str, Any]:
        is_up, trouble = self._network.link_state(member.id)
        address = text_of_address(self.address) if member.id == self.node and self.address else member.address
        link = "self" if member.id == self.node else "up" if is_up else "down"
        return {"node": member.id, "address": address, "link": link, "trouble": trouble}

    def _register_changed(self) -> None:
        """The members may have changed: the links follow, and a node that is none any more takes no part."""
        self._links.update()
        if self.node in self.members:
            self._was_member = True
        elif self._was_member and self.members and self._removal is None:
            self._removal = ClusterError("this node was removed from the cluster", where=self.node)
            self.clock.callLater(LEAVING_S, self._removed, self._removal)

    def _removed(self, removal: ClusterError) -> None:
        if self._election is not None:
            self._election_failed(removal)

    def _started_coordinator(self) -> Coordinator:
        if self._coordinator is None:
            raise ClusterError("this node is not started", where=self.node)
        return self._coordinator

    def _heard_of(self) -> tuple[str | None, int]:
        """The leader that this node knows, and up to which entry it knows the log to be committed."""
        return (self._election.leader, self._election.commit_index) if self._election is not None else (None, 0)

    def _link_up(self, peer: str) -> None:
        self._links.link_up(peer)
        if self._election is not None:
            self._election.connected(peer)
        self._tell_link(peer, True)

    def _link_down(self, peer: str) -> None:
        self._links.link_down(peer)
        if self._election is not None:
            self._election.disconnected(peer)
        self._tell_link(peer, False)

    def _tell_link(self, peer: str, is_up: bool) -> None:
        for callback in self._link_callbacks:
            callback(peer, is_up)

    def _raft_received(self, peer: str, data: bytes) -> None:
        if self._election is None:
            return
        try:
            self._election.received(peer, data)
        except PeerMessageError as error:
            raise PeerMessageError(error.what, where=peer, why=error.why) from error

    def _changed(self) -> None:
        if self._coordinator is not None:
            self._coordinator.changed()

    def _election_failed(self, error: ClusterError) -> None:
        self._changed()
        Deferred.fromCoroutine(self._network.stop()).addErrback(
            lambda failure: self._log.failure("the links could not be closed", failure)
        )
        if self._failed is not None:
            self._failed(error)
