"""The facade: one node of the cluster, as the rest of csvd sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import SystemRandom
from threading import Thread
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from csvd.cluster.authentication import ClusterKeys
from csvd.cluster.calls import Handler
from csvd.cluster.coordinator import Coordinator
from csvd.cluster.election import Election
from csvd.cluster.errors import ClusterError, PeerMessageError
from csvd.cluster.journal import Journal
from csvd.cluster.names import NODE_NAME_RULE, is_node_name
from csvd.cluster.peer import Address, PeerEvents, PeerNetwork
from csvd.cluster.reactor import Reactor
from csvd.cluster.register import Register
from csvd.cluster.replicated_register import ReplicatedRegister
from csvd.cluster.state_directory import StateDirectory
from csvd.cluster.stream import StreamHandler, StreamLink
from csvd.cluster.timeouts import Timeouts
from csvd.errors import ConfigError

MAXIMUM_MEMBERS: Final = 32


class Cluster:
    """This node's membership in its cluster.

    Args:
        node: the name of this node.
        listen: host and port to accept the other nodes at; only this address is bound. Port 0 takes a free one.
        members: host and port of every node by name, this one included.
        secret: known to the members alone; 16 to 4096 random bytes.
        state_directory: where the node keeps what it must not forget; one process at a time.
        reactor: the node's loop.
        timeouts: the same on every node.
        failed: called when the node can take no part any more (its journal could not be written, or contradicts the
            cluster); it has closed its links by then, and only a new start after the cause is mended helps.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        node: str,
        listen: Address,
        members: Mapping[str, Address],
        secret: bytes,
        state_directory: Path,
        reactor: Reactor,
        timeouts: Timeouts | None = None,
        failed: Callable[[ClusterError], None] | None = None,
    ) -> None:
        """
        Raises:
            ConfigError: a name, the list of members, the address or the secret can not be.
        """
        _check_members(node, listen, members)
        self.node = node
        self._members = dict(sorted(members.items()))
        self._state_directory = state_directory
        self._reactor = reactor
        self._timeouts = timeouts or Timeouts()
        self._failed = failed
        self._random = SystemRandom()
        self._replicated = ReplicatedRegister(reactor)
        self._network = PeerNetwork(
            node=node,
            listen=listen,
            members=self._members,
            keys=ClusterKeys.from_secret(secret),
            events=PeerEvents(self._link_up, self._link_down, self._raft_received),
            reactor=reactor,
            timeouts=self._timeouts,
            random=self._random,
        )
        self._files: StateDirectory | None = None
        self._threads: ThreadPool | None = None
        self._election: Election | None = None
        self._coordinator: Coordinator | None = None

    @property
    def register(self) -> Register:
        """The register as far as this node has applied it; it may lag behind the coordinator's."""
        return self._replicated.register

    @property
    def address(self) -> Address:
        """Where this node listens for the others."""
        return self._network.address

    @property
    def is_coordinator(self) -> bool:
        """Whether this node is the coordinator, as far as it knows."""
        return self._coordinator is not None and self._coordinator.is_acting

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
            self._files = StateDirectory(self._state_directory)
            journal = Journal(self._files, self.node, now_ms=time.time_ns() // 1_000_000)
            self._threads = _journal_thread()
            self._election = Election(
                node=self.node,
                members=list(self._members),
                journal=journal,
                machine=self._replicated,
                link_to=self._network.link_to,
                changed=self._changed,
                failed=self._election_failed,
                timeouts=self._timeouts,
                clock=self._reactor,
                random=self._random,
                run_blocking=partial(_run_in, self._reactor, self._threads),
            )
            if self._election.failure is not None:
                raise self._election.failure
            self._coordinator = Coordinator(
                node=self.node,
                members=list(self._members),
                election=self._election,
                replicated=self._replicated,
                network=self._network,
                clock=self._reactor,
                incarnation=journal.incarnation,
            )
            self._network.start()
            self._election.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Take no part any more, close everything; may be called again, but a stopped node is not started again."""
        await self._network.stop()
        election, self._election = self._election, None
        if election is not None:
            await election.stop()
        if self._coordinator is not None:
            self._coordinator.changed()
        if self._threads is not None:
            self._threads.stop()
            self._threads = None
        if self._files is not None:
            self._files.close()
            self._files = None

    def status(self) -> dict[str, Any]:
        """What this node knows of the cluster, as a JSON object."""
        election, record = self._election, self.register.coordinator
        failure = election.failure if election is not None else None
        return {
            "node": self.node,
            "members": [self._member_status(name) for name in self._members],
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

    def _member_status(self, name: str) -> dict[str, Any]:
        host, port = self.address if name == self.node else self._members[name]
        is_up, trouble = self._network.link_state(name)
        link = "self" if name == self.node else "up" if is_up else "down"
        return {
            "node": name,
            "address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "link": link,
            "trouble": trouble,
        }

    def _started_coordinator(self) -> Coordinator:
        if self._coordinator is None:
            raise ClusterError("this node is not started", where=self.node)
        return self._coordinator

    def _link_up(self, peer: str) -> None:
        if self._election is not None:
            self._election.connected(peer)

    def _link_down(self, peer: str) -> None:
        if self._election is not None:
            self._election.disconnected(peer)

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


def _check_members(node: str, listen: Address, members: Mapping[str, Address]) -> None:
    for name in (node, *members):
        if not is_node_name(name):
            raise ConfigError(f"{name!r} can not be the name of a node", hint=f"a name is {NODE_NAME_RULE}")
    if node not in members:
        raise ConfigError("this node is not among the members", where=node)
    if len(members) > MAXIMUM_MEMBERS:
        raise ConfigError(f"the cluster has {len(members)} members, more than {MAXIMUM_MEMBERS}")
    if not listen[0]:
        raise ConfigError("there is no address to listen at for the other nodes", where=node)


class _DaemonThread(Thread):
    """A thread that does not keep the process alive."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, daemon=True, **options)


def _journal_thread() -> ThreadPool:
    """One thread, in which the journal is written."""
    pool = ThreadPool(minthreads=1, maxthreads=1, name="csvd-journal")
    pool.threadFactory = _DaemonThread
    pool.start()
    return pool


def _run_in(reactor: Reactor, pool: ThreadPool, call: Callable[[], None]) -> Deferred[None]:
    return deferToThreadPool(reactor, pool, call)  # type: ignore[arg-type]
