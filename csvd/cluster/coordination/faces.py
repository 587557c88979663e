"""What coordination gives to the other parts of csvd, and what it wants of them. PURE: interfaces.

For every shared disk there is one *office*: the right to act as its coordinator, in one epoch. A part that has
something to decide for all nodes (reservations, exports, later the metadata of a volume) is a *service*: it is made on
every node, and begun where the office is. Every node has a *session* with the coordinator of each disk: a lease, by
which it may use the disk; a way to ask the services (`ask`); and a way for them to tell every node (`push`).

The words lease, grace, reclaim and recall are those of RFC 8881 section 8.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from csvd.cluster.coordination.asking import AskKey
from csvd.cluster.errors import ClusterError

Json: TypeAlias = dict[str, Any]
"""A JSON object."""

Pushed: TypeAlias = Callable[[str, Json], Awaitable[Json]]
"""Takes a push: its method and its parameters. What it returns is the acknowledgement."""

LIVE: Final = "live"
RECLAIMING: Final = "reclaiming"
LAPSED: Final = "lapsed"
FENCED: Final = "fenced"
CLOSED: Final = "closed"


class OfficeOver(ClusterError):
    """The office has ended, or its lease is out: nothing was done, and this node may not do it any more.

    A service lets it pass out of `asked`: the node that asked asks the next coordinator.
    """


class Office(Protocol):
    """The right to act for a disk, for one epoch, as a service sees it."""

    @property
    def disk(self) -> str:
        """The name of the disk in the register."""

    @property
    def epoch(self) -> int:
        """The number of the office; it only grows."""

    @property
    def node(self) -> str:
        """The id of this node, which has the office."""

    @property
    def is_live(self) -> bool:
        """Whether this node may act NOW: to be asked again after every wait, before anything that others can see.

        `keep`, `push` and the answer to an ask see to it by themselves.
        """

    @property
    def nodes(self) -> Mapping[str, Json]:
        """The nodes that have a session, this one with them; each with what it has published."""

    @property
    def records(self) -> Mapping[str, Any]:
        """What is kept on the disk, by key, as of the last `keep` that is durable. A key begins with the name of its
        service and a slash. Values are not to be changed in place."""

    async def keep(
        self, changes: Mapping[str, Any], *, answer: Json | None = None, answers: Mapping[AskKey, Json] | None = None
    ) -> None:
        """Make changes of the records durable: all of them or none. Changes that wait at the same time share one write.

        Args:
            changes: the new JSON value by key; None removes the key.
            answer: within `Service.asked`: what it is about to return. It is kept in the same write, so that an ask
                which is repeated after a change of the coordinator is answered and not carried out twice. Without it,
                such an ask may be carried out again, and must do no harm.
            answers: the same, of asks whose changes are made together, by what CURRENT_ASK is within each.

        Raises:
            OfficeOver: nothing was written.
            OutcomeUnknown: the lease ran out, or the disk failed, while it was being written. The office is over.
            CommandRefused: the records would be too large, or a value is not JSON; nothing was written.
        """

    async def push(
        self, service: str, method: str, params: Json, *, to: str | None = None, excluding: tuple[str, ...] = ()
    ) -> dict[str, Json]:
        """Tell every node with a session, or one of them; this one, too.

        Returns when each has answered, or is *gone*: fenced, with proof. So after it no node acts on what was before.
        That takes as long as a lease where a node does not answer. Pushes reach a node in the order of the calls.

        Returns:
            The answers by node; none of a node that is gone, or whose handler failed.

        Raises:
            OfficeOver: it is not known which nodes have heard of it.
        """


class Service(Protocol):
    """What a coordinator does for a disk. One is made for each disk on every node; it does nothing before `begin`."""

    @property
    def name(self) -> str:
        """By which it is asked, and by which its pushes and records are known: a-z and '-'."""

    async def begin(self, office: Office) -> None:
        """This node has the office: load what is needed from `office.records`.

        All nodes of the office before have reclaimed their sessions, or are gone. An ask whose answer was kept is
        answered again after this, without a word to the service: so what was kept, but perhaps not pushed to all,
        must have been pushed when this returns.

        Raises:
            OfficeOver: it was over before it began.
            CsvdError: it can not begin; the office is given up, and tried again, here or elsewhere.
        """

    def end(self) -> None:
        """The office is over: forget all that came of it. Also after a `begin` that failed."""

    async def asked(self, node: str, method: str, params: Json) -> Json:
        """A node asks, this one's own session too; several may be under way at once.

        An ask is begun once in an office. A CsvdError that it raises is the answer, except for those by which the
        office ends (OfficeOver, OutcomeUnknown of `keep`): then the node asks the next coordinator.
        """

    def node_gone(self, node: str) -> None:
        """A node has lost its session, and nothing of it can act any more: it is fenced, or has left by itself."""

    def node_come(self, node: str) -> None:
        """A node has a session from now on; it starts from nothing. Not called for those that were there at `begin`."""


@runtime_checkable
class FencingService(Protocol):
    """A service that has disks of its own on which a node must be fenced, too: the raw disks of logical units."""

    async def fence_node(self, node: str, number: int) -> None:
        """Keep a node off all of them. It is off the shared disk already; `node_gone` comes after this. It is called
        before `begin`, too, of nodes that had a session with the office before and do not reclaim it.

        Args:
            number: of the node; also of one that is no member any more.

        Raises:
            CsvdError: not proven now; it is asked again.
        """


class MakeService(Protocol):
    """Makes the service of a disk, on every node."""

    def __call__(self, disk: str, *, is_system: bool) -> Service | None:
        """The service for a disk, or None where it has nothing to do for this one."""


@runtime_checkable
class Gate(Protocol):
    """What may go on only while the session of a disk is live: the commands of logical units."""

    async def close(self) -> None:
        """The lease is out, or about to be given up. Let nothing new begin, from this very moment on, and return when
        nothing is under way any more, and the gate's own disks are left. It is the caller that leaves the shared disk
        after that. The watchdog kills this process where that takes too long."""

    async def open(self) -> None:
        """The session is about to be live again: join the gate's own disks. The session is live when all gates have
        returned; what waits at the gate goes on then (`DiskSession.on_state`).

        Raises:
            CsvdError: not now; the session is tried again.
        """


class DiskSession(Protocol):
    """This node's session with the coordinator of a disk, whoever that is."""

    @property
    def disk(self) -> str:
        """The name of the disk in the register."""

    @property
    def state(self) -> str:
        """LIVE; RECLAIMING: the coordinator has changed, and the lease goes on meanwhile; LAPSED: the lease is out, or
        there was none yet: it is being tried; FENCED: the coordinator declared this node gone: it comes back as a new
        one; CLOSED: this node is stopped, or the disk was removed."""

    @property
    def is_live(self) -> bool:
        """Whether the lease is good NOW: one comparison with the boot time."""

    @property
    def lease_until_s(self) -> float:
        """The end of the lease on CLOCK_BOOTTIME."""

    @property
    def coordinator(self) -> str:
        """The coordinator with which the session is, or is sought; empty where none is known."""

    async def ask(self, service: str, method: str, params: Json, *, timeout_s: float) -> Json:
        """Ask the coordinator's service. It is found, and asked again, over changes of the coordinator and lapses of
        the session, until there is an answer or the time is up; and carries it out once (see `Office.keep`).

        Raises:
            RemoteError: the service's error; its `kind` is the name of the error's class.
            CommandRefused: it did not get so far in the time given: nothing was done, and nothing will be.
            OutcomeUnknown: the time is up, and it may have been done.
        """

    def on_pushed(self, service: str, handler: Pushed) -> None:
        """Take the pushes of a service; one handler each. They are begun in the order in which they were sent. Where
        none is set, a push is acknowledged by an empty answer."""

    def on_state(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after `state` has changed; gives what ends it."""

    def add_gate(self, gate: Gate) -> Callable[[], None]:
        """Have a gate closed when the session lapses, and opened before it is live again; gives what ends it. Where
        the session is not live, the gate is taken to be closed."""

    def publish(self, key: str, value: Any) -> None:
        """What the coordinator tells others of this node: `office.nodes[node][key]`; None takes it back."""


class Coordination(Protocol):
    """This node's part in the coordination of the cluster's shared disks."""

    @property
    def node(self) -> str:
        """The id of this node."""

    @property
    def system(self) -> DiskSession | None:
        """The session of the system disk, the first that was added; None before there is one."""

    def session(self, disk: str) -> DiskSession | None:
        """The session of a disk; None for one that this node does not know."""

    def add_service(self, make: MakeService) -> None:
        """Have a service made for every disk; before the node is started."""

    def on_sessions(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after a disk was added or removed; gives what ends it."""
