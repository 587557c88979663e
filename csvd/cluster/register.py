"""The replicated register: its core. PURE.

Every node applies the same commands in the same order and gets the same state and the same answers. A command is a dict
with `op` and the fields of its operation; what it may not do is *refused*, with a reason, never raised: a refusal is
part of the replicated history like any other answer. The operations stand in tables by subject: members and tokens
(csvd.cluster.register_members), guests (csvd.cluster.register_guests), shared disks (csvd.cluster.register_disks); here
are the coordinator, the sessions and the snapshot.

A command may carry an idempotency key `node/incarnation/sequence`. The register remembers the last answers of each
node's latest incarnation, so that a command that is asked again is answered again and never carried out twice; a key
too old to be remembered is refused as `expired`, for then nobody can tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from csvd.cluster.errors import ClusterError
from csvd.cluster.register_disks import DiskRecord, Disks
from csvd.cluster.register_fields import (
    MAXIMUM_NUMBER,
    Answer,
    Operation,
    Refusal,
    Table,
    check_mapping,
    check_node,
    check_number,
)
from csvd.cluster.register_guests import GuestRecord, Guests
from csvd.cluster.register_members import Member, Members, Token

MAXIMUM_SESSIONS: Final = 40
ANSWERS_REMEMBERED: Final = 32
SNAPSHOT_FORMAT: Final = 2

_KEY: Final = re.compile(r"([a-z0-9-]{1,63})/([0-9]{1,19})/([0-9]{1,19})", re.ASCII)


class RegisterError(ClusterError):
    """A snapshot of the register is not one."""


@dataclass(frozen=True, slots=True)
class CoordinatorRecord:
    """The node that is the coordinator, and the number of its term of office."""

    node: str
    epoch: int


@dataclass(frozen=True, slots=True, order=True)
class IdempotencyKey:
    """Names one command for ever: the node that sends it, the run of its daemon, and its number in that run."""

    node: str
    incarnation: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.node}/{self.incarnation}/{self.sequence}"

    @classmethod
    def parse(cls, text: object) -> IdempotencyKey | None:
        """The key that a text spells, or None."""
        match = _KEY.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            return None
        key = cls(match[1], int(match[2]), int(match[3]))
        return key if max(key.incarnation, key.sequence) <= MAXIMUM_NUMBER else None


@dataclass(slots=True)
class _Session:
    """What is remembered of one node's latest incarnation."""

    incarnation: int
    forgotten: int = -1  # keys up to this sequence are no longer remembered
    answers: dict[int, Answer] = field(default_factory=dict)

    def remember(self, sequence: int, answer: Answer) -> None:
        self.answers[sequence] = answer
        if len(self.answers) > ANSWERS_REMEMBERED:
            self.forgotten = min(self.answers)
            del self.answers[self.forgotten]


class Coordinatorship:
    """The table with the one record of who the coordinator is; claimed by compare-and-set on the epoch."""

    name = "coordinator"

    def __init__(self, members: Members) -> None:
        self._members = members
        self.record: CoordinatorRecord | None = None

    @property
    def epoch(self) -> int:
        """The coordinator's epoch; 0 before the first claim."""
        return self.record.epoch if self.record else 0

    def operations(self) -> Mapping[str, Operation]:
        """The operation of claiming."""
        return {"claim_coordinator": Operation({"node": check_node, "expected_epoch": check_number}, self._claim)}

    def snapshot(self) -> dict[str, Any] | None:
        """The record, or None."""
        return {"node": self.record.node, "epoch": self.record.epoch} if self.record else None

    def restore(self, part: Any) -> None:
        """Become the state of a snapshot's part."""
        if part is not None:
            record = check_mapping(part)
            self.record = CoordinatorRecord(check_node(record["node"]), check_number(record["epoch"]))

    def _claim(self, node: str, expected_epoch: int) -> Answer:
        if expected_epoch != self.epoch:
            raise Refusal(f"the coordinator's epoch is {self.epoch}, not {expected_epoch}")
        self._members.require(node)
        self.record = CoordinatorRecord(node, self.epoch + 1)
        return {"node": node, "epoch": self.epoch}


class Register:
    """The state that the cluster replicates. Deterministic: no clock, no randomness, no order of hashing.

    Args:
        members: whom it begins with.
    """

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self._revision = 0
        self._sessions: dict[str, _Session] = {}
        self._members = Members(members)
        self._coordinatorship = Coordinatorship(self._members)
        self._guests = Guests(self._members)
        self._disks = Disks(self._members)
        # A subject of the register: its table stands here, and its operations, its part of the snapshot and the
        # restoring of it follow.
        self._tables: tuple[Table, ...] = (self._coordinatorship, self._members, self._guests, self._disks)
        self._operations = {name: row for table in self._tables for name, row in table.operations().items()}

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every operation by name."""
        return self._operations

    @property
    def coordinator(self) -> CoordinatorRecord | None:
        """The coordinator, or None before the first claim."""
        return self._coordinatorship.record

    @property
    def epoch(self) -> int:
        """The coordinator's epoch; 0 before the first claim."""
        return self._coordinatorship.epoch

    @property
    def revision(self) -> int:
        """How many changes have been made; the same number means the same state."""
        return self._revision

    @property
    def members(self) -> Mapping[str, Member]:
        """A copy of the table of members by id, sorted."""
        return dict(sorted(self._members.records.items()))

    def member(self, id: str) -> Member | None:  # noqa: A002 - the word of the contract
        """One member, or None."""
        return self._members.records.get(id)

    @property
    def voters(self) -> frozenset[str]:
        """The ids of the members that vote."""
        return self._members.voters

    @property
    def tokens(self) -> Mapping[str, Token]:
        """A copy of the table of tokens by id, sorted."""
        return dict(sorted(self._members.tokens.items()))

    @property
    def evicted(self) -> tuple[str, ...]:
        """The fingerprints of the members that were removed last."""
        return self._members.evicted

    @property
    def guests(self) -> Mapping[str, GuestRecord]:
        """A copy of the table of guests by name, sorted."""
        return dict(sorted(self._guests.records.items()))

    def guest(self, name: str) -> GuestRecord | None:
        """The record of one guest, or None."""
        return self._guests.records.get(name)

    @property
    def disks(self) -> Mapping[str, DiskRecord]:
        """A copy of the table of shared disks by name, sorted."""
        return dict(sorted(self._disks.records.items()))

    def disk(self, name: str) -> DiskRecord | None:
        """One shared disk, or None."""
        return self._disks.records.get(name)

    def apply(self, command: object, key: object = None) -> Answer:
        """Carry out one command; never raises.

        Args:
            command: a mapping with `op` and the fields of that operation (see OPERATIONS).
            key: the text of an IdempotencyKey, or None for a command that may be carried out again.

        Returns:
            `{"ok": True, "revision": …, …}`, or `{"ok": False, "reason": …}`, with `"expired": True` where the key is
            too old to tell whether the command was carried out.
        """
        if key is None:
            return self._execute(command)
        parsed = IdempotencyKey.parse(key)
        if parsed is None:
            return _refused("the idempotency key is not node/incarnation/sequence")
        session = self._sessions.get(parsed.node)
        if session is None:
            if parsed.node not in self._members.records:
                return _refused(f"{parsed.node}, which sent it, is no node of the cluster")
            self._make_room_for_a_session()
            session = self._sessions[parsed.node] = _Session(parsed.incarnation)
        elif parsed.incarnation > session.incarnation:
            session = self._sessions[parsed.node] = _Session(parsed.incarnation)
        elif parsed.incarnation < session.incarnation:
            return _expired("the node that sent it has been restarted since")
        if parsed.sequence in session.answers:
            return session.answers[parsed.sequence]
        if parsed.sequence <= session.forgotten:
            return _expired("its answer is no longer remembered")
        answer = self._execute(command)
        session.remember(parsed.sequence, answer)
        return answer

    def _make_room_for_a_session(self) -> None:
        """Make room for a session: of the nodes that were removed, the one whose last run began first is forgotten.

        There are always fewer members than sessions. Late commands of a node that was
        removed are refused until then by its session, and after that because it is no node of the cluster.
        """
        if len(self._sessions) >= MAXIMUM_SESSIONS:
            members = self._members.records
            gone = [(session.incarnation, node) for node, session in self._sessions.items() if node not in members]
            del self._sessions[min(gone)[1]]

    def _execute(self, command: object) -> Answer:
        try:
            operation, fields = self.checked(command)
            answer = operation.handler(**fields)
        except Refusal as refusal:
            return _refused(str(refusal))
        self._revision += operation.changes
        return {"ok": True, **answer, "revision": self._revision}

    def checked(self, command: object) -> tuple[Operation, dict[str, Any]]:
        """The operation of a command and its checked fields.

        Raises:
            Refusal: it is malformed.
        """
        fields = check_mapping(command)
        name = fields.get("op")
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None:
            raise Refusal(f"op is one of {', '.join(self._operations)}")
        checks = {**operation.fields, **operation.optional}
        given = set(fields) - {"op"}
        if not set(operation.fields) <= given <= set(checks):
            raise Refusal(f"{name} takes {', '.join(checks)}")
        return operation, {key: check(fields[key]) for key, check in checks.items() if key in given}

    def snapshot(self) -> dict[str, Any]:
        """The whole state as a JSON-able object; equal states give equal snapshots."""
        return {
            "format": SNAPSHOT_FORMAT,
            "revision": self._revision,
            **{table.name: table.snapshot() for table in self._tables},
            "sessions": [
                {
                    "node": node,
                    "incarnation": session.incarnation,
                    "forgotten": session.forgotten,
                    "answers": [[sequence, session.answers[sequence]] for sequence in sorted(session.answers)],
                }
                for node, session in sorted(self._sessions.items())
            ],
        }

    def restore(self, snapshot: object) -> None:
        """Become the state of a snapshot; on RegisterError nothing has changed.

        Raises:
            RegisterError: it is not a snapshot of this format.
        """
        restored = Register.from_snapshot(snapshot)
        for name, value in vars(restored).items():
            setattr(self, name, value)

    @classmethod
    def from_snapshot(cls, snapshot: object) -> Register:
        """A register with the state of a snapshot.

        Raises:
            RegisterError: it is not a snapshot of this format.
        """
        register = cls()
        try:
            register._fill(check_mapping(snapshot))
        except (Refusal, KeyError, TypeError, ValueError) as error:
            raise RegisterError("the snapshot of the register is damaged", why=str(error)) from error
        return register

    def _fill(self, snapshot: Mapping[str, Any]) -> None:
        if snapshot["format"] != SNAPSHOT_FORMAT:
            raise RegisterError(
                f"the snapshot of the register has format {snapshot['format']!r}, this csvd knows {SNAPSHOT_FORMAT}",
                hint="another version of csvd wrote it: run that, or remove the node's state and let it join anew",
            )
        self._revision = check_number(snapshot["revision"])
        for table in self._tables:
            table.restore(snapshot[table.name])
        for item in snapshot["sessions"]:
            record = check_mapping(item)
            session = _Session(check_number(record["incarnation"]), check_number(record["forgotten"] + 1) - 1)
            for sequence, answer in record["answers"]:
                session.answers[check_number(sequence)] = dict(check_mapping(answer))
            self._sessions[check_node(record["node"])] = session


_BLANK: Final = Register()
OPERATIONS: Final[Mapping[str, Operation]] = _BLANK.operations
"""Every operation by name, with the fields that it takes."""


def check_command(command: object) -> str | None:
    """Why a command is malformed, or None; the check that `apply` makes, to say no before anything is logged."""
    try:
        _BLANK.checked(command)
    except Refusal as refusal:
        return str(refusal)
    return None


def _refused(reason: str) -> Answer:
    return {"ok": False, "reason": reason}


def _expired(reason: str) -> Answer:
    return {"ok": False, "reason": reason, "expired": True}
