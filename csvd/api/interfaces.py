"""What the control API asks of the node. `csvd.cluster`, `csvd.vm`, `csvd.migration` and `csvd.target` have these
shapes; of them it imports only what is data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from csvd.cluster.register_members import Member
from csvd.migration.precopy import Policy
from csvd.vm.interfaces import GuestVerification
from csvd.vm.spec import GuestSpec

Json = dict[str, Any]


class CoordinatorRecord(Protocol):
    """The coordinator as the register has it."""

    @property
    def node(self) -> str:
        """Which node it is."""

    @property
    def epoch(self) -> int:
        """The number of its term of office."""


class GuestRecord(Protocol):
    """A guest as the register has it."""

    @property
    def owner(self) -> str:
        """The node that may run it."""

    @property
    def epoch(self) -> int:
        """The number of this ownership."""


class Register(Protocol):
    """The register as far as this node has applied it."""

    @property
    def coordinator(self) -> CoordinatorRecord | None:
        """The coordinator, or None before the first."""

    @property
    def guests(self) -> Mapping[str, GuestRecord]:
        """All records by name."""

    def guest(self, name: str) -> GuestRecord | None:
        """The record of one guest, or None."""

    @property
    def members(self) -> Mapping[str, Member]:
        """The nodes of the cluster by id."""


class Tokens(Protocol):
    """The tokens by which nodes join the cluster."""

    def tokens(self) -> list[Json]:
        """Those that can be used now, without their secrets."""

    async def create_token(self, *, life_s: int = ..., is_witness: bool = ...) -> Json:
        """Make one; the answer has its secret text."""

    async def revoke_token(self, start: str) -> Json:
        """Remove one, by its id or how that begins."""


class Membership(Protocol):
    """This node's membership, as far as the nodes themselves are asked for."""

    @property
    def register(self) -> Register:
        """The applied register."""

    def status(self) -> Json:
        """What this node knows of the cluster."""

    async def submit(self, command: Json, *, timeout_s: float) -> Json:
        """Have a command of the register carried out, once. Raises CommandRefused and OutcomeUnknown."""


class Cluster(Protocol):
    """This node's membership in its cluster."""

    @property
    def node(self) -> str:
        """This node's name."""

    @property
    def register(self) -> Register:
        """The applied register."""

    def status(self) -> Json:
        """What this node knows of the cluster."""

    def on_change(self, callback: Callable[..., None]) -> Callable[[], None]:
        """Call back after each change of the register; gives what ends it."""

    async def read_guest(self, name: str, *, timeout_s: float) -> Json | None:
        """The record as it is now; this node's register has it by then. Raises ClusterError."""

    async def call(self, node: str, method: str, params: Json, *, timeout_s: float) -> Json:
        """Ask another node. Raises ClusterError."""

    def serve(self, method: str, handler: Callable[[str, Json], Awaitable[Json]]) -> None:
        """Answer other nodes."""


class SharedDisks(Protocol):
    """The shared disks of the cluster. Every method that waits raises a CsvdError that says why not."""

    def list_disks(self) -> list[Json]:
        """All of them, as this node sees them: record, session, office."""

    async def show_disk(self, name: str) -> Json:
        """One, with what its own blocks say."""

    async def add_disk(self, name: str, url: str, *, create_bytes: int | None, adopt: bool, force: bool) -> Json:
        """Share another one."""

    async def remove_disk(self, name: str) -> Json:
        """Share one no more."""

    async def move_coordinator(self, disk: str, node: str) -> Json:
        """Have another node coordinate one."""

    async def fence(self, node: str, *, force: bool, is_vouched_for: bool) -> Json:
        """Keep a node off all of them."""


class Guests(Protocol):
    """The guests of this node. Every method raises a CsvdError that says why not."""

    async def create(self, name: str, spec: GuestSpec) -> Json:
        """Make a guest here and run it."""

    async def start(self, name: str) -> Json:
        """Run a stopped guest."""

    async def stop(self, name: str) -> Json:
        """End a guest's process."""

    async def pause(self, name: str) -> Json:
        """Have a guest execute nothing."""

    async def resume(self, name: str) -> Json:
        """Let a paused guest execute again."""

    async def remove(self, name: str) -> None:
        """Take a stopped guest out of the register, and delete its image."""

    async def verify(self, name: str) -> GuestVerification:
        """Have a guest check its memory."""

    def list_guests(self) -> list[Json]:
        """All guests of the cluster."""

    async def show(self, name: str) -> Json:
        """One guest, with what it says of itself."""


class Report(Protocol):
    """The report of a migration that is over."""

    @property
    def state(self) -> str:
        """How it ended."""

    @property
    def reason(self) -> str:
        """Why it was not completed."""

    @property
    def downtime_ms(self) -> float | None:
        """How long the guest stood still."""


class Progress(Protocol):
    """Where a migration is."""

    @property
    def report(self) -> Report | None:
        """Once it is over."""

    def to_json(self) -> Json:
        """All of it."""


class Migration(Protocol):
    """A migration away from this node."""

    @property
    def name(self) -> str:
        """The guest."""

    @property
    def destination(self) -> str:
        """Where to."""

    @property
    def migration_id(self) -> str:
        """Names it for ever."""

    def progress(self) -> Progress:
        """Where it is."""

    def cancel(self) -> None:
        """Call it off. Raises MigrationError when that can not be any more."""

    def when_finished(self) -> Deferred[Any]:
        """Fires with its Report when it is over."""


class Migrations(Protocol):
    """The migrations away from this node."""

    def start(self, guest: str, destination: str, policy: Policy | None = None) -> Migration:
        """Begin one. Raises a CsvdError that says why not."""

    def migrations(self) -> Sequence[Migration]:
        """Those under way, then the last that ended, oldest first."""


class Target(Protocol):
    """The iSCSI target of this node."""

    @property
    def portals(self) -> list[str]:
        """The addresses that it listens at."""

    async def refresh(self) -> None:
        """Bring what it says of its sessions, statistics and workers up to date."""

    def sessions(self) -> list[Json]:
        """Its sessions."""

    def statistics(self) -> Json:
        """What its commands came to."""

    def workers(self) -> list[Json]:
        """The processes that serve for the daemon; none where it serves itself."""


class Exports(Protocol):
    """The targets of this node and of its cluster, and how they are changed. Every method raises a CsvdError that says
    why not."""

    async def refresh(self) -> None:
        """Bring what is told of sessions and logical units up to date."""

    def targets(self) -> list[Json]:
        """All targets."""

    def target(self, name: str) -> Json:
        """One, with its logical units and its access list."""

    def luns(self, name: str | None = None) -> list[Json]:
        """The logical units of a target, or of all."""

    def lun(self, name: str, number: int) -> Json:
        """One logical unit."""

    def acl(self, name: str) -> list[Json]:
        """The access list of a target."""

    def troubles(self) -> dict[str, str]:
        """What of the cluster's exports this node can not serve, and why."""

    def portals(self) -> list[Json]:
        """Where the node listens."""

    def configuration(self) -> Json:
        """The configuration as it is in force."""

    async def create_target(self, name: str, keys: Json, *, scope: str = "") -> Json:
        """Serve another target: with ``node`` at this one alone, with ``cluster`` at all; empty: at all it can be."""

    async def set_target(self, name: str, keys: Json) -> Json:
        """Change keys of a target."""

    async def remove_target(self, name: str, *, force: bool) -> Json:
        """Serve a target no more."""

    async def add_lun(self, name: str, keys: Json) -> Json:
        """Serve another logical unit."""

    async def set_lun(self, name: str, number: int, keys: Json) -> Json:
        """Change keys of a logical unit."""

    async def remove_lun(self, name: str, number: int) -> Json:
        """Serve a logical unit no more."""

    async def resize_lun(self, name: str, number: int, size_bytes: int | None, *, force: bool) -> Json:
        """Give a logical unit another size."""

    async def add_acl(self, name: str, initiator: str, keys: Json) -> Json:
        """Let an initiator log in."""

    async def set_acl(self, name: str, initiator: str, keys: Json) -> Json:
        """Change what holds for an initiator."""

    async def remove_acl(self, name: str, initiator: str) -> Json:
        """Let an initiator log in no more."""

    async def rotate_key(self, *, without: str = ..., timeout_s: float = ...) -> Json:
        """Have the secrets of the cluster sealed with a new key, which a node that was evicted does not get; gives its
        ``key``, an id, and the ``secrets`` that the old one was for."""

    async def drop_session(self, name: str, tsih: int, *, grace_s: int = 0) -> Json:
        """End a session, or ask for a logout first."""
